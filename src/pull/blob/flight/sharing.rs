//! Who shares a flight, and what was known when it began. Values.

use crate::pull::access::digest_answers::AnswerNumber;
use crate::pull::access::known_rights::AskedAt;
use crate::pull::context::{PullContext, RequestId};
use crate::reference::{Digest, Principal, Registry, Repository};

/// What was known when a flight began, before upstream was asked: what its answer to the leader says later is judged by
/// that.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FlightStart {
    /// The last answer of a registry about a digest.
    pub(crate) last_answer: AnswerNumber,
    /// Set if the leader had no fresh right, so that upstream was asked to prove one.
    pub(crate) asked: Option<AskedAt>,
}

/// With whom a request shares a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// With all who may read the blob of that registry.
    All,
    /// With those who ask in the same repository with the same credential: the answer to another did not help.
    SameQuestion,
    /// With nobody: neither did the answer to an equal question.
    Nobody,
}

impl Sharing {
    /// The key of the flight of a pull that is shared so.
    pub(super) fn key(self, context: &PullContext, digest: Digest) -> Key {
        let (repository, principal) = (context.repository().clone(), context.caller().principal());
        let sharers = match self {
            Self::All => None,
            Self::SameQuestion => Some(Sharers::Question(repository, principal)),
            Self::Nobody => Some(Sharers::Request(context.request_id())),
        };
        (context.repository().registry().clone(), digest, sharers)
    }

    /// With fewer, after a flight that was shared like this did not help.
    pub(crate) fn with_fewer(self) -> Self {
        match self {
            Self::All => Self::SameQuestion,
            Self::SameQuestion | Self::Nobody => Self::Nobody,
        }
    }
}

/// The registry and the digest, and who shares the flight if not all do.
pub(super) type Key = (Registry, Digest, Option<Sharers>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Sharers {
    /// Those who ask in this repository as this principal.
    Question(Repository, Option<Principal>),
    Request(RequestId),
}
