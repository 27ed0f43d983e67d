//! One request: read, pulled, answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderValue, IF_RANGE, LINK, RANGE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::client_auth::{self, Authorization, InvalidAuthorization};
use super::gate::Gate;
use super::metrics::Metrics;
use super::observe::{self, Watch};
use super::range::{self, Part, part};
use super::respond::{self, ClientKind, OCI_FILTERS, OCI_NAMESPACE, Refusal, content};
use super::route::{self, AddressedBy, Resource, Route};
use super::token;
use crate::credentials::Keychain;
use crate::listener::{Body, BodyError, Hosts};
use crate::pull::{
    self, AnswerSource, BlobRange, BlobSize, Fault, ManifestAnswer, ManifestUse, PullContext, Puller, Stale,
};
use crate::reference::{Digest, MediaType, Reference, Registry, Repository};
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::RegistryLabels;
use crate::upstream::Listing;

/// Asks for the truth where a mirror client would be sent on; written by `setup --strict`.
const MODE: &str = "x-larder-mode";

/// Answers requests. Shared by all connections.
pub(super) struct Handler {
    pub(super) puller: Puller,
    pub(super) keychain: Keychain,
    pub(super) hosts: Hosts,
    pub(super) default_registry: Registry,
    pub(super) gate: Live<Option<Gate>>,
    /// For how long a client waits for the head of an answer.
    pub(super) answer_wait: Duration,
    pub(super) clock: Clock,
    pub(super) labels: Arc<RegistryLabels>,
    pub(super) metrics: Arc<Metrics>,
}

/// What all parts of an answer need to know of its request.
struct Asked<'a> {
    method: Method,
    headers: HeaderMap,
    repository: Repository,
    named: AddressedBy,
    pull: PullContext,
    since: Instant,
    handler: &'a Handler,
}

impl Handler {
    /// Answers one request; every error is an answer.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<BodyError>,
    {
        let since = Instant::now();
        let host = match self.hosts.check(&request) {
            Ok(host) => host.to_owned(),
            Err(error) => return self.refuse("other", None, "misdirected", &Refusal::of_host(error), None),
        };
        let uri = request.uri();
        let strict = request.headers().get(MODE).is_some_and(|mode| mode == "strict");
        let told = if route::has_namespace(uri) && !strict { ClientKind::Mirror } else { ClientKind::Direct };
        let bad = |refusal: &Refusal| self.refuse("other", None, "bad_request", refusal, None);
        let (route, named) = match route::parse(request.method(), uri, &self.default_registry) {
            Ok(parsed) => parsed,
            Err(error) => return bad(&Refusal::of_route(&error)),
        };
        let posted = route == Route::Token && request.method() == Method::POST;
        if !posted && !request.body().is_end_stream() {
            return bad(&Refusal::body_not_expected());
        }
        if route != Route::Token && !self.passes_gate(request.headers()) {
            return self.refuse("other", None, "declined", &Refusal::of_gate(), None);
        }
        let keychain = &self.keychain;
        let shown = client_auth::shown(request.headers(), keychain, self.clock.now());
        let (parts, body) = request.into_parts();
        let (repository, thing) = match route {
            Route::Ping => return self.ping(&host, shown),
            Route::Token => return Box::pin(self.token(&parts, shown, body)).await,
            Route::Content(repository, thing) => (repository, thing),
        };
        let (name, registry) = (thing.label(), repository.registry().clone());
        let caller = match shown.and_then(|shown| shown.caller(&repository, keychain)) {
            Ok(caller) => caller,
            Err(invalid) => {
                let challenge = client_auth::challenge(&host, Some((&repository, named)), Some(invalid));
                let refusal = Refusal::of_complaint(invalid);
                return self.refuse(name, Some(&registry), "challenged", &refusal, challenge);
            }
        };
        let (method, headers) = (parts.method, parts.headers);
        let reference = thing.reference();
        let pull = PullContext::new(repository.clone(), reference, caller).answered_within(self.answer_wait);
        let asked = Asked { method, headers, repository, named, pull, since, handler: self };
        match asked.answer(&thing).await {
            Ok((response, source)) => {
                self.count(name, Some(&registry), source.label());
                response
            }
            Err(error) => {
                let refusal = Refusal::of_pull(&error, told, &thing);
                let status = refusal.status.as_u16();
                tracing::info!(route = name, %registry, status, %error, "not served");
                self.metrics.errors.with_label_values(&[error.reason()]).inc();
                let challenge = client_auth::challenge(&host, Some((&asked.repository, named)), None);
                self.refuse(name, Some(&registry), outcome(error.fault()), &refusal, challenge)
            }
        }
    }

