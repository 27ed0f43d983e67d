//! What requests are read as, and which are refused.

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn get(uri: &str) -> Result<(Route, AddressedBy), RouteError> {
    get_with(uri, &[])
}

fn get_with(uri: &str, namespaces: &[&[u8]]) -> Result<(Route, AddressedBy), RouteError> {
    let mut headers = HeaderMap::new();
    for name in namespaces {
        headers.append(OCI_NAMESPACE, http::HeaderValue::from_bytes(name).unwrap());
    }
    parse(&Method::GET, &uri.parse().unwrap(), &headers, &Registry::docker_hub())
}

fn repository_of(uri: &str) -> (String, AddressedBy) {
    match get(uri).unwrap() {
        (Route::Content(repository, _), addressed_by) => (repository.to_string(), addressed_by),
        other => panic!("{other:?}"),
    }
}

fn resource(uri: &str) -> Resource {
    match get(uri).unwrap().0 {
        Route::Content(_, resource) => resource,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_registry_is_named_in_three_ways() {
    for (uri, repository, addressed_by) in [
        ("/v2/team/app/manifests/v1?ns=reg.test", "reg.test/team/app", AddressedBy::Namespace),
        ("/v2/team/app/manifests/v1?ns=reg.test%3A5000", "reg.test:5000/team/app", AddressedBy::Namespace),
        ("/v2/library/nginx/manifests/v1?ns=docker.io", "docker.io/library/nginx", AddressedBy::Namespace),
        ("/v2/a.b/app/manifests/v1?ns=REG.test", "reg.test/a.b/app", AddressedBy::Namespace),
        ("/v2/quay.io/org/app/manifests/v1", "quay.io/org/app", AddressedBy::Path),
        ("/v2/localhost:5000/app/manifests/v1", "localhost:5000/app", AddressedBy::Path),
        ("/v2/docker.io/nginx/manifests/v1", "docker.io/library/nginx", AddressedBy::Path),
        ("/v2/reg.corp_5000/a/b/manifests/v1", "reg.corp:5000/a/b", AddressedBy::PathWithoutColon),
        ("/v2/localhost_5000/app/manifests/v1", "localhost:5000/app", AddressedBy::PathWithoutColon),
        ("/v2/team_1/app/manifests/v1", "docker.io/team_1/app", AddressedBy::Default),
        (
            "/v2/reg.corp_5000/app/manifests/v1?ns=quay.io",
            "quay.io/reg.corp_5000/app",
            AddressedBy::Namespace,
        ),
        ("/v2/nginx/manifests/v1", "docker.io/library/nginx", AddressedBy::Default),
        ("/v2/acme/app/tags/list", "docker.io/acme/app", AddressedBy::Default),
        ("/v2/index.docker.io/acme/app/tags/list", "docker.io/acme/app", AddressedBy::Path),
        (
            "/v2/manifests/manifests/blobs/tags/list",
            "docker.io/manifests/manifests/blobs",
            AddressedBy::Default,
        ),
    ] {
        assert_eq!(repository_of(uri), (repository.to_owned(), addressed_by), "{uri}");
    }
}

#[test]
fn a_header_names_the_registry_as_the_parameter_does_and_never_another_one() {
    for (uri, namespaces, repository) in [
        (
            "/v2/team/app/manifests/v1",
            &[b"reg.test:5000".as_slice()] as &[&[u8]],
            Some("reg.test:5000/team/app"),
        ),
        ("/v2/nginx/manifests/v1", &[b"Index.Docker.io"], Some("docker.io/library/nginx")),
        ("/v2/quay.io/app/manifests/v1", &[b"reg.test"], Some("reg.test/quay.io/app")),
        ("/v2/a/manifests/v1?ns=reg.test", &[b"REG.test"], Some("reg.test/a")),
        ("/v2/a/b/manifests/v1?ns=index.docker.io", &[b"docker.io"], Some("docker.io/a/b")),
        ("/v2/a/manifests/v1?ns=reg.test", &[b"docker.io"], None),
        ("/v2/a/manifests/v1?ns=reg.test", &[b"reg.test:443"], None),
        ("/v2/a/manifests/v1", &[b"reg.test", b"reg.test"], None),
        ("/v2/a/manifests/v1", &[b""], None),
        ("/v2/a/manifests/v1?ns=reg.test", &[b""], None),
        ("/v2/a/manifests/v1", &[b"evil@docker.io"], None),
        ("/v2/a/manifests/v1", &["größe.test".as_bytes()], None),
    ] {
        let read = get_with(uri, namespaces).ok();
        let read = read.map(|(route, addressed_by)| match route {
            Route::Content(repository, _) => (repository.to_string(), addressed_by),
            other => panic!("{other:?}"),
        });
        let expected = repository.map(|name| (name.to_owned(), AddressedBy::Namespace));
        assert_eq!(read, expected, "{uri} {namespaces:?}");
    }
}

#[test]
fn each_endpoint_is_known() {
    assert_eq!(get("/v2/").unwrap().0, Route::Ping);
    assert_eq!(get("/token?service=x").unwrap().0, Route::Token);
    for digest in [format!("sha256:{HEX}"), format!("sha512:{HEX}{HEX}")] {
        assert!(matches!(resource(&format!("/v2/a/blobs/{digest}")), Resource::Blob(_)), "{digest}");
    }
    let referrers = resource(&format!("/v2/a/referrers/sha256:{HEX}?artifactType=a/b&evil=1"));
    assert!(matches!(referrers, Resource::Referrers(_, Some(query)) if query == "artifactType=a/b&evil=1"));
    let tags = resource("/v2/a/tags/list?n=5&last=x%26y&ns=reg.test");
    assert!(matches!(tags, Resource::Tags(Some(query)) if query == "n=5&last=x%26y"));
}

#[test]
fn a_percent_encoded_path_is_what_it_stands_for() {
    let expected = resource(&format!("/v2/a/blobs/sha256:{HEX}"));
    assert_eq!(resource(&format!("/v2/a/blobs/sha256%3A{HEX}")), expected);
    assert_eq!(resource(&format!("/v2/a/%62lobs/sha256%3a{HEX}")), expected);
    assert_eq!(resource(&format!("/v2/reg.test%3A5000/a/blobs/sha256%3A{HEX}")), expected);
    assert_eq!(repository_of("/v2/reg.test%3A5000/a/tags/list").0, "reg.test:5000/a");
    assert_eq!(resource("/v2/a/manifests/v%31"), resource("/v2/a/manifests/v1"));
}

#[test]
fn the_query_of_a_list_goes_to_its_registry_as_it_was_written() {
    for query in ["n=-1", "n=99999999999", "last=%0d%0a", "next_page=Zm9v%3D%3D&x", "nextToken=a+b", "last="]
    {
        let tags = resource(&format!("/v2/a/tags/list?{query}&ns=reg.test"));
        assert_eq!(tags, Resource::Tags(Some(query.to_owned())));
    }
    assert_eq!(resource("/v2/a/tags/list?ns=reg.test"), Resource::Tags(None));
    for theirs in ["ns=theirs&last=b", "last=b&_ns=1&__ns=2&xns=3", "ns", "n%73=theirs", "%6e%73&_n%73=1"] {
        let link = escaped_query(theirs);
        let next = resource(&format!("/v2/a/tags/list?{link}&ns=reg.test"));
        assert_eq!(next, Resource::Tags(Some(theirs.to_owned())), "{link}");
        assert_eq!(repository_of(&format!("/v2/a/tags/list?{link}&ns=reg.test")).0, "reg.test/a");
    }
}

#[test]
fn no_malformed_request_gets_through() {
    for uri in [
        "/",
        "/v1/",
        "/v2/_catalog",
        "/v2/a",
        "/v2//manifests/v1",
        "/v2/a//manifests/v1",
        "/v2/../manifests/v1",
        "/v2/a/../../etc/manifests/v1",
        "/v2/%2e%2e/manifests/v1",
        "/v2/a%2fb/manifests/v1",
        "/v2/A/b/c%00/manifests/v1",
        "/v2/a/manifests/",
        "/v2/a/manifests/..",
        "/v2/a/manifests/.x",
        "/v2/a/manifests/sha256:xyz",
        "/v2/a/blobs/latest",
        "/v2/a/blobs/sha256:../../etc/passwd",
        "/v2/a/manifests/v1?ns=",
        "/v2/a/manifests/v1?ns=a&ns=b",
        "/v2/a/manifests/v1?ns=evil@docker.io",
        "/v2/a/manifests/v1?ns=docker.io/../x",
        "/v2/a/manifests/v1?ns=a.b.",
        "/v2/a/manifests/v1?ns=a%00b",
        "/v2/a/manifests/v1?ns=http://x",
        "/v2/a%2Fb/tags/list",
        "/v2/a/blobs/sha256%3A..%2F..%2Fetc%2Fpasswd",
        "/v2/a/manifests/v1%00",
        "/v2/a/manifests/%FF",
        "/v2/manifests/v1",
        "/v2/tags/list",
        "/token/",
        "//v2/",
    ] {
        assert!(get(uri).is_err(), "{uri}: {:?}", get(uri));
    }
    let long = format!("/v2/{}/manifests/v1", "a".repeat(256));
    assert!(get(&long).is_err());
    assert!(matches!(get(&format!("/v2/a/blobs/blake3:{HEX}")), Err(RouteError::Digest(_))));
}

#[test]
fn writes_are_refused_whatever_they_ask() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "BREW"] {
        for uri in ["/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/v1?ns=x"] {
            let (method, uri) = (method.parse().unwrap(), uri.parse().unwrap());
            let parsed = parse(&method, &uri, &HeaderMap::new(), &Registry::docker_hub());
            assert_eq!(parsed, Err(RouteError::Method), "{method} {uri}");
        }
    }
    assert!(has_namespace(&"/v2/a/blobs/uploads/?ns=x".parse().unwrap(), &HeaderMap::new()));
}
