//! How the content of a blob was delivered, and what is tried after content that was wrong: pure decisions.
//!
//! Promises: no endpoint is asked twice in the same way for content that it delivered wrong. Content over several
//! connections, of kept ranges or of several endpoints is followed by one plain connection from the start; wrong
//! content over that one by the next endpoint; and the number of tries is bounded.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::pull::error::Error;
use crate::reference::Repository;
use crate::store;
use crate::upstream::{DeliveryFault, EndpointId};

/// Downloads of one blob at most, however many endpoints there are.
const TRIES_MAX: u32 = 4;

/// Who delivered the bytes of one try, and how. Cheap to clone; clones share what is recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    endpoints: Vec<EndpointId>,
    in_ranges: bool,
    /// The repositories in which an authoritative endpoint answered with some of the bytes.
    proved_in: Vec<Repository>,
}

impl Trail {
    /// Bytes came from `endpoint`, which was asked for `repository`.
    pub(crate) fn record(&self, endpoint: &EndpointId, repository: &Repository) {
        let mut recorded = self.0.lock();
        if endpoint.is_authoritative() && !recorded.proved_in.contains(repository) {
            recorded.proved_in.push(repository.clone());
        }
        if !recorded.endpoints.contains(endpoint) {
            recorded.endpoints.push(endpoint.clone());
        }
    }

    /// Not all bytes came in one body: it was resumed, or other connections or readers fetched ranges of it.
    pub(crate) fn record_ranges(&self) {
        self.0.lock().in_ranges = true;
    }

    /// The endpoints, in the order in which they delivered.
    pub(crate) fn endpoints(&self) -> Vec<EndpointId> {
        self.0.lock().endpoints.clone()
    }

    /// Whether all bytes came from `endpoint`, in one body.
    pub(crate) fn is_of(&self, endpoint: &EndpointId) -> bool {
        let recorded = self.0.lock();
        !recorded.in_ranges && recorded.endpoints.iter().all(|other| other == endpoint)
    }

    /// Whether the registry itself answered with the blob, or some of it, in `repository`. What a mirror delivers says
    /// nothing about the repository.
    pub(crate) fn is_proved_in(&self, repository: &Repository) -> bool {
        self.0.lock().proved_in.contains(repository)
    }

    /// Whether a mirror delivered some of the bytes: neither the size that it stated nor its bytes are the registry's
    /// word.
    pub(crate) fn has_mirror(&self) -> bool {
        let is_mirror = |endpoint: &EndpointId| !endpoint.is_authoritative() && !endpoint.is_shared_tier();
        self.0.lock().endpoints.iter().any(is_mirror)
    }

    /// Whether a mirror or the shared tier delivered some of the bytes, whose size may be known from the registry.
    pub(crate) fn has_unproved_bytes(&self) -> bool {
        self.0.lock().endpoints.iter().any(|endpoint| !endpoint.is_authoritative())
    }

    /// Whose fault wrong content may be. Of several endpoints, the last one went on where the others broke off.
    pub(crate) fn suspects(&self) -> Vec<EndpointId> {
        let mut endpoints = self.endpoints();
        endpoints.truncate(endpoints.len().saturating_sub(1).max(1));
        endpoints
    }

    /// Whether not all bytes came in one body.
    pub(crate) fn is_in_ranges(&self) -> bool {
        self.0.lock().in_ranges
    }
}

/// How a blob is downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Over as many connections as make it fast, with the ranges that readers fetched by themselves.
    Fastest,
    /// Over one connection from the start.
    Plain,
}

/// The tries to download one blob.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    made: u32,
    /// Endpoints that delivered wrong content over a plain connection.
    wrong: Vec<EndpointId>,
}

impl Tries {
    /// How the next try downloads.
    pub(crate) fn way(&self) -> Way {
        if self.made == 0 { Way::Fastest } else { Way::Plain }
    }

    /// Whether a try that begins with a body of `endpoint` would be one that was made before.
    pub(crate) fn is_repeated_by(&self, endpoint: &EndpointId) -> bool {
        self.wrong.contains(endpoint)
    }

    /// Takes in a try whose content was wrong, and returns whether another one makes sense. `another` says whether an
    /// endpoint is left that has not delivered wrong content.
    pub(crate) fn failed(&mut self, trail: &Trail, another: bool) -> bool {
        let plain = self.way() == Way::Plain || !trail.is_in_ranges();
        self.made += 1;
        if plain {
            self.wrong.extend(trail.endpoints());
        }
        self.made < TRIES_MAX && (another || !plain)
    }
}

