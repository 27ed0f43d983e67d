//! How far a request to one endpoint has come: what it was authorized with, what was refused, where it was redirected
//! to.

use std::collections::HashMap;
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, Empty};
use url::{Origin, Url};

use crate::support::clock::Timestamp;
use crate::upstream::auth::authenticator::OriginAuthorization;
use crate::upstream::auth::challenge::Challenge;
use crate::upstream::body::{ResponseBody, drain};
use crate::upstream::endpoint::head_support::Contradiction;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{Error, Failure, Party};
use crate::upstream::proved_right::ProvedRight;
use crate::upstream::request::{RegistryRequest, Resource};
use crate::upstream::response::is_outage_status;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;

/// How far a request has come: the endpoint at first, then one redirect target after the other.
pub(super) struct ExchangeState<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) request: &'a RegistryRequest<'a>,
    pub(super) url: Url,
    pub(super) trust: HostTrust,
    pub(super) redirects: usize,
    pub(super) authorizations: HashMap<Origin, OriginAuthorization>,
    pub(super) plain: Plain,
}

/// Whether the endpoint is asked without the authorization that it is expected to want, which happens once.
pub(super) enum Plain {
    /// It was not.
    NotAsked,
    /// The next response answers that.
    Asking(Box<PlainAttempt>),
    /// It was.
    Asked {
        /// Whether a `HEAD` was not opened, and not challenged either: a plain `GET` may be.
        is_head_unclear: bool,
    },
}

impl Plain {
    /// For a request that is sent after this one.
    pub(super) fn after(&self) -> Self {
        match self {
            Self::NotAsked => Self::NotAsked,
            Self::Asking(_) | Self::Asked { .. } => Self::Asked { is_head_unclear: false },
        }
    }

    /// What the response that has come answers, if it answers a plain request.
    pub(super) fn take_attempt(&mut self) -> Option<Box<PlainAttempt>> {
        let after = self.after();
        match std::mem::replace(self, after) {
            Self::Asking(attempt) => Some(attempt),
            before => {
                *self = before;
                None
            }
        }
    }
}

/// Why an endpoint is asked without authorization although it gave a challenge before: that challenge may not hold for
/// this repository, which may be public, or not any more.
pub(super) struct PlainAttempt {
    pub(super) challenge: Challenge,
    /// What it refused, if that could be had.
    pub(super) refused: Option<OriginAuthorization>,
    /// What the request comes to unless the endpoint opens the repository, or gives another challenge.
    pub(super) otherwise: Result<Response<ResponseBody>, Failure>,
}

impl<'a> ExchangeState<'a> {
    pub(super) fn new(endpoint: &'a Endpoint, request: &'a RegistryRequest<'a>) -> Self {
        let Resource { path, query, .. } = &request.resource;
        let url = endpoint.resource_url(request.repository, path, query.as_deref());
        Self {
            endpoint,
            request,
            url,
            trust: endpoint.trust,
            redirects: 0,
            authorizations: HashMap::new(),
            plain: Plain::NotAsked,
        }
    }

    pub(super) fn is_at_endpoint(&self) -> bool {
        self.redirects == 0 || self.url.origin() == self.endpoint.origin()
    }

    /// A failure of the host that is asked now.
    pub(super) fn failure(&self, error: Error) -> Failure {
        let party = if self.is_at_endpoint() { Party::Endpoint } else { Party::RedirectTarget };
        Failure::new(error, party)
    }

    /// `host:port` that is asked now, for errors.
    pub(super) fn host(&self) -> String {
        if self.redirects == 0 { self.endpoint.host_and_port().to_owned() } else { authority(&self.url) }
    }

    pub(super) fn authorization(&self) -> Option<&OriginAuthorization> {
        // Mostly there is none, and an origin is made of strings.
        if self.authorizations.is_empty() { None } else { self.authorizations.get(&self.url.origin()) }
    }

    /// Notes that none better than the authorization that was sent can be had for this exchange: what is asked again
    /// with it, as to confirm a `HEAD` by `GET`, does not wait for another one once more.
    pub(super) fn note_no_better_authorization(&mut self) {
        if let Some(sent) = self.authorizations.get_mut(&self.url.origin()) {
            sent.note_no_better();
        }
    }

    /// What a success proves at `now`; `bare` if no extra header may have been a credential.
    pub(super) fn proof(&self, bare: bool, now: Timestamp) -> ProvedRight {
        if bare && self.authorizations.is_empty() {
            return ProvedRight::Public;
        }
        let authorization = self.authorizations.get(&self.endpoint.origin());
        ProvedRight::Principal { token_age: authorization.map_or(Duration::ZERO, |a| a.token_age(now)) }
    }

    /// Whether the endpoint has not been asked without authorization, and did not ask for what it got.
    pub(super) fn may_ask_plainly(&self) -> bool {
        let expected = self.authorization().is_some_and(OriginAuthorization::is_expected);
        expected && self.is_at_endpoint() && matches!(self.plain, Plain::NotAsked)
    }

    /// The next request goes without the expected authorization.
    pub(super) fn ask_plainly(&mut self, otherwise: Result<Response<ResponseBody>, Failure>) {
        if let Some(refused) = self.authorizations.remove(&self.endpoint.origin()) {
            let challenge = refused.challenge().clone();
            let attempt = PlainAttempt { challenge, refused: Some(refused), otherwise };
            self.plain = Plain::Asking(Box::new(attempt));
        }
    }
}

/// Whether the answer to a `HEAD` counts.
pub(super) enum HeadVerdict {
    /// It does.
    Stands,
    /// A `GET` has to confirm it: registries, and the object stores behind them, refuse `HEAD` where `GET` works. With
    /// what it means if `GET` does.
    ToBeConfirmed(Contradiction),
}

/// What becomes of the answer to a `HEAD`.
pub(super) fn head_verdict(
    state: &ExchangeState<'_>,
    answer: &Result<Response<ResponseBody>, Failure>,
) -> HeadVerdict {
    match answer {
        Ok(response) => match response.status().as_u16() {
            200 if state.request.is_confirmed_by(response.headers()) => HeadVerdict::Stands,
            405 | 501 => HeadVerdict::ToBeConfirmed(Contradiction::Lasting),
            // A limit is not lifted by one more request, a login that was refused is not repeated, and what may be a
            // bad moment is repeated after a pause (`attempts`), by GET.
            status if status == 429 || is_outage_status(status) => HeadVerdict::Stands,
            401 if state.authorization().is_some_and(OriginAuthorization::is_login) => HeadVerdict::Stands,
            // Also a firewall that refuses one request, or a cache that leaves out the digest.
            _ => HeadVerdict::ToBeConfirmed(Contradiction::Passing),
        },
        // That a challenge could not be answered says nothing of `HEAD`.
        Err(Failure { party: Party::TokenServer, .. }) => HeadVerdict::Stands,
        // It redirected to nowhere.
        Err(Failure { error: Error::Invalid { .. }, .. }) => {
            HeadVerdict::ToBeConfirmed(Contradiction::Passing)
        }
        Err(_) => HeadVerdict::Stands,
    }
}

/// A response whose body says nothing that counts.
pub(super) async fn without_body(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (head, body) = response.into_parts();
    drain(body).await;
    Response::from_parts(head, Empty::new().map_err(|never| match never {}).boxed())
}
