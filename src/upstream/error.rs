//! What can go wrong upstream, and whose fault it is.
//!
//! No variant carries a URL's query, a header or a body: those may hold a token. Errors are kept and logged, so that
//! what a stranger chose of their texts is short: no host is longer than a name may be (`transport/authority`), and
//! causes, which may quote a certificate or a response, are cut ([`root_cause`]).

use std::error::Error as StdError;
use std::fmt::Display;
use std::time::Duration;

use crate::reference::Registry;
use crate::support::short_text::shortened;

/// Characters of a cause that are kept: more than the longest name and what the resolver says of it take.
const CAUSE_CHARS_MAX: usize = 400;

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// A limit of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeLimit {
    /// Names that are looked up at once.
    Names,
    /// Bytes of large manifests that are received at once.
    ManifestMemory,
    /// Bytes that are held of lists at once.
    ListMemory,
}

/// A request to a registry that failed. Cloneable, because every caller that waits for one request gets its error.
/// `host` is the `host:port` that failed, which may be that of a token server or of a redirect target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rule of this node forbids the registry; no request was sent.
    #[error("registry {registry} is declined: {why}")]
    Declined {
        /// The registry.
        registry: Registry,
        /// The rule, and what to configure.
        why: String,
    },
    /// A plugin or helper of the node that may have the credential failed or takes too long; others were refused. This
    /// says nothing of the registry.
    #[error(
        "a credential plugin or helper of this node gave no credential for {registry}; the daemon's log says why"
    )]
    CredentialUnavailable {
        /// The registry.
        registry: Registry,
    },
    /// A limit of this node was reached. This says nothing of the registry.
    #[error("a limit of this node was reached with {host}: {why}")]
    Overloaded {
        /// Which.
        limit: NodeLimit,
        /// What was not asked, or not read to its end.
        host: String,
        /// The limit.
        why: String,
    },
    /// No response: the name, the connection, TLS or the time failed.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// What failed.
        host: String,
        /// At which stage.
        stage: ConnectStage,
        /// The cause.
        why: String,
    },
    /// 5xx or 408; also 401 and 403 of a redirect target, whose signed URL may have expired.
    #[error("{host} answered {status}")]
    ServerError {
        /// For how long it asks to be left alone (`Retry-After`).
        retry_after: Option<Duration>,
        /// The sender of the response.
        host: String,
        /// Its status.
        status: u16,
    },
    /// 429.
    #[error("{host} answered 429: its rate limit is used up{}", next_request(retry_after))]
    RateLimited {
        /// The sender of the response.
        host: String,
        /// How long no such request is sent.
        retry_after: Option<Duration>,
    },
    /// 401 or 403 to this credential, by the registry or, at the login, by its token server.
    #[error("{host} refused access ({status}): {why}")]
    Refused {
        /// The sender of the response.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Why no other authentication was tried.
        why: String,
        /// Whether no credential was shown, so that this says nothing of one.
        public: bool,
    },
    /// It has this, and does not hand it out: by a policy of its own (Harbor answers 412), since it is locked or
    /// disabled, for legal reasons (451), or for want of a payment (402). That is no word about the rest of the
    /// repository.
    #[error("{host} withholds it: it answered {why}")]
    Withheld {
        /// The sender of the response.
        host: String,
        /// The status, with the code of the error document.
        why: String,
        /// Whether no credential was shown, so that it is withheld from everyone.
        public: bool,
    },
    /// The challenge could not be answered: its token server gives no token, its realm must not be asked, or it cannot
    /// be understood. That is no word of the registry about the credential.
    #[error("{host} asks for authentication, which failed: {why}")]
    Unauthenticated {
        /// The sender of the challenge, or of the answer to it.
        host: String,
        /// What failed.
        why: String,
    },
    /// 404 or 410.
    #[error("{host} does not have it")]
    NotFound {
        /// The sender of the response.
        host: String,
        /// What it says is unknown.
        unknown: Unknown,
        /// Whether the response came without any credential: then none would help.
        public: bool,
    },
    /// 405: the registry does not know the method there; some refuse `HEAD`.
    #[error("{host} does not allow the method")]
    MethodNotAllowed {
        /// The sender of the response.
        host: String,
    },
    /// 416: the registry does not answer this range.
    #[error("{host} does not answer the requested range")]
    RangeNotSatisfiable {
        /// The sender of the response.
        host: String,
        /// Bytes of the whole blob, where the response says so.
        size: Option<u64>,
    },
    /// 400 to the query of a list: it asks for too many entries, say.
    #[error("{host} answered 400 to the query of this list")]
    QueryRefused {
        /// The sender of the response.
        host: String,
    },
    /// A response that breaks the protocol or contradicts itself.
    #[error("{host} sent an invalid answer: {why}")]
    Invalid {
        /// The sender of the response.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// 400 to plain HTTP, as servers answer that expect TLS.
    #[error(
        "{host} sent an invalid answer: status 400 to plain HTTP; where it expects TLS, its [[registry]] says so: endpoints = [\"https://…\"]"
    )]
    ExpectsTls {
        /// The sender of the response.
        host: String,
    },
}

