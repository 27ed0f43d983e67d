//! Requests to one endpoint until their final response: challenges are answered, redirects are followed.
//!
//! Promises: a token is sent to the origin (scheme, host and port) whose challenge it answers and to no other. A
//! redirect to another origin starts without any, and a challenge there is answered anonymously. Credentials, and the
//! extra headers of a docker config, are for the endpoint's own origin.
//!
//! Deliberately not here: what a response means, and what follows one to `HEAD` (`exchange`).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::credentials::PresentedCredential;
use crate::reference::{Principal, Repository};
use crate::support::clock::Timestamp;
use crate::support::live::Live;
use crate::upstream::auth::authenticator::{AuthRequest, Authenticator, OriginAuthorization, Unanswered};
use crate::upstream::auth::challenge::{self, Challenge};
use crate::upstream::body::{ResponseBody, drain};
use crate::upstream::endpoint::limits::Account;
use crate::upstream::endpoint::rate_limit::RateLimits;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::exchange_state::{ExchangeState, Plain, PlainAttempt, without_body};
use crate::upstream::metrics::RequestKind;
use crate::upstream::proved_right::ProvedRight;
use crate::upstream::redirect::{Redirect, RedirectError};
use crate::upstream::request::RegistryRequest;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::send::OutgoingRequest;

/// Sends requests with what each origin may be shown.
pub(super) struct AuthenticatedRequests {
    pub(super) http: HttpClient,
    pub(super) authenticator: Authenticator,
    pub(super) rate_limits: Arc<RateLimits>,
    pub(super) configured: Live<Configured>,
    /// What is presented where the credential of a request must not be.
    pub(super) anonymous: PresentedCredential,
}

impl AuthenticatedRequests {
    /// Authorizes a request by what its endpoint asked for before, so that it is not challenged once more. If that
    /// cannot be had, the request goes without: the endpoint may not ask for it for this repository.
    pub(super) async fn authorize_ahead(&self, state: &mut ExchangeState<'_>) {
        match self.authenticator.expected(self.auth_request(state)).await {
            Ok(None) => {}
            Ok(Some(authorization)) => {
                drop(state.authorizations.insert(state.endpoint.origin(), authorization))
            }
            Err(Unanswered { challenge, error }) => {
                let otherwise = Err(Failure::new(error, Party::TokenServer));
                let attempt = PlainAttempt { challenge, refused: None, otherwise };
                state.plain = Plain::Asking(Box::new(attempt));
            }
        }
    }

    /// The first response that is neither a challenge that can be answered nor a redirect.
    ///
    /// # Errors
    /// No response came, or what came could not be followed; with whose failure that is.
    pub(super) async fn final_response(
        &self,
        state: &mut ExchangeState<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        loop {
            let response = self.send_once(state).await?;
            if let Some(attempt) = state.plain.take_attempt()
                && !self.note_plain_answer(state, &attempt, &response)
            {
                let is_head_unclear = state.request.method == Method::HEAD
                    && challenge::parse(response.headers(), &state.url, state.request.repository).is_none();
                state.plain = Plain::Asked { is_head_unclear };
                drain(response.into_body()).await;
                let PlainAttempt { refused, otherwise, .. } = *attempt;
                state.authorizations.extend(refused.map(|refused| (state.endpoint.origin(), refused)));
                return otherwise;
            }
            match response.status().as_u16() {
                // Some registries challenge a `GET` only; what a redirect target says without a challenge is about its
                // signed URL.
                401 if (state.request.method == Method::HEAD || !state.is_at_endpoint())
                    && state.authorization().is_none()
                    && !response.headers().contains_key(WWW_AUTHENTICATE) =>
                {
                    return Ok(response);
                }
                400 | 401 | 403 if is_answered_by_a_new_one(state, &response) => {
                    let refused = without_body(response).await;
                    match self.authenticate(state, &refused).await {
                        Ok(()) => {}
                        // It is the registry's word about who asks, which nothing but a new token or a login that is
                        // refused goes beyond. A 400 or 401 may mean that the token is too old.
                        Err(failure) if is_forbidden(&refused) && !is_refused(&failure) => {
                            state.note_no_better_authorization();
                            if !state.may_ask_plainly() {
                                return Ok(refused);
                            }
                            state.ask_plainly(Ok(refused));
                        }
                        Err(failure) if state.may_ask_plainly() => state.ask_plainly(Err(failure)),
                        Err(failure) => return Err(failure),
                    }
                }
                401 | 403 if state.may_ask_plainly() => state.ask_plainly(Ok(without_body(response).await)),
                _ if is_redirect(response.status()) => self.follow_redirect(state, response).await?,
                _ => return Ok(response),
            }
        }
    }

