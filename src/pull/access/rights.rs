//! When a proof of a right counts: pure decisions.
//!
//! Upstream proves a right by answering; the proof is fresh for `grant_ttl`. When upstream cannot be asked, what was
//! proved before holds: for shared principals (anonymous, the node's, the plugins') as long as the outage lasts, for a
//! caller's own credential for `outage_grace`. A rate limit is no outage: it stretches every proof a little.

use std::time::Duration;

use crate::pull::config::Terms;
use crate::reference::PrincipalKind;
use crate::upstream;

/// With `grant_ttl = "0s"` a resolve covers the digests of that one pull.
const ONE_PULL: Duration = Duration::from_secs(60);
/// How much a rate limit stretches a proof.
const RATE_LIMIT_GRACE: Duration = Duration::from_secs(15 * 60);

/// What a request asks of a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// To learn that something is there: the step in which a runtime checks its credential.
    Resolve,
    /// To read what was resolved.
    Read,
}

/// Why upstream could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It cannot be reached or fails.
    Outage,
    /// It answers 429.
    RateLimit,
    /// This node did not get as far as asking it, or not with the credential that counts.
    NotAsked,
}

impl Trouble {
    /// The trouble that an error is; `None` if upstream did answer.
    pub(crate) fn of(error: &upstream::Error) -> Option<Self> {
        match error {
            upstream::Error::RateLimited { .. } => Some(Self::RateLimit),
            upstream::Error::CredentialUnavailable { .. } => Some(Self::NotAsked),
            error if error.is_outage() => Some(Self::Outage),
            _ => None,
        }
    }
}

/// Whether a proof of this age needs no new one.
pub(crate) fn is_fresh(age: Duration, wanted: Use, terms: &Terms) -> bool {
    match (terms.grant_ttl, wanted) {
        (Duration::ZERO, Use::Resolve) => false,
        (Duration::ZERO, Use::Read) => age < ONE_PULL,
        (ttl, _) => age < ttl,
    }
}

/// Whether a proof of this age holds while upstream cannot be asked.
pub(crate) fn holds(kind: PrincipalKind, age: Duration, trouble: Trouble, terms: &Terms) -> bool {
    match trouble {
        // A caller that uses up a limit would open for all what the registry closed long ago.
        Trouble::RateLimit => age <= terms.grant_ttl + RATE_LIMIT_GRACE,
        _ if kind.is_shared() => true,
        Trouble::Outage => age <= terms.outage_grace,
        // Else a caller that makes a plugin of the node slow would keep what the registry took from it.
        Trouble::NotAsked => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::config::Policy;

    const MINUTE: Duration = Duration::from_secs(60);

    fn terms(grant_ttl: Duration) -> Terms {
        Terms { policy: Policy::Verify, grant_ttl, outage_grace: 1_000 * MINUTE }
    }

    #[test]
    fn a_proof_is_fresh_for_its_time_and_with_none_for_one_pull() {
        for (age, wanted, ttl, fresh) in [
            (Duration::ZERO, Use::Resolve, 5 * MINUTE, true),
            (4 * MINUTE, Use::Resolve, 5 * MINUTE, true),
            (5 * MINUTE, Use::Read, 5 * MINUTE, false),
            (MINUTE / 2, Use::Read, MINUTE / 6, false),
            (Duration::ZERO, Use::Resolve, Duration::ZERO, false),
            (MINUTE / 2, Use::Read, Duration::ZERO, true),
            (MINUTE, Use::Read, Duration::ZERO, false),
        ] {
            assert_eq!(is_fresh(age, wanted, &terms(ttl)), fresh, "{age:?} {wanted:?} {ttl:?}");
        }
    }

    #[test]
    fn in_an_outage_shared_rights_hold_and_a_callers_for_its_grace() {
        use PrincipalKind::{Anonymous, Caller, Node, Provider};
        use Trouble::{NotAsked, Outage, RateLimit};
        for (kind, minutes, trouble, expected) in [
            (Anonymous, 1_000_000, Outage, true),
            (Node, 1_000_000, Outage, true),
            (Provider, 1_000_000, Outage, true),
            (Provider, 20, RateLimit, true),
            (Provider, 21, RateLimit, false),
            (Node, 21, RateLimit, false),
            (Anonymous, 21, RateLimit, false),
            (Caller, 1_000, Outage, true),
            (Caller, 1_001, Outage, false),
            (Caller, 20, RateLimit, true),
            (Caller, 21, RateLimit, false),
            (Caller, 1, NotAsked, false),
            (Node, 1_000, NotAsked, true),
        ] {
            let held = holds(kind, minutes * MINUTE, trouble, &terms(5 * MINUTE));
            assert_eq!(held, expected, "{kind:?} {minutes} {trouble:?}");
        }
    }
}
