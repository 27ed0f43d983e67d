//! What can go wrong upstream, and whose fault it is. No variant carries a URL's query, a header or a body: those
//! may hold a token.

use std::time::Duration;

use crate::reference::Registry;

/// A failure to get something from a registry. Cloneable, because one failure answers every coalesced caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A rule of this node forbids the registry, before anything was asked.
    #[error("registry {registry} is declined: {why}")]
    Declined {
        /// Which.
        registry: Registry,
        /// The rule, and what to configure.
        why: String,
    },
    /// No answer: the name, the connection, TLS or time failed.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// At which step.
        stage: ConnectStage,
        /// What happened.
        why: String,
    },
    /// 5xx.
    #[error("{host} answered {status}")]
    ServerError {
        /// Who answered.
        host: String,
        /// What.
        status: u16,
    },
    /// 429.
    #[error("{host} answered 429: its rate limit is used up{}", again(retry_after))]
    RateLimited {
        /// Who answered.
        host: String,
        /// When it is asked again.
        retry_after: Option<Duration>,
    },
    /// 401 or 403, after the challenge was answered as well as we can.
    #[error("{host} refused access ({status}): {why}")]
    Refused {
        /// Who answered.
        host: String,
        /// 401 or 403.
        status: u16,
        /// Why nothing more was tried.
        why: String,
    },
    /// 404.
    #[error("{host} does not have it")]
    NotFound {
        /// Who answered.
        host: String,
        /// Whether it said that it knows no repository of that name, which ends every right to it.
        repository_unknown: bool,
        /// Whether it said so without ever asking for a credential: then none would help.
        public: bool,
    },
    /// 405: the registry does not know the method there; some refuse `HEAD`.
    #[error("{host} does not allow the method")]
    MethodNotAllowed {
        /// Who answered.
        host: String,
    },
    /// An answer that breaks the protocol or contradicts itself.
    #[error("{host} sent an invalid answer: {why}")]
    Invalid {
        /// Who answered.
        host: String,
        /// What is wrong with it.
        why: String,
    },
}

fn again(retry_after: &Option<Duration>) -> String {
    let seconds = |wait: &Duration| Duration::from_secs(wait.as_secs_f64().ceil() as u64);
    let shown = |wait| format!("; it is asked again in {}", humantime::format_duration(seconds(wait)));
    retry_after.as_ref().map(shown).unwrap_or_default()
}

/// The step at which an upstream could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectStage {
    /// DNS.
    Dns,
    /// The address is none that may be connected to.
    Address,
    /// TCP or the proxy.
    Connect,
    /// TLS.
    Tls,
    /// The connection broke before the response head.
    Head,
    /// No answer in time.
    Timeout,
    /// The body stalled or broke off.
    Body,
}

impl Error {
    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Declined { .. } => "upstream_declined",
            Self::Unreachable { stage, .. } => match stage {
                ConnectStage::Dns => "upstream_dns",
                ConnectStage::Address => "upstream_address",
                ConnectStage::Connect => "upstream_connect",
                ConnectStage::Tls => "upstream_tls",
                ConnectStage::Head => "upstream_disconnected",
                ConnectStage::Timeout => "upstream_timeout",
                ConnectStage::Body => "upstream_disconnected",
            },
            Self::ServerError { .. } => "upstream_5xx",
            Self::RateLimited { .. } => "upstream_rate_limited",
            Self::Refused { .. } => "upstream_refused",
            Self::NotFound { .. } => "upstream_not_found",
            Self::MethodNotAllowed { .. } => "upstream_method_not_allowed",
            Self::Invalid { .. } => "upstream_invalid",
        }
    }

    /// Whether upstream is in an outage, as opposed to having said no or nonsense.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::ServerError { .. } | Self::RateLimited { .. })
    }

    /// Whether the same question may be asked again at once: it failed quickly and may have been bad luck.
    pub(super) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Unreachable { stage, .. } => matches!(stage, ConnectStage::Connect | ConnectStage::Head),
            Self::ServerError { .. } => true,
            _ => false,
        }
    }

    /// Whether it is a no to this principal that says nothing about another: a registry may hide what it does not
    /// show, so 404 is one too.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotFound { .. })
    }

    /// Whether it ends the right of the principal that was asked with: a 404 of one reference does not.
    pub fn revokes_access(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NotFound { repository_unknown: true, .. })
    }

    /// Whether another endpoint of the same registry may know better.
    pub(super) fn is_worth_another_endpoint(&self) -> bool {
        !matches!(self, Self::Declined { .. })
    }
}
