//! Lists of tags and of referrers: passed through, with links that lead back to Larder.

use http::StatusCode;
use larder::reference::MediaType;

use crate::support::client;
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
    assert_eq!(registry.seen().last().unwrap().query, "artifactType=a/b");
    registry.stop().await;
    assert_eq!(larder.get(&path).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// Follows links from `path` on as a client does; returns every tag.
async fn all_tags(larder: &Larder, path: &str) -> Vec<String> {
    let (mut tags, mut next) = (Vec::new(), path.to_owned());
    for _ in 0..10 {
        let reply = larder.get(&next).await;
        assert_eq!(reply.status, StatusCode::OK, "{next}: {:?}", reply.body);
        let page = reply.json();
        let page = page["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned());
        tags.extend(page);
        let Some(link) = reply.header("link").strip_prefix('<') else { return tags };
        let (target, parameters) = link.split_once('>').unwrap();
        assert_eq!(parameters, "; rel=\"next\"");
        next = target.to_owned();
    }
    panic!("an endless list: {next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_follows_the_links_sees_every_tag_once_however_the_registry_pages() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let long = format!("last={}", "x".repeat(2_000));
    let styles: [(&str, &str, String); 8] = [
        ("n=2", "last=b&n=2", "</v2/team/app/tags/list?last=b&n=2>; rel=\"next\"".into()),
        ("n=2", &long, format!("</v2/team/app/tags/list?{long}>; rel=\"next\"")),
        (
            "",
            "next_page=Zm9v%3D&n=2",
            "<https://reg.test/v2/team/app/tags/list?next_page=Zm9v%3D&n=2>;rel=next".into(),
        ),
        ("", "nextToken=a+b", "<?nextToken=a+b>; title=\"x, y\"; rel=\"last next\"".into()),
        ("", "p=2", "</v2/x?p=0>; rel=prev, <list?p=2>; REL = \"next\"".into()),
        ("", "ns=theirs&p=2", "</v2/team/app/tags/list?ns=theirs&p=2>; rel=\"next\"".into()),
        ("", "p=a%20b", "</v2/team/app/tags/list?p=a b>; rel=\"next\"".into()),
        ("", "cursor=%2F%3D", "<//reg.test:8443/v2/team/app/tags/list?cursor=%2F%3D#x>; rel=\"next\"".into()),
    ];
    for (asked, next, link) in styles {
        registry.behave();
        let (second, link) = (next.to_owned(), link.clone());
        registry.wrong(move |seen| {
            let (links, tags) = if seen.query == second {
                (vec![], r#"{"tags":["c"]}"#)
            } else {
                (vec![("link", link.clone())], r#"{"tags":["a","b"]}"#)
            };
            Some(Fault::Answer(200, links, tags.into()))
        });
        for (by, ns) in [("", "ns=reg.test"), ("reg.test/", "")] {
            registry.forget_seen();
            let path = format!("/v2/{by}team/app/tags/list?{asked}&{ns}");
            let path = path.replace("?&", "?").trim_end_matches(['?', '&']).to_owned();
            assert_eq!(all_tags(&larder, &path).await, ["a", "b", "c"], "{path} {next}");
            let queries: Vec<_> = registry.seen().into_iter().map(|seen| seen.query).collect();
            assert_eq!(queries, [asked, next], "the query is the registry's own");
            assert!(registry.seen().iter().all(|seen| seen.path == "/v2/team/app/tags/list"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_a_number_of_entries_tells_the_client() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    registry.wrong_at("/tags/list", Fault::Answer(400, vec![], "{}".into()));
    registry.wrong_at("/referrers/", Fault::Answer(400, vec![], "{}".into()));
    let other = larder.get("/v2/reg.test/team/app/tags/list?page=x").await;
    assert_eq!((other.status, other.error_code().as_str()), (StatusCode::BAD_REQUEST, "UNSUPPORTED"));
    let referrers = format!("team/app/referrers/sha256:{}?n=99999", "0".repeat(64));
    for path in ["team/app/tags/list?n=99999", "team/app/tags/list?n=-1", referrers.as_str()] {
        for path in [format!("/v2/{path}&ns=reg.test"), format!("/v2/reg.test/{path}")] {
            let reply = larder.get(&path).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
            assert_eq!(reply.error_code(), "PAGINATION_NUMBER_INVALID");
        }
    }
    assert!(registry.seen().iter().any(|seen| seen.query == "n=-1"), "it is the registry that decides");
}

/// Tags whose list is several megabytes.
fn many_tags(registry: &FakeRegistry, count: usize) {
    for n in 0..count {
        registry.put_manifest("team/app", Some(&format!("a-tag-of-thirty-characters-{n:05}")), "x/y", "{}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_passed_on_as_it_comes_and_one_that_breaks_off_is_seen_to_be_short() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    many_tags(&registry, 20_000);
    let path = "/v2/reg.test/team/app/tags/list";
    for fault in [None, Some(Fault::Chunked)] {
        registry.behave();
        if let Some(fault) = &fault {
            registry.wrong_at("/tags/list", fault.clone());
        }
        let reply = larder.get(path).await;
        assert!(reply.complete && reply.body.len() > 600_000);
        assert_eq!(reply.json()["tags"].as_array().unwrap().len(), 20_000);
        assert_eq!(reply.headers.contains_key("content-length"), fault.is_none());
    }
    registry.behave();
    registry.wrong_at("/tags/list", Fault::CloseAfter(400_000));
    let short = larder.get(path).await;
    assert!(short.status == StatusCode::OK && !short.complete, "{}", short.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_unknown_length_is_held_for_a_client_that_could_not_tell_its_end() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    many_tags(&registry, 20_000);
    let at = larder.address;
    let request = format!(
        "GET /v2/reg.test/team/app/tags/list HTTP/1.0\r\nHost: {at}\r\nAuthorization: Basic Og==\r\n\r\n"
    );
    registry.wrong_at("/tags/list", Fault::Chunked);
    let answer = client::raw(at, request.as_bytes()).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let length = format!("content-length: {}", body.len());
    assert!(head.contains(" 200 ") && head.contains(&length) && body.ends_with("]}"), "{head}");
    many_more(&registry);
    let answer = client::raw(at, request.as_bytes()).await.unwrap();
    assert!(answer.contains(" 502 ") && answer.contains("unknown length"), "{:.300}", answer);
}

fn many_more(registry: &FakeRegistry) {
    for n in 0..30_000 {
        let tag = format!("{}-{n:05}", "b".repeat(120));
        registry.put_manifest("team/app", Some(&tag), "x/y", "{}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_registry_has_no_referrers_clients_find_the_tag_instead() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 100);
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let tag = image.index.to_string().replace(':', "-");
    registry.put_manifest("team/app", Some(&tag), MediaType::OCI_INDEX, index);
    for ns in ["?ns=reg.test", ""] {
        let by = if ns.is_empty() { "reg.test/" } else { "" };
        let referrers = larder.get(&format!("/v2/{by}team/app/referrers/{}{ns}", image.index)).await;
        assert_eq!(referrers.status, StatusCode::NOT_FOUND);
        // oras-go, and notation with it, look for the tag after every 404 but this one.
        assert_ne!(referrers.error_code(), "NAME_UNKNOWN");
        let by_tag = larder.get(&format!("/v2/{by}team/app/manifests/{tag}{ns}")).await;
        assert_eq!((by_tag.status, &by_tag.body[..]), (StatusCode::OK, index.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_next_page_cannot_be_asked_for_is_not_taken_for_complete() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    for link in
        ["</v2/team/app/tags/list/2>; rel=\"next\"", "<https://evil.test/>; rel=next", "</x?>; rel=next"]
    {
        registry.behave();
        registry.wrong_at("/tags/list", Fault::Answer(200, vec![("link", link.to_owned())], "{}".into()));
        let reply = larder.get("/v2/reg.test/team/app/tags/list").await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{link}");
        assert!(String::from_utf8_lossy(&reply.body).contains("next page"), "{:?}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_list_reaches_no_other_repository_and_no_other_registry() {
    let (registry, other, directory) =
        (FakeRegistry::start().await, FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let registries = [("reg.test", registry.url()), ("other.test", other.url())];
    let larder = Larder::start(directory.path(), &registries, "");
    for link in [
        "<https://other.test/v2/secret/app/tags/list?ns=other.test&p=2>; rel=next",
        "</v2/../../secret/app/tags/list?%6es=other.test&p=2>; rel=next",
        "<//other.test/v2/secret/app/tags/list?ns=other.test&ns=other.test&p=2>; rel=next",
        "</v2/team/app/tags/list?p=2&ns=other.test%26x#&ns=y>; rel=next",
    ] {
        registry.behave();
        registry.wrong_at("/tags/list", Fault::Answer(200, vec![("link", link.to_owned())], "{}".into()));
        for first in ["/v2/team/app/tags/list?ns=reg.test", "/v2/reg.test/team/app/tags/list"] {
            registry.forget_seen();
            let reply = larder.get(first).await;
            let target =
                reply.header("link").strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
            assert!(target.starts_with(first.split('?').next().unwrap()), "{link}: {target}");
            assert_eq!(larder.get(&target).await.status, StatusCode::OK, "{target}");
            let written = link.split_once('?').unwrap().1.split(['#', '>']).next().unwrap();
            let seen = registry.seen();
            assert_eq!((seen.len(), seen[1].path.as_str()), (2, "/v2/team/app/tags/list"), "{target}");
            assert_eq!(seen[1].query, written, "the registry's own word comes back to it");
        }
    }
    assert!(other.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_referrers_leaves_its_clients_the_tag_whatever_it_answers() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 100);
    for status in [404, 405, 406, 415, 501] {
        registry.behave();
        registry.wrong_at("/referrers/", Fault::Status(status, vec![]));
        for path in [
            format!("/v2/team/app/referrers/{}?ns=reg.test", image.index),
            format!("/v2/reg.test/team/app/referrers/{}", image.index),
        ] {
            let reply = larder.get(&path).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{status}");
            assert_ne!(reply.error_code(), "NAME_UNKNOWN", "{status}");
        }
        let pulled = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(
            (pulled.status, pulled.header("warning")),
            (StatusCode::OK, ""),
            "{status}: it ends no right"
        );
    }
    // A repository that the registry does not know has no tag either.
    registry.behave();
    let unknown = r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#;
    registry.wrong_at("/referrers/", Fault::Answer(404, vec![], unknown.into()));
    let reply = larder.get(&format!("/v2/reg.test/team/app/referrers/{}", image.index)).await;
    assert_eq!((reply.status, reply.error_code().as_str()), (StatusCode::NOT_FOUND, "NAME_UNKNOWN"));
    // A page for people is passed on under its own type: clients take that for a registry without referrers.
    registry.behave();
    registry.wrong_at(
        "/referrers/",
        Fault::Answer(200, vec![("content-type", "text/html".into())], "<html>".into()),
    );
    let page = larder.get(&format!("/v2/reg.test/team/app/referrers/{}", image.index)).await;
    assert_eq!(page.header("content-type"), "text/html");
    registry.behave();
    let filtered = vec![
        ("content-type", MediaType::OCI_INDEX.to_owned()),
        ("oci-filters-applied", "artifactType".to_owned()),
        ("link", "<?artifactType=a%2Fb&page=2>; rel=next".to_owned()),
    ];
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    registry.wrong_at("/referrers/", Fault::Answer(200, filtered, index.into()));
    let reply =
        larder.get(&format!("/v2/team/app/referrers/{}?artifactType=a/b&ns=reg.test", image.index)).await;
    assert_eq!(reply.header("oci-filters-applied"), "artifactType");
    let next = format!(
        "</v2/team/app/referrers/{}?artifactType=a%2Fb&page=2&ns=reg.test>; rel=\"next\"",
        image.index
    );
    assert_eq!(reply.header("link"), next);
}
