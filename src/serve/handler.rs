//! One request: read, authenticated, pulled, answered.
//!
//! Promises: `pull` is asked nothing before host, path, ranges, gate and `Authorization` were read; every error is an
//! answer, counted once and told to the request log. The 200 of `/v2/` is neither: it asks for nothing.
//!
//! Deliberately not here: what a failure is answered with (`refusal`), and the bytes of an answer (`answer`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::ManifestListener;
use super::answer::RequestContext;
use super::client_auth::{self, Authorization, InvalidAuthorization, Login};
use super::gate::Gate;
use super::metrics::RouteLabel;
use super::observe::{Observer, Outcome};
use super::range;
use super::refusal::{Asker, ClientKind};
use super::request_log::{Arrival, Described};
use super::respond::{self, ErrorResponse};
use super::route::{self, AddressedBy, Resource, Route};
use super::token;
use crate::credentials::Keychain;
use crate::listener::{Body, BodyError, Hosts};
use crate::pull::{PullContext, Puller};
use crate::reference::Registry;
use crate::support::clock::Clock;
use crate::support::live::Live;

/// Answers requests. Shared by all connections.
pub(super) struct Handler {
    pub(super) puller: Puller,
    pub(super) keychain: Keychain,
    pub(super) hosts: Hosts,
    pub(super) default_registry: Registry,
    pub(super) gate: Live<Option<Gate>>,
    /// The registries to which a credential that arrives by path is sent.
    pub(super) path_logins: Live<HashSet<Registry>>,
    /// How long a client waits for the head of an answer.
    pub(super) answer_wait: Duration,
    pub(super) clock: Clock,
    pub(super) observer: Arc<Observer>,
    pub(super) manifests: ManifestListener,
}

/// A request whose `Host` and path have been read.
struct Addressed {
    host: String,
    client: ClientKind,
    route: Route,
    addressed_by: AddressedBy,
}

/// What a request was for, as far as metrics tell it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    route: RouteLabel,
    registry: Option<&'a Registry>,
}

impl Asked<'_> {
    /// Nothing that was found out.
    const UNKNOWN: Self = Self { route: RouteLabel::Other, registry: None };
}

/// Why a request is not answered as it was asked.
struct Rejected {
    outcome: Outcome,
    error: ErrorResponse,
}

impl Rejected {
    fn bad(error: ErrorResponse) -> Self {
        Self { outcome: Outcome::BadRequest, error }
    }
}

impl Handler {
    /// Answers one request; every error is an answer.
    pub(super) async fn answer<B>(&self, request: Request<B>, arrival: &Arrival) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<BodyError>,
    {
        let described = &arrival.described;
        let Addressed { host, client, route, addressed_by } = match self.read(&request) {
            Ok(read) => read,
            Err(Rejected { outcome, error }) => {
                return self.refuse(described, Asked::UNKNOWN, outcome, &error, None);
            }
        };
        let authorization = client_auth::read(request.headers(), &self.keychain, self.clock.now());
        let shows_unknown_token = matches!(authorization, Ok(Authorization::UnknownToken));
        let (parts, body) = request.into_parts();
        match route {
            Route::Ping => self.ping(described, &host, authorization),
            Route::Token => Box::pin(self.token(described, &parts, authorization, body)).await,
            Route::Content(repository, resource) => {
                let route = RouteLabel::from(&resource);
                let reference = resource.reference();
                described.asks_for(route, &repository, reference.as_ref().map(ToString::to_string));
                let challenge = |error: Option<&str>| {
                    client_auth::challenge(&host, Some((&repository, addressed_by)), error)
                };
                let caller = authorization.and_then(|shown| shown.caller(&repository, &self.keychain));
                let (caller, login) = match caller {
                    Ok(caller) => {
                        Login::of(caller, repository.registry(), addressed_by, &self.path_logins.current())
                    }
                    Err(invalid) => {
                        let error = ErrorResponse::of_invalid_authorization(invalid);
                        let asked = Asked { route, registry: Some(repository.registry()) };
                        let challenge = challenge(Some(invalid.code()));
                        return self.refuse(described, asked, Outcome::Challenged, &error, challenge);
                    }
                };
                let pull = PullContext::of_request(arrival.id, repository.clone(), reference, caller)
                    .answered_within(self.answer_wait);
                // A mirror client asks the registry itself.
                let pull = if client.has_fallback() { pull.without_patience() } else { pull };
                described.pulls(&pull);
                let context = RequestContext {
                    method: parts.method,
                    version: parts.version,
                    headers: parts.headers,
                    addressed_by,
                    pull,
                    since: arrival.since,
                    puller: &self.puller,
                    clock: &self.clock,
                    observer: &self.observer,
                    described,
                };
                let asker = Asker { client, shows_unknown_token };
                self.content(&context, &resource, asker, login, challenge).await
            }
        }
    }

