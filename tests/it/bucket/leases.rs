//! Nodes that miss the same layer at the same time: one downloads it, the others wait for it. A lease that is lost, forged,
//! or held by no writer costs a second download, and never a pull.

use std::sync::Arc;

use larder::reference::Digest;
use tokio::sync::Semaphore;

use super::{Blob, Fleet, Node};
use crate::support::registry::Fault;
use crate::support::s3::{Op, SECRET, Wrong};

/// Two seconds at the pace of the registry, so that those that come in between find it under way.
const SIZE: usize = 20 << 20;
/// Just large enough for a lease.
const LEASED: usize = 5 << 20;
/// Bytes each hundredth of a second.
const PACE: usize = 100 * 1024;
const NODES: usize = 4;

/// A registry that sends slowly, and a blob of it.
async fn slow() -> (Fleet, Blob) {
    slow_blob(SIZE).await
}

async fn slow_blob(len: usize) -> (Fleet, Blob) {
    let fleet = Fleet::new().await;
    fleet.registry.wrong(|seen| {
        (seen.method == http::Method::GET && seen.path.contains("/blobs/")).then_some(Fault::Slow(PACE))
    });
    let blob = fleet.blob(len, 1);
    (fleet, blob)
}

/// Several empty nodes pull a blob at once.
async fn all_at_once(fleet: &Fleet, blob: &Blob, more: &str) -> Vec<Node> {
    let nodes: Vec<Node> = (0..NODES).map(|at| fleet.node_with(&format!("node{at}"), SECRET, more)).collect();
    futures_util::future::join_all(nodes.iter().map(|node| node.pulls(blob, "at once"))).await;
    nodes
}

