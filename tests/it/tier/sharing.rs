//! What a node has written is not fetched from the registry by another one; a node uses the tier as far as it may.

use http::{Method, StatusCode};

use super::{LAYER, Site};
use crate::support::image;
use crate::support::world::files_under;

#[tokio::test]
async fn a_layer_that_one_node_has_fetched_is_not_fetched_again_by_another_one() {
    let mut site = Site::new().await;
    let (one, other) = (site.node(), site.node());
    for (len, seed) in [(LAYER, 1), (100_000, 2), (1_000, 3)] {
        let (bytes, path) = site.blob(len, seed);
        assert_eq!(one.get(&path).await.body, bytes);
        site.has_objects("blobs", seed as usize).await;
        site.registry.forget_seen();
        let reply = other.get(&path).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, len));
        assert_eq!(reply.body, bytes);
        assert_eq!(site.blob_gets(), 0, "{len}");
        assert_eq!(site.registry.count(Method::HEAD, "/blobs/"), 1, "its right is proved at the registry");
    }
    other.settled().await;
    assert_eq!(other.metric("larder_tier_reads_total{result=\"hit\"}").await, 3.0);
    assert_eq!(one.metric("larder_tier_writes_total{result=\"written\"}").await, 3.0);
    assert_eq!(other.metric("larder_tier_writes_total{result=\"written\"}").await, 0.0);
}

#[tokio::test]
async fn a_new_node_spends_no_manifest_of_the_rate_limit_on_what_the_tier_has() {
    let mut site = Site::new().await;
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let (one, other) = (site.node(), site.node());
    let tag = "/v2/team/app/manifests/v1?ns=reg.test".to_owned();
    let platform = format!("/v2/team/app/manifests/{}?ns=reg.test", image.platforms[0].manifest);
    for path in [&tag, &platform] {
        assert!(one.get(path).await.is_well());
    }
    site.has_objects("manifests", 2).await;
    site.registry.forget_seen();
    let reply = other.get(&tag).await;
    assert_eq!(reply.body, image.index_bytes);
    assert_eq!(reply.header("content-type"), one.get(&tag).await.header("content-type"));
    assert_eq!(other.get(&platform).await.digest(), image.platforms[0].manifest);
    assert_eq!(site.registry.count(Method::GET, "/manifests/"), 0);
}

#[tokio::test]
async fn a_node_that_may_not_read_or_write_the_tier_leaves_it_alone() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(100_000, 1);
    let silent = site.node_with("read = false\nwrite = false");
    let reader = site.node_with("write = false");
    for node in [&silent, &reader] {
        assert_eq!(node.get(&path).await.body, bytes);
        node.settled().await;
    }
    assert_eq!(site.blob_gets(), 2);
    assert!(files_under(site.shared.path()).is_empty());
    let writer = site.node_with("read = false");
    assert_eq!(writer.get(&path).await.body, bytes);
    site.has_objects("blobs", 1).await;
    let late = site.node_with("read = false");
    assert_eq!(late.get(&path).await.body, bytes);
    assert_eq!(site.blob_gets(), 4);
}

#[tokio::test]
async fn a_tier_that_is_not_there_fails_no_pull() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    let node = site.node();
    std::fs::remove_dir_all(site.shared.path()).unwrap();
    assert_eq!(node.get(&path).await.body, bytes);
    let (more, path) = site.blob(100_000, 2);
    assert_eq!(node.get(&path).await.body, more);
    assert!(!site.shared.path().exists(), "a file system that is not mounted is not written to");
    assert_eq!(
        node.metric("larder_tier_errors_total{kind=\"unavailable\"}").await,
        1.0,
        "then it is left alone"
    );
    std::fs::create_dir(site.shared.path()).unwrap();
}