    /// Whether the request is for us, and what it asks for.
    fn read<B: http_body::Body>(&self, request: &Request<B>) -> Result<Addressed, Rejected> {
        let host = self.hosts.check(request);
        let misdirected =
            |error| Rejected { outcome: Outcome::Misdirected, error: ErrorResponse::of_host(error) };
        let host = host.map_err(misdirected)?.to_owned();
        let (method, uri) = (request.method(), request.uri());
        let (route, addressed_by) = route::parse(method, uri, request.headers(), &self.default_registry)
            .map_err(|error| Rejected::bad(ErrorResponse::of_route(&error)))?;
        let posts_a_form = route == Route::Token && method == Method::POST;
        if !posts_a_form && !request.body().is_end_stream() {
            return Err(Rejected::bad(ErrorResponse::body_not_expected()));
        }
        if method == Method::GET
            && let Route::Content(_, Resource::Blob(_)) = route
        {
            range::check(request.headers())
                .map_err(|error| Rejected::bad(ErrorResponse::of_ranges(error)))?;
        }
        if route != Route::Token && !self.passes_gate(request.headers()) {
            return Err(Rejected { outcome: Outcome::Declined, error: ErrorResponse::of_gate() });
        }
        let client = ClientKind::of(request.headers(), uri);
        Ok(Addressed { host, client, route, addressed_by })
    }

    /// Whether the request carries the header that the operator requires, if any.
    fn passes_gate(&self, headers: &HeaderMap) -> bool {
        let gate = self.gate.current();
        gate.as_ref().as_ref().is_none_or(|gate| gate.admits(headers, self.keychain.keys()))
    }

    async fn content(
        &self,
        context: &RequestContext<'_>,
        resource: &Resource,
        asker: Asker,
        login: Login,
        challenge: impl FnOnce(Option<&str>) -> Option<HeaderValue>,
    ) -> Response<Body> {
        let repository = context.pull.repository();
        let (route, registry) = (RouteLabel::from(resource), repository.registry());
        match context.answer(resource).await {
            Ok((response, source)) => {
                if let Resource::Manifest(reference) = resource {
                    (self.manifests)(repository, reference);
                }
                self.observer.count_request(route, Some(registry), Outcome::Served(source));
                context.described.answered(Outcome::Served(source), None);
                response
            }
            Err(error) => {
                let mut answer = ErrorResponse::of_pull(&error, asker, &context.method, resource);
                if login == Login::Withheld {
                    answer.add_withheld_login(registry);
                }
                self.observer.count_error(error.reason());
                let challenge = challenge(answer.challenge_words().as_deref());
                let asked = Asked { route, registry: Some(registry) };
                self.refuse(context.described, asked, error.fault().into(), &answer, challenge)
            }
        }
    }

    /// `GET /v2/`: a challenge, for clients that have shown no credential. podman, skopeo, crane and Docker ask this
    /// first and take their way of authenticating from this answer alone; Docker (seen with 20.10) and crane (as its
    /// source has it) do so from a 401 only, and show no credential otherwise. To a client with a credential, or with
    /// the token of a client that has none, the answer is 200.
    fn ping(
        &self,
        described: &Described,
        host: &str,
        authorization: Result<Authorization, InvalidAuthorization>,
    ) -> Response<Body> {
        let (error, invalid) = match authorization {
            Err(invalid) => (ErrorResponse::of_invalid_authorization(invalid), Some(invalid)),
            Ok(Authorization::UnknownToken) => {
                let invalid = InvalidAuthorization::InvalidToken;
                (ErrorResponse::of_invalid_authorization(invalid), Some(invalid))
            }
            Ok(Authorization::Nothing) => (ErrorResponse::authentication_required(), None),
            Ok(Authorization::Basic(_) | Authorization::Token(_)) => {
                let mut response = respond::json(StatusCode::OK, b"{}".to_vec());
                response.headers_mut().insert(respond::API_VERSION, respond::REGISTRY_2);
                return response;
            }
        };
        let challenge = client_auth::challenge(host, None, invalid.map(InvalidAuthorization::code));
        let mut response = self.refuse(described, Asked::UNKNOWN, Outcome::Challenged, &error, challenge);
        response.headers_mut().insert(respond::API_VERSION, respond::REGISTRY_2);
        response
    }

    async fn token<B>(
        &self,
        described: &Described,
        request: &Parts,
        authorization: Result<Authorization, InvalidAuthorization>,
        body: B,
    ) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<BodyError>,
    {
        let (default, keys, now) = (&self.default_registry, self.keychain.keys(), self.clock.now());
        match token::issue(request, authorization, body, default, keys, now).await {
            Ok(response) => {
                self.observer.count_request(RouteLabel::Token, None, Outcome::Issued);
                described.answered(Outcome::Issued, None);
                response
            }
            Err(error) => {
                let asked = Asked { route: RouteLabel::Token, registry: None };
                self.refuse(described, asked, Outcome::BadRequest, &error, None)
            }
        }
    }

    fn refuse(
        &self,
        described: &Described,
        asked: Asked<'_>,
        outcome: Outcome,
        error: &ErrorResponse,
        challenge: Option<HeaderValue>,
    ) -> Response<Body> {
        self.observer.count_request(asked.route, asked.registry, outcome);
        described.answered(outcome, Some(&error.message));
        error.response(challenge)
    }
}
