//! Nodes that want a layer at once download it once; a lease that is worth nothing fails no pull.

use bytes::Bytes;
use http::StatusCode;
use larder::reference::{Digest, MediaType};

use super::{LAYER, Site, is_blob_get, path_of};
use crate::support::fault::Fault;
use crate::support::image::noise;
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn ten_empty_nodes_that_want_a_layer_at_once_download_it_once() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    // Slow enough that all have asked before it is here.
    site.registry.wrong(|seen| is_blob_get(seen).then_some(Fault::Slow(100_000)));
    let nodes: Vec<Larder> = (0..10).map(|_| site.node()).collect();
    let pulls = nodes.iter().map(|node| async { node.get(&path).await.body == bytes });
    assert_eq!(futures_util::future::join_all(pulls).await, [true; 10]);
    assert_eq!(site.downloads(), 1, "the others wait for the first one");
    site.has_objects("leases", 0).await;
    assert_eq!(site.objects("blobs").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_costs_seconds_and_one_more_download() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    // What `kill -9` leaves: a lease, and no object.
    let lease = site.lease_of(&path, &bytes).await;
    std::fs::write(&lease, r#"{"nonce":1,"renewals":3,"size":20000000,"done":1000000,"rate":1000000}"#)
        .unwrap();
    site.registry.forget_seen();
    let nodes: Vec<Larder> = (0..3).map(|_| site.node()).collect();
    let pulls = nodes.iter().map(|node| async { node.get(&path).await.body == bytes });
    assert_eq!(futures_util::future::join_all(pulls).await, [true; 3]);
    assert_eq!(site.downloads(), 1, "one of them takes over");
    site.has_objects("leases", 0).await;
    site.has_objects("blobs", 1).await;
}

#[tokio::test]
async fn a_lease_that_is_garbage_fails_no_pull() {
    let mut site = Site::new().await;
    let (bytes, path) = site.blob(LAYER, 1);
    let node = site.node_with("write = false\nwait_max = \"2s\"");
    let lease = site.lease_of(&path, &bytes).await;
    std::fs::write(&lease, vec![0xff; 5_000]).unwrap();
    let reply = node.get(&path).await;
    assert!(reply.is_well() && reply.body == bytes);
}

#[tokio::test]
async fn an_index_that_lists_the_layer_of_others_claims_no_lease() {
    let mut site = Site::new().await;
    let bytes = Bytes::from(noise(LAYER, 1));
    let digest = Digest::of(&bytes);
    // It names a digest that its repository does not have.
    let config = site.registry.put_blob("team/app", Bytes::from_static(b"{}"));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{LAYER}}}]}}"#
    );
    site.registry.put_manifest("team/app", Some("v1"), MediaType::OCI_MANIFEST, manifest);
    let node = site.node();
    assert!(node.get("/v2/team/app/manifests/v1?ns=reg.test").await.is_well());
    for _ in 0..2 {
        assert_eq!(node.get(&path_of(digest)).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(node.metric("larder_tier_leases_total{result=\"claimed\"}").await, 0.0);
}
