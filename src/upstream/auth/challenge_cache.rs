//! The challenges that origins gave before, so that a repository that is new there need not be challenged first; and the
//! repositories that an origin opens without one.
//!
//! Bounded; what is forgotten costs one more round trip.

use parking_lot::Mutex;
use url::Origin;

use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;
use crate::upstream::auth::challenge::Challenge;

/// Origins at most: registries, mirrors and redirect targets that a node pulls from at the same time.
const ORIGINS_MAX: usize = 256;

/// Repositories that need no authorization, at origins that ask for it elsewhere, at most.
const OPEN_MAX: usize = 4_096;

/// The last challenge of each origin.
pub(crate) struct ChallengeCache {
    challenges: Mutex<BoundedMap<Origin, Challenge>>,
    open: Mutex<BoundedMap<(Origin, Repository), ()>>,
}

impl Default for ChallengeCache {
    fn default() -> Self {
        let challenges = Mutex::new(BoundedMap::new(ORIGINS_MAX));
        Self { challenges, open: Mutex::new(BoundedMap::new(OPEN_MAX)) }
    }
}

impl ChallengeCache {
    /// Remembers the challenge that `origin` gave for `repository`, unless it would not hold for another repository.
    pub(crate) fn remember(&self, origin: Origin, challenge: &Challenge, repository: &Repository) {
        self.open.lock().remove(&(origin.clone(), repository.clone()));
        let carries_over = match challenge {
            Challenge::Bearer(bearer) => bearer.has_usual_scope(repository),
            Challenge::Basic => true,
            Challenge::Other(_) => false,
        };
        if carries_over {
            self.challenges.lock().insert(origin, challenge.clone());
        }
    }

    /// The challenge that `origin` is expected to give for `repository`.
    pub(crate) fn expected(&self, origin: &Origin, repository: &Repository) -> Option<Challenge> {
        let expected = self.challenges.lock().get(origin).map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Challenge::Bearer(bearer.for_repository(repository)),
            other => other.clone(),
        });
        expected.filter(|_| self.open.lock().get(&(origin.clone(), repository.clone())).is_none())
    }

    /// Records that `origin` opened `repository` without authorization, until it gives a challenge for it.
    pub(crate) fn record_open(&self, origin: Origin, repository: &Repository) {
        self.open.lock().insert((origin, repository.clone()), ());
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::upstream::auth::challenge::BearerChallenge;

    fn bearer(scope: &str) -> Challenge {
        let realm = "https://auth.test/token".to_owned();
        Challenge::Bearer(BearerChallenge { realm, service: None, scope: scope.to_owned(), or_basic: false })
    }

    #[test]
    fn a_challenge_carries_over_to_another_repository_only_with_the_usual_scope() {
        let (cache, origin) = (ChallengeCache::default(), Url::parse("https://reg.test/").unwrap().origin());
        let (app, other) = ("reg.test/team/app".parse().unwrap(), "reg.test/team/other".parse().unwrap());
        cache.remember(origin.clone(), &bearer("aws repository:team/app:pull"), &app);
        cache.remember(origin.clone(), &Challenge::Other(String::new()), &app);
        assert_eq!(cache.expected(&origin, &other), None);
        cache.remember(origin.clone(), &bearer("repository:team/app:pull"), &app);
        assert_eq!(cache.expected(&origin, &other), Some(bearer("repository:team/other:pull")));
        cache.remember(origin.clone(), &Challenge::Basic, &app);
        assert_eq!(cache.expected(&origin, &other), Some(Challenge::Basic));
        cache.record_open(origin.clone(), &other);
        assert_eq!(cache.expected(&origin, &other), None, "a public repository beside a private one");
        assert_eq!(cache.expected(&origin, &app), Some(Challenge::Basic));
        cache.remember(origin.clone(), &Challenge::Basic, &other);
        assert_eq!(cache.expected(&origin, &other), Some(Challenge::Basic), "it was closed since");
    }
}
