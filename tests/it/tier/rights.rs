//! Nothing in the tier opens a right: not what another registry delivered, nor what was revoked.

use http::{Method, StatusCode};

use super::{LAYER, Site, is_blob_get};
use crate::support::fault::Fault;
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

#[tokio::test]
async fn a_registry_that_claims_the_digest_of_another_one_is_not_given_its_bytes() {
    let mut site = Site::new().await;
    let one = site.node();
    let (bytes, path) = site.blob(100_000, 1);
    assert_eq!(one.get(&path).await.body, bytes);
    site.has_objects("blobs", 1).await;
    // It says that it has the blob, and has not.
    let evil = FakeRegistry::start().await;
    let digest = evil.put_blob("team/app", bytes.clone());
    evil.wrong(|seen| is_blob_get(seen).then_some(Fault::Status(404, Vec::new())));
    let state = tempfile::tempdir().unwrap();
    let tier =
        format!("[tier]\nurl = \"file://{}\"\nregistries = [\"evil.test\"]\n", site.shared.path().display());
    let other = Larder::start(state.path(), &[("evil.test", evil.url())], &tier);
    let reply = other.get(&format!("/v2/team/app/blobs/{digest}?ns=evil.test")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(other.metric("larder_tier_read_bytes_total").await, 0.0);
}

/// Nodes at each of which `localhost:5000` is another registry.
#[tokio::test]
async fn the_registry_of_one_node_is_not_given_what_that_of_another_node_delivered() {
    for (registries, is_shared) in [("", false), ("registries = [\"*\", \"localhost:5000\"]", true)] {
        let (site, other) = (Site::new().await, FakeRegistry::start().await);
        let (bytes, path) = site.blob(100_000, 1);
        let (path, states) =
            (path.replace("reg.test", "localhost:5000"), [(); 2].map(|()| tempfile::tempdir().unwrap()));
        let tier = format!("[tier]\nurl = \"file://{}\"\n{registries}\n", site.shared.path().display());
        let node =
            |at: usize, url: String| Larder::start(states[at].path(), &[("localhost:5000", url)], &tier);
        let (one, two) = (node(0, site.registry.url()), node(1, other.url()));
        assert_eq!(one.get(&path).await.body, bytes);
        one.settled().await;
        site.has_objects("blobs", usize::from(is_shared)).await;
        // It says that it has the blob, and has not.
        other.put_blob("team/app", bytes.clone());
        other.wrong(|seen| is_blob_get(seen).then_some(Fault::Status(404, Vec::new())));
        let reply = two.get(&path).await;
        assert_eq!(reply.status == StatusCode::OK, is_shared, "{}", reply.status);
        assert_eq!(two.metric("larder_tier_read_bytes_total").await > 0.0, is_shared);
        assert_eq!(
            other.count(Method::HEAD, "/blobs/"),
            usize::from(is_shared),
            "no question for a tier that is not used"
        );
    }
}

#[tokio::test]
async fn the_tier_opens_no_private_image_after_its_right_was_revoked() {
    let mut site = Site::new().await;
    let accounts = Accounts::new(&[("alice", "secret", &["team/app"])]);
    site.registry.know(accounts);
    let (one, other) = (site.node(), site.node());
    let (bytes, path) = site.blob(LAYER, 1);
    let alice = ("alice", "secret");
    assert_eq!(one.get_as(&path, alice).await.body, bytes);
    site.has_objects("blobs", 1).await;
    assert_ne!(other.get(&path).await.status, StatusCode::OK, "without her credential");
    site.registry.change(true, |accounts| accounts.users.clear());
    assert_ne!(other.get_as(&path, alice).await.status, StatusCode::OK);
    assert_eq!(other.metric("larder_tier_read_bytes_total").await, 0.0);
}
