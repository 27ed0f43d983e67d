//! The methods of the client, over a transport that answers what the test says.

use http::header::RANGE;

use super::*;
use crate::support::metrics;
use crate::upstream::config::Config;
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, status};

fn upstream(respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static) -> (Upstream, Arc<Scripted>) {
    let (transport, configured) = Scripted::new(Config::default(), respond);
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
        assert_eq!((resolved.value.digest, resolved.public), (right, true), "{status}");
        assert_eq!(resolved.value.manifest.unwrap().bytes, "12345", "{status}: it would be asked for twice");
        upstream.confirm_manifest(&repository, right, &auth).await.unwrap();
        assert_eq!(
            upstream.confirm_blob(&repository, right, &auth).await.unwrap().value,
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
        let size = upstream.confirm_blob(&repository(), right, &anonymous()).await.unwrap().value;
        assert_eq!(size, Some(5));
        upstream.confirm_manifest(&repository(), right, &anonymous()).await.unwrap();
    }
}

#[tokio::test]
async fn an_object_store_that_refuses_head_costs_two_requests_once_and_then_one() {
    let (upstream, transport) = upstream(|request| match (&request.method, request.host.as_str()) {
        (_, "reg.example.com:443") => {
            respond(307, &[("location", "https://store.example.net/x?sig=get")], "")
        }
        (&Method::HEAD, _) => respond(403, &[], ""),
        _ => respond(206, &[("content-range", "bytes 0-0/5")], "1"),
    });
    for expected in [vec!["HEAD", "HEAD", "GET", "GET"], vec!["GET", "GET"]] {
        let before = transport.sent().len();
        assert_eq!(
            upstream.confirm_blob(&repository(), digest(), &anonymous()).await.unwrap().value,
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

#[tokio::test]
async fn a_limit_is_not_answered_with_one_more_request() {
    let (upstream, transport) = upstream(|_| respond(429, &[], ""));
    let error = upstream.confirm_manifest(&repository(), digest(), &anonymous()).await.unwrap_err();
    assert!(matches!(error, Error::RateLimited { .. }), "{error}");
    assert_eq!(methods(&transport), ["HEAD"]);
}

#[tokio::test]
async fn a_body_of_another_range_than_the_requested_one_is_not_taken_for_it() {
    for (status, content_range, offset) in [
        (206, "bytes 2-4/5", Some((Some(5), 2))),
        (206, "bytes 3-4/5", None),
        (206, "", None),
        (200, "", Some((Some(3), 0))),
    ] {
        let (upstream, transport) = upstream(move |_| {
            respond(status, &[("content-range", content_range), ("content-length", "3")], "345")
        });
        let download = upstream.download(&repository(), digest(), 2, Some(5), &anonymous()).await;
        assert_eq!(transport.sent()[0].header("range"), "bytes=2-4");
        assert_eq!(download.ok().map(|d| (d.size, d.offset)), offset, "{status} {content_range}");
    }
}

#[tokio::test]
async fn what_is_received_is_counted_whatever_it_is() {
    let (upstream, _) = upstream(|_| respond(200, &[], "12345"));
    let (repository, auth) = (repository(), anonymous());
    let manifest = upstream.manifest(&repository, &digest().into(), &auth).await.unwrap();
    assert_eq!(manifest.value.bytes, "12345");
    let mut download = upstream.download(&repository, digest(), 0, None, &auth).await.unwrap();
    while let Some(bytes) = download.next().await {
        bytes.unwrap();
    }
    upstream.list(&repository, &Listing::Tags, None, &auth).await.unwrap();
    assert_eq!(upstream.received_bytes(), 15);
}

#[tokio::test]
async fn a_registry_without_an_entry_and_a_public_name_gets_no_request() {
    let (upstream, transport) = upstream(|_| status(200));
    let repository = "10.0.0.1:5000/a".parse().unwrap();
    let error = upstream.confirm_manifest(&repository, digest(), &anonymous()).await.unwrap_err();
    assert!(matches!(error, Error::Declined { .. }), "{error}");
    assert!(transport.sent().is_empty());
}
