//! Why a pull could not be answered, and whose fault that is.
//!
//! Promises: each variant names one cause and keeps the cause below it; no variant carries a credential or a URL's
//! query. Deliberately not here: HTTP statuses (`serve/refusal` has the one table).

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;

use crate::pull::failure_kind::FailureKind;
use crate::reference::{Digest, DocumentError, Registry};
use crate::{store, upstream};

/// The longest time that a client is told to wait because of a 5xx: the registry is asked again by then.
const SERVER_ERROR_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why a caller that showed no credential is asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeReason {
    /// The registry refuses the node's credentials and anonymous access.
    Refused,
    /// The registry cannot be asked, and only a right of the caller's own opens what is cached.
    Unreachable,
    /// The anonymous rate limit of the registry is nearly used up.
    RateLimit,
}

impl ChallengeReason {
    fn kind(self) -> FailureKind {
        match self {
            Self::Refused => FailureKind::Refused,
            Self::Unreachable => FailureKind::Unreachable,
            Self::RateLimit => FailureKind::RateLimited,
        }
    }
}

impl std::fmt::Display for ChallengeReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "the registry refuses anonymous access to this repository",
            Self::Unreachable => {
                "the registry cannot be asked, and cached content is served to callers with a known credential only"
            }
            Self::RateLimit => "the anonymous rate limit of the registry is nearly used up",
        })
    }
}

/// A failure of a pull. Cloneable, because one failure answers every request that waited for the same thing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Upstream did not answer, or refused.
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// The store failed, or the bytes that arrived are not those of the digest. Clients get this text, so that it
    /// names no file; the log has the source.
    #[error("{}", .0.without_paths())]
    Store(#[from] store::Error),
    /// A manifest that Larder does not serve.
    #[error("{host} sent a manifest that cannot be served: {source}")]
    Document {
        /// The host that sent it.
        host: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// A manifest with another digest than the one asked for.
    #[error("{host} sent content with digest {actual} for {expected}")]
    Mismatch {
        /// The host that sent it.
        host: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what arrived.
        actual: Box<Digest>,
    },
    /// The caller showed no credential, and a credential may make the difference.
    #[error("authentication required: {why}{cause}")]
    AuthenticationRequired {
        /// Why a credential is asked for.
        why: ChallengeReason,
        /// What upstream said, in parentheses; empty if upstream was not asked.
        cause: String,
        /// The kind of that.
        kind: FailureKind,
    },
    /// Little is left of a rate limit, and an older manifest can be served instead.
    #[error(
        "the rate limit of {registry} is nearly used up, and what is left is reserved for images that are not cached"
    )]
    RateLimitReserved {
        /// The registry that limits.
        registry: Registry,
    },
    /// Upstream answers, but too slowly for the client that waits, and an older manifest can be served instead.
    #[error("the manifest did not arrive within {seconds} s")]
    OutOfTime {
        /// Seconds that it was waited for.
        seconds: u64,
    },
    /// More downloads are under way than this daemon allows at once.
    #[error("too many downloads at once")]
    TooManyDownloads,
    /// No client waited for a download that brought next to nothing.
    #[error("no client waits for the download, and it brings less than 32 KiB a second")]
    NoClient,
    /// The blob was fetched for the store alone, and the store had no room for it, or its disk did not take it.
    #[error("the blob could not be stored: {}", not_stored(.0.as_ref()))]
    NotStored(Option<store::Error>),
    /// The task that did the work ended in a panic or was stopped with the daemon.
    #[error("the task that {work} ended without a result")]
    TaskEnded {
        /// What the task did.
        work: &'static str,
        /// How it ended, for the log: a panic may say anything.
        cause: Arc<str>,
    },
    /// The download that this request joined ended without a result.
    #[error("the download ended without a result: a defect of Larder, or a stop")]
    LeaderGone,
    /// Upstream ended a body before its declared size.
    #[error("upstream ended the body {missing} bytes early")]
    ShortBody {
        /// Bytes that did not come.
        missing: u64,
    },
    /// The disk does not give back what was sent of a blob, to be compared, and it is not fetched again: too much of
    /// it, too many bodies at once, or too slow.
    #[error("what was sent cannot be read back, and is not fetched again")]
    SentBytesLost,
    /// What was sent of a blob came from an endpoint whose content was wrong, and the right content begins otherwise.
    #[error("an endpoint delivered wrong content, of which a part has been sent")]
    ContentReplaced,
    /// The registry does not answer ranges, and the request needs one.
    #[error("the registry ignored the requested range")]
    RangeIgnored,
    /// The stream of an import broke off.
    #[error("the import was cut off: {0}")]
    ImportCutOff(String),
}

/// Why the store did not take a blob.
fn not_stored(error: Option<&store::Error>) -> String {
    error.map_or("an earlier line of the daemon's log says why".to_owned(), store::Error::without_paths)
}

/// Whose fault a failure is, which decides what the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller must show a credential.
    AuthenticationRequired,
    /// A rule of this node forbids the registry.
    Declined,
    /// Upstream does not take the query of a list.
    Query,
    /// Upstream refuses this caller, with this status: 401 or 403.
    Refused(u16),
    /// Upstream does not have it.
    NotFound,
    /// Upstream is in an outage or limits requests.
    Outage,
    /// Upstream answered, and the answer cannot be used.
    Invalid,
    /// This daemon or its disk.
    Ours,
}

impl Error {
    /// For a task whose answer was shared, and that ended in a panic or was stopped with the daemon.
    pub(crate) fn panicked(work: &'static str) -> Self {
        Self::TaskEnded { work, cause: "a defect of Larder, or a stop".into() }
    }

