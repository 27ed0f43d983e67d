//! Records of names in the bucket, changed by one who can write there: no node believes what another one did not say.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::{Fleet, Node};
use crate::support::image::{self, Image};
use crate::support::s3::SECRET;

/// Two public images whose tag is `v1`, told by a first node; then their registry is away.
struct Outage {
    fleet: Fleet,
    shares: String,
    one: Image,
    other: Image,
}

const REPOSITORIES: [&str; 2] = ["team/app", "team/other"];

async fn outage() -> Outage {
    let fleet = Fleet::new().await;
    let key = fleet.directory.path().join("cluster.key");
    std::fs::write(&key, [7; 32]).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let shares = format!("share_names = true\ncluster_key = {key:?}");
    let (one, other) = (
        image::push(&fleet.registry, REPOSITORIES[0], "v1", 10_000),
        image::push(&fleet.registry, REPOSITORIES[1], "v1", 20_000),
    );
    let first = fleet.node_with("first", SECRET, &shares);
    for repository in REPOSITORIES {
        let reply = first.larder.get(&tag(repository)).await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    // What each tag names, that each is public, and a member of each.
    for _ in 0..1_000 {
        if names(&fleet).len() >= 6 && fleet.s3.keys().iter().any(|key| key.contains("/manifests/")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first.larder.settled().await;
    first.larder.stop().await;
    fleet.registry.stop().await;
    Outage { fleet, shares, one, other }
}

fn tag(repository: &str) -> String {
    format!("/v2/{repository}/manifests/v1?ns=reg.test")
}

fn names(fleet: &Fleet) -> Vec<String> {
    fleet.s3.keys().into_iter().filter(|key| key.contains("/names/")).collect()
}

impl Outage {
    fn node(&self, name: &str) -> Node {
        self.fleet.node_with(name, SECRET, &self.shares)
    }

    /// What a new node serves for the tag of each, if anything.
    async fn served(&self, name: &str) -> Vec<Option<Bytes>> {
        let node = self.node(name);
        let mut all = Vec::new();
        for repository in REPOSITORIES {
            let reply = node.larder.get(&tag(repository)).await;
            all.push((reply.status == StatusCode::OK).then_some(reply.body));
        }
        all
    }

    /// Each repository's own image, or nothing.
    async fn serves_nothing_wrong(&self, name: &str) {
        for (served, right) in self.served(name).await.into_iter().zip([&self.one, &self.other]) {
            assert!(served.is_none_or(|bytes| bytes == right.index_bytes), "{name}: another image");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_moved_damaged_or_made_up_name_no_other_image() {
    let outage = outage().await;
    let right = [&outage.one, &outage.other].map(|image| Some(image.index_bytes.clone()));
    assert_eq!(outage.served("untouched").await, right, "what is told is served while the registry is away");
    let (s3, keys) = (&outage.fleet.s3, names(&outage.fleet));
    let before: Vec<Bytes> = keys.iter().map(|key| s3.object(key).unwrap()).collect();
    // Every record in the place of another one, in every way around.
    for by in 1..keys.len() {
        for (at, key) in keys.iter().enumerate() {
            s3.put(key, before[(at + by) % keys.len()].clone());
        }
        let served = outage.served(&format!("moved by {by}")).await;
        assert!(served.iter().all(Option::is_none), "moved by {by}");
    }
    let junk = [Bytes::new(), Bytes::from_static(b"{}"), Bytes::from(vec![0; 100_000])];
    for (at, junk) in junk.into_iter().enumerate() {
        keys.iter().for_each(|key| s3.put(key, junk.clone()));
        assert!(outage.served(&format!("junk {at}")).await.iter().all(Option::is_none), "junk {at}");
    }
    for byte in [0, 5, 20] {
        for (key, content) in keys.iter().zip(&before) {
            let mut bytes = content.to_vec();
            let at = byte.min(bytes.len() - 1);
            bytes[at] ^= 1;
            s3.put(key, bytes);
        }
        outage.serves_nothing_wrong(&format!("byte {byte}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_that_is_played_back_ends_with_stale_if_error() {
    let outage = outage().await;
    let node = outage.node("much later");
    node.larder.clock.advance(Duration::from_secs(31 * 86_400));
    for repository in REPOSITORIES {
        assert_eq!(node.larder.get(&tag(repository)).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
