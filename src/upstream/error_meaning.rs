//! What an error says: of whom it speaks, what it ends, and whether another try or another endpoint is worth it. Pure.
//!
//! Deliberately not here: what a response means ([`super::response`]), and what is done about it (`attempts`, `pull`).

use std::time::Duration;

use super::error::{ConnectStage, Error, NodeLimit, Unknown};

impl Error {
    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Declined { .. } => "upstream_declined",
            Self::CredentialUnavailable { .. } => "credential_unavailable",
            Self::Overloaded { limit: NodeLimit::Names, .. } => "too_many_names",
            Self::Overloaded { limit: NodeLimit::ManifestMemory, .. } => "manifest_memory",
            Self::Overloaded { limit: NodeLimit::ListMemory, .. } => "list_memory",
            Self::Overloaded { limit: NodeLimit::Machine, .. } => "node_shortage",
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
            Self::Refused { .. } | Self::ReferenceRefused { .. } => "upstream_refused",
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

    /// Whether the registry was not there, or what is in front of it said so: it may be back in a moment. So may
    /// descriptors of this node.
    pub(super) fn is_moment_away(&self) -> bool {
        match self {
            Self::Unreachable { stage: ConnectStage::Connect | ConnectStage::Head, .. } => true,
            // The texts of EAI_AGAIN; a name that does not exist is an answer.
            Self::Unreachable { stage: ConnectStage::Dns, why, .. } => {
                ["Temporary failure", "Try again"].iter().any(|text| why.contains(text))
            }
            // A pause that it names is waited for.
            Self::ServerError { status, .. } => matches!(status, 502..=504),
            Self::Overloaded { limit: NodeLimit::Machine, .. } => true,
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
        matches!(
            self,
            Self::Refused { .. }
                | Self::ReferenceRefused { .. }
                | Self::Withheld { .. }
                | Self::NotFound { .. }
        )
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
            Self::Refused { host, public, .. } => Self::ReferenceRefused { host, public },
            Self::NotFound { host, public, .. } => Self::NotFound { host, unknown: Unknown::Other, public },
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
            Self::Refused { public, .. }
            | Self::ReferenceRefused { public, .. }
            | Self::Withheld { public, .. }
            | Self::NotFound { public, .. } => *public,
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
