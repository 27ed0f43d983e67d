//! One request to one endpoint: the challenge is answered, redirects are followed, the final response is classified.
//!
//! Promises: a token is sent to the origin (scheme, host and port) whose challenge it answers and to no other. A
//! redirect to another origin starts without any, and a challenge there is answered anonymously. Credentials, and the
//! extra headers of a docker config, are for the endpoint's own origin. `HEAD` is a hint: whatever it says but a plain
//! yes is confirmed by `GET`.
//!
//! Deliberately not here: other endpoints and retries (`attempts`).

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::credentials::PresentedCredential;
use crate::reference::{Principal, Registry};
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::upstream::auth::authenticator::{AuthRequest, Authenticator, OriginAuthorization, Unanswered};
use crate::upstream::auth::challenge;
use crate::upstream::body::{ResponseBody, drain};
use crate::upstream::endpoint::head_support::{Contradiction, HeadSupport};
use crate::upstream::endpoint::rate_limit::{Account, RateLimits};
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::exchange_state::{
    ExchangeState, HeadVerdict, Plain, PlainAttempt, head_verdict, without_body,
};
use crate::upstream::metrics::RequestKind;
use crate::upstream::redirect::{Redirect, RedirectError};
use crate::upstream::request::RegistryRequest;
use crate::upstream::response::{RegistryResponse, ResponseContext, may_refuse_range};
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::send::OutgoingRequest;

/// Sends requests to endpoints, authenticated.
pub(super) struct Exchange {
    pub(super) http: HttpClient,
    pub(super) authenticator: Authenticator,
    pub(super) rate_limits: Arc<RateLimits>,
    pub(super) heads: HeadSupport,
    pub(super) configured: Live<Configured>,
    /// What is presented where the credential of a request must not be.
    pub(super) anonymous: PresentedCredential,
    pub(super) clock: Clock,
}

