//! Protection, with a store of the test's own.

use bytes::Bytes;

use super::*;
use crate::pull::for_tests;
use crate::reference::Reference;
use crate::store::{Member, Owner, WholeContent};
use crate::support::shutdown;

/// Running images of one namespace.
fn of_shop(images: &[&Image]) -> RunningImages {
    [("shop".to_owned(), images.iter().map(|image| (*image).clone()).collect())].into()
}

/// Puts a manifest into the store, and confirms the tag.
async fn put(store: &Store, image: &Image, manifest: &'static [u8]) -> Digest {
    let Reference::Tag(tag) = &image.reference else { panic!() };
    let digest = Digest::of(manifest);
    let (repository, bytes) = (image.repository.clone(), Bytes::from_static(manifest));
    let member = Member::Manifest("application/vnd.oci.image.manifest.v1+json".parse().unwrap());
    let owner = Owner::unlimited(repository.registry());
    store.put(WholeContent { repository, digest, bytes, member, owner }).await.unwrap();
    store.records().confirm_tag(&image.repository, tag, digest).await.unwrap();
    digest
}

#[tokio::test]
async fn an_image_that_names_others_again_and_again_takes_no_protection_from_another_namespace() {
    let (store, _clock, _directory) = for_tests::store();
    let (evil, image): (Image, Image) =
        ("reg.test/evil/app:v1".parse().unwrap(), "reg.test/shop/app:v1".parse().unwrap());
    let mut named = Digest::of(b"a manifest that is not here");
    for _ in 0..4 {
        let entry = format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{named}","size":1}}"#
        );
        let entries = vec![entry; 40].join(",");
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{entries}]}}"#
        );
        named = put(&store, &evil, index.into_bytes().leak()).await;
    }
    let own = put(&store, &image, for_tests::MANIFEST).await;
    let mut running = of_shop(&[&image]);
    running.insert("evil".to_owned(), [evil].into());
    let protected = blobs(running, &store, 100).await.unwrap();
    assert!(protected.contains(&own) && protected.contains(&named));
    assert_eq!(protected.len(), 5);
}

#[tokio::test]
async fn a_tenant_with_many_images_takes_the_protection_of_no_other() {
    let (store, _clock, _directory) = for_tests::store();
    let mut running = RunningImages::new();
    let mut own = HashSet::new();
    for n in 0..20 {
        let image: Image = format!("reg.test/many/app{n}:v1").parse().unwrap();
        let manifest = format!(r#"{{"schemaVersion":2,"n":{n}}}"#).into_bytes();
        put(&store, &image, manifest.leak()).await;
        running.entry("many".to_owned()).or_default().insert(image);
    }
    for n in 0..3 {
        let image: Image = format!("reg.test/shop/app{n}:v1").parse().unwrap();
        own.insert(
            put(&store, &image, format!(r#"{{"schemaVersion":2,"own":{n}}}"#).into_bytes().leak()).await,
        );
        running.entry("shop".to_owned()).or_default().insert(image);
    }
    let protected = blobs(running, &store, 10).await.unwrap();
    assert!(protected.is_superset(&own));
    assert_eq!(protected.len(), 10, "what one leaves is another's");
}

#[tokio::test(start_paused = true)]
async fn what_runs_here_is_protected_as_soon_as_it_is_here_and_no_longer_than_it_runs() {
    let (store, _clock, _directory) = for_tests::store();
    let image: Image = "reg.test/team/app:v1".parse().unwrap();
    let running = Running::default();
    let (trigger, shutdown) = shutdown::channel();
    let until = async |protected: usize| {
        while store.protected() != protected {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let story = async {
        // The pod is bound: nothing of its image is here.
        running.change_to(of_shop(&[&image]));
        sleep(4 * SETTLE).await;
        assert_eq!(store.protected(), 0);
        put(&store, &image, for_tests::MANIFEST).await;
        running.look_again(&"reg.test/team/other:v1".parse().unwrap());
        running.look_again(&image);
        // Its manifest, and not its config, which is not here; long before all is looked at again by itself.
        tokio::time::timeout(4 * SETTLE, until(1)).await.expect("it protects nothing");
        running.change_to(RunningImages::new());
        tokio::time::timeout(4 * SETTLE, until(0)).await.expect("a pod that is gone protects");
        trigger.fire();
    };
    tokio::join!(run(&running, store.clone(), |_| {}, shutdown), story);
}
