//! One line of the request log: what it says of a request, and how it is written. Text for people and JSON for machines
//! have the same fields (`docs/logs.md` describes each).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use tracing::Span;

use crate::listener::Peer;
use crate::pull::{AnswerSource, PullContext, RequestId};
use crate::reference::Repository;
use crate::serve::metrics::RouteLabel;
use crate::serve::observe::Outcome;
use crate::support::metric_labels::Label;

/// What the lines are filtered by.
pub(in crate::serve) const TARGET: &str = "larder::access";
/// Characters at most of a reason: it may hold a registry's words.
const REASON_CHARS_MAX: usize = 400;

/// What the log says of one request.
#[derive(Debug, Clone)]
pub(in crate::serve) struct Line {
    pub(in crate::serve) id: RequestId,
    pub(in crate::serve) client: Peer,
    pub(in crate::serve) method: Method,
    pub(in crate::serve) host: Option<String>,
    pub(in crate::serve) range: Option<String>,
    pub(in crate::serve) details: Details,
    /// The endpoints that were asked for it.
    pub(in crate::serve) upstream: Vec<String>,
    /// The request that led the download which it read.
    pub(in crate::serve) download: Option<RequestId>,
    pub(in crate::serve) status: Option<u16>,
    pub(in crate::serve) end: End,
    pub(in crate::serve) bytes: u64,
    pub(in crate::serve) first_byte: Option<Duration>,
    pub(in crate::serve) duration: Duration,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::serve) enum End {
    /// With the answer, as a whole.
    Whole,
    /// With less of the answer than its head promised, for a fault of upstream or of this node.
    CutShort,
    /// By the client, before the end.
    ClientLeft,
}

/// What is known of a request when it comes, and where the rest is filled in.
pub(in crate::serve) struct Arrival {
    pub(in crate::serve) id: RequestId,
    pub(in crate::serve) since: Instant,
    pub(in crate::serve) described: Described,
    pub(in crate::serve) span: Span,
}

/// What is known of a request once it was read; shared between what answers it and what logs it.
#[derive(Debug, Clone, Default)]
pub(in crate::serve) struct Described(Arc<Mutex<Details>>);

#[derive(Debug, Clone, Default)]
pub(in crate::serve) struct Details {
    pub(in crate::serve) route: Option<RouteLabel>,
    pub(in crate::serve) repository: Option<Repository>,
    pub(in crate::serve) reference: Option<String>,
    pub(in crate::serve) pull: Option<PullContext>,
    pub(in crate::serve) outcome: Option<Outcome>,
    pub(in crate::serve) reason: Option<String>,
}

impl Described {
    /// What the request asks for.
    pub(in crate::serve) fn asks_for(
        &self,
        route: RouteLabel,
        repository: &Repository,
        reference: Option<String>,
    ) {
        let mut details = self.0.lock();
        details.route = Some(route);
        details.repository = Some(repository.clone());
        details.reference = reference;
    }

    /// The pull that it became.
    pub(in crate::serve) fn pulls(&self, pull: &PullContext) {
        self.0.lock().pull = Some(pull.clone());
    }

    /// How it was answered; and for a refusal why, in words.
    pub(in crate::serve) fn answered(&self, outcome: Outcome, reason: Option<&str>) {
        let mut details = self.0.lock();
        details.outcome = Some(outcome);
        if let Some(reason) = reason {
            details.reason = Some(bounded(reason, REASON_CHARS_MAX));
        }
    }

    /// Why the answer is out of date, or short, in words.
    pub(in crate::serve) fn because(&self, reason: &str) {
        self.0.lock().reason = Some(bounded(reason, REASON_CHARS_MAX));
    }

    /// What was known so far.
    pub(in crate::serve) fn details(&self) -> Details {
        self.0.lock().clone()
    }

    /// What is known at the end, which nothing asks for again.
    pub(in crate::serve) fn take(&self) -> Details {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Line {
    /// How it ended, in a word or two: the text of the line.
    pub(in crate::serve) fn said(&self) -> &'static str {
        match (self.end, self.details.outcome) {
            (End::CutShort, _) => "cut short",
            (End::ClientLeft, _) => "client left",
            (End::Whole, None | Some(Outcome::Served(_))) => "served",
            (End::Whole, Some(Outcome::Issued)) => "token issued",
            (End::Whole, Some(Outcome::Challenged)) => "challenged",
            (End::Whole, Some(Outcome::Declined)) => "refused",
            (End::Whole, Some(Outcome::Failed)) => "failed",
            (End::Whole, Some(Outcome::BadRequest)) => "bad request",
            (End::Whole, Some(Outcome::Misdirected)) => "misdirected",
            (End::Whole, Some(Outcome::TimedOut)) => "timed out",
            (End::Whole, Some(Outcome::Overloaded)) => "overloaded",
        }
    }

    /// Where the content came from.
    pub(in crate::serve) fn source(&self) -> Option<AnswerSource> {
        match self.details.outcome {
            Some(Outcome::Served(source)) => Some(source),
            _ => None,
        }
    }

    /// Whether the client got what it asked for.
    pub(in crate::serve) fn is_success(&self) -> bool {
        let outcome = self.details.outcome;
        self.end == End::Whole && matches!(outcome, None | Some(Outcome::Served(_) | Outcome::Issued))
    }

    /// Whether upstream or this node failed, and not the client or its credential.
    pub(in crate::serve) fn is_failure(&self) -> bool {
        let failed = [Outcome::Failed, Outcome::TimedOut, Outcome::Overloaded];
        self.end == End::CutShort || self.details.outcome.is_some_and(|outcome| failed.contains(&outcome))
    }

    /// Writes the line; `folded` is how many more like it were not written.
    pub(in crate::serve) fn write(&self, folded: Option<u64>) {
        let Details { repository, reference, reason, .. } = &self.details;
        // Most requests led to one endpoint at most.
        let joined = (self.upstream.len() > 1).then(|| self.upstream.join(" "));
        let upstream = joined.as_deref().or(self.upstream.first().map(String::as_str));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: TARGET,
                    request = self.id.number(),
                    client = %self.client,
                    user = self.client.uid,
                    method = self.method.as_str(),
                    host = self.host.as_deref(),
                    repository = repository.as_ref().map(tracing::field::display),
                    reference = reference.as_deref(),
                    range = self.range.as_deref(),
                    status = self.status,
                    source = self.source().map(AnswerSource::label),
                    upstream,
                    download = self.download.map(RequestId::number),
                    bytes = self.bytes,
                    first_byte_ms = self.first_byte.map(milliseconds),
                    duration_ms = milliseconds(self.duration),
                    reason = reason.as_deref(),
                    repeated = folded,
                    "{}",
                    self.said()
                )
            };
        }
        if self.is_failure() { line!(warn) } else { line!(info) }
    }

    /// Equal for refusals of the same client.
    pub(in crate::serve) fn key_of_client(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.client.address.map(|at| at.ip()), self.client.uid).hash(&mut hasher);
        hasher.finish()
    }

    /// Equal for equal refusals of the same client.
    pub(in crate::serve) fn key_of_equal(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Details { repository, reference, reason, .. } = &self.details;
        (self.key_of_client(), self.said(), self.status, repository, reference).hash(&mut hasher);
        // Times and counts make no other refusal of it.
        let words = reason.iter().flat_map(|reason| reason.chars()).filter(|c| !c.is_ascii_digit());
        words.for_each(|c| c.hash(&mut hasher));
        hasher.finish()
    }
}

/// To a tenth, as people read it.
pub(in crate::serve) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Text from outside: a bounded part of it, without control characters.
pub(in crate::serve) fn bounded(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