/// The key of the lease of a blob, as the layout of the tier has it.
fn lease_key(blob: &Blob) -> String {
    let (digest, hex) = (blob.digest, blob.digest.hex());
    let origin = Digest::of(format!("larder tier origin\0reg.test\0{digest}").as_bytes()).hex();
    format!("fleet/larder/v1/leases/sha256/{}/{hex}/{}", &hex[..2], &origin[..32])
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_begin_at_once_cost_the_registry_one_transfer() {
    for seconds in [0, 86_400, -86_400] {
        let (fleet, blob) = slow().await;
        // Whatever the clock of the store says.
        fleet.s3.set_clock(seconds);
        let nodes = all_at_once(&fleet, &blob, "").await;
        assert_eq!(fleet.transfers(&blob), 1, "clock {seconds}");
        drop(nodes);
        given_back(&fleet).await;
    }
}

/// Waits until there is no lease.
async fn given_back(fleet: &Fleet) {
    for _ in 0..500 {
        if fleet.s3.key("/leases/").is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{:?} is left", fleet.s3.key("/leases/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_creates_a_lease_twice_costs_no_more_than_it_would_without_one() {
    for (ignores, transfers) in [(true, NODES), (false, 1)] {
        let (fleet, blob) = slow_blob(LEASED).await;
        if ignores {
            fleet.s3.ignore_conditions();
        }
        // No node sees the lease of another one before it writes its own.
        let looks = std::sync::atomic::AtomicUsize::new(0);
        fleet.s3.wrong(move |asked| {
            let is_look = asked.op == Op::Get && asked.key.contains("/leases/");
            let is_first = is_look && looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < NODES;
            is_first.then_some(Wrong::Refused(404, "NoSuchKey"))
        });
        all_at_once(&fleet, &blob, "").await;
        assert_eq!(fleet.transfers(&blob), transfers, "one for each node that wrote a lease, and no more");
        let key = fleet.shared(&blob).await;
        assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes);
        given_back(&fleet).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_more_slow_downloads_than_uploads_leaves_none_of_them_to_other_nodes() {
    let fleet = Fleet::new().await;
    let gate = Arc::new(Semaphore::new(0));
    // Half of each layer, so that all are under way at the same time.
    fleet.registry.wrong_at("/blobs/", Fault::HoldAfter(LEASED / 2, Arc::clone(&gate)));
    let layers: Vec<Blob> = (0..6).map(|seed| fleet.blob(LEASED, seed)).collect();
    let (first, second) =
        (fleet.node_with("first", SECRET, "uploads = 1"), fleet.node_with("second", SECRET, ""));
    let pull = |node| {
        let layers = &layers;
        async move {
            futures_util::future::join_all(layers.iter().map(|layer| Node::pulls(node, layer, "a layer")))
                .await
        }
    };
    let later = async {
        for _ in 0..1_000 {
            if fleet.s3.keys().iter().filter(|key| key.contains("/leases/")).count() == layers.len() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let second = pull(&second);
        tokio::pin!(second);
        // The second node has looked for each lease before the registry goes on.
        let until = async {
            while fleet.s3.count(Op::Get, "/leases/") < 3 * layers.len() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = &mut second => panic!("the second node did not wait"),
            () = until => gate.add_permits(1_000),
        }
        second.await
    };
    tokio::join!(pull(&first), later);
    for layer in &layers {
        assert_eq!(fleet.transfers(layer), 1, "and each is downloaded once");
    }
    given_back(&fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_refused_or_fail_cost_no_pull() {
    let unknown = || Wrong::Refused(501, "NotImplemented");
    for (op, wrong) in [
        (Op::Put, Wrong::denied()),
        (Op::Put, unknown()),
        (Op::Put, Wrong::slow_down()),
        (Op::Put, Wrong::Hang),
        (Op::Put, Wrong::Lost),
        (Op::Get, Wrong::denied()),
        (Op::Get, Wrong::Hang),
        (Op::Get, Wrong::Lost),
        (Op::Delete, Wrong::denied()),
    ] {
        let (fleet, blob) = slow_blob(LEASED).await;
        let wrong_is_lost = matches!(wrong, Wrong::Lost);
        fleet.s3.wrong_at(op, "/leases/", wrong);
        all_at_once(&fleet, &blob, "header_timeout = \"300ms\"").await;
        let transfers = fleet.transfers(&blob);
        match op {
            Op::Delete => assert_eq!(transfers, 1, "that a lease stays harms none that waits"),
            // The lease that was lost is there: the others wait for it.
            Op::Put if wrong_is_lost => assert!((1..NODES).contains(&transfers), "{transfers}"),
            _ => assert!((2..=NODES).contains(&transfers), "{op:?}: {transfers}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_writer_that_is_gone_or_of_none_ends() {
    // Side by side, since each is waited for.
    let leases = [
        &b"\x00 no lease"[..],
        br#"{"nonce":1,"renewals":1,"size":20971520,"done":1000000,"rate":10000000}"#,
        br#"{"nonce":1,"renewals":1,"size":20971520,"done":0,"rate":0}"#,
        b"",
    ];
    let all = leases.map(|lease| async move {
        let (fleet, blob) = slow().await;
        fleet.s3.put(&lease_key(&blob), lease);
        fleet.node("node").pulls(&blob, "no node writes it").await;
        assert_eq!(fleet.transfers(&blob), 1);
        let key = fleet.shared(&blob).await;
        assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes, "and it is shared in the end");
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_lease_that_is_renewed_for_ever_makes_no_node_wait_for_ever() {
    let leases = [
        // It would take days.
        r#""size":18446744073709551615,"done":0,"rate":1"#,
        r#""size":20971520,"done":0,"rate":1"#,
        // Always nearly done.
        r#""size":20971520,"done":20971519,"rate":100000000"#,
    ];
    let all = leases.map(|lease| async move {
        let (fleet, blob) = slow().await;
        let (bucket, key) = (fleet.s3.bucket(), lease_key(&blob));
        let forging = tokio::spawn(async move {
            for renewals in 0_u64.. {
                bucket.put(&key, format!("{{\"nonce\":7,\"renewals\":{renewals},{lease}}}"));
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        fleet.node_with("node", SECRET, "wait_max = \"20s\"").pulls(&blob, lease).await;
        assert_eq!(fleet.transfers(&blob), 1, "{lease}");
        forging.abort();
    });
    futures_util::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_object_that_was_long_waited_for_reaches_no_client() {
    let (fleet, blob) = slow().await;
    let (bucket, key) = (fleet.s3.bucket(), lease_key(&blob));
    let mut wrong = blob.bytes.to_vec();
    wrong[0] ^= 1;
    let writing = tokio::spawn(async move {
        // Longer than clients of a mirror are given nothing.
        for renewals in 0..26 {
            bucket.put(
                &key,
                format!("{{\"nonce\":7,\"renewals\":{renewals},\"size\":{SIZE},\"done\":0,\"rate\":0}}"),
            );
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        bucket.put(&key.replace("/leases/", "/blobs/"), wrong);
        bucket.remove(&key);
    });
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let node = fleet.node("node");
    node.pulls(&blob, "a wrong object").await;
    writing.await.unwrap();
    assert_eq!(node.larder.metric("larder_tier_bad_objects_total").await, 1.0, "it waited for the object");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_node_that_waits_has_its_head_and_leaves_nothing_undone_when_it_goes() {
    let (fleet, blob) = slow().await;
    fleet
        .s3
        .put(&lease_key(&blob), &br#"{"nonce":1,"renewals":1,"size":20971520,"done":1,"rate":1000000}"#[..]);
    let node = Arc::new(fleet.node("node"));
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", blob.digest);
    let begun = crate::support::client::begin(node.larder.address, &path).await;
    assert_eq!(fleet.asked_for(&blob), 0, "it waits, and its client knows the size");
    drop(begun);
    let key = fleet.shared(&blob).await;
    assert_eq!(fleet.s3.object(&key).unwrap(), blob.bytes, "the download goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_small_or_not_to_be_waited_for_has_no_lease() {
    let fleet = Fleet::new().await;
    fleet.node("one").pulls(&fleet.blob(1 << 20, 1), "small").await;
    fleet.node_with("two", SECRET, "wait_max = \"0s\"").pulls(&fleet.blob(SIZE, 2), "not waited for").await;
    assert!(!fleet.s3.asked().iter().any(|asked| asked.key.contains("/leases/")));
}
