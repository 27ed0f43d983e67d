//! How often, where and for how long a request is tried: the endpoints in order, failing ones last; retries; the time
//! limit; and what is counted of it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::reference::{Registry, Repository};
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::upstream::endpoint::health::{Availability, Health, TrackedRequest};
use crate::upstream::endpoint::rate_limit::{Account, RateLimits};
use crate::upstream::endpoint::select::{self, Endpoint};
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::exchange::Exchange;
use crate::upstream::metrics::Recorder;
use crate::upstream::request::RegistryRequest;
use crate::upstream::response::{Allowed, RegistryResponse};
use crate::upstream::retry;
use crate::upstream::transport::configured::Configured;

/// A request that failed quickly is repeated this often at one endpoint.
const RETRIES_MAX: u32 = 2;
/// The longest time for a request over all endpoints and retries: until a small body has come whole, or the head of a
/// large one.
const RESPONSE_WAIT: Duration = Duration::from_secs(20);

/// Tries requests at the endpoints of their registry.
pub(super) struct Attempts {
    pub(super) exchange: Arc<Exchange>,
    pub(super) health: Health,
    pub(super) rate_limits: Arc<RateLimits>,
    pub(super) configured: Live<Configured>,
    pub(super) recorder: Recorder,
    /// Probes of failing endpoints that no request waits for.
    pub(super) tasks: Tasks,
}

/// The endpoints that may get a request, in order.
struct Candidates {
    healthy: Vec<Endpoint>,
    /// With what is to be done with each.
    failing: Vec<(Endpoint, Availability)>,
}

/// The error that is returned when every endpoint has failed.
struct LastError {
    error: Error,
    /// Whether an authoritative endpoint sent it.
    authoritative: bool,
}

impl Attempts {
    /// Sends a request and reads the response with `read`, all within [`RESPONSE_WAIT`].
    ///
    /// # Errors
    /// The error of the last endpoint, or that of `read`.
    pub(super) async fn send_and_read<T, F>(
        &self,
        request: &RegistryRequest<'_>,
        read: impl FnOnce(RegistryResponse) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let work = async {
            let response = self.first_response(request).await?;
            let public = response.public;
            Ok(Allowed { value: read(response).await?, public })
        };
        self.bounded(request.repository, work).await
    }

    /// Sends a request and waits for the head of the response, within [`RESPONSE_WAIT`].
    ///
    /// # Errors
    /// The error of the last endpoint.
    pub(super) async fn send(&self, request: &RegistryRequest<'_>) -> Result<RegistryResponse, Error> {
        self.bounded(request.repository, self.first_response(request)).await
    }

    async fn bounded<T>(
        &self,
        repository: &Repository,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let registry = repository.registry();
        let result = tokio::time::timeout(RESPONSE_WAIT, work).await.unwrap_or_else(|_| {
            let why = format!("no complete answer within {RESPONSE_WAIT:?}");
            Err(Error::Unreachable { host: registry.to_string(), stage: ConnectStage::Timeout, why })
        });
        match &result {
            Ok(_) => self.recorder.request_succeeded(registry),
            Err(error) => self.recorder.request_failed(registry, error.reason()),
        }
        result
    }

    /// The response of the first endpoint that has one; else the error of the last. Failing endpoints come last.
    async fn first_response(&self, request: &RegistryRequest<'_>) -> Result<RegistryResponse, Error> {
        let registry = request.repository.registry();
        let Candidates { healthy, failing } = self.candidates(request)?;
        let mut last = LastError::no_endpoint(registry);
        for endpoint in healthy {
            let tracked = self.health.track(&endpoint, registry);
            match self.try_endpoint(&endpoint, tracked, request, RETRIES_MAX).await {
                Err(error) if error.is_worth_another_endpoint() => last.update(error, &endpoint),
                result => {
                    self.probe_in_background(failing, registry);
                    return result;
                }
            }
        }
        for (endpoint, availability) in failing {
            let result = match availability {
                Availability::Failing { error, skip: true } => Err(error),
                // No retries: a failing endpoint would get them from every caller.
                Availability::RetryDue(tracked) => self.try_endpoint(&endpoint, tracked, request, 0).await,
                Availability::Failing { .. } | Availability::Healthy => {
                    let tracked = self.health.track(&endpoint, registry);
                    self.try_endpoint(&endpoint, tracked, request, 0).await
                }
            };
            match result {
                Err(error) if error.is_worth_another_endpoint() => last.update(error, &endpoint),
                result => return result,
            }
        }
        Err(last.error)
    }