    /// The first response that is no redirect, to a request without authorization; a challenge is not answered.
    ///
    /// # Errors
    /// As those of [`Self::final_response`].
    pub(super) async fn response_to_plain(
        &self,
        state: &mut ExchangeState<'_>,
    ) -> Result<Response<ResponseBody>, Failure> {
        loop {
            let response = self.send_once(state).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            self.follow_redirect(state, response).await?;
        }
    }

    /// Records that an endpoint, which asks for authorization elsewhere, opened a repository without any.
    pub(super) fn record_open(&self, endpoint: &Endpoint, repository: &Repository) {
        self.authenticator.record_open(&endpoint.version_url(), repository);
    }

    /// As whom `request` is sent to `endpoint`.
    pub(super) fn principal(&self, endpoint: &Endpoint, request: &RegistryRequest<'_>) -> Principal {
        self.credential_for(endpoint, request).unwrap_or(&self.anonymous).principal
    }

    /// What is presented at the current URL.
    pub(super) fn presented<'a>(&'a self, state: &ExchangeState<'a>) -> &'a PresentedCredential {
        let credential = self.credential_for(state.endpoint, state.request);
        credential.filter(|_| state.is_at_endpoint()).unwrap_or(&self.anonymous)
    }

    /// The right that a success proves: everyone's if the request had nothing that could be a credential.
    pub(super) fn proof(&self, state: &ExchangeState<'_>, now: Timestamp) -> ProvedRight {
        // The extra headers of a docker config may be what opened the repository.
        let credential = self.credential_for(state.endpoint, state.request);
        let bare = credential.is_none_or(|presented| presented.headers.is_empty());
        state.proof(bare, now)
    }

