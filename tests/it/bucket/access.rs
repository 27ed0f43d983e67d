//! What the bucket holds is bytes, and no right to read them.

use http::{Method, StatusCode};

use super::{Fleet, Node};
use crate::support::accounts::Accounts;
use crate::support::client::Reply;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::s3::SECRET;

const ALICE: (&str, &str) = ("alice", "alice-password");
const BOB: (&str, &str) = ("bob", "bob-password");

async fn private() -> Fleet {
    let fleet = Fleet::new().await;
    fleet.registry.know(Accounts::new(&[(ALICE.0, ALICE.1, &["team/app"]), (BOB.0, BOB.1, &["other/app"])]));
    fleet
}

async fn get_as(node: &Node, path: &str, user: (&str, &str)) -> Reply {
    let reply = node.larder.get_as(path, user).await;
    node.larder.settled().await;
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_layer_in_the_bucket_is_given_to_no_caller_that_the_registry_refuses() {
    let fleet = private().await;
    let blob = fleet.blob(200_000, 1);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let first = fleet.node("first");
    assert_eq!(get_as(&first, &path, ALICE).await.body, blob.bytes);
    fleet.shared(&blob).await;
    let second = fleet.node("second");
    for (who, user) in [("bob", Some(BOB)), ("a wrong password", Some((ALICE.0, "wrong"))), ("no user", None)]
    {
        let reply = match user {
            Some(user) => get_as(&second, &path, user).await,
            None => second.larder.get(&path).await,
        };
        assert!(!reply.status.is_success(), "{who}: {}", reply.status);
        assert!(!reply.body.windows(64).any(|part| part == &blob.bytes[..64]), "{who} got bytes");
    }
    // And to whom it does not refuse, without a transfer.
    fleet.registry.forget_seen();
    assert_eq!(get_as(&second, &path, ALICE).await.body, blob.bytes);
    assert_eq!(fleet.asked_for(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_revoked_is_not_opened_by_the_bucket() {
    let fleet = private().await;
    let blob = fleet.blob(200_000, 1);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    get_as(&fleet.node("first"), &path, ALICE).await;
    fleet.shared(&blob).await;
    fleet.registry.change(true, |accounts| drop(accounts.users.remove(ALICE.0)));
    let second = fleet.node("second");
    assert_eq!(get_as(&second, &path, ALICE).await.status, StatusCode::UNAUTHORIZED);
    fleet.registry.stop().await;
    let away = get_as(&second, &path, ALICE).await;
    assert!(!away.status.is_success(), "an outage opens nothing either: {}", away.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_the_repository_does_not_have_is_not_served_from_the_bucket() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(200_000, 1).await;
    let second = fleet.node("second");
    let elsewhere = format!("/v2/team/other/blobs/{}?ns=reg.test", blob.digest);
    assert_eq!(second.larder.get(&elsewhere).await.status, StatusCode::NOT_FOUND);
    fleet.registry.remove_blob("team/app", blob.digest);
    assert_eq!(second.get(&blob).await.status, StatusCode::NOT_FOUND, "nor what it no longer has");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_claims_a_digest_is_not_given_the_bytes_of_another_registry() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(200_000, 1).await;
    // It answers every HEAD with 200 and that size, and delivers other bytes.
    let evil = FakeRegistry::start().await;
    evil.put_blob("team/app", blob.bytes.clone());
    evil.wrong(|seen| {
        (seen.method == Method::GET && seen.path.contains("/blobs/")).then_some(Fault::Corrupt)
    });
    let registries = [("reg.test", fleet.registry.url()), ("evil.test", evil.url())];
    let node = fleet.node_at("second", &registries, SECRET, "");
    let reply = node.larder.get(&format!("/v2/team/app/blobs/{}?ns=evil.test", blob.digest)).await;
    assert!(!reply.is_well(), "{}", reply.status);
    assert!(reply.body != blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_shared_names_a_new_node_serves_nothing_of_a_registry_that_is_away() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(200_000, 1).await;
    fleet.registry.stop().await;
    let reply = fleet.node("second").get(&blob).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_and_no_secret_is_in_the_bucket() {
    let fleet = private().await;
    let blob = fleet.blob(200_000, 1);
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    get_as(&fleet.node("first"), &path, ALICE).await;
    fleet.shared(&blob).await;
    for key in fleet.s3.keys() {
        for name in ["team", "app", "reg.test", "alice"] {
            assert!(!key.contains(name), "{key}");
        }
        let content = fleet.s3.object(&key).unwrap();
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains(ALICE.1) && !text.contains("tok.alice"), "{key}");
    }
    let seen = format!("{:?}", fleet.s3.asked());
    assert!(!seen.contains(ALICE.1) && !seen.contains("reg.test"), "a name in a request to the bucket");
}
