//! A request for a resource of a repository, whichever endpoint it is sent to.

use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, RANGE};
use tokio::time::Instant;

use crate::credentials::{HttpHeaders, PresentedCredential};
use crate::reference::{Digest, MediaType, Reference, Repository, UPSTREAM_ACCEPT};
use crate::upstream::asked::AskedEndpoints;
use crate::upstream::headers::{content_length, header};
use crate::upstream::metrics::RequestKind;

/// Bytes of a blob that a probe asks for: enough to distinguish a body that hardly comes from one that does.
pub(super) const PROBE_BYTES: u64 = 64 * 1024;

/// As whom a request is sent, and for what.
#[derive(Debug, Clone)]
pub struct AuthContext {
    /// The credential, or that there is none, with its principal.
    pub presented: PresentedCredential,
    /// What of its response is needed.
    pub need: Need,
    /// Whether it is worth waiting for an endpoint that is gone for a moment.
    pub patience: Patience,
    /// The endpoints that the request led to.
    pub asked: AskedEndpoints,
}

/// What of a response is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// That it proves a right: only authoritative endpoints get the request.
    Proof {
        /// The token that it is sent with is younger than this.
        token_age_max: Duration,
    },
    /// The content, whichever endpoint delivers it.
    Delivery,
}

impl Need {
    /// Whether a right is to be proved.
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Proof { .. })
    }

    /// How young the token has to be; `None` if any will do.
    pub fn token_age_max(self) -> Option<Duration> {
        match self {
            Self::Proof { token_age_max } => Some(token_age_max),
            Self::Delivery => None,
        }
    }
}

/// What is done when no endpoint is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Patience {
    /// The request fails at once: its client can ask the registry itself, or there is something older to serve.
    None,
    /// Connecting is tried again for as long as a client waits, and what answers 502 to 504 or closes the connection a
    /// few times, as where this node has no descriptors: what is gone for a moment fails no pull.
    Wait,
}

/// A list that is handed to the client as the registry sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The tags of a repository.
    Tags,
    /// The manifests whose subject is this one.
    Referrers(Digest),
}

/// Requests of one kind for one repository: where one of them fails, the next is expected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RequestGroup {
    pub(super) repository: Repository,
    pub(super) kind: RequestKind,
}

/// Registries count by what is requested and how: Docker Hub counts `GET`s of manifests and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RequestClass {
    pub(super) kind: RequestKind,
    pub(super) method: Method,
}

/// A request for a resource of a repository.
#[derive(Debug, Clone)]
pub(super) struct RegistryRequest<'a> {
    pub(super) auth: &'a AuthContext,
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    pub(super) resource: Resource,
    /// When it was made. Its repetitions, and the `GET` in the place of a `HEAD`, are of the same request.
    pub(super) begun: Instant,
}

/// What of a repository is asked for.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) kind: RequestKind,
    /// What follows the repository's name in the URL.
    pub(super) path: String,
    pub(super) query: Option<String>,
    /// The digest of the content, where it is asked for by digest.
    pub(super) digest: Option<Digest>,
    accept: &'static str,
    range: Option<String>,
}