    /// The credential of a request, if the endpoint may get it.
    fn credential_for<'a>(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'a>,
    ) -> Option<&'a PresentedCredential> {
        Some(&request.auth.presented).filter(|presented| endpoint.accepts(presented.principal.kind))
    }

    async fn send_once(&self, state: &ExchangeState<'_>) -> Result<Response<ResponseBody>, Failure> {
        let (request, presented) = (state.request, self.presented(state));
        let registry = request.repository.registry();
        let authorization = state.authorization().map(OriginAuthorization::header_value);
        let outgoing = OutgoingRequest {
            registry,
            trust: state.trust,
            method: request.method.clone(),
            url: &state.url,
            headers: request.http_headers(authorization, &presented.headers),
            body: Bytes::new(),
            is_for_token: false,
        };
        let sent = self.http.send(request.resource.kind, outgoing).await;
        let response = sent.map_err(|error| state.failure(error))?;
        if state.is_at_endpoint() && response.status() != StatusCode::UNAUTHORIZED {
            let (endpoint, principal) = (state.endpoint.base_url(), presented.principal);
            self.rate_limits.record_headers(Account { registry, endpoint, principal }, response.headers());
        }
        Ok(response)
    }

    async fn authenticate(
        &self,
        state: &mut ExchangeState<'_>,
        refused: &Response<ResponseBody>,
    ) -> Result<(), Failure> {
        let challenge = challenge::parse(refused.headers(), &state.url, state.request.repository);
        let request = self.auth_request(state);
        let failure = |error| Failure::new(error, Party::TokenServer);
        match self.authenticator.answer(challenge, state.authorization(), request).await {
            Ok(authorization) => drop(state.authorizations.insert(state.url.origin(), authorization)),
            Err(error) if state.is_at_endpoint() => return Err(failure(error)),
            Err(error) => return Err(failure(error.after_redirect_of(state.endpoint.host_and_port()))),
        }
        Ok(())
    }

    /// Records what an endpoint that was asked without authorization answers; whether that counts: it opens the
    /// repository, asks for another authorization than the one that failed, or says that the endpoint itself is in
    /// trouble, of which a token server that refused a login knows nothing.
    fn note_plain_answer(
        &self,
        state: &ExchangeState<'_>,
        attempt: &PlainAttempt,
        response: &Response<ResponseBody>,
    ) -> bool {
        let repository = state.request.repository;
        match response.status().as_u16() {
            200..=399 => {
                self.authenticator.record_open(&state.url, repository);
                true
            }
            401 => {
                let is_new = |challenge| challenge != attempt.challenge;
                let challenge = challenge::parse(response.headers(), &state.url, repository);
                let answered = challenge.is_some_and(is_new);
                if !answered {
                    self.authenticator.record_challenged(&state.url, repository);
                }
                answered
            }
            // Not 429: the limit of those who show nothing is not the limit of this login.
            408 | 500..=599 => attempt.otherwise.is_err(),
            _ => false,
        }
    }

    async fn follow_redirect(
        &self,
        state: &mut ExchangeState<'_>,
        response: Response<ResponseBody>,
    ) -> Result<(), Failure> {
        state.redirects += 1;
        let (endpoint, request) = (state.endpoint, state.request);
        let configured = self.configured.current();
        let registry = request.repository.registry();
        let redirect = Redirect {
            from: &state.url,
            location: response.headers().get(LOCATION).map(HeaderValue::as_bytes),
            count: state.redirects,
            home: endpoint.host_and_port().to_owned(),
            home_trust: endpoint.trust,
            is_from_tls: endpoint.base_url().starts_with("https:"),
            is_blob: request.resource.kind == RequestKind::Blob,
        };
        let next = redirect.target(|target| configured.config.trusts_redirect(registry, target));
        let invalid = |why: RedirectError| {
            state.failure(Error::Invalid { host: authority(&state.url), why: why.to_string() })
        };
        (state.url, state.trust) = next.map_err(invalid)?;
        drain(response.into_body()).await;
        Ok(())
    }

    fn auth_request<'a>(&'a self, state: &'a ExchangeState<'a>) -> AuthRequest<'a> {
        AuthRequest {
            repository: state.request.repository,
            url: &state.url,
            trust: state.trust,
            presented: self.presented(state),
            token_age_max: state.request.auth.need.token_age_max(),
            begun: state.request.begun,
        }
    }
}

/// Whether a new authorization may fare better than what was sent. Some registries (IBM's, Keppel) refuse a token that
/// does not suffice by 403 with a challenge, as RFC 6750 has it: that is a 401. A 403 without one is final.
fn is_answered_by_a_new_one(state: &ExchangeState<'_>, response: &Response<ResponseBody>) -> bool {
    let status = response.status().as_u16();
    let Some(sent) = state.authorization() else { return status == 401 };
    let names_token_server = || {
        let challenge = challenge::parse(response.headers(), &state.url, state.request.repository);
        matches!(challenge, Some(Challenge::Bearer(_)))
    };
    match status {
        403 => sent.is_renewable_after(401) && names_token_server(),
        status => sent.is_renewable_after(status),
    }
}

fn is_forbidden(response: &Response<ResponseBody>) -> bool {
    response.status() == StatusCode::FORBIDDEN
}

/// Whether a login was refused.
fn is_refused(failure: &Failure) -> bool {
    matches!(failure.error, Error::Refused { .. })
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
