//! One request: read, pulled, answered.

use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderValue, IF_RANGE, LINK, RANGE, WARNING, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::metrics::Metrics;
use super::observe::{self, Watch};
use super::range::{Part, part};
use super::respond::{self, OCI_FILTERS, OCI_NAMESPACE, Refusal, Told, content};
use super::route::{self, Named, Route, Thing};
use crate::listener::{Body, Hosts};
use crate::metrics::RegistryLabels;
use crate::pull::{self, Fault, ManifestAnswer, Puller, Source};
use crate::reference::{Digest, MediaType, Reference, Registry, Repository};
use crate::upstream::Listing;

/// Asks for the truth where a mirror client would be sent on; written by `setup --strict`.
const MODE: &str = "x-larder-mode";

/// Answers requests. Shared by all connections.
pub(super) struct Handler {
    pub(super) puller: Puller,
    pub(super) hosts: Hosts,
    pub(super) default_registry: Registry,
    pub(super) labels: Arc<RegistryLabels>,
    pub(super) metrics: Arc<Metrics>,
}

/// What all parts of an answer need to know of its request.
struct Asked<'a> {
    method: Method,
    headers: HeaderMap,
    repository: Repository,
    named: Named,
    since: Instant,
    handler: &'a Handler,
}

impl Handler {
    /// Answers one request; every error is an answer.
    pub(super) async fn answer<B: http_body::Body>(&self, request: Request<B>) -> Response<Body> {
        let since = Instant::now();
        let challenge = match self.hosts.check(&request) {
            Ok(host) => challenge(host),
            Err(error) => return self.refuse("other", None, "misdirected", &Refusal::of_host(error), None),
        };
        let uri = request.uri();
        let strict = request.headers().get(MODE).is_some_and(|mode| mode == "strict");
        let told = if route::has_namespace(uri) && !strict { Told::Mirror } else { Told::Directly };
        let (route, named) = match route::parse(request.method(), uri, &self.default_registry) {
            Ok(parsed) if request.body().is_end_stream() => parsed,
            Ok(_) => return self.refuse("other", None, "bad_request", &Refusal::body_not_expected(), None),
            Err(error) => return self.refuse("other", None, "bad_request", &Refusal::of_route(&error), None),
        };
        let (parts, _) = request.into_parts();
        let (repository, thing) = match route {
            Route::Ping => return ping(challenge),
            Route::Token => return self.token(&parts.headers),
            Route::Content(repository, thing) => (repository, thing),
        };
        let asked =
            Asked { method: parts.method, headers: parts.headers, repository, named, since, handler: self };
        let (name, registry) = (thing.label(), asked.repository.registry());
        match asked.answer(&thing).await {
            Ok((response, source)) => {
                self.count(name, Some(registry), source.label());
                response
            }
            Err(error) => {
                let refusal = Refusal::of_fault(error.fault(), told, &thing, error.to_string());
                let outcome = if is_a_no(error.fault()) { "declined" } else { "failed" };
                let status = refusal.status.as_u16();
                tracing::info!(route = name, %registry, status, %error, "not served");
                self.metrics.errors.with_label_values(&[error.reason()]).inc();
                self.refuse(name, Some(registry), outcome, &refusal, challenge)
            }
        }
    }

    fn refuse(
        &self,
        route: &str,
        registry: Option<&Registry>,
        outcome: &str,
        refusal: &Refusal,
        challenge: Option<HeaderValue>,
    ) -> Response<Body> {
        self.count(route, registry, outcome);
        refusal.response(challenge)
    }

    pub(super) fn count(&self, route: &str, registry: Option<&Registry>, outcome: &str) {
        let registry = registry.map_or("", Registry::as_str);
        self.labels
            .with(registry, |label| self.metrics.requests.with_label_values(&[route, label, outcome]).inc());
    }

    /// `GET /token`: this version knows one caller, the anonymous one, and its token is no secret. A credential is
    /// refused rather than silently ignored, so that nobody believes that it was used.
    fn token(&self, headers: &HeaderMap) -> Response<Body> {
        if headers.contains_key(http::header::AUTHORIZATION) {
            let message = "this cache does not take credentials yet: pull private images from their registry"
                .to_owned();
            let refusal = Refusal { status: StatusCode::FORBIDDEN, code: "DENIED", message, close: false };
            return self.refuse("token", None, "declined", &refusal, None);
        }
        self.count("token", None, "fill");
        let body = br#"{"token":"anonymous","access_token":"anonymous","expires_in":86400}"#;
        respond::json(StatusCode::OK, body.to_vec())
    }
}

fn is_a_no(fault: Fault) -> bool {
    matches!(fault, Fault::Declined | Fault::Refused(_) | Fault::NotFound)
}

