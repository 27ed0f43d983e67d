//! Images: what is removed with one, and what stays.

use super::disk::calls::DiskCalls;
use super::for_tests::Tree;
use super::inventory::images;
use super::tests::{World, repository};
use super::*;
use crate::reference::{MediaType, Reference, Repository};
use crate::support::open_file::opened_by_this_thread;

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

/// An image of two platforms and an index of an index of an index, each of which names the next one twenty times.
fn named_again_and_again(tree: &Tree) -> Digest {
    let index = |entries: Vec<(Digest, &str)>| {
        let entry = |(digest, architecture): &(Digest, &str)| {
            serde_json::json!({
                "mediaType": MediaType::OCI_INDEX, "digest": digest.to_string(), "size": 1,
                "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries});
        tree.put(index.to_string().as_bytes())
    };
    let config = tree.put(b"{}");
    let config = serde_json::json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 2});
    let image = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": config, "layers": []});
    let image = tree.put(image.to_string().as_bytes());
    let mut named = Digest::of(b"a manifest that is not here");
    for _ in 0..3 {
        named = index(vec![(named, "s390x"); 20]);
    }
    let mut entries = vec![(named, "s390x"); 20];
    // One manifest for two platforms.
    entries.splice(0..0, [(image, "amd64"), (image, "arm64")]);
    index(entries)
}

#[test]
fn what_is_told_of_an_index_that_names_others_again_and_again_is_read_once() {
    let tree = Tree::new();
    let root = named_again_and_again(&tree);
    let before = opened_by_this_thread();
    let calls = DiskCalls::default();
    let contents = ImageContents::read(&tree.layout, root, None, &mut calls.begin_read());
    assert!(opened_by_this_thread() - before <= 10, "{} files", opened_by_this_thread() - before);
    let platforms: Vec<_> =
        contents.platforms.iter().map(|it| (it.platform.as_str(), it.is_complete())).collect();
    assert_eq!(platforms[..2], [("linux/amd64", true), ("linux/arm64", true)]);
    assert_eq!((contents.is_here, contents.is_index, contents.digests.len()), (true, true, 7));
}

#[test]
fn what_is_listed_of_an_index_that_names_others_again_and_again_is_read_once() {
    let tree = Tree::new();
    let root = named_again_and_again(&tree);
    let before = opened_by_this_thread();
    let content = images::content_of(&tree.layout, root);
    assert!(opened_by_this_thread() - before <= 10, "{} files", opened_by_this_thread() - before);
    assert_eq!(content.platforms.iter().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    assert_eq!(content.sizes.len(), 6);
}

#[test]
fn an_image_of_ever_so_many_manifests_is_read_up_to_a_bound() {
    let tree = Tree::new();
    let manifest = |n: usize| {
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "n": n});
        let digest = tree.put(manifest.to_string().as_bytes());
        serde_json::json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest.to_string(), "size": 1})
    };
    let manifests: Vec<_> = (0..1_000).map(manifest).collect();
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests});
    let root = tree.put(index.to_string().as_bytes());
    assert_eq!(images::content_of(&tree.layout, root).sizes.len(), 256);
    let before = opened_by_this_thread();
    let calls = DiskCalls::default();
    ImageContents::read(&tree.layout, root, None, &mut calls.begin_read());
    assert_eq!(opened_by_this_thread() - before, 256);
}