impl Exchange {
    /// Sends `request` to `endpoint`.
    ///
    /// # Errors
    /// Any response but 200 and 206, and every failure on the way there.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'_>,
    ) -> Result<RegistryResponse, Failure> {
        let mut state = ExchangeState::new(endpoint, request);
        match self.authenticator.expected(self.auth_request(&state)).await {
            Ok(None) => {}
            Ok(Some(authorization)) => drop(state.authorizations.insert(endpoint.origin(), authorization)),
            Err(Unanswered { challenge, error }) => {
                let attempt = PlainAttempt { challenge, refused: None, otherwise: Err(error) };
                state.plain = Plain::Asking(Box::new(attempt));
            }
        }
        let answer = self.final_response(&mut state).await;
        if matches!(state.plain, Plain::Asked { is_head_unclear: true })
            && let Some(opened) = Box::pin(self.opened_by_get(&state)).await
        {
            return Ok(opened);
        }
        let verdict =
            if request.method == Method::HEAD { head_verdict(&state, &answer) } else { HeadVerdict::Stands };
        let host = endpoint.host_and_port();
        match verdict {
            HeadVerdict::Stands => {
                let is_yes = answer.as_ref().is_ok_and(|response| response.status() == StatusCode::OK);
                if request.method == Method::HEAD && is_yes {
                    self.heads.record_use(host, request.kind);
                }
                self.classify_or_ask_whole(state, answer).await
            }
            HeadVerdict::ToBeConfirmed(contradiction) => {
                let confirmed = Box::pin(self.confirm(state)).await?;
                self.heads.record_contradiction(host, request.kind, contradiction);
                Ok(confirmed)
            }
        }
    }

    async fn classify(
        &self,
        state: &ExchangeState<'_>,
        answer: Result<Response<ResponseBody>, Error>,
    ) -> Result<RegistryResponse, Failure> {
        let party = match state {
            ExchangeState { unanswerable: true, .. } => Party::TokenServer,
            state if state.is_at_endpoint() => Party::Endpoint,
            _ => Party::RedirectTarget,
        };
        let classified = match answer {
            Ok(response) => self.context(state).classify(response).await,
            Err(error) => Err(error),
        };
        classified.map_err(|error| Failure::new(error, party))
    }

    /// The same request, or the `GET` that takes its place at an endpoint whose `HEAD` is of no use, and where no retry
    /// could confirm a `HEAD` that fails.
    pub(super) fn effective<'r, 'a>(
        &self,
        endpoint: &Endpoint,
        request: &'r RegistryRequest<'a>,
        retries: u32,
    ) -> Cow<'r, RegistryRequest<'a>> {
        let useless = || self.heads.is_useless(endpoint.host_and_port(), request.kind);
        if retries == 0 || useless() {
            Cow::Owned(request.confirming_if_head())
        } else {
            Cow::Borrowed(request)
        }
    }

    /// A `HEAD` failed, and the `GET` after it did not.
    pub(super) fn record_failed_head(&self, endpoint: &Endpoint, head: &RegistryRequest<'_>) {
        let host = endpoint.host_and_port();
        self.heads.record_contradiction(host, head.kind, Contradiction::Passing);
    }

    /// Asks by `GET` what a `HEAD` did not say, with the tokens that the `HEAD` had.
    async fn confirm(&self, head: ExchangeState<'_>) -> Result<RegistryResponse, Failure> {
        let ExchangeState { endpoint, request, authorizations, plain, .. } = head;
        let get = request.confirming();
        let asking = async {
            let mut state =
                ExchangeState { authorizations, plain: plain.after(), ..ExchangeState::new(endpoint, &get) };
            let answer = self.final_response(&mut state).await;
            self.classify_or_ask_whole(state, answer).await
        };
        self.within_limits(endpoint, &get, Box::pin(asking)).await
    }

    /// Asks an endpoint once its limit permits `request`, and records what came of that, whatever it is: others may
    /// wait for it. What asks is on the heap: one is within another, and each would be twice as large as what it holds.
    ///
    /// # Errors
    /// Those of `asking`, which is not begun where the limit does not permit it in time.
    pub(super) async fn within_limits(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'_>,
        asking: Pin<Box<dyn Future<Output = Result<RegistryResponse, Failure>> + Send + '_>>,
    ) -> Result<RegistryResponse, Failure> {
        let repository = request.repository;
        let account = Account {
            registry: repository.registry(),
            endpoint: endpoint.base_url(),
            principal: self.principal(endpoint, request),
        };
        let class = (request.kind, request.method.clone());
        if let Some(wait) = self.rate_limits.wait_until_held_back_for(account, repository, &class).await {
            let error =
                Error::RateLimited { host: endpoint.host_and_port().to_owned(), retry_after: Some(wait) };
            return Err(Failure { is_recorded: true, ..Failure::new(error, Party::Endpoint) });
        }
        let result = asking.await;
        self.rate_limits.record_result(account, repository, &class, result)
    }

    /// What the answer to a request means; one for a range that is refused is sent once more for the whole, from the
    /// endpoint on: some object stores refuse every range, and not only by 416. Who asked skips what comes before, or
    /// drops the rest.
    async fn classify_or_ask_whole(
        &self,
        state: ExchangeState<'_>,
        answer: Result<Response<ResponseBody>, Error>,
    ) -> Result<RegistryResponse, Failure> {
        let whole = state.request.without_range();
        let refused = answer.as_ref().is_ok_and(|response| may_refuse_range(response.status()));
        let (Some(whole), true) = (whole, refused) else { return self.classify(&state, answer).await };
        Box::pin(self.ask_whole(state, whole, answer)).await
    }

    async fn ask_whole(
        &self,
        mut state: ExchangeState<'_>,
        whole: RegistryRequest<'_>,
        answer: Result<Response<ResponseBody>, Error>,
    ) -> Result<RegistryResponse, Failure> {
        let answer = match answer {
            Ok(response) => Ok(without_body(response).await),
            Err(error) => Err(error),
        };
        let plain = state.plain.after();
        let mut again = ExchangeState { plain, ..ExchangeState::new(state.endpoint, &whole) };
        again.authorizations = std::mem::take(&mut state.authorizations);
        let whole_answer = self.final_response(&mut again).await;
        if whole_answer.as_ref().is_ok_and(|response| response.status() == StatusCode::OK) {
            return self.classify(&again, whole_answer).await;
        }
        state.authorizations = std::mem::take(&mut again.authorizations);
        self.classify(&state, answer).await
    }

    /// The answer to a plain `GET`, if that opens what a plain `HEAD` did not. A challenge is not answered: that was
    /// done.
    async fn opened_by_get(&self, head: &ExchangeState<'_>) -> Option<RegistryResponse> {
        let (endpoint, request) = (head.endpoint, head.request);
        let get = request.confirming();
        let asking = async {
            let plain = Plain::Asked { is_head_unclear: false };
            let mut state = ExchangeState { plain, ..ExchangeState::new(endpoint, &get) };
            let answer = loop {
                match self.send_once(&state).await {
                    Ok(response) if is_redirect(response.status()) => {
                        if let Err(error) = self.follow_redirect(&mut state, response).await {
                            break Err(error);
                        }
                    }
                    answer => break answer,
                }
            };
            self.classify(&state, answer).await
        };
        let opened = self.within_limits(endpoint, &get, Box::pin(asking)).await.ok()?;
        self.authenticator.record_open(&head.endpoint.version_url(), request.repository);
        self.heads.record_contradiction(endpoint.host_and_port(), request.kind, Contradiction::Lasting);
        Some(opened)
    }

    /// The first response that is neither a challenge that can be answered nor a redirect.
    async fn final_response(&self, state: &mut ExchangeState<'_>) -> Result<Response<ResponseBody>, Error> {
        loop {
            let response = self.send_once(state).await?;
            if let Some(attempt) = state.plain.take_attempt()
                && !self.note_plain_answer(state, &attempt, &response)
            {
                let is_head_unclear = state.request.method == Method::HEAD
                    && challenge::parse(response.headers(), state.request.repository).is_none();
                state.plain = Plain::Asked { is_head_unclear };
                drain(response.into_body()).await;
                let PlainAttempt { refused, otherwise, .. } = *attempt;
                state.authorizations.extend(refused.map(|refused| (state.endpoint.origin(), refused)));
                state.unanswerable = otherwise.is_err();
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
                status @ (400 | 401)
                    if state
                        .authorization()
                        .map_or(status == 401, |sent| sent.is_renewable_after(status)) =>
                {
                    let answered = self.authenticate(state, response).await;
                    state.unanswerable = answered.is_err();
                    answered?;
                }
                401 | 403 if state.may_ask_plainly() => state.ask_plainly(Ok(without_body(response).await)),
                _ if is_redirect(response.status()) => self.follow_redirect(state, response).await?,
                _ => return Ok(response),
            }
        }
    }

    /// Whether an endpoint answers at all, without a credential.
    ///
    /// # Errors
    /// It cannot be reached, or answers 5xx.
    pub(super) async fn probe(&self, registry: &Registry, endpoint: &Endpoint) -> Result<(), Error> {
        let url = endpoint.version_url();
        let request = OutgoingRequest::get(registry, endpoint.trust, &url);
        let response = self.http.send(RequestKind::Probe, request).await?;
        match response.status().as_u16() {
            status @ 500.. => Err(Error::ServerError { host: authority(&url), status, retry_after: None }),
            _ => Ok(()),
        }
    }

    /// As whom `request` is sent to `endpoint`.
    pub(super) fn principal(&self, endpoint: &Endpoint, request: &RegistryRequest<'_>) -> Principal {
        self.credential_for(endpoint, request).unwrap_or(&self.anonymous).principal
    }

    /// The credential of a request, if the endpoint may get it.
    fn credential_for<'a>(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'a>,
    ) -> Option<&'a PresentedCredential> {
        Some(&request.auth.presented).filter(|presented| endpoint.accepts(presented.principal.kind))
    }

    /// What is presented at the current URL.
    fn presented<'a>(&'a self, state: &ExchangeState<'a>) -> &'a PresentedCredential {
        let credential = self.credential_for(state.endpoint, state.request);
        credential.filter(|_| state.is_at_endpoint()).unwrap_or(&self.anonymous)
    }

    async fn send_once(&self, state: &ExchangeState<'_>) -> Result<Response<ResponseBody>, Error> {
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
        let response = self.http.send(request.kind, outgoing).await?;
        if state.is_at_endpoint() && response.status() != StatusCode::UNAUTHORIZED {
            let (endpoint, principal) = (state.endpoint.base_url(), presented.principal);
            self.rate_limits.record_headers(Account { registry, endpoint, principal }, response.headers());
        }
        Ok(response)
    }

    async fn authenticate(
        &self,
        state: &mut ExchangeState<'_>,
        response: Response<ResponseBody>,
    ) -> Result<(), Error> {
        let challenge = challenge::parse(response.headers(), state.request.repository);
        drain(response.into_body()).await;
        let request = self.auth_request(state);
        match self.authenticator.answer(challenge, state.authorization(), request).await {
            Ok(authorization) => drop(state.authorizations.insert(state.url.origin(), authorization)),
            Err(error) if state.may_ask_plainly() => state.ask_plainly(Err(error)),
            Err(error) if state.is_at_endpoint() => return Err(error),
            Err(error) => return Err(error.after_redirect_of(state.endpoint.host_and_port())),
        }
        Ok(())
    }

    /// Records what an endpoint that was asked without authorization answers; whether that opens the repository, or
    /// asks for another authorization than the one that failed.
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
                let answered = challenge::parse(response.headers(), repository).is_some_and(is_new);
                if !answered {
                    self.authenticator.record_challenged(&state.url, repository);
                }
                answered
            }
            _ => false,
        }
    }

    async fn follow_redirect(
        &self,
        state: &mut ExchangeState<'_>,
        response: Response<ResponseBody>,
    ) -> Result<(), Error> {
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
            is_blob: request.kind == RequestKind::Blob,
        };
        let next = redirect.target(|target| configured.config.trusts_redirect(registry, target));
        let invalid =
            |why: RedirectError| Error::Invalid { host: authority(&state.url), why: why.to_string() };
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
            age_max: state.request.auth.proof,
        }
    }

    fn context<'a>(&'a self, state: &ExchangeState<'a>) -> ResponseContext<'a> {
        // The extra headers of a docker config may be what opened the repository.
        let credential = self.credential_for(state.endpoint, state.request);
        let bare = credential.is_none_or(|presented| presented.headers.is_empty());
        ResponseContext {
            host: state.host(),
            endpoint: state.endpoint.id().clone(),
            from_endpoint: state.is_at_endpoint(),
            is_plain_http: state.url.scheme() == "http",
            kind: state.request.kind,
            presented: self.presented(state),
            proof: state.proof(bare, self.clock.now()),
            by_get: state.request.method == Method::GET,
            now: self.clock.now(),
        }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "exchange_challenge_tests.rs"]
mod challenge_tests;
