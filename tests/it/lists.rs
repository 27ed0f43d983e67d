//! Lists of tags and of referrers: passed through, with links that lead back to Larder.

use http::StatusCode;
use larder::reference::MediaType;

use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_those_of_upstream_and_the_link_to_the_next_page_leads_to_larder() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    image::push(&registry, "team/app", "v1", 100);
    let reply = larder.get("/v2/team/app/tags/list?ns=reg.test").await;
    assert_eq!(reply.json()["tags"], serde_json::json!(["v1"]));
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.header("oci-namespace"), "reg.test");

    let link = "</v2/team/app/tags/list?last=b&n=2>; rel=\"next\"".to_owned();
    registry.wrong_at("/tags/list", Fault::Answer(200, vec![("link", link)], "{}".into()));
    for (path, expected) in [
        (
            "/v2/team/app/tags/list?n=2&ns=reg.test",
            "</v2/team/app/tags/list?last=b&n=2&ns=reg.test>; rel=\"next\"",
        ),
        ("/v2/reg.test/team/app/tags/list?n=2", "</v2/reg.test/team/app/tags/list?last=b&n=2>; rel=\"next\""),
    ] {
        assert_eq!(larder.get(path).await.header("link"), expected);
    }
    assert!(registry.seen().iter().all(|s| !s.query.contains("ns=")), "ns is between us and the client");
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_and_their_absence_are_passed_through() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 100);
    let path = format!("/v2/reg.test/team/app/referrers/{}?artifactType=a/b", image.index);
    assert_eq!(
        larder.get(&path).await.status,
        StatusCode::NOT_FOUND,
        "clients then look for the tag instead"
    );
    registry.support_referrers();
    let reply = larder.get(&path).await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, MediaType::OCI_INDEX));
    assert_eq!(registry.seen().last().unwrap().query, "artifactType=a%2Fb");
    registry.stop().await;
    assert_eq!(larder.get(&path).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
