//! The methods of the client, over a transport that answers what the test says.

use std::sync::atomic::{AtomicBool, Ordering};

use http::header::RANGE;

use super::*;
use crate::reference::MANIFEST_BYTES_MAX;
use crate::support::metrics;
use crate::upstream::config::{Config, EndpointConfig, RegistryConfig};
use crate::upstream::proved_right::ProvedRight;
use crate::upstream::request::Patience;
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, slow_body, status};

#[path = "client_range_tests.rs"]
mod ranges;

const TOKENS: &str = "auth.reg.example.com:443";

fn upstream(respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static) -> (Upstream, Arc<Scripted>) {
    upstream_of(Config::default(), respond)
}

/// A mirror, and then the registry itself.
fn behind_a_mirror(
    respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static,
) -> (Upstream, Arc<Scripted>) {
    let urls = ["https://mirror.example.net", "https://reg.example.com"];
    let endpoints = urls.iter().map(|url| EndpointConfig::from(url.parse::<url::Url>().unwrap())).collect();
    let entry = RegistryConfig { endpoints, ..RegistryConfig::default() };
    let registries = [("reg.example.com".parse().unwrap(), entry)].into();
    upstream_of(Config { registries, ..Config::default() }, respond)
}

fn hosts(transport: &Scripted) -> Vec<String> {
    transport.sent().into_iter().map(|request| request.host.split('.').next().unwrap().to_owned()).collect()
}

fn upstream_of(
    config: Config,
    respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static,
) -> (Upstream, Arc<Scripted>) {
    let (transport, configured) = Scripted::new(config, respond);
    let metrics = Metrics::register(&metrics::Registry::new()).unwrap();
    let anonymous = anonymous().presented;
    let upstream = Upstream::new(configured, anonymous, metrics, Arc::default(), Clock::system());
    (upstream, transport)
}

fn anonymous() -> AuthContext {
    AuthContext::for_test(None)
}

fn repository() -> Repository {
    "reg.example.com/a".parse().unwrap()
}

fn digest() -> Digest {
    format!("sha256:{}", "0".repeat(64)).parse().unwrap()
}

/// A registry that answers `HEAD` like this and has content for every `GET`.
fn with_head(request: &SentRequest, head: impl FnOnce() -> Outcome) -> Outcome {
    match (&request.method, request.header(RANGE.as_str())) {
        (&Method::HEAD, _) => head(),
        (_, "bytes=0-0") => respond(206, &[("content-range", "bytes 0-0/5")], "1"),
        _ => respond(200, &[], "12345"),
    }
}

