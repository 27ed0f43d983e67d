//! Bad networks: no client waits longer than its own timeout, and a body that broke off is resumed.

use std::time::Duration;

use http::StatusCode;

use crate::support::image::{self, noise};
use crate::support::proxy::{FaultProxy, NetworkFault};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

/// Less than containerd waits for the head of an answer (30 s, from 2.3 on; older ones wait for ever).
const HEADERS_WITHIN: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_upstream_does_the_head_of_an_answer_leaves_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let (silent, token, redirect) =
        (FakeRegistry::start().await, FakeRegistry::start().await, FakeRegistry::start().await);
    let proxy = FaultProxy::start(silent.address).await;
    proxy.set_fault(NetworkFault::Silent);
    silent.wrong_at("/v2/", Fault::Hang);
    token.require_token(None, "");
    token.wrong_at("/token", Fault::Hang);
    let away = format!("{}/elsewhere", silent.url());
    redirect.wrong(move |seen| {
        let to = vec![("location", away.clone())];
        Some(if seen.path == "/elsewhere" { Fault::Hang } else { Fault::Status(307, to) })
    });
    let body = FakeRegistry::start().await;
    image::push(&body, "team/app", "v1", 1_000);
    body.wrong(|seen| (seen.method == "GET").then_some(Fault::StallAfter(10)));
    silent.wrong_at("/elsewhere", Fault::Hang);
    let registries = [
        ("silent.test", silent.url()),
        ("deaf.test", proxy.url()),
        ("tls.test", proxy.url().replace("http:", "https:")),
        ("token.test", token.url()),
        ("redirect.test", redirect.url()),
        ("body.test", body.url()),
    ];
    let more = format!("[upstream]\ntrusted_redirects = [\"{}\"]", silent.address);
    let larder = Larder::start(directory.path(), &registries, &more);
    let digest = larder::reference::Digest::of(b"x");
    let mut asked = Vec::new();
    for (host, _) in &registries {
        for thing in [
            "manifests/v1".to_owned(),
            format!("manifests/{digest}"),
            format!("blobs/{digest}"),
            "tags/list".into(),
        ] {
            let (path, larder) = (format!("/v2/{host}/team/app/{thing}"), &larder);
            asked.push(async move {
                let reply = tokio::time::timeout(HEADERS_WITHIN, larder.get(&path)).await;
                let reply = reply.unwrap_or_else(|_| panic!("{path}: no head in time"));
                (path, reply)
            });
        }
    }
    for (path, reply) in futures_util::future::join_all(asked).await {
        // `body.test` answers for content that it does not have.
        let expected = if path.contains("body.test") && !path.ends_with("v1") && !path.ends_with("list") {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        if path.contains("body.test") && path.ends_with("list") {
            continue;
        }
        assert_eq!(reply.status, expected, "{path}: {:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_in_any_way_is_resumed_where_it_stopped() {
    for fault in [
        NetworkFault::ClosedAfter(100_000),
        NetworkFault::ResetAfter(100_000),
        NetworkFault::StallAfter(100_000),
    ] {
        let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let bytes = noise(1_000_000, 7);
        let digest = registry.put_blob("team/app", bytes.clone());
        let proxy = FaultProxy::start(registry.address).await;
        let quick = "[upstream]\nidle_timeout = \"500ms\"\nheader_timeout = \"2s\"";
        let larder = Larder::start(directory.path(), &[("reg.test", proxy.url())], quick);
        proxy.set_fault(fault);
        let reply = larder.get(&format!("/v2/team/app/blobs/{digest}?ns=reg.test")).await;
        assert!(reply.complete && reply.body == bytes, "{fault:?}: {} bytes", reply.body.len());
        assert!(proxy.connections() > 5, "{fault:?}: each connection delivers a range");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_arrives_slowly_is_waited_for_within_the_bound() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let proxy = FaultProxy::start(registry.address).await;
    proxy.set_fault(NetworkFault::SlowBytes);
    let larder = Larder::start(directory.path(), &[("reg.test", proxy.url())], "");
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.body, image.index_bytes, "slow is not broken");
    larder.stop().await;

    let quick = "[upstream]\nheader_timeout = \"500ms\"";
    let larder = Larder::start(directory.path(), &[("other.test", proxy.url())], quick);
    let reply = larder.get("/v2/other.test/team/app/manifests/v1").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_or_do_not_speak_http_are_an_outage() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let proxy = FaultProxy::start(registry.address).await;
    let larder = Larder::start(directory.path(), &[("reg.test", proxy.url())], "");
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    for fault in [
        NetworkFault::Closed,
        NetworkFault::Garbage,
        NetworkFault::ClosedAfter(5),
        NetworkFault::ResetAfter(5),
    ] {
        proxy.set_fault(fault);
        let reply = larder.get(path).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{fault:?}: {:?}", reply.body);
    }
    proxy.set_fault(NetworkFault::None);
    assert_eq!(larder.get(path).await.body, image.index_bytes);
}
