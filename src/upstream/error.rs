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
    /// File descriptors, memory or threads of the machine.
    Machine,
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
    /// 5xx, or another status that says that it cannot answer now (`response::is_outage_status`, and a gateway's 405);
    /// also 400 to 410 of a redirect target, whose signed URL may have expired.
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
    /// 403 to a reference that is not known here, by a registry that lets the same principal read another one of the
    /// repository: some answer so for a tag that is not there. No right ends.
    #[error("{host} refused access to it (403), and lets the same caller read the repository")]
    ReferenceRefused {
        /// The sender of the response.
        host: String,
        /// Whether no credential was shown.
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
    /// The repository, by a registry's error document: the right of the principal to it ends, unless it was asked for
    /// a reference that is unknown here ([`Error::of_one_reference`]).
    Repository,
    /// The manifest or blob, by a registry's error document.
    Content,
    /// Something else, by a registry's error document.
    Other,
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
