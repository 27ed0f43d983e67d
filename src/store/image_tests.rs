//! Images: what is removed with one, and what stays.

use super::tests::{World, repository};
use super::*;
use crate::reference::{MediaType, Reference, Repository};

/// An image of one layer: puts its config and manifest and returns the manifest's digest.
async fn put_image(world: &World, repository: &Repository, config: &[u8], layer: Digest) -> Digest {
    let config = world.put(repository, config).await;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.to_string(), "size": 1}],
    });
    world.put(repository, manifest.to_string().as_bytes()).await
}

/// Every tag, and every image that is pinned by its digest.
async fn listed(world: &World) -> Vec<CachedImage> {
    let (all, found) = std::sync::mpsc::channel();
    let each = move |batch| {
        all.send(batch).unwrap();
        std::ops::ControlFlow::Continue(())
    };
    world.store.list_images(each).await.unwrap();
    found.iter().flatten().collect()
}

#[tokio::test]
async fn removing_an_image_leaves_the_blobs_that_another_tag_or_a_pin_needs() {
    let world = World::new();
    let app = repository("reg.test/team/app");
    let layer = world.put(&app, b"layer").await;
    let first = put_image(&world, &app, b"first", layer).await;
    let second = put_image(&world, &app, b"second", layer).await;
    for (tag, digest) in [("v1", first), ("v2", second)] {
        world.store.records().confirm_tag(&app, &tag.parse().unwrap(), digest).await.unwrap();
    }
    let remove = async |tag: &str| {
        world.store.remove_image(&app, &Reference::Tag(tag.parse().unwrap())).await.unwrap()
    };
    let removed = remove("v1").await;
    assert_eq!((removed.tags, removed.pins, removed.blobs), (1, 0, 2), "manifest and config");
    assert!(!world.blob_file(first).exists() && world.blob_file(layer).exists());
    let images = listed(&world).await;
    assert_eq!(images.len(), 1);
    assert_eq!((images[0].digest, &images[0].platforms), (second, &vec![String::new()]));

    let pin = Pin {
        repository: app.clone(),
        reference: second.to_string(),
        root: second,
        digests: vec![second, Digest::of(b"second"), layer],
        owner: Some("test".to_owned()),
    };
    world.store.pin(pin).await.unwrap();
    assert_eq!(remove("v2").await, RemovedImage { tags: 1, ..RemovedImage::default() });
    let images = listed(&world).await;
    assert!(images.len() == 1 && images[0].pinned && images[0].confirmed_at.is_none());
    let reader = world.store.blob(layer).await;
    let removed = world.store.remove_image(&app, &Reference::Digest(second)).await.unwrap();
    assert_eq!((removed.pins, removed.blobs), (1, 2), "the layer is being read");
    drop(reader);
    assert!(world.blob_file(layer).exists() && !world.blob_file(second).exists());
}
