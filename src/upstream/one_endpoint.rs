//! A request to one endpoint: its rate limit, retries, and the `GET` beside a `HEAD` that is not answered.
//!
//! Deliberately not here: which endpoint is asked, and what follows a failure (`attempts`); what one answer means
//! (`exchange`).

use std::pin::pin;
use std::time::Duration;

use http::Method;
use tokio::time::timeout;
use tracing::Instrument;

use crate::upstream::endpoint::head_support::HeadSupport;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::endpoint::tracked::{TrackedBody, TrackedRequest};
use crate::upstream::error::{ConnectStage, Error, Failure, Party};
use crate::upstream::exchange::Exchange;
use crate::upstream::request::{Patience, RegistryRequest};
use crate::upstream::response::Answer;
use crate::upstream::{retry, span};

/// How long a `HEAD` is waited for alone; then `GET` is sent beside it. Longer than it takes to notice that an idle
/// connection was forgotten, so that this costs no `GET`, and short enough to leave a `GET` half of the time that a
/// request has.
pub(super) const HEAD_ALONE: Duration = Duration::from_secs(9);

/// An endpoint that is asked.
pub(super) struct OneEndpoint<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) heads: &'a HeadSupport,
    pub(super) endpoint: &'a Endpoint,
    /// Whether there is no other, which is to have what a `HEAD` leaves of the time.
    pub(super) is_only: bool,
}

impl OneEndpoint<'_> {
    /// Sends a request to one endpoint, again where that may help, and records the outcome. What becomes of the body is
    /// for who reads it to record.
    pub(super) async fn send(
        &self,
        mut tracked: TrackedRequest,
        request: &RegistryRequest<'_>,
        retries: u32,
    ) -> Result<(Answer, TrackedBody), Error> {
        let endpoint = self.endpoint;
        request.auth.asked.record(endpoint.base_url());
        let request = &self.exchange.effective(endpoint, request, retries);
        let asking = async {
            tracked.start();
            let span = span::of(endpoint, request);
            let asking = self.send_with_retries(&mut tracked, request, retries);
            let result = asking.instrument(span.clone()).await;
            span::note(&span, &result);
            let body = tracked.body();
            tracked.finish(&result);
            if request.method == Method::GET && result.is_ok() {
                self.heads.record_get(endpoint.host_and_port(), request.resource.kind);
            }
            result.map(|answer| (answer, body))
        };
        let result = self.exchange.within_limits(endpoint, request, Box::pin(asking)).await;
        result.map_err(|failure| failure.error)
    }

    /// A `HEAD` that failed is repeated as the `GET` that can confirm it. A connection that was refused is tried again
    /// only with the patience for that.
    async fn send_with_retries(
        &self,
        tracked: &mut TrackedRequest,
        request: &RegistryRequest<'_>,
        retries: u32,
    ) -> Result<Answer, Failure> {
        let mut result = match request.method {
            Method::HEAD => self.send_head(request).await,
            _ => self.exchange.send(self.endpoint, request).await,
        };
        let patient = request.auth.patience == Patience::Wait;
        for n in 0..retries {
            let worth = |Failure { error, .. }: &Failure| {
                error.is_worth_a_retry() && (patient || !error.is_refused_connection())
            };
            if !result.as_ref().is_err_and(worth) {
                break;
            }
            tokio::time::sleep(retry::pause(n, fastrand::f64())).await;
            tracked.repeat();
            let again = request.confirming_if_head();
            result = Box::pin(self.exchange.send(self.endpoint, &again)).await;
            if result.is_ok() && request.method == Method::HEAD {
                self.exchange.record_failed_head(self.endpoint, request);
            }
        }
        result
    }

    /// Sends a `HEAD`, and beside it, if it is not answered within [`HEAD_ALONE`], the `GET` that asks the same: some
    /// registries answer no `HEAD`. The first answer counts. Where there is no other endpoint, `GET` follows a `HEAD`
    /// that timed out before, too.
    async fn send_head(&self, head: &RegistryRequest<'_>) -> Result<Answer, Failure> {
        let mut heading = pin!(self.exchange.send(self.endpoint, head));
        let alone = timeout(HEAD_ALONE, &mut heading).await;
        let is_only = self.is_only;
        if let Ok(result) = alone {
            let hung = result.as_ref().is_err_and(is_hang);
            if hung {
                self.heads.record_hang(self.endpoint.host_and_port(), head.resource.kind);
            }
            return if hung && is_only { Box::pin(self.get_instead(head)).await.or(result) } else { result };
        }
        let mut getting = Box::pin(self.get_instead(head));
        self.heads.record_hang(self.endpoint.host_and_port(), head.resource.kind);
        tokio::select! {
            result = &mut heading => match result {
                Err(failure) if is_hang(&failure) && is_only => getting.await.or(Err(failure)),
                result => result,
            },
            result = &mut getting => match result {
                Ok(response) => Ok(response),
                Err(_) => heading.await,
            },
        }
    }

    /// Asks by `GET` what a `HEAD` was not answered to.
    async fn get_instead(&self, head: &RegistryRequest<'_>) -> Result<Answer, Failure> {
        let (get, host) = (head.confirming(), self.endpoint.host_and_port());
        let asking = async {
            let result = self.exchange.send(self.endpoint, &get).await;
            result.inspect(|_| self.heads.record_get_beside(host, get.resource.kind))
        };
        self.exchange.within_limits(self.endpoint, &get, Box::pin(asking)).await
    }
}

/// Whether the endpoint, or a host that it redirected to, did not answer in time.
fn is_hang(failure: &Failure) -> bool {
    let timed_out = matches!(failure.error, Error::Unreachable { stage: ConnectStage::Timeout, .. });
    timed_out && failure.party != Party::TokenServer
}
