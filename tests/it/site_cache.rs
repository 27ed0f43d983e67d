//! A Larder as a mirror endpoint of others: one machine at a site that all nodes of the site ask first.

use http::{Method, StatusCode};

use crate::support::accounts::Accounts;
use crate::support::image::{self, noise};
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

/// A node whose first endpoint is the site's Larder.
fn node(directory: &std::path::Path, site: &Larder, registry: &FakeRegistry) -> Larder {
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [{{ url = \"http://{}/v2/reg.test\", credentials = \"none\" }}, {{ url = \"{}\", credentials = \"caller\", authoritative = true }}]",
        site.address,
        registry.url()
    );
    Larder::start(directory, &[], &more)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_a_site_with_a_cache_cost_the_registry_one_transfer() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let pushed = image::push(&registry, "team/app", "v1", 200_000);
    let site = Larder::start(&directory.path().join("site"), &[("reg.test", registry.url())], "");
    let platform = &pushed.platforms[0];
    for name in ["one", "two", "three"] {
        let node = node(&directory.path().join(name), &site, &registry);
        for what in [
            "manifests/v1".to_owned(),
            format!("manifests/{}", platform.manifest),
            format!("blobs/{}", platform.layers[0]),
            format!("blobs/{}", platform.layers[1]),
        ] {
            let reply = node.get(&format!("/v2/team/app/{what}?ns=reg.test")).await;
            assert!(reply.is_well(), "{name} {what}: {}", reply.status);
        }
    }
    for layer in &platform.layers {
        assert_eq!(registry.count(Method::GET, &format!("/blobs/{layer}")), 1, "one for the site");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_passes_a_site_cache_by_and_is_pulled_all_the_same() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.know(Accounts::new(&[("alice", "password", &["team/app"])]));
    let digest = registry.put_blob("team/app", noise(200_000, 1));
    let site = Larder::start(&directory.path().join("site"), &[("reg.test", registry.url())], "");
    let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    for name in ["one", "two"] {
        let node = node(&directory.path().join(name), &site, &registry);
        assert_eq!(node.get_as(&path, ("alice", "password")).await.digest(), digest);
        assert_ne!(node.get_as(&path, ("alice", "wrong")).await.status, StatusCode::OK);
    }
    assert_ne!(site.get(&path).await.status, StatusCode::OK, "the cache was shown no credential");
}