fn methods(transport: &Scripted) -> Vec<String> {
    transport.sent().iter().map(|request| request.method.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_head_says_but_a_plain_yes_is_confirmed_with_get() {
    let right = Digest::of(b"12345");
    for status in [400, 401, 403, 404, 405, 410, 501, 503, 204, 200] {
        let (upstream, _) = upstream(move |request| with_head(request, || respond(status, &[], "")));
        let (repository, auth) = (repository(), anonymous());
        let resolved = upstream.resolve(&repository, &"latest".parse().unwrap(), &auth).await.unwrap();
        assert_eq!((resolved.value.digest, resolved.proof), (right, ProvedRight::Public), "{status}");
        assert_eq!(resolved.value.manifest.unwrap().bytes, "12345", "{status}: it would be asked for twice");
        upstream.confirm_manifest(&repository, right, &auth).await.unwrap();
        assert_eq!(
            upstream.confirm_blob(&repository, right, &auth).await.unwrap().value.size,
            Some(5),
            "{status}"
        );
        let other = upstream.confirm_manifest(&repository, digest(), &auth).await;
        assert!(matches!(other, Err(Error::Invalid { .. })), "{status}: other content passes for this one");
    }
}

#[tokio::test]
async fn a_head_with_an_odd_digest_or_without_a_size_is_confirmed_with_get() {
    let right = Digest::of(b"12345");
    for headers in [
        [("content-length", "0"), ("x", "")],
        [("content-length", "7"), ("docker-content-digest", "sha256:1")],
        [("content-length", "7"), ("docker-content-digest", &*digest().to_string())],
    ] {
        let headers = headers.map(|(name, value)| (name, value.to_owned()));
        let (upstream, _) = upstream(move |request| {
            let headers = [0, 1].map(|n| (headers[n].0, headers[n].1.as_str()));
            with_head(request, || respond(200, &headers, ""))
        });
        let size = upstream.confirm_blob(&repository(), right, &anonymous()).await.unwrap().value.size;
        assert_eq!(size, Some(5));
        upstream.confirm_manifest(&repository(), right, &anonymous()).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_store_that_refuses_head_costs_two_requests_twice_and_then_one() {
    for (refusal, times) in [(403, 2), (405, 1)] {
        refuses_head(refusal, times).await;
    }
}

async fn refuses_head(refusal: u16, times: usize) {
    let (upstream, transport) = upstream(move |request| match (&request.method, request.host.as_str()) {
        (_, "reg.example.com:443") => {
            respond(307, &[("location", "https://store.example.net/x?sig=get")], "")
        }
        (&Method::HEAD, _) => respond(refusal, &[], ""),
        _ => respond(206, &[("content-range", "bytes 0-0/5")], "1"),
    });
    let by_both = std::iter::repeat_n(vec!["HEAD", "HEAD", "GET", "GET"], times);
    for expected in by_both.chain([vec!["GET", "GET"]]) {
        let before = transport.sent().len();
        assert_eq!(
            upstream.confirm_blob(&repository(), digest(), &anonymous()).await.unwrap().value.size,
            Some(5)
        );
        assert_eq!(methods(&transport)[before..], expected);
    }
}

#[tokio::test]
async fn what_get_refuses_too_is_refused_and_says_nothing_of_head() {
    let (upstream, transport) = upstream(|_| respond(403, &[], ""));
    for _ in 0..2 {
        let before = transport.sent().len();
        let error = upstream.confirm_manifest(&repository(), digest(), &anonymous()).await.unwrap_err();
        assert!(error.revokes_access(), "{error}");
        assert_eq!(methods(&transport)[before..], ["HEAD", "GET"]);
    }
}

#[tokio::test]
async fn a_login_that_was_refused_is_not_repeated_with_get() {
    let (upstream, transport) = upstream(|_| respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""));
    let auth = AuthContext::for_test(Some(("alice", "wrong")));
    let error = upstream.confirm_manifest(&repository(), digest(), &auth).await.unwrap_err();
    assert!(error.revokes_access(), "{error}");
    assert_eq!(methods(&transport), ["HEAD", "HEAD"], "the challenge, and one login");
}

/// The registry is away, and its token server is not.
#[tokio::test(start_paused = true)]
async fn a_mistyped_secret_costs_one_login_however_often_a_registry_in_trouble_is_asked() {
    let is_in_trouble = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&is_in_trouble);
    let (upstream, transport) = upstream(move |request| {
        let is_authorized = !request.header("authorization").is_empty();
        let challenge = r#"Bearer realm="https://auth.reg.example.com/token""#;
        match (request.host.as_str(), is_authorized, now.load(Ordering::Relaxed)) {
            (TOKENS, true, _) => status(401),
            (TOKENS, false, _) => respond(200, &[], r#"{"token": "t"}"#),
            (_, _, true) => status(503),
            (_, true, false) => respond(200, &[("content-length", "5")], "12345"),
            (_, false, false) => respond(401, &[("www-authenticate", challenge)], ""),
        }
    });
    // From now on the registry's challenge is known, and a login comes first.
    upstream.confirm_blob(&repository(), digest(), &anonymous()).await.unwrap();
    is_in_trouble.store(true, Ordering::Relaxed);
    let auth = AuthContext { patience: Patience::Wait, ..AuthContext::for_test(Some(("u", "mistyped"))) };
    let error = upstream.confirm_blob(&repository(), digest(), &auth).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    let sent = transport.sent();
    let to_registry = sent.iter().filter(|request| request.host != TOKENS).count();
    assert!(to_registry > 5, "it was not asked again and again: {to_registry}");
    let is_login =
        |request: &&SentRequest| request.host == TOKENS && !request.header("authorization").is_empty();
    assert_eq!(sent.iter().filter(is_login).count(), 1, "some accounts are locked for that");
}

#[tokio::test]
async fn a_limit_is_not_answered_with_one_more_request() {
    let (upstream, transport) = upstream(|_| respond(429, &[], ""));
    let error = upstream.confirm_manifest(&repository(), digest(), &anonymous()).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }), "{error}");
    assert_eq!(methods(&transport), ["HEAD"]);
}

