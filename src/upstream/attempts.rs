//! How often, where and for how long a request is tried: the endpoints in order, failing ones last; retries; the time
//! limit; and what is counted of it.
//!
//! Promises: no request takes longer than [`RESPONSE_WAIT`] to be answered; an endpoint that counts as failing gets no
//! retry; a mirror's error never stands before that of an authoritative endpoint.
//!
//! Deliberately not here: one endpoint (`one_endpoint`), and what a failure says of it (`endpoint/health`).

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use crate::reference::{Digest, Registry, Repository};
use crate::support::tasks::Tasks;
use crate::upstream::body::{brings, interrupted};
use crate::upstream::endpoint::avoided::AvoidedEndpoints;
use crate::upstream::endpoint::health::Health;
use crate::upstream::endpoint::known::Endpoints;
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::endpoint::tracked::{Availability, Retry, TrackedBody, TrackedRequest};
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::exchange::Exchange;
use crate::upstream::metrics::Recorder;
use crate::upstream::one_endpoint::OneEndpoint;
use crate::upstream::request::{PROBE_BYTES, Patience, RegistryRequest};
use crate::upstream::response::{Allowed, Answer, RegistryResponse};
use crate::upstream::retry;

/// A request that failed quickly is repeated this often at one endpoint.
const RETRIES_MAX: u32 = 2;
/// The longest time for a request over all endpoints and retries: until a small body has come whole, or the head of a
/// large one.
pub(super) const RESPONSE_WAIT: Duration = Duration::from_secs(20);
/// Rounds over all endpoints after the first where an answer came, or the name was asked: together they take at least 5
/// s, and what is in front of a registry that starts anew gets few requests.
const ROUNDS_MAX: u32 = 4;
/// How long the body of a probe may take.
const PROBE_BODY_WAIT: Duration = Duration::from_secs(8);

/// Tries requests at the endpoints of their registry. Cheap to clone.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) exchange: Arc<Exchange>,
    pub(super) health: Health,
    pub(super) avoided: AvoidedEndpoints,
    pub(super) endpoints: Endpoints,
    pub(super) recorder: Recorder,
    /// Probes of failing endpoints that no request waits for.
    pub(super) tasks: Tasks,
}

/// The endpoints that may get a request, in order.
struct Candidates {
    healthy: Vec<Arc<Endpoint>>,
    /// Those that fail, then those that delivered wrong content for the digest asked for; with what is to be done with
    /// each.
    last: Vec<(Arc<Endpoint>, Availability)>,
    /// How many have not delivered wrong content for the digest.
    not_avoided: usize,
}

/// The error that is returned when every endpoint has failed.
struct LastError {
    error: Error,
    /// Whether an authoritative endpoint sent it.
    authoritative: bool,
}

impl Attempts {
    /// Sends a request and reads the response with `read`, all within [`RESPONSE_WAIT`]. An endpoint whose response
    /// cannot be read is followed by the next one, like one that does not answer.
    ///
    /// # Errors
    /// The error of the last endpoint, or that of `read`.
    pub(super) async fn send_and_read<T, F>(
        &self,
        request: &RegistryRequest<'_>,
        read: impl Fn(RegistryResponse) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.bounded(request.repository, pin!(self.first_answer(request, &read))).await
    }

