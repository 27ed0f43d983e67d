//! What the credentials of one request came to so far: whom to ask as next, and what the answer is when none is left.

use crate::pull::error::Error;
use crate::reference::{Principal, PrincipalKind};

/// What the credentials of one request came to, none of which has opened the repository so far.
#[derive(Default)]
pub(crate) struct Tried {
    /// The first denial, or the first that says what is withheld: that principal may read the repository.
    pub(crate) denied: Option<Error>,
    /// The first rate limit.
    pub(crate) limited: Option<Error>,
    /// Whether the registry, or its token server, refused a credential of the node.
    pub(crate) node_is_refused: bool,
    /// Whether a plugin or helper of the node may have a credential that it does not give now.
    pub(crate) node_is_unanswered: bool,
    /// Whether a denial holds whatever other credentials there are.
    pub(crate) is_certain: bool,
    /// Whether it was asked without a credential.
    pub(crate) anonymous: bool,
    /// Whether a plugin was run again.
    pub(crate) has_renewed: bool,
}

impl Tried {
    pub(crate) fn add_denial(&mut self, denial: Error, asked_as: Principal) {
        let is_of_node = matches!(asked_as.kind, PrincipalKind::Node | PrincipalKind::Provider);
        self.node_is_refused |= is_of_node && !denial.is_not_found() && !denial.is_withheld();
        let says_more = denial.is_withheld() && !self.denied.as_ref().is_some_and(Error::is_withheld);
        if says_more || self.denied.is_none() {
            self.denied = Some(denial);
        }
    }

    /// Whether the registry was not asked with a credential that may open the repository: then no denial is the answer.
    pub(crate) fn may_be_opened_later(&self) -> bool {
        self.node_is_unanswered && !self.is_certain && self.limited.is_none() && self.denied.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream;

    #[test]
    fn what_one_principal_is_told_is_withheld_counts_before_the_refusal_of_another() {
        let host = || "reg.test".to_owned();
        let refused =
            || upstream::Error::Refused { host: host(), status: 403, why: String::new(), public: false };
        let withheld =
            |why: &str| upstream::Error::Withheld { host: host(), why: why.to_owned(), public: true };
        let (mut tried, node) = (Tried::default(), Principal::new(PrincipalKind::Node, [1; 16]));
        tried.add_denial(withheld("412").into(), node);
        assert!(!tried.node_is_refused, "it is no outdated login");
        tried.add_denial(refused().into(), node);
        tried.add_denial(withheld("451").into(), node);
        assert!(tried.denied.unwrap().to_string().ends_with("412"));
        let mut tried = Tried::default();
        tried.add_denial(refused().into(), node);
        tried.add_denial(withheld("451").into(), node);
        assert!(tried.denied.unwrap().is_withheld());
    }
}
