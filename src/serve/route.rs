//! What a request asks for: a pure reading of method, path, query and one header.
//!
//! A request names its registry by the `ns` query parameter (containerd) or by the header `OCI-Namespace` (clients that
//! send fixed headers to a mirror and no `ns`), else by a first path segment that can only be a registry (podman,
//! CRI-O, curl; `reg.corp_5000` is `reg.corp:5000`), else it means the default registry. One that names two registries
//! is refused: where its credential belongs is not known then. Everything becomes a parsed type here or is refused;
//! nothing unparsed goes further.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, Uri};
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
    /// By `ns` or `OCI-Namespace`: the client is a mirror client and has an upstream of its own to turn to.
    Namespace,
    /// By the first path segment.
    Path,
    /// By the first path segment, with an underscore before the port: podman and CRI-O can ask a mirror for no path
    /// that has a colon.
    PathWithoutColon,
    /// Not at all.
    Default,
}

impl AddressedBy {
    /// How the client, which asked by this, writes `repository` in a path or a scope.
    pub(super) fn name_of(self, repository: &Repository) -> String {
        let (registry, path) = (repository.registry(), repository.path());
        match self {
            Self::Path => repository.to_string(),
            Self::PathWithoutColon => {
                let component = registry.path_component();
                format!("{}/{path}", component.unwrap_or_else(|| registry.to_string()))
            }
            Self::Namespace | Self::Default => path.to_string(),
        }
    }

    /// Whether the path names the registry.
    pub(super) fn is_by_path(self) -> bool {
        matches!(self, Self::Path | Self::PathWithoutColon)
    }
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
    /// The query, or the header that says the same.
    #[error("{0}")]
    Query(&'static str),
}

/// The parameter of a request that names the registry.
const NAMESPACE: &str = "ns";
/// The header that names the registry of an answer (distribution-spec, "Registry Proxying"), and that of a request that
/// has no such parameter.
pub(super) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// Put before a parameter of the registry's own that would be taken for [`NAMESPACE`].
const ESCAPE: char = '_';

/// Whether the request has an `ns` or the header for it, valid or not: a client that sends one is a mirror client.
pub fn has_namespace(uri: &Uri, headers: &HeaderMap) -> bool {
    pairs(uri).any(|(key, _)| key == NAMESPACE) || headers.contains_key(OCI_NAMESPACE)
}

/// Reads a request; `default` is the registry of names without one.
///
/// # Errors
/// Why the request cannot be answered.
pub fn parse(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    default: &Registry,
) -> Result<(Route, AddressedBy), RouteError> {
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
    let namespace = namespace(uri, headers)?;
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

/// The registry that a request names by `ns`, by the header, or by both alike.
pub(super) fn namespace(uri: &Uri, headers: &HeaderMap) -> Result<Option<Registry>, RouteError> {
    let by_header =
        only(headers.get_all(OCI_NAMESPACE).iter(), "the OCI-Namespace header is given more than once")?;
    let by_header = match by_header.map(|value| value.to_str()) {
        None => None,
        Some(Ok(name)) => Some(name.parse::<Registry>()?.canonical()),
        Some(Err(_)) => return Err(RouteError::Query("the OCI-Namespace header is no registry")),
    };
    let given = pairs(uri).filter(|(key, _)| key == NAMESPACE);
    let Some((_, name)) = only(given, "the ns parameter is given more than once")? else {
        return Ok(by_header);
    };
    let by_parameter = name.parse::<Registry>()?.canonical();
    if by_header.is_some_and(|by_header| by_header != by_parameter) {
        return Err(RouteError::Query("the ns parameter and the OCI-Namespace header name two registries"));
    }
    Ok(Some(by_parameter))
}

fn only<T>(mut given: impl Iterator<Item = T>, several: &'static str) -> Result<Option<T>, RouteError> {
    let first = given.next();
    if given.next().is_some() { Err(RouteError::Query(several)) } else { Ok(first) }
}

pub(super) fn repository(
    name: &[&str],
    namespace: Option<&Registry>,
    default: &Registry,
) -> Result<(Repository, AddressedBy), RouteError> {
    let (registry, path, addressed_by) = match (namespace, name) {
        (Some(registry), name) => (registry.clone(), name, AddressedBy::Namespace),
        (None, [first, rest @ ..]) if !rest.is_empty() => match Registry::of_path_component(first) {
            Some(registry) => (registry, rest, AddressedBy::PathWithoutColon),
            None if Registry::looks_like_one(first) => (first.parse()?, rest, AddressedBy::Path),
            None => (default.clone(), name, AddressedBy::Default),
        },
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
#[path = "route_tests.rs"]
mod tests;