#[tokio::test]
async fn what_is_received_of_manifests_and_blobs_is_counted_and_lists_are_not() {
    let (upstream, _) = upstream(|_| respond(200, &[], "12345"));
    let (repository, auth) = (repository(), anonymous());
    let tag: Tag = "latest".parse().unwrap();
    let manifest = upstream.manifest(&repository, &tag.into(), &auth).await.unwrap();
    assert_eq!(manifest.value.bytes, "12345");
    let mut download = upstream.download(&repository, digest(), 0, None, &auth).await.unwrap();
    while let Some(bytes) = download.next().await {
        bytes.unwrap();
    }
    upstream.list(&repository, &Listing::Tags, None, &auth).await.unwrap();
    assert_eq!(upstream.received_bytes(), 10);
    let of_blob = upstream.unserved().of(&digest()).unwrap();
    assert_eq!((of_blob.serve(3), of_blob.serve(3)), (3, 2), "a byte is fetched for one client");
    let of_tag = upstream.unserved().of(&Digest::of(b"12345")).unwrap();
    assert_eq!(of_tag.serve(9), 5, "what a tag names is known by its digest");
}

#[tokio::test]
async fn a_registry_without_an_entry_and_a_public_name_gets_no_request() {
    let (upstream, transport) = upstream(|_| status(200));
    let repository = "10.0.0.1:5000/a".parse().unwrap();
    let error = upstream.confirm_manifest(&repository, digest(), &anonymous()).await.unwrap_err();
    assert!(matches!(error, Error::Declined { .. }), "{error}");
    assert!(transport.sent().is_empty());
}