/// `GET /v2/` answers 200 and carries the challenge too: podman and skopeo take their way of authenticating from this
/// answer alone.
fn ping(challenge: Option<HeaderValue>) -> Response<Body> {
    let mut response = respond::json(StatusCode::OK, b"{}".to_vec());
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    if let Some(challenge) = challenge {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    }
    response
}

/// The realm is under the very name by which the client addressed us, since clients compare the two.
fn challenge(host: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!(r#"Bearer realm="http://{host}/token",service="larder""#)).ok()
}

type Answered = Result<(Response<Body>, Source), pull::Error>;

impl Asked<'_> {
    /// The one range of a `GET`; with `If-Range` none, since nothing of ours could match it.
    fn range(&self) -> Option<&str> {
        if self.method != Method::GET || self.headers.contains_key(IF_RANGE) {
            return None;
        }
        self.headers.get(RANGE).and_then(|range| range.to_str().ok())
    }

    async fn answer(&self, thing: &Thing) -> Answered {
        match thing {
            Thing::Manifest(reference) => self.manifest(reference).await,
            Thing::Blob(digest) => self.blob(*digest).await,
            Thing::Tags(query) => self.list("tags/list", Listing::Tags, query.clone()).await,
            Thing::Referrers(digest, query) => {
                self.list(&format!("referrers/{digest}"), Listing::Referrers(*digest), query.clone()).await
            }
        }
    }

    fn watch(&self, route: &'static str, source: Source) -> Watch {
        Watch::new(Arc::clone(&self.handler.metrics), route, source, self.since)
    }

    async fn manifest(&self, reference: &Reference) -> Answered {
        let repository = &self.repository;
        let answer = self.handler.puller.manifest(repository, reference).await?;
        let ManifestAnswer { digest, media_type, bytes, source, stale } = answer;
        let size = bytes.len() as u64;
        let part = part(self.range(), size);
        let mut response = content(media_type.as_str(), digest, repository.registry(), Some(size), part);
        if let Some(stale) = stale {
            let since = stale.confirmed_at.0;
            respond::warn(&mut response, &format!("stale: last confirmed at {since}; {}", stale.error));
            debug_assert!(response.headers().contains_key(WARNING));
        }
        let bytes = match part {
            Part::Whole => bytes,
            Part::Range { start, end } => bytes.slice(start as usize..end as usize),
            Part::Unsatisfiable => return Ok((response, source)),
        };
        if self.method == Method::GET {
            self.watch("manifest", source).saw(bytes.len());
            *response.body_mut() = respond::full(bytes);
        }
        Ok((response, source))
    }

    async fn blob(&self, digest: Digest) -> Answered {
        let (puller, repository) = (&self.handler.puller, &self.repository);
        let registry = repository.registry();
        if self.method == Method::HEAD {
            let (size, source) = puller.blob_size(repository, digest).await?;
            return Ok((content(MediaType::OCTET_STREAM, digest, registry, size, Part::Whole), source));
        }
        let range = self.range();
        let mut answer = puller.blob(repository, digest, range.is_some()).await?;
        let part = answer.size.map_or(Part::Whole, |size| part(range, size));
        let mut response = content(MediaType::OCTET_STREAM, digest, registry, answer.size, part);
        match part {
            Part::Unsatisfiable => return Ok((response, answer.source)),
            Part::Range { start, end } => answer.body.slice(start, end),
            Part::Whole => {}
        }
        *response.body_mut() = observe::body(answer.body, self.watch("blob", answer.source));
        Ok((response, answer.source))
    }

    /// A list as upstream gave it; the link to its next page leads to us, in the way that the client named us.
    async fn list(&self, path: &str, listing: Listing, query: Option<String>) -> Answered {
        let repository = &self.repository;
        let page = self.handler.puller.list(repository, &listing, query).await?;
        let mut response = respond::json(StatusCode::OK, Vec::new());
        let headers = response.headers_mut();
        let mut set = |name, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if let Some(media_type) = &page.media_type {
            set(http::header::CONTENT_TYPE, media_type.as_str());
        }
        set(OCI_NAMESPACE, repository.registry().as_str());
        if let Some(filters) = &page.filters {
            set(OCI_FILTERS, filters);
        }
        if let Some(next) = &page.next {
            let (registry, name) = (repository.registry(), repository.path());
            let target = match self.named {
                Named::ByNamespace => format!("/v2/{name}/{path}?{next}&ns={registry}"),
                Named::ByPath => format!("/v2/{registry}/{name}/{path}?{next}"),
                Named::ByDefault => format!("/v2/{name}/{path}?{next}"),
            };
            set(LINK, &format!("<{target}>; rel=\"next\""));
        }
        *response.body_mut() = respond::full(page.bytes);
        Ok((response, Source::Proxied))
    }
}
