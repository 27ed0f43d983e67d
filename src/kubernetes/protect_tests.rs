//! Protection, with a store of the test's own.

use super::*;
use crate::pull::for_tests;
use crate::reference::{Digest, Reference};
use crate::store::Member;
use crate::support::shutdown;

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
        running.set([image.clone()].into());
        sleep(4 * SETTLE).await;
        assert_eq!(store.protected(), 0);
        let Reference::Tag(tag) = &image.reference else { panic!() };
        let (manifest, bytes) =
            (Digest::of(for_tests::MANIFEST), bytes::Bytes::from_static(for_tests::MANIFEST));
        let media_type = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        store.put(&image.repository, manifest, bytes, Member::Manifest(media_type)).await.unwrap();
        store.records().confirm_tag(&image.repository, tag, manifest).await.unwrap();
        running.look_again(&"reg.test/team/other:v1".parse().unwrap());
        running.look_again(&image);
        // Its manifest and its config; long before all is looked at again by itself.
        tokio::time::timeout(4 * SETTLE, until(2)).await.expect("it protects nothing");
        running.set(HashSet::new());
        tokio::time::timeout(4 * SETTLE, until(0)).await.expect("a pod that is gone protects");
        trigger.fire();
    };
    tokio::join!(run(&running, store.clone(), |_| {}, shutdown), story);
}