    /// The work stays where it is pinned: a future that is moved is copied, and this one is large.
    async fn bounded<T>(
        &self,
        repository: &Repository,
        work: Pin<&mut impl Future<Output = Result<T, Error>>>,
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

    /// What `read` makes of the response of the first endpoint that has one. While none can be connected to, they are
    /// tried again and again if the request has the patience, unless that has been so for longer than any request
    /// waits; a few times while they answer 502 to 504, close the connection, their name server fails, or this node has
    /// no descriptors.
    async fn first_answer<T, F>(
        &self,
        request: &RegistryRequest<'_>,
        read: &impl Fn(RegistryResponse) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let waits = request.auth.patience == Patience::Wait && !self.is_long_gone(request)?;
        for n in RETRIES_MAX.. {
            let result = self.one_round(request, read).await;
            let asked = result.as_ref().err().and_then(Error::retry_after).unwrap_or_default();
            // Longer than the endpoint is left alone (`failure_record`); bounded before it is multiplied.
            let asked = asked.min(RESPONSE_WAIT).mul_f64(1.1);
            let pause = retry::pause(n, fastrand::f64()).max(asked);
            let in_vain = request.begun.elapsed() + pause >= RESPONSE_WAIT;
            match result {
                Err(error)
                    if waits
                        && !in_vain
                        && error.is_moment_away()
                        && (error.is_refused_connection() || n < RETRIES_MAX + ROUNDS_MAX) =>
                {
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
        Err(no_endpoint(request.repository.registry()))
    }

    /// Whether every endpoint has failed to answer such requests for as long as a request waits.
    fn is_long_gone(&self, request: &RegistryRequest<'_>) -> Result<bool, Error> {
        let group = request.group();
        let gone = |endpoint: &Arc<Endpoint>| {
            self.health.failing_for(endpoint, &group).is_some_and(|failing| failing >= RESPONSE_WAIT)
        };
        Ok(self.endpoints(request)?.iter().all(gone))
    }

    /// What `read` makes of the response of the first endpoint that has one; else the error of the last. Failing
    /// endpoints come last.
    async fn one_round<T, F>(
        &self,
        request: &RegistryRequest<'_>,
        read: &impl Fn(RegistryResponse) -> F,
    ) -> Result<Allowed<T>, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Candidates { healthy, last: failing, not_avoided } = self.candidates(request)?;
        let is_only = healthy.len() + failing.len() == 1;
        let mut last: Option<LastError> = None;
        let mut untried = not_avoided;
        // One that fails is no better than one that is slow.
        let mut alternatives = healthy.len().min(not_avoided);
        for endpoint in healthy {
            (untried, alternatives) = (untried.saturating_sub(1), alternatives.saturating_sub(1));
            let tracked = self.health.track(&endpoint, request.group());
            let response = self.try_endpoint(&endpoint, tracked, request, is_only, RETRIES_MAX).await;
            match read_response(response, alternatives > 0, read).await {
                Err(error) if error.is_worth_another_endpoint() => {
                    last = Some(LastError::after(last, error, &endpoint));
                }
                result => {
                    self.probe_in_background(failing, request);
                    return result;
                }
            }
        }
        let mut failing = failing.into_iter();
        while let Some((endpoint, availability)) = failing.next() {
            untried = untried.saturating_sub(1);
            let response = match availability {
                Availability::Failing { error, skip: true } => Err(error),
                // No retries: a failing endpoint would get them from every caller.
                Availability::RetryDue(retry) => {
                    self.try_endpoint(&endpoint, retry.tracked, request, is_only, 0).await
                }
                Availability::Failing { .. } | Availability::Healthy => {
                    let tracked = self.health.track(&endpoint, request.group());
                    self.try_endpoint(&endpoint, tracked, request, is_only, 0).await
                }
            };
            match read_response(response, untried > 0, read).await {
                Err(error) if error.is_worth_another_endpoint() => {
                    last = Some(LastError::after(last, error, &endpoint));
                }
                result => {
                    // Their turn to be asked again has come, and comes no sooner for it.
                    self.probe_in_background(failing.collect(), request);
                    return result;
                }
            }
        }
        Err(last.map_or_else(|| no_endpoint(request.repository.registry()), |last| last.error))
    }

    /// The endpoints that may get a request, in order.
    fn endpoints(&self, request: &RegistryRequest<'_>) -> Result<Vec<Arc<Endpoint>>, Error> {
        let all = self.endpoints.of(request.repository.registry())?;
        Ok(all.iter().filter(|endpoint| may_answer(endpoint, request)).cloned().collect())
    }

    fn candidates(&self, request: &RegistryRequest<'_>) -> Result<Candidates, Error> {
        let group = request.group();
        let is_avoided = |endpoint: &Arc<Endpoint>| {
            request.resource.digest.is_some_and(|digest| self.avoided.is_avoided(endpoint, digest))
        };
        let (mut avoided, mut first): (Vec<_>, Vec<_>) =
            self.endpoints(request)?.into_iter().partition(is_avoided);
        // Of those that delivered wrong content the registry's own error counts.
        avoided.sort_by_key(|endpoint| !endpoint.is_authoritative());
        let not_avoided = first.len();
        if first.is_empty() {
            first = std::mem::take(&mut avoided);
        }
        let mut candidates = Candidates { healthy: Vec::new(), last: Vec::new(), not_avoided };
        for endpoint in first {
            match self.health.admit(&endpoint, &group) {
                Availability::Healthy => candidates.healthy.push(endpoint),
                availability => candidates.last.push((endpoint, availability)),
            }
        }
        for endpoint in avoided {
            let availability = self.health.admit(&endpoint, &group);
            candidates.last.push((endpoint, availability));
        }
        Ok(candidates)
    }

    /// Whether an endpoint of `registry` is left that has not delivered wrong content for `digest`.
    pub(super) fn has_alternative(&self, registry: &Registry, digest: Digest) -> bool {
        let all = self.endpoints.of(registry);
        all.is_ok_and(|all| all.iter().any(|endpoint| !self.avoided.is_avoided(endpoint, digest)))
    }

    /// Sends a request to one endpoint, again where that may help, and records the outcome. `is_only` says that no
    /// other endpoint may answer it.
    async fn try_endpoint(
        &self,
        endpoint: &Endpoint,
        tracked: TrackedRequest,
        request: &RegistryRequest<'_>,
        is_only: bool,
        retries: u32,
    ) -> Result<(Answer, TrackedBody), Error> {
        let (exchange, heads) = (&*self.exchange, &self.exchange.heads);
        OneEndpoint { exchange, heads, endpoint, is_only }.send(tracked, request, retries).await
    }

    /// Finds out whether failing endpoints that are due for a retry answer again, while no request waits for them:
    /// whether they can be reached, or where something else failed, what they answer to the same question.
    fn probe_in_background(
        &self,
        failing: Vec<(Arc<Endpoint>, Availability)>,
        request: &RegistryRequest<'_>,
    ) {
        for (endpoint, availability) in failing {
            let Availability::RetryDue(Retry { mut tracked, is_of_host }) = availability else { continue };
            let (this, question) = (self.clone(), request.to_probe());
            self.tasks.spawn(async move {
                let question = question.as_request();
                if !is_of_host {
                    // Its outcome is recorded, whatever it is.
                    let asking = this.try_endpoint(&endpoint, tracked, &question, false, 0);
                    if let Ok(Ok((answer, tracked))) = tokio::time::timeout(RESPONSE_WAIT, asking).await {
                        probe_body(answer, &tracked).await;
                    }
                    return;
                }
                tracked.start();
                let result = this.exchange.probe(question.repository.registry(), &endpoint).await;
                tracked.finish_probe(&result);
            });
        }
    }
}

/// Whether an endpoint may get a request: one for a proof only if its answers prove rights.
fn may_answer(endpoint: &Endpoint, request: &RegistryRequest<'_>) -> bool {
    endpoint.is_authoritative() || !request.auth.need.is_proof()
}

/// Finds out whether the body of a probe comes.
async fn probe_body(answer: Answer, tracked: &TrackedBody) {
    let Answer { response, host, .. } = answer;
    if brings(response.into_body(), PROBE_BYTES as usize, PROBE_BODY_WAIT).await {
        tracked.came();
    } else {
        tracked
            .stalled(&interrupted(&host, format!("not the beginning of a body within {PROBE_BODY_WAIT:?}")));
    }
}

/// What `read` makes of a response.
async fn read_response<T, F>(
    response: Result<(Answer, TrackedBody), Error>,
    has_alternative: bool,
    read: &impl Fn(RegistryResponse) -> F,
) -> Result<Allowed<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (answer, tracked) = response?;
    let proof = answer.proof;
    let value = read(RegistryResponse { answer, tracked, has_alternative }).await?;
    Ok(Allowed { value, proof })
}

/// The error where no endpoint may be asked.
fn no_endpoint(registry: &Registry) -> Error {
    let why = "none of its endpoints is authoritative; mark one with authoritative = true".to_owned();
    Error::Declined { registry: registry.clone(), why }
}

impl LastError {
    /// The error of `endpoint` takes the place of the one before, unless an authoritative endpoint sent that: a mirror
    /// has no say in what is denied or away. A denial stands where another authoritative endpoint only cannot answer.
    fn after(before: Option<Self>, error: Error, endpoint: &Endpoint) -> Self {
        let authoritative = endpoint.is_authoritative();
        match before {
            Some(before) if before.stands_before(&error, authoritative) => before,
            _ => Self { error, authoritative },
        }
    }

    fn stands_before(&self, later: &Error, is_later_authoritative: bool) -> bool {
        let denial_stands = self.error.is_denied() && (later.is_outage() || later.is_overloaded());
        self.authoritative && (!is_later_authoritative || denial_stands)
    }
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