fn next_request(retry_after: &Option<Duration>) -> String {
    let whole = |wait: &Duration| Duration::from_secs(wait.as_secs_f64().ceil() as u64);
    let text = |wait| format!("; it is asked again in {}", humantime::format_duration(whole(wait)));
    retry_after.as_ref().map(text).unwrap_or_default()
}

/// What a 404 says is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The repository, by a registry's error document: every right of the principal to it ends.
    Repository,
    /// The manifest or blob, by a registry's error document.
    Content,
    /// Nothing that counts: no error document of a registry came with it, or not from the registry.
    Unsaid,
}

/// The stage at which a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    /// The name did not resolve.
    Dns,
    /// The address must not be connected to.
    Address,
    /// TCP, or the proxy.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The server's certificate was not accepted.
    Certificate,
    /// The server does not speak TLS.
    NotTls,
    /// The connection broke before the head of the response.
    Head,
    /// No response in time.
    Timeout,
    /// The body stalled or broke off.
    Body,
}

impl ConnectStage {
    /// Whether no request was sent: the host itself cannot be reached.
    pub(super) fn is_before_the_request(self) -> bool {
        match self {
            Self::Dns | Self::Address | Self::Connect | Self::Tls | Self::Certificate | Self::NotTls => true,
            Self::Head | Self::Timeout | Self::Body => false,
        }
    }
}

/// Who failed in an exchange with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// The endpoint.
    Endpoint,
    /// A host that the endpoint redirected to.
    RedirectTarget,
    /// The token server, or what may be presented is no answer to a challenge.
    TokenServer,
}

/// An exchange with an endpoint that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) party: Party,
    /// Whether a 429 was recorded already: it answered another request than the one that was to be sent.
    pub(super) is_recorded: bool,
}

impl Failure {
    pub(super) fn new(error: Error, party: Party) -> Self {
        Self { error, party, is_recorded: false }
    }
}

