//! What a request asks for: a pure reading of method, path and query.
//!
//! A request names its registry by the `ns` query parameter (containerd), else by a first path segment that can only
//! be a registry (podman, CRI-O, curl), else it means the default registry. Everything becomes a parsed type here or
//! is refused; nothing unparsed goes further.

use std::borrow::Cow;

use http::{Method, Uri};
use url::form_urlencoded;

use crate::reference::{Digest, DigestError, ImageError, NameError, Reference, Registry, Repository};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET /v2/`.
    Ping,
    /// `GET` or `POST /token`.
    Token,
    /// `/v2/<name>/...`.
    Content(Repository, Resource),
}

/// What is asked of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// `manifests/<reference>`.
    Manifest(Reference),
    /// `blobs/<digest>`.
    Blob(Digest),
    /// `tags/list`, with its query as the client wrote it, but for what is between the client and us.
    Tags(Option<String>),
    /// `referrers/<digest>`, with such a query.
    Referrers(Digest, Option<String>),
}

impl Resource {
    /// The tag or digest that is asked for; a list has none.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Self::Manifest(reference) => Some(reference.clone()),
            Self::Blob(digest) => Some((*digest).into()),
            Self::Tags(_) | Self::Referrers(..) => None,
        }
    }

    /// Whether a list is asked for by a number of entries.
    pub fn asks_for_a_number(&self) -> bool {
        match self {
            Self::Tags(Some(query)) | Self::Referrers(_, Some(query)) => {
                form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "n")
            }
            _ => false,
        }
    }
}

/// How the request named its registry; links back to us must do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressedBy {
    /// By `ns`: the client is a mirror client and has an upstream of its own to turn to.
    Namespace,
    /// By the first path segment.
    Path,
    /// Not at all.
    Default,
}

/// A request that asks for nothing we could have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Writes, and methods that do not exist.
    #[error("this is a read-only cache: push to the registry itself")]
    Method,
    /// Not a path of the distribution specification.
    #[error("no such endpoint")]
    Unknown,
    /// The repository.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The tag or digest of a manifest.
    #[error(transparent)]
    Reference(ImageError),
    /// The query.
    #[error("{0}")]
    Query(&'static str),
}

/// The parameter of a request that names the registry.
const NAMESPACE: &str = "ns";
/// Put before a parameter of the registry's own that would be taken for [`NAMESPACE`].
const ESCAPE: char = '_';

/// Whether the query has an `ns`, valid or not: a client that sends one is a mirror client.
pub fn has_namespace(uri: &Uri) -> bool {
    pairs(uri).any(|(key, _)| key == NAMESPACE)
}

/// Reads a request; `default` is the registry of names without one.
///
/// # Errors
/// Why the request cannot be answered.
pub fn parse(method: &Method, uri: &Uri, default: &Registry) -> Result<(Route, AddressedBy), RouteError> {
    let path = uri.path();
    if path == "/token" {
        return if method == Method::GET || method == Method::POST {
            Ok((Route::Token, AddressedBy::Default))
        } else {
            Err(RouteError::Method)
        };
    }
    if method != Method::GET && method != Method::HEAD {
        return Err(RouteError::Method);
    }
    if path == "/v2/" || path == "/v2" {
        return Ok((Route::Ping, AddressedBy::Default));
    }
    let segments = path.strip_prefix("/v2/").ok_or(RouteError::Unknown)?.split('/');
    let segments = segments.map(decoded).collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let namespace = namespace(uri)?;
    let (name, resource) = match segments.as_slice() {
        [name @ .., "tags", "list"] => (name, Resource::Tags(list_query(uri))),
        [name @ .., "manifests", reference] => (name, Resource::Manifest(manifest_reference(reference)?)),
        [name @ .., "blobs", digest] => (name, Resource::Blob(digest.parse()?)),
        [name @ .., "referrers", digest] => (name, Resource::Referrers(digest.parse()?, list_query(uri))),
        _ => return Err(RouteError::Unknown),
    };
    if name.is_empty() {
        return Err(RouteError::Unknown);
    }
    let (repository, addressed_by) = repository(name, namespace.as_ref(), default)?;
    Ok((Route::Content(repository, resource), addressed_by))
}

fn manifest_reference(text: &str) -> Result<Reference, RouteError> {
    text.parse().map_err(|error: ImageError| match error {
        ImageError::Digest(error) => RouteError::Digest(error),
        other => RouteError::Reference(other),
    })
}

pub(super) fn pairs(uri: &Uri) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
}

pub(super) fn namespace(uri: &Uri) -> Result<Option<Registry>, RouteError> {
    let mut given = pairs(uri).filter(|(key, _)| key == NAMESPACE);
    let Some((_, first)) = given.next() else {
        return Ok(None);
    };
    if given.next().is_some() {
        return Err(RouteError::Query("the ns parameter is given more than once"));
    }
    Ok(Some(first.parse::<Registry>()?.canonical()))
}

pub(super) fn repository(
    name: &[&str],
    namespace: Option<&Registry>,
    default: &Registry,
) -> Result<(Repository, AddressedBy), RouteError> {
    let (registry, path, addressed_by) = match (namespace, name) {
        (Some(registry), name) => (registry.clone(), name, AddressedBy::Namespace),
        (None, [first, rest @ ..]) if !rest.is_empty() && Registry::looks_like_one(first) => {
            (first.parse::<Registry>()?.canonical(), rest, AddressedBy::Path)
        }
        (None, name) => (default.clone(), name, AddressedBy::Default),
    };
    let registry = registry.canonical();
    Ok((Repository::new(registry, path.join("/").parse()?)?, addressed_by))
}

/// A segment of a path without percent-encoding: some clients write `sha256%3A`. What decodes to several segments is
/// none.
fn decoded(segment: &str) -> Result<Cow<'_, str>, RouteError> {
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8();
    decoded.ok().filter(|decoded| !decoded.contains('/')).ok_or(RouteError::Unknown)
}

/// The query of a list for its registry, which alone knows its parameters: as the client wrote it, without `ns`, which
/// is between the client and us.
fn list_query(uri: &Uri) -> Option<String> {
    let kept: Vec<&str> = uri.query()?.split('&').filter(|pair| key_of(pair) != NAMESPACE).collect();
    let written: Vec<&str> =
        kept.iter().map(|pair| if is_escaped(&key_of(pair)) { without_escape(pair) } else { pair }).collect();
    (!written.is_empty()).then(|| written.join("&"))
}

/// The query of a link of a registry's as clients are to send it to us: a parameter that would be taken for our own is
/// escaped, and [`parse`] takes that back.
pub(super) fn escaped_query(query: &str) -> String {
    let escaped = query.split('&').map(|pair| {
        let key = key_of(pair);
        if key == NAMESPACE || is_escaped(&key) { format!("{ESCAPE}{pair}") } else { pair.to_owned() }
    });
    escaped.collect::<Vec<_>>().join("&")
}

/// As [`namespace`] reads it: `n%73` is `ns`.
fn key_of(pair: &str) -> String {
    form_urlencoded::parse(pair.as_bytes()).next().map(|(key, _)| key.into_owned()).unwrap_or_default()
}

/// The escape may be percent-encoded itself by a client that writes the query anew.
fn without_escape(pair: &str) -> &str {
    pair.strip_prefix(ESCAPE)
        .or_else(|| pair.strip_prefix("%5F"))
        .or_else(|| pair.strip_prefix("%5f"))
        .unwrap_or(pair)
}

fn is_escaped(key: &str) -> bool {
    key.starts_with(ESCAPE) && key.trim_start_matches(ESCAPE) == NAMESPACE
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn get(uri: &str) -> Result<(Route, AddressedBy), RouteError> {
        parse(&Method::GET, &uri.parse().unwrap(), &Registry::docker_hub())
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
            (
                "/v2/team/app/manifests/v1?ns=reg.test%3A5000",
                "reg.test:5000/team/app",
                AddressedBy::Namespace,
            ),
            (
                "/v2/library/nginx/manifests/v1?ns=docker.io",
                "docker.io/library/nginx",
                AddressedBy::Namespace,
            ),
            ("/v2/a.b/app/manifests/v1?ns=REG.test", "reg.test/a.b/app", AddressedBy::Namespace),
            ("/v2/quay.io/org/app/manifests/v1", "quay.io/org/app", AddressedBy::Path),
            ("/v2/localhost:5000/app/manifests/v1", "localhost:5000/app", AddressedBy::Path),
            ("/v2/docker.io/nginx/manifests/v1", "docker.io/library/nginx", AddressedBy::Path),
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
    fn each_endpoint_is_known() {
        assert_eq!(get("/v2/").unwrap().0, Route::Ping);
        assert_eq!(get("/token?service=x").unwrap().0, Route::Token);
        for digest in [format!("sha256:{HEX}"), format!("sha512:{HEX}{HEX}")] {
            assert!(matches!(resource(&format!("/v2/a/blobs/{digest}")), Resource::Blob(_)), "{digest}");
        }
        let referrers = resource(&format!("/v2/a/referrers/sha256:{HEX}?artifactType=a/b&evil=1"));
        assert!(
            matches!(referrers, Resource::Referrers(_, Some(query)) if query == "artifactType=a/b&evil=1")
        );
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
        for query in
            ["n=-1", "n=99999999999", "last=%0d%0a", "next_page=Zm9v%3D%3D&x", "nextToken=a+b", "last="]
        {
            let tags = resource(&format!("/v2/a/tags/list?{query}&ns=reg.test"));
            assert_eq!(tags, Resource::Tags(Some(query.to_owned())));
        }
        assert_eq!(resource("/v2/a/tags/list?ns=reg.test"), Resource::Tags(None));
        for theirs in ["ns=theirs&last=b", "last=b&_ns=1&__ns=2&xns=3", "ns", "n%73=theirs", "%6e%73&_n%73=1"]
        {
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
                let parsed = parse(&method.parse().unwrap(), &uri.parse().unwrap(), &Registry::docker_hub());
                assert_eq!(parsed, Err(RouteError::Method), "{method} {uri}");
            }
        }
        assert!(has_namespace(&"/v2/a/blobs/uploads/?ns=x".parse().unwrap()));
    }
}
