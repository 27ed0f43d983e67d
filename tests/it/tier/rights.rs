//! Nothing in the tier opens a right: not what another registry delivered, nor what was revoked.

use http::{Method, StatusCode};

use super::{LAYER, Site};
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
    evil.wrong(|seen| {
        (seen.method == Method::GET && seen.path.contains("/blobs/"))
            .then_some(Fault::Status(404, Vec::new()))
    });
    let state = tempfile::tempdir().unwrap();
    let tier = format!("[tier]\nurl = \"file://{}\"\n", site.shared.path().display());
    let other = Larder::start(state.path(), &[("evil.test", evil.url())], &tier);
    let reply = other.get(&format!("/v2/team/app/blobs/{digest}?ns=evil.test")).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(other.metric("larder_tier_read_bytes_total").await, 0.0);
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