/// What was wrong with the content of a download that failed with `error`; `None` if content was not why it failed.
pub(crate) fn fault_of(error: &Error, trail: &Trail) -> Option<DeliveryFault> {
    let in_ranges = trail.is_in_ranges();
    match error {
        Error::Store(store::Error::Mismatch { .. }) if in_ranges => Some(DeliveryFault::Ranges),
        Error::Store(store::Error::Mismatch { .. }) => Some(DeliveryFault::Digest),
        Error::Store(store::Error::TooLong { .. } | store::Error::TooShort { .. })
        | Error::ShortBody { .. } => Some(DeliveryFault::Length),
        // The rest contradicts what came before.
        Error::Upstream(error) if error.is_invalid_answer() => Some(DeliveryFault::Range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Digest;

    fn trail(endpoints: &[&str], in_ranges: bool) -> Trail {
        let trail = Trail::default();
        let repository = "reg.test/app".parse().unwrap();
        endpoints.iter().for_each(|host| trail.record(&EndpointId::for_test(host), &repository));
        if in_ranges {
            trail.record_ranges();
        }
        trail
    }

    #[test]
    fn no_endpoint_is_asked_a_third_time_in_the_same_way() {
        let (none, plain, ranges) = (trail(&[], false), trail(&["a"], false), trail(&["a"], true));
        let after = |steps: &[(&Trail, bool)]| {
            let mut tries = Tries::default();
            assert_eq!(tries.way(), Way::Fastest);
            let goes_on =
                steps.iter().map(|(trail, another)| tries.failed(trail, *another)).collect::<Vec<_>>();
            assert_eq!(tries.way(), Way::Plain);
            goes_on
        };
        assert_eq!(after(&[(&plain, false)]), [false], "the only endpoint, over one connection");
        assert_eq!(after(&[(&plain, true), (&trail(&["b"], false), false)]), [true, false]);
        assert_eq!(
            after(&[(&ranges, false), (&plain, false)]),
            [true, false],
            "several connections, then one"
        );
        assert_eq!(
            after(&[(&ranges, false), (&ranges, false)]),
            [true, false],
            "a plain try that was resumed"
        );
        assert_eq!(after(&[(&none, true); 4]), [true, true, true, false], "not for ever");
        let mut tries = Tries::default();
        tries.failed(&plain, true);
        let [a, b] = ["a", "b"].map(EndpointId::for_test);
        assert!(tries.is_repeated_by(&a) && !tries.is_repeated_by(&b));
        let mut tries = Tries::default();
        tries.failed(&ranges, false);
        assert!(!tries.is_repeated_by(&a), "a plain connection to it is another way");
    }

    #[test]
    fn only_the_registry_itself_says_what_a_repository_has_and_only_of_that_repository() {
        let [app, other]: [Repository; 2] =
            ["reg.test/app", "reg.test/other"].map(|name| name.parse().unwrap());
        let [mirror, registry] = ["mirror", "registry"].map(EndpointId::for_test);
        let trail = Trail::default();
        trail.record(&mirror, &app);
        // The rest of a download may come from the repository of a follower.
        trail.record(&registry, &other);
        assert!(!trail.is_proved_in(&app) && trail.is_proved_in(&other));
        trail.record(&registry, &app);
        assert!(trail.is_proved_in(&app) && trail.has_mirror());
    }

    #[test]
    fn an_outage_is_not_taken_for_wrong_content() {
        let [plain, ranges] = [false, true].map(|in_ranges| trail(&["a"], in_ranges));
        let digest = Digest::of(b"x");
        let mismatch =
            Error::Store(store::Error::Mismatch { expected: digest, actual: Digest::of(b"y").into() });
        assert_eq!(fault_of(&mismatch, &plain), Some(DeliveryFault::Digest));
        assert_eq!(fault_of(&mismatch, &ranges), Some(DeliveryFault::Ranges));
        assert_eq!(fault_of(&Error::ShortBody { missing: 1 }, &plain), Some(DeliveryFault::Length));
        let outage = crate::upstream::Error::ServerError {
            host: "reg.test".to_owned(),
            status: 503,
            retry_after: None,
        };
        assert_eq!(fault_of(&outage.into(), &plain), None);
        assert_eq!(fault_of(&Error::LeaderGone, &plain), None);
    }
}
