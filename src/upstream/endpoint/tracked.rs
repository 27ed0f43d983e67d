//! One request to an endpoint, from its start to the end of its body, and what its outcome says of the endpoint's
//! health.
//!
//! Promises: a request that is dropped after a long time counts as one that hung, and before that as cancelled; a body
//! counts as failed only where another endpoint is left, since else nothing could be done about it.
//!
//! Deliberately not here: what follows from a failure (`health`).

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::endpoint::failure_record::{Asked, Part, SLOW_FAILURE};
use crate::upstream::endpoint::health::{Health, State};
use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{ConnectStage, Error, Failure, Party};
use crate::upstream::request::RequestGroup;

/// A request that was cancelled after this long was cancelled because of the endpoint; before that, its caller may have
/// had other reasons.
pub(super) const HUNG: Duration = Duration::from_secs(10);

/// What to do with an endpoint.
pub(crate) enum Availability {
    /// Not known to fail.
    Healthy,
    /// Failing, and due for a retry: by the holder of this, and by no other request meanwhile.
    RetryDue(Retry),
    /// Failing.
    Failing {
        /// Its last failure.
        error: Error,
        /// Whether no request should be sent even where there is no alternative: the last failure was slow, or there
        /// were enough requests in this second.
        skip: bool,
    },
}

/// A retry that is due.
pub(crate) struct Retry {
    pub(crate) tracked: TrackedRequest,
    /// Whether a connection is enough to end the failure; otherwise a request has to be answered.
    pub(crate) is_of_host: bool,
}

/// A request that is sent to an endpoint, or about to be. Dropped before it has finished, it counts as cancelled.
pub(crate) struct TrackedRequest {
    health: Health,
    asked: Asked,
    started: Option<Instant>,
    /// When the last exchange of the request began: the request itself or its last repetition.
    last_exchange: Option<Instant>,
    finished: bool,
}

/// The body of an answer, whose head came. Dropped before its outcome is recorded, it says nothing.
#[derive(Clone)]
pub(crate) struct TrackedBody {
    health: Health,
    asked: Asked,
}

impl Health {
    /// Admits a request of this group to `endpoint`, or says why not. Where a retry is due, it is this request's.
    pub(crate) fn admit(&self, endpoint: &Endpoint, group: &RequestGroup) -> Availability {
        match self.note_request(endpoint, group) {
            State::Healthy => Availability::Healthy,
            State::RetryDue { is_of_host } => {
                let tracked = self.track(endpoint, group.clone());
                Availability::RetryDue(Retry { tracked, is_of_host })
            }
            State::Failing { error, skip } => Availability::Failing { error, skip },
        }
    }

    /// Follows a request to `endpoint`, whose outcome is to be recorded.
    pub(crate) fn track(&self, endpoint: &Endpoint, group: RequestGroup) -> TrackedRequest {
        let (key, host) = (endpoint.key().clone(), endpoint.host_and_port().to_owned());
        let (health, asked) = (self.clone(), Asked { group, key, host });
        TrackedRequest { health, asked, started: None, last_exchange: None, finished: false }
    }
}

impl TrackedRequest {
    /// The request is sent now.
    pub(crate) fn start(&mut self) {
        self.started = Some(Instant::now());
        self.last_exchange = self.started;
    }

    /// The request failed, and is repeated now. How slow an endpoint is, says the last exchange alone.
    pub(crate) fn repeat(&mut self) {
        self.last_exchange = Some(Instant::now());
    }

    /// What follows the body of the answer.
    pub(crate) fn body(&self) -> TrackedBody {
        TrackedBody { health: self.health.clone(), asked: self.asked.clone() }
    }

    /// Records the outcome, as far as the head says it. A redirect target that fails concerns the request, and a token
    /// server nothing here.
    pub(crate) fn finish<T>(mut self, result: &Result<T, Failure>) {
        self.finished = true;
        let (health, asked) = (&self.health, &self.asked);
        let Err(Failure { error, party, .. }) = result else {
            return health.record_response(asked, Part::Head);
        };
        match (party, error) {
            // No request was sent, or none whose answer says something of the endpoint.
            (_, Error::Declined { .. } | Error::Overloaded { .. }) | (Party::TokenServer, _) => {
                health.record_cancelled(asked);
            }
            (Party::Endpoint, Error::Unreachable { stage, .. }) if stage.is_before_the_request() => {
                health.record_host_failure(asked, error, self.last_exchange_took());
            }
            // A store's answer for one signed URL says nothing of other blobs.
            (Party::RedirectTarget, Error::ServerError { status: 400..=407 | 410, .. }) => {
                health.record_connection(asked);
                health.record_cancelled(asked);
            }
            // Only over a connection can a request go unanswered.
            (_, Error::Unreachable { .. } | Error::ServerError { .. }) => {
                health.record_connection(asked);
                health.record_failure(asked, error, self.last_exchange_took(), Part::Head);
            }
            _ => health.record_response(asked, Part::Head),
        }
    }

    /// Records the outcome of a request that only tests whether the endpoint answers at all.
    pub(crate) fn finish_probe<T>(mut self, result: &Result<T, Error>) {
        self.finished = true;
        let (health, asked) = (&self.health, &self.asked);
        match result {
            Err(error @ Error::Unreachable { .. }) => {
                health.record_host_failure(asked, error, self.last_exchange_took());
            }
            Err(Error::Overloaded { .. }) => health.record_cancelled(asked),
            _ => health.record_connection(asked),
        }
    }

    fn last_exchange_took(&self) -> Duration {
        self.last_exchange.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn running_for(&self) -> Duration {
        self.started.map_or(Duration::ZERO, |started| started.elapsed())
    }
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let elapsed = self.running_for();
        if elapsed >= HUNG {
            // The caller ran out of time: from here, an endpoint that hangs looks like that.
            let why = format!("no answer within {elapsed:.1?}");
            let error =
                Error::Unreachable { host: self.asked.host.clone(), stage: ConnectStage::Timeout, why };
            self.health.record_failure(&self.asked, &error, self.last_exchange_took(), Part::Head);
        } else {
            self.health.record_cancelled(&self.asked);
        }
    }
}

impl TrackedBody {
    /// Records that the body came to its proper end.
    pub(crate) fn came(&self) {
        self.health.record_response(&self.asked, Part::Body);
    }

    /// Records that the body stood still or came too slowly, although another endpoint is left to ask.
    pub(crate) fn stalled(&self, error: &Error) {
        self.health.record_failure(&self.asked, error, SLOW_FAILURE, Part::Body);
    }
}
