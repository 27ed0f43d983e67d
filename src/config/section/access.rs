//! `[access]`: who may read what is cached.

use std::time::Duration;

use crate::config::schema::section;
use crate::config::value::{Choice, Span, TEN_YEARS, choice, span};
use crate::pull::{Policy, Terms};

section! {
    /// Who may read what is cached.
    Access = "access";

    /// "verify": a cached image is for those to whom its registry shows it. "open": it is for every pod.
    reload policy: Policy = policy(), |_| Terms::default().policy;

    /// How long a proof of a right lasts; "0s" checks at every resolve, as the AlwaysPullImages admission plugin means
    /// it.
    reload grant_ttl: Duration = time(), |_| Terms::default().grant_ttl;

    /// How long a pod's own right holds when upstream cannot be asked, since it was last proved.
    reload outage_grace: Duration = time(), |_| Terms::default().outage_grace;
}

impl Access {
    /// The terms for registries that have none of their own.
    pub(crate) fn terms(&self) -> Terms {
        Terms { policy: self.policy, grant_ttl: self.grant_ttl, outage_grace: self.outage_grace }
    }
}

/// Whether rights are checked.
pub(super) fn policy() -> Choice<Policy> {
    choice(&Policy::NAMES)
}

/// A time for which something holds.
pub(super) fn time() -> Span {
    span(Duration::ZERO..=TEN_YEARS)
}
