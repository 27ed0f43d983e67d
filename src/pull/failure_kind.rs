//! What kind of failure a pull ended with: what an operator can do about it depends on nothing else.
//!
//! The error document has one code for most of them (the distribution specification has no more), and its text is for
//! people. Deliberately not here: what a client gets (`Fault`, `serve/refusal`), and what is done about it (`larder
//! doctor`).

use crate::support::metric_labels::{Label, label_values};
use crate::upstream::{ConnectStage, Error};

label_values! {
    /// The kind of a failure, as the error document has it. The names stay: programs of other versions read them.
    pub enum FailureKind: "kind" {
        /// The registry refuses access, to this credential or without one.
        Refused => "refused",
        /// The registry does not have it.
        NotFound => "not_found",
        /// A rule of this node forbids the registry.
        Declined => "declined",
        /// The registry limits requests.
        RateLimited => "rate_limited",
        /// The registry answers 5xx or 408.
        ServerError => "server_error",
        /// The registry's certificate is not accepted.
        Certificate => "certificate",
        /// It is asked with TLS and speaks plain HTTP, or the other way round.
        Scheme => "scheme",
        /// The registry's challenge could not be answered.
        AuthenticationFailed => "authentication_failed",
        /// A plugin or helper of this node gave no credential.
        CredentialUnavailable => "credential_unavailable",
        /// What the registry answers cannot be used, or what answers is no registry.
        InvalidAnswer => "invalid_answer",
        /// The registry cannot be reached, or does not answer in time.
        Unreachable => "unreachable",
        /// A limit of this node was reached, or it failed itself.
        Node => "node",
    }
}

impl FailureKind {
    /// The kind with this name; `None` for one of another version.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.label() == name)
    }

    /// The kind of a failure upstream.
    pub(super) fn of_upstream(error: &Error) -> Self {
        match error {
            Error::Declined { .. } => Self::Declined,
            Error::CredentialUnavailable { .. } => Self::CredentialUnavailable,
            Error::Overloaded { .. } => Self::Node,
            Error::Unreachable { stage, .. } => match stage {
                ConnectStage::Certificate => Self::Certificate,
                ConnectStage::NotTls => Self::Scheme,
                ConnectStage::Dns
                | ConnectStage::Address
                | ConnectStage::Connect
                | ConnectStage::Tls
                | ConnectStage::Head
                | ConnectStage::Timeout
                | ConnectStage::Body => Self::Unreachable,
            },
            Error::ServerError { .. } => Self::ServerError,
            Error::RateLimited { .. } => Self::RateLimited,
            Error::Refused { .. } | Error::ReferenceRefused { .. } | Error::Withheld { .. } => Self::Refused,
            Error::Unauthenticated { .. } => Self::AuthenticationFailed,
            Error::NotFound { .. } => Self::NotFound,
            Error::ExpectsTls { .. } => Self::Scheme,
            Error::MethodNotAllowed { .. }
            | Error::RangeNotSatisfiable { .. }
            | Error::QueryRefused { .. }
            | Error::Invalid { .. } => Self::InvalidAnswer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_kinds_are_those_in_the_documentation() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/life-of-a-pull.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = page.split("| `kind` | Meaning |").nth(1).unwrap();
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split('`').next());
        let kinds: Vec<&str> = FailureKind::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(rows.collect::<Vec<_>>(), kinds);
        assert!(
            kinds.iter().all(|kind| FailureKind::named(kind).is_some_and(|named| named.label() == *kind))
        );
        assert_eq!(FailureKind::named("of_next_year"), None);
    }
}
