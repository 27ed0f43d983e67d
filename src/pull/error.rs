//! Why a pull could not be answered.

use std::time::Duration;

use crate::reference::{Digest, DocumentError, Registry};
use crate::{store, upstream};

/// Why a caller had better say who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unidentified {
    /// Neither the node's credentials nor an anonymous caller may read it.
    Refused,
    /// Upstream cannot be asked, and only a right of one's own would help.
    Unreachable,
    /// The anonymous rate limit of the registry is nearly used up.
    Budget,
}

impl std::fmt::Display for Unidentified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "the registry shows this to callers with a credential only",
            Self::Unreachable => {
                "the registry cannot be asked, and what is cached is for callers that it knows"
            }
            Self::Budget => "the anonymous rate limit of the registry is nearly used up",
        })
    }
}

/// A failure of a pull. Cloneable, because one failure is told to everybody who waited for the same thing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Upstream could not, or would not.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The store could not, or what arrived was not what was asked for.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What upstream sent as a manifest is none that may be served.
    #[error("{host} sent a manifest that cannot be served: {source}")]
    Document {
        /// Who sent it.
        host: String,
        /// Why not.
        source: DocumentError,
    },
    /// A manifest that is not the one asked for.
    #[error("{host} sent content with digest {actual} for {expected}")]
    Mismatch {
        /// Who sent it.
        host: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The caller has not said who it is, and that may make the difference.
    #[error("say who you are: {why}{cause}")]
    Unidentified {
        /// Why.
        why: Unidentified,
        /// What upstream said, for a person; empty if it was not asked.
        cause: String,
    },
    /// Little is left of a rate limit, and something older can be served.
    #[error(
        "the rate limit of {registry} is nearly used up, and what is left is kept for images that are not cached"
    )]
    Sparing {
        /// Whose.
        registry: Registry,
    },
    /// More downloads are under way than this daemon takes on at once.
    #[error("too many downloads at once")]
    Busy,
    /// It was fetched for the store alone, and the store's disk would not have it.
    #[error("it could not be stored: the daemon's log says why")]
    NotStored,
    /// Whoever did the work died before it was done; a defect of ours or a shutdown.
    #[error("the download was abandoned")]
    Abandoned,
}

/// Whose fault it is, and so what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller must identify itself.
    Unidentified,
    /// A rule of this node.
    Declined,
    /// Upstream says that the caller may not: 401 or 403.
    Refused(u16),
    /// Upstream says that there is no such thing.
    NotFound,
    /// Upstream is in an outage or limits us.
    Outage,
    /// Upstream answered, and the answer cannot be used.
    Invalid,
    /// This daemon or its disk.
    Ours,
}

impl Error {
    /// For a caller that had better say who it is; `said` is what upstream said, if it was asked.
    pub(super) fn unidentified(why: Unidentified, said: Option<&upstream::Error>) -> Self {
        Self::Unidentified { why, cause: said.map_or_else(String::new, |said| format!(" ({said})")) }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Upstream(error) => match error {
                upstream::Error::Declined { .. } => Fault::Declined,
                upstream::Error::Refused { status, .. } => Fault::Refused(*status),
                upstream::Error::NotFound { .. } => Fault::NotFound,
                upstream::Error::Invalid { .. } | upstream::Error::MethodNotAllowed { .. } => Fault::Invalid,
                _ => Fault::Outage,
            },
            Self::Store(
                store::Error::Mismatch { .. } | store::Error::TooLong { .. } | store::Error::TooShort { .. },
            )
            | Self::Document { .. }
            | Self::Mismatch { .. } => Fault::Invalid,
            Self::Unidentified { .. } => Fault::Unidentified,
            Self::Sparing { .. } => Fault::Outage,
            Self::Store(_) | Self::NotStored | Self::Abandoned | Self::Busy => Fault::Ours,
        }
    }

    /// When it makes sense to ask again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream(upstream::Error::RateLimited { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }

    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Upstream(error) => error.reason(),
            Self::Store(error) => error.reason(),
            Self::Document { .. } => "manifest_invalid",
            Self::Mismatch { .. } => "digest_mismatch",
            Self::Unidentified { why, .. } => match why {
                Unidentified::Refused => "unidentified_refused",
                Unidentified::Unreachable => "unidentified_unreachable",
                Unidentified::Budget => "unidentified_budget",
            },
            Self::Sparing { .. } => "upstream_rate_limited",
            Self::Busy => "too_many_downloads",
            Self::NotStored => "not_stored",
            Self::Abandoned => "abandoned",
        }
    }
}