impl<'a> RegistryRequest<'a> {
    pub(super) fn manifest(
        method: Method,
        repository: &'a Repository,
        reference: &Reference,
        auth: &'a AuthContext,
    ) -> Self {
        let path = format!("manifests/{reference}");
        let digest = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => None,
        };
        let resource = Resource::new(RequestKind::Manifest, path);
        let resource = Resource { digest, accept: UPSTREAM_ACCEPT, ..resource };
        Self::new(auth, method, repository, resource)
    }

    pub(super) fn blob(
        method: Method,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Self {
        let resource = Resource::new(RequestKind::Blob, format!("blobs/{digest}"));
        Self::new(auth, method, repository, Resource { digest: Some(digest), ..resource })
    }

    /// `query` as the client sent it, checked.
    pub(super) fn list(
        repository: &'a Repository,
        listing: &Listing,
        query: Option<String>,
        auth: &'a AuthContext,
    ) -> Self {
        let (kind, path, accept) = match listing {
            Listing::Tags => (RequestKind::Tags, "tags/list".to_owned(), "application/json"),
            Listing::Referrers(digest) => {
                (RequestKind::Referrers, format!("referrers/{digest}"), MediaType::OCI_INDEX)
            }
        };
        let resource = Resource { query, accept, ..Resource::new(kind, path) };
        Self::new(auth, Method::GET, repository, resource)
    }

    fn new(auth: &'a AuthContext, method: Method, repository: &'a Repository, resource: Resource) -> Self {
        Self { auth, method, repository, resource, begun: Instant::now() }
    }

    /// What its limit counts it as.
    pub(super) fn class(&self) -> RequestClass {
        RequestClass { kind: self.resource.kind, method: self.method.clone() }
    }

    /// The requests that are expected to fail where this one does.
    pub(super) fn group(&self) -> RequestGroup {
        RequestGroup { repository: self.repository.clone(), kind: self.resource.kind }
    }

    /// The `GET` that finds out what a `HEAD` did not say: of a blob its first byte, of a manifest all of it.
    pub(super) fn confirming(&self) -> Self {
        let get = Self { method: Method::GET, ..self.clone() };
        if self.resource.has_a_first_byte() { get.with_range(0, Some(1)) } else { get }
    }

    /// The same question, asked by itself: of a blob its beginning is enough.
    pub(super) fn to_probe(&self) -> OwnedRequest {
        let has_range = self.resource.has_a_first_byte();
        let range = has_range.then(|| format!("bytes=0-{}", PROBE_BYTES - 1));
        let resource = Resource { range, ..self.resource.clone() };
        OwnedRequest { auth: self.auth.clone(), repository: self.repository.clone(), resource }
    }

    /// The same request, or the `GET` that confirms it if it is a `HEAD`.
    pub(super) fn confirming_if_head(&self) -> Self {
        if self.method == Method::HEAD { self.confirming() } else { self.clone() }
    }

    /// Whether these headers of a 200 answer a `HEAD` without leaving a doubt: the digest is there and the right one;
    /// of a blob, which an object store may send, it may be absent, but the size may not.
    pub(super) fn is_confirmed_by(&self, headers: &HeaderMap) -> bool {
        if headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
        {
            return false;
        }
        let said = header(headers, "docker-content-digest").map(str::parse::<Digest>);
        let Resource { kind, digest, .. } = &self.resource;
        let is_right = |said: &Digest| digest.is_none_or(|digest| digest == *said);
        match (kind, said) {
            (RequestKind::Blob, None) => {}
            (_, Some(Ok(said))) if is_right(&said) => {}
            _ => return false,
        }
        let has_size = || content_length(headers).is_some_and(|bytes| bytes > 0);
        !self.resource.has_a_first_byte() || has_size()
    }

    /// The same request for the bytes from `from` up to, not including, `until`; without `until`, for all from there
    /// on.
    pub(super) fn with_range(self, from: u64, until: Option<u64>) -> Self {
        let range = match until {
            Some(until) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
            None => (from > 0).then(|| format!("bytes={from}-")),
        };
        Self { resource: Resource { range, ..self.resource }, ..self }
    }

    /// The same request for all bytes, if this one is for some.
    pub(super) fn without_range(&self) -> Option<Self> {
        self.resource.range.as_ref()?;
        let mut whole = self.clone();
        whole.resource.range = None;
        Some(whole)
    }

    /// The headers of the HTTP request. `extra` are those of a docker config: none of them replaces one of ours.
    pub(super) fn http_headers(&self, authorization: Option<HeaderValue>, extra: &HttpHeaders) -> HeaderMap {
        let mut headers: HeaderMap = extra.iter().cloned().collect();
        // A transport encoding would make lengths and ranges meaningless.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(ACCEPT, HeaderValue::from_static(self.resource.accept));
        if let Some(range) = self.resource.range.as_ref().and_then(|range| HeaderValue::try_from(range).ok())
        {
            headers.insert(RANGE, range);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers
    }
}

impl Resource {
    fn new(kind: RequestKind, path: String) -> Self {
        Self { kind, path, query: None, digest: None, accept: "*/*", range: None }
    }

    /// Whether it is a blob, and not the empty one.
    fn has_a_first_byte(&self) -> bool {
        self.kind == RequestKind::Blob && !self.digest.is_some_and(|digest| digest.is_of(b""))
    }
}

/// A `GET` that outlives the request that it was made from.
pub(super) struct OwnedRequest {
    auth: AuthContext,
    repository: Repository,
    resource: Resource,
}

impl OwnedRequest {
    pub(super) fn as_request(&self) -> RegistryRequest<'_> {
        let Self { auth, repository, resource } = self;
        RegistryRequest::new(auth, Method::GET, repository, resource.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_believed_only_where_it_says_the_digest_and_of_a_blob_the_size() {
        let (repository, auth) = ("reg.test/app".parse().unwrap(), AuthContext::for_test(None));
        let (right, other) = (Digest::of(b"x"), Digest::of(b"y"));
        let tag = Reference::Tag("v1".parse().unwrap());
        let tag = RegistryRequest::manifest(Method::HEAD, &repository, &tag, &auth);
        let manifest = RegistryRequest::manifest(Method::HEAD, &repository, &right.into(), &auth);
        let blob = RegistryRequest::blob(Method::HEAD, &repository, right, &auth);
        let (right, other) = (right.to_string(), other.to_string());
        let digest =
            |value: &str| vec![("docker-content-digest", value.to_owned()), ("content-length", "5".into())];
        let length = |value: &str| vec![("content-length", value.to_owned())];
        for (headers, by_tag, by_digest, of_blob) in [
            (digest(&right), true, true, true),
            (digest(&other), true, false, false),
            (digest("md5:1"), false, false, false),
            (length("5"), false, false, true),
            (length("0"), false, false, false),
            (vec![], false, false, false),
        ] {
            let named = |(name, value): &(&'static str, String)| {
                (http::HeaderName::from_static(name), value.parse().unwrap())
            };
            let map: HeaderMap = headers.iter().map(named).collect();
            let said = [&tag, &manifest, &blob].map(|request| request.is_confirmed_by(&map));
            assert_eq!(said, [by_tag, by_digest, of_blob], "{headers:?}");
        }
        let empty = RegistryRequest::blob(Method::HEAD, &repository, Digest::of(b""), &auth);
        assert!(
            empty.is_confirmed_by(
                &[(http::header::CONTENT_LENGTH, "0".parse().unwrap())].into_iter().collect()
            )
        );
        assert_eq!(empty.confirming().resource.range, None, "nothing has no first byte");
        assert_eq!(blob.confirming().resource.range.as_deref(), Some("bytes=0-0"));
    }
}
