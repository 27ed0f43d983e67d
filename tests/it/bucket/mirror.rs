//! A registry with a mirror before it, and a bucket: the bucket saves the transfer, the registry itself proves the right, and
//! what a mirror says proves nothing.

use http::{Method, StatusCode};

use super::{Blob, Fleet, Node};
use crate::support::accounts::Accounts;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::s3::SECRET;

/// A node that asks `mirror` before the registry.
fn node(fleet: &Fleet, name: &str, mirror: &FakeRegistry) -> Node {
    let more = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [{{ url = \"{}\", credentials = \"none\" }}, {{ url = \"{}\", credentials = \"caller\", authoritative = true }}]",
        mirror.url(),
        fleet.registry.url()
    );
    fleet.node_at(name, &[], SECRET, &more)
}

impl Node {
    /// Has the registry prove that everyone may read the repository: only then a mirror is asked for content.
    async fn is_granted(&self, fleet: &Fleet) {
        self.pulls(&fleet.blob(1_000, 9), "a first blob").await;
    }
}

fn asked(registry: &FakeRegistry, method: Method, blob: &Blob) -> usize {
    registry.count(method, &format!("/blobs/{}", blob.digest))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_bucket_has_is_sent_by_neither_the_mirror_nor_the_registry() {
    let (fleet, mirror) = (Fleet::new().await, FakeRegistry::start().await);
    let blob = fleet.blob(200_000, 1);
    mirror.put_blob("team/app", blob.bytes.clone());
    let first = node(&fleet, "first", &mirror);
    first.is_granted(&fleet).await;
    first.pulls(&blob, "the mirror has it").await;
    assert_eq!((asked(&mirror, Method::GET, &blob), fleet.asked_for(&blob)), (1, 0), "the mirror delivers");
    fleet.shared(&blob).await;
    mirror.forget_seen();
    fleet.registry.forget_seen();
    let second = node(&fleet, "second", &mirror);
    second.is_granted(&fleet).await;
    second.pulls(&blob, "the bucket has it").await;
    assert_eq!((asked(&mirror, Method::GET, &blob), fleet.asked_for(&blob)), (0, 0));
    assert!(asked(&fleet.registry, Method::HEAD, &blob) > 0, "the registry itself confirmed it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_has_everything_opens_nothing_of_the_bucket_that_the_registry_refuses() {
    let (fleet, mirror) = (Fleet::new().await, FakeRegistry::start().await);
    let (alice, bob) = (("alice", "alice-password"), ("bob", "bob-password"));
    fleet.registry.know(Accounts::new(&[(alice.0, alice.1, &["team/app"]), (bob.0, bob.1, &["other/app"])]));
    let blob = fleet.blob(200_000, 1);
    mirror.put_blob("team/app", blob.bytes.clone());
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let first = node(&fleet, "first", &mirror);
    assert_eq!(first.larder.get_as(&path, alice).await.body, blob.bytes);
    fleet.shared(&blob).await;
    fleet.s3.forget_asked();
    let second = node(&fleet, "second", &mirror);
    assert_ne!(second.larder.get_as(&path, bob).await.status, StatusCode::OK, "bob");
    assert_ne!(second.larder.get(&path).await.status, StatusCode::OK, "without a credential");
    assert_eq!(fleet.reads(&blob), 0, "the bucket is not asked before the registry's yes");
    assert_eq!(second.larder.get_as(&path, alice).await.body, blob.bytes);
    assert_eq!(second.tier_reads("hit").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_mirror_has_does_not_get_into_the_bucket() {
    let (fleet, mirror) = (Fleet::new().await, FakeRegistry::start().await);
    let blob = fleet.blob(200_000, 1);
    mirror.put_blob("team/app", blob.bytes.clone());
    let first = node(&fleet, "first", &mirror);
    first.is_granted(&fleet).await;
    fleet.registry.wrong(|seen| {
        // All of it is on the disk, and not yet proved to be the repository's, for longer than a copy takes to look.
        if seen.method == Method::HEAD {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        seen.path.contains("/blobs/").then(|| Fault::Status(404, Vec::new()))
    });
    let _ = first.get(&blob).await;
    first.larder.settled().await;
    assert_eq!(asked(&mirror, Method::GET, &blob), 1, "the mirror delivered it");
    // What is written is written before this other one.
    fleet.registry.behave();
    let other = fleet.blob(200_000, 2);
    first.pulls(&other, "the registry has that").await;
    fleet.shared(&other).await;
    assert_eq!(fleet.key(&blob), None, "no registry said that the repository has it");
}
