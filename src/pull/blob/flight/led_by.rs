//! Who leads a flight, as one of its followers sees it, and what the failure of the leader says to that follower: pure
//! decisions.

use crate::pull::answer::AnswerSource;
use crate::pull::error::Error;
use crate::store;
use crate::upstream;

/// Who leads a flight, as one of its followers sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedBy {
    /// This request.
    Itself,
    /// Another request that asks the same: upstream's answer to it is an answer to this follower.
    SameQuestion,
    /// A request for another repository or with another credential: upstream's answer is an answer to it alone.
    AnotherQuestion,
}

impl LedBy {
    /// Where an answer comes from that follows the flight.
    pub(crate) fn source(self) -> AnswerSource {
        if self == Self::Itself { AnswerSource::Fill } else { AnswerSource::Join }
    }

    /// Whether upstream's answer to the leader is an answer to this follower.
    pub(crate) fn asks_the_same(self) -> bool {
        self != Self::AnotherQuestion
    }

    /// Whether a failure of the leader says nothing about this follower, which joined it. What upstream answered to
    /// another repository or credential, a hang and a rate limit included, does not.
    pub(crate) fn concerns_leader_only(self, error: &Error) -> bool {
        if self == Self::Itself {
            return false;
        }
        match error {
            Error::LeaderGone | Error::TaskEnded { .. } => true,
            Error::AuthenticationRequired { .. }
            | Error::Upstream(
                upstream::Error::NotFound { .. }
                | upstream::Error::Refused { .. }
                | upstream::Error::ReferenceRefused { .. }
                | upstream::Error::Withheld { .. }
                | upstream::Error::Unauthenticated { .. },
            ) => true,
            Error::Upstream(_) | Error::Store(store::Error::Mismatch { .. }) => !self.asks_the_same(),
            _ => false,
        }
    }

    /// Whether a client that was sent bytes of the flight goes on by itself after the leader failed with `error`: it
    /// asks another question, and what it was sent may be right.
    pub(crate) fn goes_on_after(self, error: &Error) -> bool {
        !self.asks_the_same() && self.concerns_leader_only(error) && !matches!(error, Error::Store(_))
    }
}

/// Whether a download ended because it was for the store alone: no client waited for it, or there is no room. To a
/// client that has joined by then it says nothing: what the store does not take goes past it.
pub(crate) fn was_for_store_alone(error: &Error) -> bool {
    matches!(error, Error::NotStored(_) | Error::NoClient)
}
