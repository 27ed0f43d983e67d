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

fn refuses_head(request: &SentRequest, status: u16) -> Outcome {
    match (&request.method, request.header(RANGE.as_str())) {
        (&Method::HEAD, _) => respond(status, &[], ""),
        (_, "bytes=0-0") => respond(206, &[("content-range", "bytes 0-0/5")], "1"),
        _ => respond(200, &[], "12345"),
    }
}

#[tokio::test]
async fn a_registry_that_refuses_head_is_asked_with_get() {
    let (upstream, _) = upstream(|request| refuses_head(request, 405));
    let (repository, auth) = (repository(), anonymous());
    let resolved = upstream.resolve(&repository, &"latest".parse().unwrap(), &auth).await.unwrap();
    assert_eq!((resolved.value, resolved.public), (None, true));
    upstream.confirm_manifest(&repository, digest(), &auth).await.unwrap();
    assert_eq!(upstream.confirm_blob(&repository, digest(), &auth).await.unwrap().value, Some(5));
}

#[tokio::test]
async fn only_of_a_blob_a_refused_head_is_confirmed_with_get() {
    let (upstream, transport) = upstream(|request| refuses_head(request, 403));
    let (repository, auth) = (repository(), anonymous());
    assert_eq!(upstream.confirm_blob(&repository, digest(), &auth).await.unwrap().value, Some(5));
    let before = transport.sent().len();
    let error = upstream.confirm_manifest(&repository, digest(), &auth).await.unwrap_err();
    assert!(error.revokes_access(), "{error}");
    assert_eq!(transport.sent().len(), before + 1);
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
