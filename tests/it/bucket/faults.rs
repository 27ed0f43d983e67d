//! A bucket that does wrong: what it has is not what it says, or it fails. A pull is right all the same, and costs one
//! attempt at the bucket at most.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tokio::sync::Semaphore;

use super::{Blob, Fleet, Node};
use crate::support::image::{self, noise};
use crate::support::registry::Fault;
use crate::support::s3::{Op, SECRET, Wrong};

/// Larger than what is withheld at the end, and than what waits on a connection.
const SIZE: usize = 3 << 20;

/// What another writer, or an error of the store, has made of an object.
type Poison = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;

fn poisons() -> Vec<(&'static str, Poison)> {
    vec![
        ("one wrong byte", Box::new(|bytes: &mut Vec<u8>| bytes[SIZE / 2] ^= 1)),
        ("a wrong first byte", Box::new(|bytes: &mut Vec<u8>| bytes[0] ^= 1)),
        ("a wrong last byte", Box::new(|bytes: &mut Vec<u8>| bytes[SIZE - 1] ^= 1)),
        ("another blob of the same length", Box::new(|bytes: &mut Vec<u8>| *bytes = noise(SIZE, 99))),
        ("zeros", Box::new(|bytes: &mut Vec<u8>| bytes.fill(0))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_the_right_length_with_wrong_bytes_reaches_no_client_and_is_removed() {
    for (name, poison) in poisons() {
        let fleet = Fleet::new().await;
        let (blob, key) = fleet.shared_blob(SIZE, 1).await;
        fleet.s3.change(&key, |bytes| poison(bytes));
        let second = fleet.node("second");
        second.pulls(&blob, name).await;
        assert_eq!(fleet.transfers(&blob), 1, "{name}: the registry delivered");
        assert_eq!(second.larder.metric("larder_tier_bad_objects_total").await, 1.0, "{name}");
        assert_eq!(fleet.reads(&blob), 1, "{name}: and it was read once");
        gone_or_right(&fleet, &blob, &key, name).await;
    }
}

/// Waits until an object is no longer what it should not be.
async fn gone_or_right(fleet: &Fleet, blob: &Blob, key: &str, why: &str) {
    for _ in 0..500 {
        if fleet.s3.object(key).is_none_or(|bytes| bytes == blob.bytes) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{why}: the bad object is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_object_that_may_not_be_removed_is_not_read_again_and_again() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(SIZE, 1).await;
    fleet.s3.change(&key, |bytes| bytes[7] ^= 1);
    fleet.s3.read_only();
    // Without room to store the blob, every pull needs it anew.
    let second = fleet.node_with("second", SECRET, "[store]\nmin_free = \"1000TiB\"");
    for _ in 0..3 {
        second.pulls(&blob, "read-only").await;
    }
    assert_eq!(fleet.reads(&blob), 1);
    assert!(fleet.s3.object(&key).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_another_length_costs_no_client_a_wrong_or_short_body() {
    for (name, len) in [("empty", 0), ("one byte", 1), ("short", SIZE - 1), ("long", SIZE + 1)] {
        let fleet = Fleet::new().await;
        let (blob, key) = fleet.shared_blob(SIZE, 1).await;
        let mut bytes = blob.bytes.to_vec();
        bytes.resize(len, b'x');
        fleet.s3.put(&key, bytes);
        let second = fleet.node("second");
        second.pulls(&blob, name).await;
        assert_eq!(fleet.transfers(&blob), 1, "{name}");
        gone_or_right(&fleet, &blob, &key, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_one_length_and_sends_another_costs_no_client_a_wrong_body() {
    for (name, wrong) in [
        ("short", Wrong::Short(SIZE / 2)),
        ("long", Wrong::Long(1_000)),
        ("damaged", Wrong::Answered(Fault::Corrupt)),
        ("a page", Wrong::Page("<html>Sign in</html>")),
        ("nothing", Wrong::Page("")),
        ("no length", Wrong::Answered(Fault::Chunked)),
    ] {
        let fleet = Fleet::new().await;
        let (blob, _) = fleet.shared_blob(SIZE, 1).await;
        fleet.s3.wrong_at(Op::Get, "/blobs/", wrong);
        fleet.node("second").pulls(&blob, name).await;
        assert_eq!(fleet.reads(&blob), 1, "{name}: one attempt");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_costs_a_pull_one_attempt() {
    for (name, wrong) in [
        ("SlowDown", Wrong::slow_down()),
        ("500", Wrong::broken()),
        ("denied", Wrong::denied()),
        ("no answer", Wrong::Hang),
        ("lost", Wrong::Lost),
        ("429", Wrong::Refused(429, "TooManyRequests")),
        ("301", Wrong::Refused(301, "PermanentRedirect")),
    ] {
        let fleet = Fleet::new().await;
        let (blob, _) = fleet.shared_blob(SIZE, 1).await;
        fleet.s3.wrong_always(wrong);
        let second = fleet.node("second");
        second.pulls(&blob, name).await;
        assert_eq!(fleet.transfers(&blob), 1, "{name}");
        assert_eq!(fleet.reads(&blob), 1, "{name}: one attempt, without retries");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_fails_is_not_asked_for_each_blob_of_an_image() {
    for (name, wrong) in
        [("SlowDown", Wrong::slow_down()), ("denied", Wrong::denied()), ("no answer", Wrong::Hang)]
    {
        let fleet = Fleet::new().await;
        fleet.s3.wrong_always(wrong);
        let node = fleet.node("node");
        for seed in 0..20 {
            node.pulls(&fleet.blob(10_000, seed), name).await;
        }
        let asked = fleet.s3.asked().len();
        assert!(asked <= 8, "{name}: {asked} requests for 20 blobs");
        assert!(node.tier_reads("left_alone").await >= 10.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_is_not_taken_for_an_empty_one() {
    let fleet = Fleet::new().await;
    fleet.s3.wrong_always(Wrong::Refused(404, "NoSuchBucket"));
    let node = fleet.node("node");
    for seed in 0..20 {
        node.pulls(&fleet.blob(10_000, seed), "no bucket").await;
    }
    let asked = fleet.s3.asked().len();
    assert!(asked <= 8, "{asked} requests for 20 blobs");
    assert!(node.tier_reads("error").await >= 1.0 && node.tier_reads("miss").await == 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_knows_no_conditions_is_given_manifests_and_layers_all_the_same() {
    let fleet = Fleet::new().await;
    fleet.s3.wrong(|asked| {
        asked.headers.contains_key("if-none-match").then_some(Wrong::Refused(501, "NotImplemented"))
    });
    let image = image::push(&fleet.registry, "team/app", "v1", 10_000);
    let (node, layer) = (fleet.node("node"), fleet.blob(SIZE, 1));
    assert!(node.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await.is_well());
    node.pulls(&layer, "no conditions").await;
    fleet.shared(&layer).await;
    node.larder.settled().await;
    let manifests: Vec<_> = fleet.s3.keys().into_iter().filter(|key| key.contains("/manifests/")).collect();
    assert!(manifests.iter().any(|key| key.contains(&image.index.hex())), "{manifests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_is_refused_is_known_to_be_refused() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(SIZE, 1).await;
    fleet.s3.change(&key, |bytes| bytes[7] ^= 1);
    // The rule can tell keys apart only if each delete names its own.
    fleet.s3.wrong_at(Op::Delete, "/blobs/", Wrong::denied());
    let second = fleet.node("second");
    second.pulls(&blob, "wrong").await;
    second.larder.settled().await;
    assert_eq!(second.larder.metric("larder_tier_errors_total{kind=\"denied\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_continued_by_the_registry_where_it_ended() {
    for (name, fault) in [("cut", Fault::CloseAfter(2 << 20)), ("stalled", Fault::StallAfter(2 << 20))] {
        let fleet = Fleet::new().await;
        let (blob, _) = fleet.shared_blob(SIZE, 1).await;
        fleet.s3.wrong_at(Op::Get, "/blobs/", Wrong::Answered(fault));
        let second = fleet.node("second");
        second.pulls(&blob, name).await;
        let ranges: Vec<String> = fleet
            .registry
            .seen()
            .iter()
            .filter(|seen| seen.method == Method::GET && seen.path.contains("/blobs/"))
            .map(|seen| seen.headers.get("range").map_or(String::new(), |r| r.to_str().unwrap().to_owned()))
            .collect();
        assert_eq!(ranges.len(), 1, "{name}: {ranges:?}");
        let from: usize = ranges[0].trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0);
        assert!(from > 1 << 20, "{name}: what had come was fetched again: {ranges:?}");
        assert!(second.tier_reads("broken_off").await >= 1.0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_bodies_stall_is_not_waited_for_with_each_layer_of_an_image() {
    let fleet = Fleet::new().await;
    let mut blobs = Vec::new();
    for seed in 0..8 {
        blobs.push(fleet.shared_blob(SIZE, seed).await.0);
    }
    fleet.s3.wrong_at(Op::Get, "/blobs/", Wrong::Answered(Fault::StallAfter(1 << 20)));
    let second = fleet.node("second");
    for blob in &blobs {
        second.pulls(blob, "the rest comes from the registry").await;
    }
    let reads: usize = blobs.iter().map(|blob| fleet.reads(blob)).sum();
    // It is left alone for one second, then for two, for four: a slow machine may get that far.
    assert!((1..=4).contains(&reads), "{reads} of 8 were waited for");
    assert!(second.tier_reads("left_alone").await >= 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_slower_than_the_registry_costs_seconds_and_not_the_whole_layer() {
    let fleet = Fleet::new().await;
    let (layer, _) = fleet.shared_blob(24 << 20, 1).await;
    // 2 MB/s: the layer would take 12 s.
    fleet.s3.wrong_at(Op::Get, "/blobs/", Wrong::Answered(Fault::Slow(20_000)));
    let second = fleet.node("second");
    second.pulls(&fleet.blob(8 << 20, 2), "the bucket lacks it: now the pace of the registry is known").await;
    fleet.registry.forget_seen();
    second.pulls(&layer, "the bucket has it, and is slow").await;
    assert_eq!(second.tier_reads("broken_off").await, 1.0, "the bucket was left");
    let ranges: Vec<String> = (fleet.registry.seen().iter())
        .filter(|seen| seen.method == Method::GET && seen.path.contains(&layer.digest.to_string()))
        .map(|seen| seen.headers.get("range").map_or(String::new(), |r| r.to_str().unwrap().to_owned()))
        .collect();
    let from: usize = ranges[0].trim_start_matches("bytes=").split('-').next().unwrap().parse().unwrap_or(0);
    assert!(from > 4 << 20 && from < 20 << 20, "the registry went on where the bucket was left: {ranges:?}");
    // And it is not tried with the next layer.
    let (next, _) = fleet.shared_blob(SIZE, 3).await;
    second.pulls(&next, "from the registry").await;
    assert_eq!(fleet.reads(&next), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_before_a_body_breaks_off_are_found_and_reach_no_client() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(SIZE, 1).await;
    fleet.s3.change(&key, |bytes| bytes[100] ^= 1);
    fleet.s3.wrong_at(Op::Get, "/blobs/", Wrong::Answered(Fault::CloseAfter(2 << 20)));
    let second = fleet.node("second");
    second.pulls(&blob, "wrong bytes, and the rest from the registry").await;
    second.larder.settled().await;
    gone_or_right(&fleet, &blob, &key, "it is written again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_a_poisoned_object_all_get_the_right_bytes() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(SIZE, 1).await;
    fleet.s3.change(&key, |bytes| bytes[SIZE - 10] ^= 1);
    let gate = Arc::new(Semaphore::new(0));
    fleet.s3.wrong_at(Op::Get, "/blobs/", Wrong::Answered(Fault::HoldAfter(SIZE / 2, Arc::clone(&gate))));
    let second = Arc::new(fleet.node("second"));
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (second, path) = (Arc::clone(&second), path.clone());
            tokio::spawn(async move { second.larder.get(&path).await })
        })
        .collect();
    for _ in 0..200 {
        if fleet.reads(&blob) > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    gate.add_permits(8);
    for pull in pulls {
        let reply = pull.await.unwrap();
        assert!(reply.is_well() && reply.body == blob.bytes, "{} {}", reply.status, reply.complete);
    }
    assert_eq!((fleet.reads(&blob), fleet.transfers(&blob)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_and_comes_back_is_used_again() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(SIZE, 1).await;
    fleet.s3.stop().await;
    let second = fleet.node("second");
    second.pulls(&fleet.blob(50_000, 2), "connections are refused").await;
    fleet.s3.restart().await;
    for seed in 3..2_000 {
        second.pulls(&fleet.blob(1_000, seed), "in between").await;
        if second.tier_reads("miss").await > 0.0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    fleet.registry.forget_seen();
    second.pulls(&blob, "it is back").await;
    assert_eq!(fleet.asked_for(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_credential_costs_no_pull_and_few_requests() {
    let fleet = Fleet::new().await;
    let node = fleet.node_with("node", "not the secret", "");
    for seed in 0..10 {
        node.pulls(&fleet.blob(10_000, seed), "wrong credential").await;
    }
    assert!(fleet.s3.asked().len() <= 4, "{}", fleet.s3.asked().len());
    assert!(fleet.s3.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_older_or_unknown_versions_left_in_the_bucket_is_ignored() {
    let fleet = Fleet::new().await;
    let (blob, key) = fleet.shared_blob(SIZE, 1).await;
    let old = key.replace("/v1/", "/v0/");
    assert_ne!(old, key);
    fleet.s3.put(&old, Bytes::from_static(b"another format"));
    fleet.s3.remove(&key);
    for junk in
        ["larder", "fleet/larder/v1", "fleet/larder/v1/blobs/sha256", "fleet/larder/v2/blobs/sha256/x"]
    {
        fleet.s3.put(junk, Bytes::from_static(b"junk"));
    }
    fleet.node("second").pulls(&blob, "an old format").await;
    assert_eq!(fleet.transfers(&blob), 1);
    assert_eq!(fleet.s3.object(&old).unwrap(), &b"another format"[..], "and it is not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_of_a_manifest_is_not_served() {
    let fleet = Fleet::new().await;
    let pushed = crate::support::image::push(&fleet.registry, "team/app", "v1", 1_000);
    let path = format!("/v2/team/app/manifests/{}?ns=reg.test", pushed.index);
    let get = async |node: &Node| node.larder.get(&path).await;
    assert_eq!(get(&fleet.node("first")).await.body, pushed.index_bytes);
    let key = loop {
        if let Some(key) = fleet.s3.key(&pushed.index.hex()) {
            break key;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    for (at, poison) in [
        Bytes::from(pushed.index_bytes.to_vec().repeat(2)),
        Bytes::from_static(b"{}"),
        Bytes::new(),
        fleet.registry.manifest("team/app", pushed.platforms[0].manifest),
        Bytes::from(vec![b' '; 9 << 20]),
    ]
    .into_iter()
    .enumerate()
    {
        fleet.s3.put(&key, poison);
        let reply = get(&fleet.node(&format!("second{at}"))).await;
        assert!(reply.is_well() && reply.body == pushed.index_bytes, "{at}: {}", reply.status);
    }
}
