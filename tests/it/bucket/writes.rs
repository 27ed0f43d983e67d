//! Writing to the bucket: no pull waits for it or fails with it, and nothing that is not the content of its digest becomes
//! an object.

use std::sync::Arc;

use http::StatusCode;
use tokio::sync::Semaphore;

use super::{Blob, Fleet};
use crate::support::registry::Fault;
use crate::support::s3::{Op, SECRET, Wrong};

/// Several parts.
const LARGE: usize = 20 << 20;
/// Less than one.
const SMALL: usize = 100_000;

/// Waits until this holds.
async fn until(why: &str, holds: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("never: {why}");
}

/// No object of the blob, or the right one.
fn is_absent_or_right(fleet: &Fleet, blob: &Blob) -> bool {
    fleet.key(blob).is_none_or(|key| fleet.s3.object(&key).unwrap() == blob.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_takes_nothing_costs_no_pull() {
    for op in [Op::Put, Op::Begin, Op::Part, Op::Complete, Op::Abort] {
        for (name, wrong) in [
            ("denied", Wrong::denied()),
            ("500", Wrong::broken()),
            ("SlowDown", Wrong::slow_down()),
            ("lost", Wrong::Lost),
            ("no answer", Wrong::Hang),
        ] {
            let fleet = Fleet::new().await;
            fleet.s3.wrong_at(op, "", wrong);
            let node = fleet.node("node");
            let len = if op == Op::Put { SMALL } else { LARGE };
            let blob = fleet.blob(len, 1);
            node.pulls(&blob, &format!("{op:?} {name}")).await;
            assert_eq!(fleet.transfers(&blob), 1, "{op:?} {name}");
            assert!(is_absent_or_right(&fleet, &blob), "{op:?} {name}");
            fleet.s3.behave();
            fleet.node("second").pulls(&blob, &format!("after {op:?} {name}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_an_upload_that_failed_are_thrown_away() {
    let fleet = Fleet::new().await;
    fleet.s3.wrong_at(Op::Part, "", Wrong::denied());
    let node = fleet.node("node");
    node.pulls(&fleet.blob(LARGE, 1), "its parts are refused").await;
    until("the upload is aborted", || fleet.s3.count(Op::Abort, "") > 0 && fleet.s3.uploads() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_fails_becomes_no_object() {
    let fleet = Fleet::new().await;
    let blob = fleet.blob(LARGE, 1);
    fleet.registry.wrong_at("/blobs/", Fault::Corrupt);
    let node = fleet.node("node");
    let reply = node.get(&blob).await;
    assert!(!reply.is_well());
    node.larder.settled().await;
    until("nothing is left of it", || fleet.s3.uploads() == 0).await;
    assert_eq!(fleet.key(&blob), None);
    assert_eq!(fleet.s3.count(Op::Complete, ""), 0);
    fleet.registry.behave();
    node.pulls(&blob, "the registry is well again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_not_there_before_its_download_is_verified() {
    let fleet = Fleet::new().await;
    let (blob, gate) = (fleet.blob(LARGE, 1), Arc::new(Semaphore::new(0)));
    fleet.registry.wrong_at("/blobs/", Fault::HoldAfter(LARGE - 10, Arc::clone(&gate)));
    let node = fleet.node("node");
    let pull = async { node.pulls(&blob, "the end comes late").await };
    let look = async {
        until("parts are uploaded while it arrives", || fleet.s3.count(Op::Part, "") >= 2).await;
        assert_eq!(fleet.key(&blob), None);
        gate.add_permits(1);
    };
    tokio::join!(pull, look);
    fleet.shared(&blob).await;
    assert_eq!(fleet.s3.uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_slow_to_take_a_blob_does_not_delay_its_client() {
    let fleet = Fleet::new().await;
    fleet.s3.wrong(|asked| matches!(asked.op, Op::Put | Op::Begin | Op::Part).then_some(Wrong::Hang));
    let node = fleet.node("node");
    // The bucket never answers: a pull that waited for it would not end.
    for seed in 0..6 {
        let blob = fleet.blob(if seed % 2 == 0 { LARGE } else { SMALL }, seed);
        let reply = node.get(&blob).await;
        assert!(reply.status == StatusCode::OK && reply.body == blob.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_leaves_no_object_and_no_node_waiting() {
    let fleet = Fleet::new().await;
    let (blob, gate) = (fleet.blob(LARGE, 1), Arc::new(Semaphore::new(0)));
    fleet.registry.wrong_once("/blobs/", Fault::HoldAfter(LARGE / 2, gate));
    let node = fleet.node("node");
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let mut begun = crate::support::client::begin(node.larder.address, &path).await;
    begun.read(1 << 20).await;
    until("some of it is uploaded", || fleet.s3.count(Op::Part, "") > 0).await;
    drop((begun, node));
    assert_eq!(fleet.key(&blob), None);
    fleet.node("second").pulls(&blob, "the writer is dead").await;
    let key = fleet.shared(&blob).await;
    assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_blob_leave_it_right() {
    for (len, ignores) in [(SMALL, false), (SMALL, true), (LARGE, false), (LARGE, true)] {
        let fleet = Fleet::new().await;
        if ignores {
            fleet.s3.ignore_conditions();
        }
        let blob = fleet.blob(len, 1);
        let nodes = ["one", "two", "three"].map(|name| fleet.node_with(name, SECRET, "read = false"));
        let [one, two, three] = &nodes;
        tokio::join!(one.pulls(&blob, "one"), two.pulls(&blob, "two"), three.pulls(&blob, "three"));
        let key = fleet.shared(&blob).await;
        until("no upload is left", || fleet.s3.uploads() == 0).await;
        assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes, "{len} {ignores}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_is_lost_costs_no_more_than_another_upload() {
    let fleet = Fleet::new().await;
    fleet.s3.wrong_once(Op::Complete, "", Wrong::Lost);
    let (first, blob) = (fleet.node("first"), fleet.blob(LARGE, 1));
    first.pulls(&blob, "the answer is lost").await;
    let key = fleet.shared(&blob).await;
    assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes);
    fleet.registry.forget_seen();
    fleet.node("second").pulls(&blob, "it is there").await;
    assert_eq!(fleet.asked_for(&blob), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_not_written_again_by_every_node() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(LARGE, 1).await;
    for name in ["two", "three", "four"] {
        let node = fleet.node(name);
        node.pulls(&blob, name).await;
    }
    let writes = |op| fleet.s3.count(op, "/blobs/");
    assert_eq!((writes(Op::Part), writes(Op::Put), writes(Op::Complete)), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_refuses_writes_is_read_all_the_same() {
    let fleet = Fleet::new().await;
    let (blob, _) = fleet.shared_blob(LARGE, 1).await;
    fleet.s3.read_only();
    let node = fleet.node("reader");
    node.pulls(&fleet.blob(SMALL, 2), "it may not write this").await;
    node.pulls(&blob, "and may read that").await;
    assert_eq!(fleet.asked_for(&blob), 0);
}