impl Error {
    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Declined { .. } => "upstream_declined",
            Self::CredentialUnavailable { .. } => "credential_unavailable",
            Self::Overloaded { limit: NodeLimit::Names, .. } => "too_many_names",
            Self::Overloaded { limit: NodeLimit::ManifestMemory, .. } => "manifest_memory",
            Self::Overloaded { limit: NodeLimit::ListMemory, .. } => "list_memory",
            Self::Unreachable { stage, .. } => match stage {
                ConnectStage::Dns => "upstream_dns",
                ConnectStage::Address => "upstream_address",
                ConnectStage::Connect => "upstream_connect",
                ConnectStage::Tls | ConnectStage::Certificate | ConnectStage::NotTls => "upstream_tls",
                ConnectStage::Head => "upstream_disconnected",
                ConnectStage::Timeout => "upstream_timeout",
                ConnectStage::Body => "upstream_disconnected",
            },
            Self::ServerError { .. } => "upstream_5xx",
            Self::RateLimited { .. } => "upstream_rate_limited",
            Self::Refused { .. } => "upstream_refused",
            Self::Withheld { .. } => "upstream_withheld",
            Self::Unauthenticated { .. } => "upstream_unauthenticated",
            Self::NotFound { .. } => "upstream_not_found",
            Self::MethodNotAllowed { .. } => "upstream_method_not_allowed",
            Self::RangeNotSatisfiable { .. } => "upstream_range_not_satisfiable",
            Self::QueryRefused { .. } => "upstream_query_refused",
            Self::Invalid { .. } | Self::ExpectsTls { .. } => "upstream_invalid",
        }
    }

    /// Whether the registry could not answer now, as opposed to having denied access or sent an invalid response.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::ServerError { .. }
                | Self::RateLimited { .. }
                | Self::CredentialUnavailable { .. }
        )
    }

    /// Whether an answer came that is none of a registry's.
    pub fn is_invalid_answer(&self) -> bool {
        matches!(self, Self::Invalid { .. } | Self::ExpectsTls { .. })
    }

    /// Whether a limit of this node was reached, which is no failure of the registry.
    pub(super) fn is_overloaded(&self) -> bool {
        matches!(self, Self::Overloaded { .. })
    }

    /// Whether no connection could be opened, to a host whose name resolves: it may be there again in a moment.
    pub(super) fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Unreachable { stage: ConnectStage::Connect, .. })
    }

    /// Whether the registry was not there, or what is in front of it said so: it may be back in a moment.
    pub(super) fn is_moment_away(&self) -> bool {
        match self {
            Self::Unreachable { stage: ConnectStage::Connect | ConnectStage::Head, .. } => true,
            // The texts of EAI_AGAIN; a name that does not exist is an answer.
            Self::Unreachable { stage: ConnectStage::Dns, why, .. } => {
                ["Temporary failure", "Try again"].iter().any(|text| why.contains(text))
            }
            // A pause that it names is waited for.
            Self::ServerError { status, .. } => matches!(status, 502..=504),
            _ => false,
        }
    }

    /// Whether the same request may succeed at once: it failed quickly, and the cause may have passed.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Unreachable { stage, .. } => matches!(stage, ConnectStage::Connect | ConnectStage::Head),
            Self::ServerError { retry_after, .. } => retry_after.is_none_or(|wait| wait.is_zero()),
            _ => false,
        }
    }

    /// Whether access is denied to this principal, which says nothing about another one. A registry may hide what it
    /// denies, so 404 counts.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Unauthenticated { .. }) || self.is_answer()
    }

    /// Whether the registry itself denies it, so that the same question gets the same answer for a while.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Withheld { .. } | Self::NotFound { .. })
    }

    /// Whether the registry has what was asked for, and does not hand it out. No right to anything else ends.
    pub fn is_withheld(&self) -> bool {
        matches!(self, Self::Withheld { .. })
    }

    /// Whether the right of this principal to the repository ends: a 404 of one reference does not end it.
    pub fn revokes_access(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotFound { unknown: Unknown::Repository, .. })
    }

    /// Whether some registries answer so for one tag that is not there: 403 or `NAME_UNKNOWN`.
    pub fn may_be_of_one_reference(&self) -> bool {
        matches!(
            self,
            Self::Refused { status: 403, .. } | Self::NotFound { unknown: Unknown::Repository, .. }
        )
    }

    /// The same denial, where the registry lets the principal read something else of the repository.
    pub fn of_one_reference(self) -> Self {
        match self {
            Self::Refused { host, status, public, .. } => {
                let why = format!("{status}, and lets the same caller read the repository");
                Self::Withheld { host, why, public }
            }
            Self::NotFound { host, public, .. } => Self::NotFound { host, unknown: Unknown::Unsaid, public },
            other => other,
        }
    }

    /// Whether the registry itself says that the repository does not have the content that was asked for. A registry
    /// that hides what it denies may say so, too.
    pub fn says_content_is_gone(&self) -> bool {
        matches!(self, Self::NotFound { unknown: Unknown::Content, .. })
    }

    /// Whether a denial was given to a request that showed no credential: then it is about everyone's right, and not
    /// about that of a credential that was not shown.
    pub fn is_public(&self) -> bool {
        match self {
            Self::Refused { public, .. } | Self::Withheld { public, .. } | Self::NotFound { public, .. } => {
                *public
            }
            _ => false,
        }
    }

    /// What `from`, the endpoint that redirected there, comes to where a credential is asked for: none follows.
    pub(super) fn after_redirect_of(mut self, from: &str) -> Self {
        if let Self::Refused { why, .. } | Self::Unauthenticated { why, .. } = &mut self {
            *why += &format!(
                "; a redirect of {from} leads there, and no credential follows it: if that is the registry itself, name it in `endpoints` of the [[registry]], with `credentials` and `authoritative`"
            );
        }
        self
    }

    /// For how long a registry that fails asks to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ServerError { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether another endpoint of the same registry may still deliver.
    pub(super) fn is_worth_another_endpoint(&self) -> bool {
        !matches!(self, Self::Declined { .. })
    }
}

/// The beginning of the text of the last cause: the outer ones only say that sending failed.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    cause(&last)
}

/// The beginning of the text of a cause.
pub(super) fn cause(text: &dyn Display) -> String {
    shortened(text, CAUSE_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_with_thousands_of_names_does_not_fill_the_errors_that_are_kept() {
        let presented: Vec<String> = (0..4_000).map(|n| format!("n{n}.evil.test")).collect();
        let expected = rustls::pki_types::ServerName::try_from("reg.test").unwrap().to_owned();
        let why = rustls::CertificateError::NotValidForNameContext { expected, presented };
        let error = std::io::Error::other(rustls::Error::InvalidCertificate(why));
        assert!(error.to_string().len() > 50_000, "what there is to be cut");
        let cause = root_cause(&error);
        assert!(cause.starts_with("invalid peer certificate"), "{cause}");
        assert!(cause.chars().count() <= CAUSE_CHARS_MAX + 1, "{} characters", cause.len());
    }
}
