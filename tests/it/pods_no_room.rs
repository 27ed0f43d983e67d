//! Images of pods that the store does not take: nothing is fetched in vain or again, and the pod's own pull is well.

use http::Method;
use larder::reference::Digest;

use crate::pods_world::{Node, amd64, blob, manifest};
use crate::support::api_server::objects::{self, Pod};
use crate::support::image::{self, Image};
use crate::support::world::files_under;

const IMAGE: &str = "reg.test/team/app:v1";

async fn node(store: &str) -> (Node, Image) {
    let node = Node::with(store, |_| {}).await.watching().await;
    let image = image::push(&node.registry, "team/app", "v1", 200_000);
    (node, image)
}

fn pod(name: &str) -> Pod {
    Pod::new("shop", name, "n1").image_with(IMAGE, "Always")
}

/// The pull of a runtime: all of it is well.
async fn pulls(node: &Node, image: &Image) {
    let own = amd64(image);
    assert_eq!(node.larder.get(&manifest("team/app", "v1")).await.body, image.index_bytes);
    assert!(node.larder.get(&manifest("team/app", own.manifest)).await.is_well());
    for digest in own.blobs() {
        let got = node.larder.get(&blob("team/app", digest)).await;
        assert!(got.is_well() && got.digest() == *digest);
    }
}

/// A pod that comes after everything else was fetched for is seen after it.
async fn everything_is_seen(node: &Node, present: u32) {
    node.server.put_pod(Pod::new("shop", "last", "n1").image_with("reg.test/team/none:v1", "Never"));
    node.larder.metric_becomes("larder_kubernetes_pods", present.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_nothing_is_asked_for_in_vain_and_the_pods_own_pull_costs_what_it_costs_alone() {
    let (node, image) = node("[store]\nmin_free = \"100%\"").await;
    node.server.put_pod(pod("web"));
    node.ended("not_stored", 1).await;
    for restarts in 0..20 {
        node.server.edit_pod("shop", "web", |pod| objects::wait(pod, "ImagePullBackOff", restarts));
    }
    node.server.put_pod(pod("next"));
    everything_is_seen(&node, 3).await;
    assert!(node.registry.seen().is_empty(), "{:#?}", node.registry.seen());
    pulls(&node, &image).await;
    assert_eq!(node.blobs(), amd64(&image).blobs().count(), "once each");
    assert_eq!(node.larder.metric("larder_kubernetes_fetched_bytes_total").await, 0.0);
    node.ended("not_stored", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_store_does_not_take_is_left_out_unasked_and_the_others_are_here() {
    let node = Node::with("[store]\nmax_bytes = \"1MiB\"", |_| {}).await.watching().await;
    let layers = [image::noise(3_000_000, 1), image::noise(50_000, 2)];
    let pushed = image::push_layers(&node.registry, "team/app", "v1", &layers);
    let asked = |digest: Digest| node.registry.count(Method::GET, &digest.to_string());
    node.server.put_pod(pod("web"));
    node.ended("fetched", 1).await;
    assert_eq!((asked(pushed[0]), asked(pushed[1])), (0, 1));
    // The next pod of it has what is here, and asks for no more either.
    node.server.put_pod(pod("next"));
    node.ended("present", 1).await;
    assert_eq!((asked(pushed[0]), asked(pushed[1])), (0, 1));
    for (digest, layer) in pushed.iter().zip(&layers) {
        assert!(node.larder.get(&blob("team/app", digest)).await.body == *layer);
    }
    assert_eq!((asked(pushed[0]), asked(pushed[1])), (1, 1), "the pod's own pull");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_nothing_is_tried_once_and_not_by_the_pods_that_follow() {
    let (node, image) = node("").await;
    let store = node.directory.path().join("larder/store");
    // What lies in the way would be moved to quarantine.
    for directory in ["quarantine", "ingest"] {
        std::fs::remove_dir_all(store.join(directory)).unwrap();
        std::fs::write(store.join(directory), "in the way").unwrap();
    }
    node.server.put_pod(pod("web"));
    node.ended("not_stored", 1).await;
    assert!(node.blobs() <= 3, "those that were asked for together");
    node.registry.forget_seen();
    for restarts in 0..20 {
        node.server.edit_pod("shop", "web", |pod| objects::wait(pod, "ImagePullBackOff", restarts));
    }
    // Another image is not asked for while the disk is given a pause.
    image::push(&node.registry, "team/next", "v1", 100_000);
    node.server.put_pod(Pod::new("shop", "next", "n1").image("reg.test/team/next:v1"));
    node.ended("not_stored", 2).await;
    assert!(node.registry.seen().is_empty(), "{:#?}", node.registry.seen());
    pulls(&node, &image).await;
    assert!(files_under(&store.join("blobs")).is_empty());
}