    /// For a task that was waited for.
    pub(crate) fn task_ended(work: &'static str, cause: &JoinError) -> Self {
        tracing::error!(work, %cause, "a task ended without a result");
        Self::TaskEnded { work, cause: cause.to_string().into() }
    }

    /// For a caller that showed no credential; `cause` is what upstream said, if it was asked.
    pub(crate) fn authentication_required(why: ChallengeReason, cause: Option<&upstream::Error>) -> Self {
        let kind = cause.map_or(why.kind(), FailureKind::of_upstream);
        let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        Self::AuthenticationRequired { why, cause, kind }
    }

    /// Whether upstream denies the content to the principal that was asked with: 401, 403, 404, or what it withholds.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_denied())
    }

    /// Whether upstream does not have it, or hides it.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Upstream(upstream::Error::NotFound { .. }))
    }

    /// Whether the registry itself says that it does not have the repository, or hides it.
    pub(crate) fn is_unknown_repository(&self) -> bool {
        let unknown = upstream::Unknown::Repository;
        matches!(self, Self::Upstream(upstream::Error::NotFound { unknown: what, .. }) if *what == unknown)
    }

    /// Whether the registry has it, and does not hand it out.
    pub(crate) fn is_withheld(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_withheld())
    }

    /// Whether the denial revokes the principal's access to the repository: a 404 of one reference does not.
    pub(crate) fn revokes_access(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.revokes_access())
    }

    /// Whether a denial was given to a request that showed no credential.
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_public())
    }

    /// Whether it is the registry's own answer to the question, which a repeated question gets too.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_answer())
    }

    /// Whether upstream answered 429.
    pub(crate) fn is_rate_limited(&self) -> bool {
        matches!(self, Self::Upstream(upstream::Error::RateLimited { .. }))
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Upstream(error) => match error {
                upstream::Error::Declined { .. } => Fault::Declined,
                upstream::Error::Refused { status, .. } => Fault::Refused(*status),
                upstream::Error::ReferenceRefused { .. } | upstream::Error::Withheld { .. } => {
                    Fault::Refused(403)
                }
                upstream::Error::Unauthenticated { .. } => Fault::Refused(401),
                upstream::Error::NotFound { .. } => Fault::NotFound,
                upstream::Error::Invalid { .. }
                | upstream::Error::ExpectsTls { .. }
                | upstream::Error::MethodNotAllowed { .. }
                | upstream::Error::RangeNotSatisfiable { .. } => Fault::Invalid,
                upstream::Error::QueryRefused { .. } => Fault::Query,
                upstream::Error::Overloaded { .. } => Fault::Ours,
                upstream::Error::CredentialUnavailable { .. }
                | upstream::Error::Unreachable { .. }
                | upstream::Error::ServerError { .. }
                | upstream::Error::RateLimited { .. } => Fault::Outage,
            },
            Self::Store(
                store::Error::Mismatch { .. } | store::Error::TooLong { .. } | store::Error::TooShort { .. },
            )
            | Self::Document { .. }
            | Self::ContentReplaced
            | Self::Mismatch { .. } => Fault::Invalid,
            Self::AuthenticationRequired { .. } => Fault::AuthenticationRequired,
            Self::RateLimitReserved { .. } | Self::OutOfTime { .. } => Fault::Outage,
            Self::Store(_)
            | Self::NotStored(_)
            | Self::TaskEnded { .. }
            | Self::LeaderGone
            | Self::ShortBody { .. }
            | Self::SentBytesLost
            | Self::RangeIgnored
            | Self::ImportCutOff(_)
            | Self::NoClient
            | Self::TooManyDownloads => Fault::Ours,
        }
    }

    /// What kind of failure it is, for those who are to do something about it.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Upstream(error) => FailureKind::of_upstream(error),
            Self::AuthenticationRequired { kind, .. } => *kind,
            Self::RateLimitReserved { .. } => FailureKind::RateLimited,
            Self::OutOfTime { .. } => FailureKind::Unreachable,
            error if error.fault() == Fault::Invalid => FailureKind::InvalidAnswer,
            _ => FailureKind::Node,
        }
    }

    /// When it makes sense to ask again, where upstream said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream(upstream::Error::RateLimited { retry_after, .. }) => *retry_after,
            Self::Upstream(upstream::Error::ServerError { retry_after, .. }) => {
                retry_after.map(|wait| wait.min(SERVER_ERROR_PAUSE_MAX))
            }
            _ => None,
        }
    }

    /// Bytes of the whole blob, where upstream answered 416 and said so.
    pub fn size_of_unsatisfiable(&self) -> Option<u64> {
        match self {
            Self::Upstream(upstream::Error::RangeNotSatisfiable { size, .. }) => *size,
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
            Self::AuthenticationRequired { why, .. } => match why {
                ChallengeReason::Refused => "authentication_required_refused",
                ChallengeReason::Unreachable => "authentication_required_unreachable",
                ChallengeReason::RateLimit => "authentication_required_rate_limit",
            },
            Self::RateLimitReserved { .. } => "upstream_rate_limited",
            Self::OutOfTime { .. } => "upstream_timeout",
            Self::TooManyDownloads => "too_many_downloads",
            Self::NoClient => "no_client",
            Self::NotStored(_) => "not_stored",
            Self::TaskEnded { .. } => "task_ended",
            Self::LeaderGone => "leader_gone",
            Self::ShortBody { .. } => "short_body",
            Self::SentBytesLost => "sent_bytes_lost",
            Self::ContentReplaced => "content_replaced",
            Self::RangeIgnored => "range_ignored",
            Self::ImportCutOff(_) => "import_cut_off",
        }
    }
}
