//! The store stays within its budget while it serves.

use bytes::Bytes;
use http::StatusCode;

use crate::support::client;
use crate::support::image::{self, noise};
use crate::support::registry::FakeRegistry;
use crate::support::world::{Larder, files_under};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_store_evicts_under_load_and_no_reader_notices() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let more = "[store]\nmax_bytes = \"3MiB\"";
    let larder = std::sync::Arc::new(Larder::start(directory.path(), &[("reg.test", registry.url())], more));
    let blobs: Vec<_> = (0..12)
        .map(|n| {
            let bytes = Bytes::from(noise(600_000, n + 1));
            let digest = registry.put_blob("team/app", bytes.clone());
            (format!("/v2/team/app/blobs/{digest}?ns=reg.test"), bytes)
        })
        .collect();
    let readers = (0..40).map(|reader| {
        let (larder, blobs) = (std::sync::Arc::clone(&larder), blobs.clone());
        tokio::spawn(async move {
            for step in 0..6 {
                let (path, bytes) = &blobs[(reader * 5 + step * 7) % blobs.len()];
                let reply = larder.get(path).await;
                assert_eq!((reply.status, reply.complete), (StatusCode::OK, true));
                assert!(reply.body == *bytes);
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    // On a slow disk all blobs were being committed at once, so that none could be evicted.
    for (path, bytes) in &blobs {
        larder.settled().await;
        assert_eq!(larder.get(path).await.body, bytes);
    }
    larder.settled().await;
    let store = directory.path().join("larder/store");
    let blobs_there = files_under(&store.join("blobs"));
    let on_disk: u64 =
        blobs_there.iter().map(|f| std::fs::metadata(store.join("blobs").join(f)).unwrap().len()).sum();
    assert!(on_disk <= 3 * 1024 * 1024, "{on_disk}");
    assert_eq!(blobs_there.len(), files_under(&store.join("checks")).len());
    assert!(larder.metric("larder_store_evicted_total").await > 0.0);
    larder.metric_becomes("larder_store_bytes", on_disk as f64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_at_all_is_passed_through_and_evicts_nothing_in_vain() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let more = "[store]\nmax_bytes = \"1MiB\"";
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    let (small, large) = (Bytes::from(noise(500_000, 1)), Bytes::from(noise(5_000_000, 2)));
    let path = |bytes: &Bytes| {
        format!("/v2/team/app/blobs/{}?ns=reg.test", registry.put_blob("team/app", bytes.clone()))
    };
    let (small_at, large_at) = (path(&small), path(&large));
    assert_eq!(larder.get(&small_at).await.body, small);
    larder.settled().await;
    for _ in 0..2 {
        let reply = larder.get(&large_at).await;
        assert!(reply.complete && reply.body == large);
    }
    registry.forget_seen();
    assert_eq!(larder.get(&small_at).await.body, small);
    assert!(registry.seen().is_empty(), "what fits stays");
    assert_eq!(larder.metric("larder_store_evicted_total").await, 0.0);
    assert_eq!(larder.metric("larder_store_caching").await, 1.0, "a full store is no broken disk");
    larder.metric_becomes("larder_store_capacity_bytes", 1024.0 * 1024.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_filesystem_that_other_files_fill_pulls_are_passed_through_and_the_operator_is_told() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let more = "[store]\nmin_free = \"100%\"";
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    let image = image::push(&registry, "team/app", "v1", 10_000);
    for _ in 0..2 {
        let index = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(index.body, image.index_bytes);
        let layer = image.platforms[0].layers[0];
        let reply = larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await;
        assert!(reply.is_well() && reply.digest() == layer);
    }
    larder.settled().await;
    assert!(files_under(&directory.path().join("larder/store/blobs")).is_empty());
    larder.metric_becomes("larder_store_capacity_bytes", 0.0).await;
    let status = client::get(larder.admin, "/v1/status").await.json();
    assert_eq!((&status["store"]["capacity_bytes"], &status["store"]["caching"]), (&0.into(), &true.into()));
    let page = client::get(larder.admin, "/").await;
    assert!(String::from_utf8_lossy(&page.body).contains("too full to store anything"));
}