    fn candidates(&self, request: &RegistryRequest<'_>) -> Result<Candidates, Error> {
        let proves = request.auth.proof.is_some();
        let all = select::endpoints(&self.configured.current().config, request.repository.registry())?;
        let mut candidates = Candidates { healthy: Vec::new(), failing: Vec::new() };
        for endpoint in all.into_iter().filter(|endpoint| endpoint.authoritative || !proves) {
            match self.health.availability(&endpoint) {
                Availability::Healthy => candidates.healthy.push(endpoint),
                availability => candidates.failing.push((endpoint, availability)),
            }
        }
        Ok(candidates)
    }

    /// Sends a request to one endpoint, again where that may help, and records the outcome.
    async fn try_endpoint(
        &self,
        endpoint: &Endpoint,
        mut tracked: TrackedRequest,
        request: &RegistryRequest<'_>,
        retries: u32,
    ) -> Result<RegistryResponse, Error> {
        let account = Account {
            registry: request.repository.registry(),
            endpoint: endpoint.base_url(),
            principal: self.exchange.principal(endpoint, request),
        };
        let request = &self.exchange.effective(endpoint, request, retries);
        let class = (request.kind, request.method.clone());
        if let Some(wait) = self.rate_limits.held_back_for(account, &class) {
            return Err(Error::RateLimited { host: endpoint.host_and_port(), retry_after: Some(wait) });
        }
        tracked.start();
        let result = self.send_with_retries(endpoint, request, retries).await;
        tracked.finish(&result);
        match result {
            Err(Error::RateLimited { host, retry_after }) => {
                let wait = self.rate_limits.record_refusal(account, class, retry_after);
                Err(Error::RateLimited { host, retry_after: Some(wait) })
            }
            result => {
                self.rate_limits.record_response(account, &class);
                result
            }
        }
    }

    /// A `HEAD` that failed is repeated as the `GET` that can confirm it.
    async fn send_with_retries(
        &self,
        endpoint: &Endpoint,
        request: &RegistryRequest<'_>,
        retries: u32,
    ) -> Result<RegistryResponse, Error> {
        let mut result = self.exchange.send(endpoint, request).await;
        let again = request.confirming_if_head();
        for n in 0..retries {
            if !result.as_ref().is_err_and(Error::is_worth_a_retry) {
                break;
            }
            tokio::time::sleep(retry::pause(n, fastrand::f64())).await;
            result = self.exchange.send(endpoint, &again).await;
            if result.is_ok() && request.method == Method::HEAD {
                self.exchange.record_failed_head(endpoint, request);
            }
        }
        result
    }

    /// Finds out whether failing endpoints that are due for a retry answer again, while no request waits for them.
    fn probe_in_background(&self, failing: Vec<(Endpoint, Availability)>, registry: &Registry) {
        for (endpoint, availability) in failing {
            let Availability::RetryDue(mut tracked) = availability else { continue };
            let (exchange, registry) = (Arc::clone(&self.exchange), registry.clone());
            self.tasks.spawn(async move {
                tracked.start();
                let result = exchange.probe(&registry, &endpoint).await;
                tracked.finish(&result);
            });
        }
    }
}

impl LastError {
    fn no_endpoint(registry: &Registry) -> Self {
        let why = "none of its endpoints is authoritative; mark one with authoritative = true".to_owned();
        Self { error: Error::Declined { registry: registry.clone(), why }, authoritative: false }
    }

    /// Replaces the error, unless an authoritative endpoint sent it: a mirror has no say in what is denied or away. A
    /// denial stands where another authoritative endpoint only cannot answer.
    fn update(&mut self, error: Error, endpoint: &Endpoint) {
        let denial_stands = self.error.is_denied() && error.is_outage();
        if !self.authoritative || endpoint.authoritative && !denial_stands {
            *self = Self { error, authoritative: endpoint.authoritative };
        }
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