#[tokio::test]
async fn a_wrong_manifest_of_a_mirror_is_followed_by_the_registrys_own() {
    let html = || respond(200, &[("content-type", "text/html")], "<html>sign in</html>");
    let wrong: [fn() -> Outcome; 3] = [
        || respond(200, &[], ""),
        || respond(200, &[("content-encoding", "gzip")], "zipped"),
        || respond(200, &[], &"x".repeat(MANIFEST_BYTES_MAX + 1)),
    ];
    for wrong in wrong.into_iter().chain([html as fn() -> Outcome]) {
        let right = Digest::of(b"right");
        let (upstream, transport) = behind_a_mirror(move |request| {
            if request.host.starts_with("mirror") { wrong() } else { respond(200, &[], "right") }
        });
        let (repository, auth) = (repository(), anonymous());
        let manifest = upstream.manifest(&repository, &right.into(), &auth).await.unwrap();
        assert_eq!(
            (&manifest.value.bytes[..], hosts(&transport)),
            (&b"right"[..], vec!["mirror".to_owned(), "reg".to_owned()])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_is_avoided_for_the_digest_that_it_has_wrong_and_for_no_other() {
    let (upstream, transport) = behind_a_mirror(|request| match request.host.starts_with("mirror") {
        true => respond(200, &[], "wrong"),
        false => respond(200, &[], "right"),
    });
    let (repository, auth) = (repository(), anonymous());
    let asked = async |digest: Digest| {
        let before = transport.sent().len();
        let _ = upstream.manifest(&repository, &digest.into(), &auth).await;
        hosts(&transport)[before..].to_vec()
    };
    assert_eq!(asked(Digest::of(b"right")).await, ["mirror", "reg"]);
    assert_eq!(asked(Digest::of(b"right")).await, ["reg"]);
    assert_eq!(asked(Digest::of(b"wrong")).await, ["mirror"]);
    // What no endpoint has right is asked of the registry itself first.
    assert_eq!(asked(digest()).await, ["mirror", "reg"]);
    assert_eq!(asked(digest()).await, ["reg", "mirror"]);
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(asked(Digest::of(b"right")).await, ["mirror", "reg"]);
}

/// A mirror whose bodies are slow, or never come, and the registry itself.
fn behind_a_slow_mirror(bytes: &'static [u8], every: Duration) -> (Upstream, Arc<Scripted>) {
    behind_a_mirror(move |request| match request.host.starts_with("mirror") {
        true => slow_body(bytes, every),
        false => respond(200, &[], "right"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_mirror_whose_manifests_come_slowly_is_waited_for_once_by_a_repository_and_twice_by_all() {
    for every in [Duration::from_secs(5), Duration::from_secs(3_600)] {
        let (upstream, transport) = behind_a_slow_mirror(b"{", every);
        // As many other digests, so that none is avoided for itself.
        for (n, (repository, first)) in
            [("a", "mirror"), ("a", "reg"), ("b", "mirror"), ("c", "reg"), ("a", "reg")]
                .into_iter()
                .enumerate()
        {
            let right = if n == 0 { Digest::of(b"right") } else { Digest::of(&[n as u8]) };
            let repository = format!("reg.example.com/{repository}").parse().unwrap();
            let before = transport.sent().len();
            let manifest = upstream.manifest(&repository, &right.into(), &anonymous()).await;
            assert_eq!(manifest.is_ok(), n == 0, "{every:?}: the registry has what is asked for first");
            assert_eq!(hosts(&transport)[before..][0], first, "{every:?} {repository} {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_whose_blobs_stall_or_crawl_is_waited_for_once_by_a_repository_and_twice_by_all() {
    for (bytes, every) in [(&[0; 2_048][..], 1), (b"0", 3_600)] {
        let (upstream, transport) = behind_a_slow_mirror(bytes, Duration::from_secs(every));
        for (n, repository, first) in
            [(0, "a", "mirror"), (1, "a", "reg"), (2, "b", "mirror"), (3, "c", "reg")]
        {
            let repository = format!("reg.example.com/{repository}").parse().unwrap();
            let (before, begun) = (transport.sent().len(), tokio::time::Instant::now());
            let of = Digest::of(&[n]);
            let mut download = upstream.download(&repository, of, 0, None, &anonymous()).await.unwrap();
            while let Some(Ok(_)) = download.next().await {}
            assert!(begun.elapsed() < Duration::from_secs(20), "{every} {n}: {:?}", begun.elapsed());
            assert_eq!(hosts(&transport)[before..][0], first, "{every} {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_endpoint_may_be_slow_and_a_slow_reader_makes_no_endpoint_slow() {
    let second = Duration::from_secs(1);
    let (upstream, _) = upstream(move |_| slow_body(&[0; 2_048], second));
    let mut download = upstream.download(&repository(), digest(), 0, None, &anonymous()).await.unwrap();
    for _ in 0..200 {
        download.next().await.unwrap().unwrap();
    }
    let (upstream, _) = behind_a_slow_mirror(&[0; 16_384], second);
    let mut download = upstream.download(&repository(), digest(), 0, None, &anonymous()).await.unwrap();
    for _ in 0..50 {
        tokio::time::sleep(9 * second).await;
        download.next().await.unwrap().unwrap();
    }
    assert!(upstream.failing_endpoints().is_empty());
}

#[tokio::test]
async fn wrong_content_of_a_mirror_does_not_undo_the_registrys_denial() {
    let (upstream, _) = behind_a_mirror(|request| match request.host.starts_with("mirror") {
        true => respond(200, &[], "wrong"),
        false => status(403),
    });
    for _ in 0..2 {
        let error = upstream.manifest(&repository(), &digest().into(), &anonymous()).await.unwrap_err();
        assert!(error.revokes_access(), "{error}");
    }
}

#[tokio::test]
async fn the_only_endpoint_is_asked_although_it_delivered_wrong_content() {
    let (upstream, transport) = upstream(|_| respond(200, &[], "12345"));
    let endpoint = EndpointId::for_test("reg.example.com");
    let registry = repository().registry().clone();
    assert!(!upstream.record_wrong_content(&registry, digest(), &endpoint, DeliveryFault::Digest));
    upstream.download(&repository(), digest(), 0, None, &anonymous()).await.unwrap();
    assert_eq!(hosts(&transport), ["reg"]);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_authority_that_a_reload_adds_is_tried_at_once() {
    let with = |ca: Option<&str>| {
        let entry = RegistryConfig { ca: ca.map(Into::into), ..RegistryConfig::default() };
        Config { registries: [("reg.example.com".parse().unwrap(), entry)].into(), ..Config::default() }
    };
    let (upstream, _) = upstream_of(with(None), |_| Outcome::Unreachable);
    upstream.manifest(&repository(), &digest().into(), &anonymous()).await.unwrap_err();
    for (ca, fails) in [(None, true), (Some("ca.pem"), false)] {
        upstream.reconfigure(Scripted::new(with(ca), |_| status(404)).1);
        assert_eq!(upstream.is_in_outage(repository().registry()), fails, "{ca:?}");
    }
}