    /// Whether the request carries the secret that the operator wants, if any.
    fn passes_gate(&self, headers: &HeaderMap) -> bool {
        let gate = self.gate.current();
        gate.as_ref().as_ref().is_none_or(|gate| gate.admits(headers, self.keychain.keys()))
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

    /// `GET /v2/`: the challenge, for those who have not said who they are. podman, skopeo, crane and Docker ask this
    /// first and take their way of authenticating from this answer alone; Docker (seen with 20.10) and crane (as its source
    /// has it) do so from a 401 only, and show nobody's credential otherwise. With a credential, or a token of somebody who
    /// has none, it is 200.
    fn ping(&self, host: &str, shown: Result<Authorization, InvalidAuthorization>) -> Response<Body> {
        let refusal = match &shown {
            Err(invalid) => Refusal::of_complaint(*invalid),
            Ok(Authorization::Nothing) => Refusal::unidentified(),
            Ok(Authorization::Basic(_) | Authorization::Token(_)) => {
                let mut response = respond::json(StatusCode::OK, b"{}".to_vec());
                response.headers_mut().insert(respond::API_VERSION, respond::REGISTRY_2);
                return response;
            }
        };
        let challenge = client_auth::challenge(host, None, shown.err());
        let mut response = self.refuse("other", None, "challenged", &refusal, challenge);
        response.headers_mut().insert(respond::API_VERSION, respond::REGISTRY_2);
        response
    }

    async fn token<B>(
        &self,
        request: &Parts,
        shown: Result<Authorization, InvalidAuthorization>,
        body: B,
    ) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<BodyError>,
    {
        let (default, keys, now) = (&self.default_registry, self.keychain.keys(), self.clock.now());
        match token::issue(request, shown, body, default, keys, now).await {
            Ok(response) => {
                self.count("token", None, "issued");
                response
            }
            Err(refusal) => self.refuse("token", None, "bad_request", &refusal, None),
        }
    }
}

/// The value of the `outcome` label.
fn outcome(fault: Fault) -> &'static str {
    match fault {
        Fault::AuthenticationRequired => "challenged",
        Fault::Declined | Fault::Refused(_) | Fault::NotFound => "declined",
        Fault::Outage | Fault::Invalid | Fault::Ours => "failed",
    }
}

type Answered = Result<(Response<Body>, AnswerSource), pull::Error>;

impl Asked<'_> {
    /// The one range of a `GET`; with `If-Range` none, since nothing of ours could match it.
    fn range(&self) -> Option<&str> {
        if self.method != Method::GET || self.headers.contains_key(IF_RANGE) {
            return None;
        }
        self.headers.get(RANGE).and_then(|range| range.to_str().ok())
    }

    async fn answer(&self, thing: &Resource) -> Answered {
        match thing {
            Resource::Manifest(reference) => self.manifest(reference).await,
            // On the heap, so that the futures of small and frequent answers are small.
            Resource::Blob(digest) => Box::pin(self.blob(*digest)).await,
            Resource::Tags(query) => Box::pin(self.list("tags/list", Listing::Tags, query.clone())).await,
            Resource::Referrers(digest, query) => {
                let (path, listing) = (format!("referrers/{digest}"), Listing::Referrers(*digest));
                Box::pin(self.list(&path, listing, query.clone())).await
            }
        }
    }

    /// Marks an answer for which upstream could not be asked.
    fn warn(&self, response: &mut Response<Body>, stale: Option<&Stale>) {
        let Some(stale) = stale else { return };
        let age = stale.confirmed_at.age_at(self.handler.clock.now());
        let at = humantime::format_rfc3339_seconds(stale.confirmed_at.to_system_time());
        respond::warn(response, &format!("stale: last confirmed at {at}; {}", stale.error), age);
        let registry = self.repository.registry().as_str();
        self.handler.labels.with(registry, |label| {
            self.handler.metrics.stale_age.with_label_values(&[label]).observe(age.as_secs_f64());
        });
    }

    fn watch(&self, route: &'static str, source: AnswerSource) -> Watch {
        Watch::new(Arc::clone(&self.handler.metrics), route, source, self.since)
    }

    async fn manifest(&self, reference: &Reference) -> Answered {
        let repository = &self.repository;
        let step = if self.method == Method::HEAD { ManifestUse::Resolve } else { ManifestUse::Pull };
        let answer = self.handler.puller.manifest(&self.pull, reference, step).await?;
        let ManifestAnswer { digest, media_type, bytes, source, stale } = answer;
        let size = bytes.len() as u64;
        let part = part(self.range(), size);
        let mut response = content(media_type.as_str(), digest, repository.registry(), Some(size), part);
        self.warn(&mut response, stale.as_ref());
        let bytes = match part {
            Part::Whole => bytes,
            Part::Range { start, end } => bytes.slice(start as usize..end as usize),
            Part::Unsatisfiable => return Ok((response, source)),
        };
        if self.method == Method::GET {
            self.watch("manifest", source).saw(bytes.len());
            *response.body_mut() = Body::full(bytes);
        }
        Ok((response, source))
    }

    async fn blob(&self, digest: Digest) -> Answered {
        let (puller, repository) = (&self.handler.puller, &self.repository);
        let registry = repository.registry();
        if self.method == Method::HEAD {
            let BlobSize { size, source, stale } = puller.blob_size(&self.pull, digest).await?;
            let mut response = content(MediaType::OCTET_STREAM, digest, registry, size, Part::Whole);
            self.warn(&mut response, stale.as_ref());
            return Ok((response, source));
        }
        let range = self.range();
        let wanted = match range {
            None => BlobRange::Whole,
            Some(header) => match range::between(header) {
                Some((start, end)) => BlobRange::Bytes { start, end },
                None => BlobRange::OfUnknownSize,
            },
        };
        let mut answer = puller.blob(&self.pull, digest, wanted).await?;
        let part = answer.size.map_or(Part::Whole, |size| part(range, size));
        let mut response = content(MediaType::OCTET_STREAM, digest, registry, answer.size, part);
        self.warn(&mut response, answer.stale.as_ref());
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
        let page = self.handler.puller.list(&self.pull, &listing, query).await?;
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
        if let Some(filters) = &page.filters_applied {
            set(OCI_FILTERS, filters);
        }
        if let Some(next) = &page.next {
            let (registry, name) = (repository.registry(), repository.path());
            let target = match self.named {
                AddressedBy::Namespace => format!("/v2/{name}/{path}?{next}&ns={registry}"),
                AddressedBy::Path => format!("/v2/{registry}/{name}/{path}?{next}"),
                AddressedBy::Default => format!("/v2/{name}/{path}?{next}"),
            };
            set(LINK, &format!("<{target}>; rel=\"next\""));
        }
        *response.body_mut() = Body::full(page.bytes);
        Ok((response, AnswerSource::Passthrough))
    }
}
