//! Repositories that refused anonymous access and the node's credentials: callers without a credential are challenged
//! there without a request upstream.
//!
//! Promises: a refusal is remembered for hours and tested again in the background meanwhile, so that a repository that
//! was made public is open soon after. Bounded: what is forgotten costs one request.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;

/// Repositories remembered at most.
const REPOSITORIES_MAX: usize = 8_192;
/// How long a refusal is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(4 * 3_600);
/// How often a refusal is tested again in the background.
const PROBE_EVERY: Duration = Duration::from_secs(600);

/// What is known of anonymous access to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnonymousAccess {
    /// Nothing: upstream is to be asked.
    Unknown,
    /// It is refused.
    Refused,
    /// It was refused, and it is time to test that again. Returned to one caller per period.
    RefusedProbeDue,
}

struct Refusal {
    since: Instant,
    probed: Instant,
}

/// The repositories that refuse anonymous access.
pub(crate) struct RefusedRepositories(Mutex<BoundedMap<Repository, Refusal>>);

impl Default for RefusedRepositories {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(REPOSITORIES_MAX)))
    }
}

impl RefusedRepositories {
    /// Records that `repository` refused the node's credentials and anonymous access.
    pub(crate) fn record(&self, repository: &Repository) {
        let now = Instant::now();
        self.0.lock().insert(repository.clone(), Refusal { since: now, probed: now });
    }

    /// Forgets the refusal: a principal that every pod may use was let in.
    pub(crate) fn forget(&self, repository: &Repository) {
        self.0.lock().remove(repository);
    }

    /// Whether `repository` refused, as far as that is remembered. No probe becomes due by asking.
    pub(crate) fn is_refused(&self, repository: &Repository) -> bool {
        self.0.lock().peek(repository).is_some_and(|refusal| refusal.since.elapsed() < REFUSED_FOR)
    }

    /// What is known of `repository`.
    pub(crate) fn state(&self, repository: &Repository) -> AnonymousAccess {
        let mut refusals = self.0.lock();
        match refusals.get(repository) {
            Some(refusal) if refusal.since.elapsed() < REFUSED_FOR => {
                if refusal.probed.elapsed() < PROBE_EVERY {
                    return AnonymousAccess::Refused;
                }
                refusal.probed = Instant::now();
                AnonymousAccess::RefusedProbeDue
            }
            _ => AnonymousAccess::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_probed_once_a_period_and_forgotten_after_hours() {
        let (refused, app) = (RefusedRepositories::default(), "reg.test/app".parse().unwrap());
        assert_eq!(refused.state(&app), AnonymousAccess::Unknown);
        refused.record(&app);
        assert_eq!(refused.state(&app), AnonymousAccess::Refused);
        tokio::time::advance(PROBE_EVERY).await;
        assert_eq!(refused.state(&app), AnonymousAccess::RefusedProbeDue);
        assert_eq!(refused.state(&app), AnonymousAccess::Refused, "two requests probe at the same time");
        tokio::time::advance(REFUSED_FOR).await;
        assert_eq!(refused.state(&app), AnonymousAccess::Unknown);
        refused.record(&app);
        refused.forget(&app);
        assert_eq!(refused.state(&app), AnonymousAccess::Unknown);
    }
}
