//! A request for a resource of a repository, whichever endpoint it is sent to.

use std::time::Duration;

use http::Method;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};

use crate::credentials::{HttpHeaders, PresentedCredential};
use crate::reference::{Digest, MediaType, Reference, Repository, UPSTREAM_ACCEPT};
use crate::upstream::metrics::RequestKind;

/// As whom a request is sent, and what its response is for.
#[derive(Debug, Clone)]
pub struct AuthContext {
    /// The credential, or that there is none, with its principal.
    pub presented: PresentedCredential,
    /// Set if the response is to prove a right: then only authoritative endpoints get the request, with a token no older
    /// than this. Without it, any endpoint may deliver.
    pub proof: Option<Duration>,
}

/// A list that is handed to the client as the registry sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The tags of a repository.
    Tags,
    /// The manifests whose subject is this one.
    Referrers(Digest),
}

/// A request for a resource of a repository.
#[derive(Debug, Clone)]
pub(super) struct RegistryRequest<'a> {
    pub(super) auth: &'a AuthContext,
    pub(super) kind: RequestKind,
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// What follows the repository's name in the URL.
    pub(super) path: String,
    pub(super) query: Option<String>,
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
        Self { accept: UPSTREAM_ACCEPT, ..Self::new(auth, RequestKind::Manifest, method, repository, path) }
    }

    pub(super) fn blob(
        method: Method,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Self {
        Self::new(auth, RequestKind::Blob, method, repository, format!("blobs/{digest}"))
    }

    /// `query` as the client sent it, checked.
    pub(super) fn list(
        repository: &'a Repository,
        listing: &Listing,
        query: Option<String>,
        auth: &'a AuthContext,
    ) -> Self {
        let (path, accept) = match listing {
            Listing::Tags => ("tags/list".to_owned(), "application/json"),
            Listing::Referrers(digest) => (format!("referrers/{digest}"), MediaType::OCI_INDEX),
        };
        Self { query, accept, ..Self::new(auth, RequestKind::List, Method::GET, repository, path) }
    }

    fn new(
        auth: &'a AuthContext,
        kind: RequestKind,
        method: Method,
        repository: &'a Repository,
        path: String,
    ) -> Self {
        Self { auth, kind, method, repository, path, query: None, accept: "*/*", range: None }
    }

    /// The same request with `GET`, for registries that refuse `HEAD`.
    pub(super) fn with_get(&self) -> Self {
        Self { method: Method::GET, ..self.clone() }
    }

    /// The same request for the bytes from `from` up to, not including, `until`; without `until`, for all from there on.
    pub(super) fn with_range(self, from: u64, until: Option<u64>) -> Self {
        let range = match until {
            Some(until) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
            None => (from > 0).then(|| format!("bytes={from}-")),
        };
        Self { range, ..self }
    }

    /// The headers of the HTTP request. `extra` are those of a docker config: none of them replaces one of ours.
    pub(super) fn http_headers(&self, authorization: Option<HeaderValue>, extra: &HttpHeaders) -> HeaderMap {
        let mut headers: HeaderMap = extra.iter().cloned().collect();
        // A transport encoding would make lengths and ranges meaningless.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        if let Some(range) = self.range.as_ref().and_then(|range| HeaderValue::try_from(range).ok()) {
            headers.insert(RANGE, range);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        headers
    }
}
