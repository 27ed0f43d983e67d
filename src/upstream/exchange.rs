//! One request to one endpoint: within its limit, its final response classified.
//!
//! Promises: `HEAD` is a hint, and whatever it says but a plain yes is confirmed by `GET`. A range that is refused is
//! asked for as part of the whole.
//!
//! Deliberately not here: challenges and redirects (`authenticated`), other endpoints and retries (`attempts`).

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Response, StatusCode};

use crate::reference::Registry;
use crate::support::clock::Clock;
use crate::upstream::authenticated::AuthenticatedRequests;
use crate::upstream::body::ResponseBody;
use crate::upstream::endpoint::head_support::{Contradiction, HeadSupport};
use crate::upstream::endpoint::limits::Account;
use crate::upstream::endpoint::rate_limit::RateLimits;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::exchange_state::{ExchangeState, HeadVerdict, Plain, head_verdict, without_body};
use crate::upstream::metrics::RequestKind;
use crate::upstream::request::RegistryRequest;
use crate::upstream::response::{Answer, ResponseContext, may_refuse_range};
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::send::OutgoingRequest;

/// Asks endpoints.
pub(super) struct Exchange {
    pub(super) requests: AuthenticatedRequests,
    /// For probes, which show no credential.
    pub(super) http: HttpClient,
    pub(super) rate_limits: Arc<RateLimits>,
    pub(super) heads: HeadSupport,
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
    ) -> Result<Answer, Failure> {
        let mut state = ExchangeState::new(endpoint, request);
        self.requests.authorize_ahead(&mut state).await;
        let response = self.requests.final_response(&mut state).await;
        if matches!(state.plain, Plain::Asked { is_head_unclear: true })
            && let Some(opened) = Box::pin(self.opened_by_get(&state)).await
        {
            return Ok(opened);
        }
        let verdict = if request.method == Method::HEAD {
            head_verdict(&state, &response)
        } else {
            HeadVerdict::Stands
        };
        let host = endpoint.host_and_port();
        match verdict {
            HeadVerdict::Stands => {
                let is_yes = response.as_ref().is_ok_and(|response| response.status() == StatusCode::OK);
                if request.method == Method::HEAD && is_yes {
                    self.heads.record_use(host, request.resource.kind);
                }
                self.classify_or_ask_whole(state, response).await
            }
            HeadVerdict::ToBeConfirmed(contradiction) => {
                let confirmed = Box::pin(self.confirm(state)).await?;
                self.heads.record_contradiction(host, request.resource.kind, contradiction);
                Ok(confirmed)
            }
        }
    }

    async fn classify(
        &self,
        state: &ExchangeState<'_>,
        response: Result<Response<ResponseBody>, Failure>,
    ) -> Result<Answer, Failure> {
        self.context(state).classify(response?).await.map_err(|error| state.failure(error))
    }

    /// The same request, or the `GET` that takes its place at an endpoint whose `HEAD` is of no use, and where no retry
    /// could confirm a `HEAD` that fails.
    pub(super) fn effective<'r, 'a>(
        &self,
        endpoint: &Endpoint,
        request: &'r RegistryRequest<'a>,
        retries: u32,
    ) -> Cow<'r, RegistryRequest<'a>> {
        let useless = || self.heads.is_useless(endpoint.host_and_port(), request.resource.kind);
        if retries == 0 || useless() {
            Cow::Owned(request.confirming_if_head())
        } else {
            Cow::Borrowed(request)
        }
    }

    /// A `HEAD` failed, and the `GET` after it did not.
    pub(super) fn record_failed_head(&self, endpoint: &Endpoint, head: &RegistryRequest<'_>) {
        let host = endpoint.host_and_port();
        self.heads.record_contradiction(host, head.resource.kind, Contradiction::Passing);
    }

    /// Asks by `GET` what a `HEAD` did not say, with the tokens that the `HEAD` had.
    async fn confirm(&self, head: ExchangeState<'_>) -> Result<Answer, Failure> {
        let ExchangeState { endpoint, request, authorizations, plain, .. } = head;
        let get = request.confirming();
        let asking = async {
            let mut state =
                ExchangeState { authorizations, plain: plain.after(), ..ExchangeState::new(endpoint, &get) };
            let response = self.requests.final_response(&mut state).await;
            self.classify_or_ask_whole(state, response).await
        };
        self.within_limits(endpoint, &get, Box::pin(asking)).await
    }

    /// Asks an endpoint once its limit permits `request`, and records what came of that, whatever it is: others may
    /// wait for it. What asks is on the heap: one is within another, and each would be twice as large as what it holds.
    ///
    /// # Errors
    /// Those of `asking`, which is not begun where the limit does not permit it in time.
    pub(super) async fn within_limits<T>(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'_>,
        asking: Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + '_>>,
    ) -> Result<T, Failure> {
        let repository = request.repository;
        let account = Account {
            registry: repository.registry(),
            endpoint: endpoint.base_url(),
            principal: self.requests.principal(endpoint, request),
        };
        let class = request.class();
        if let Err(wait) = self.rate_limits.admit_in_time(account, repository, &class).await {
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
        response: Result<Response<ResponseBody>, Failure>,
    ) -> Result<Answer, Failure> {
        let whole = state.request.without_range();
        let refused = response.as_ref().is_ok_and(|response| may_refuse_range(response.status()));
        let (Some(whole), true) = (whole, refused) else { return self.classify(&state, response).await };
        Box::pin(self.ask_whole(state, whole, response)).await
    }

    async fn ask_whole(
        &self,
        mut state: ExchangeState<'_>,
        whole: RegistryRequest<'_>,
        response: Result<Response<ResponseBody>, Failure>,
    ) -> Result<Answer, Failure> {
        let response = match response {
            Ok(response) => Ok(without_body(response).await),
            Err(failure) => Err(failure),
        };
        let plain = state.plain.after();
        let mut again = ExchangeState { plain, ..ExchangeState::new(state.endpoint, &whole) };
        again.authorizations = std::mem::take(&mut state.authorizations);
        let whole_response = self.requests.final_response(&mut again).await;
        let refused = response.as_ref().ok().map(Response::status);
        // The same answer is one to the question, and has its document.
        let counts = |whole: &Response<ResponseBody>| {
            whole.status() == StatusCode::OK || Some(whole.status()) == refused
        };
        if whole_response.as_ref().is_ok_and(counts) {
            return self.classify(&again, whole_response).await;
        }
        state.authorizations = std::mem::take(&mut again.authorizations);
        self.classify(&state, response).await
    }

    /// The answer to a plain `GET`, if that opens what a plain `HEAD` did not. A challenge is not answered: that was
    /// done.
    async fn opened_by_get(&self, head: &ExchangeState<'_>) -> Option<Answer> {
        let (endpoint, request) = (head.endpoint, head.request);
        let get = request.confirming();
        let asking = async {
            let plain = Plain::Asked { is_head_unclear: false };
            let mut state = ExchangeState { plain, ..ExchangeState::new(endpoint, &get) };
            let response = self.requests.response_to_plain(&mut state).await;
            self.classify(&state, response).await
        };
        let opened = self.within_limits(endpoint, &get, Box::pin(asking)).await.ok()?;
        self.requests.record_open(endpoint, request.repository);
        self.heads.record_contradiction(
            endpoint.host_and_port(),
            request.resource.kind,
            Contradiction::Lasting,
        );
        Some(opened)
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

    fn context<'a>(&'a self, state: &ExchangeState<'a>) -> ResponseContext<'a> {
        let now = self.clock.now();
        ResponseContext {
            host: state.host(),
            endpoint: state.endpoint.id().clone(),
            from_endpoint: state.is_at_endpoint(),
            is_plain_http: state.url.scheme() == "http",
            kind: state.request.resource.kind,
            presented: self.requests.presented(state),
            proof: self.requests.proof(state, now),
            by_get: state.request.method == Method::GET,
            now,
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "exchange_challenge_tests.rs"]
mod challenge_tests;

#[cfg(test)]
#[path = "exchange_renewal_tests.rs"]
mod renewal_tests;
