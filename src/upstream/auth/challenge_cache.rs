//! The challenges that origins gave before, so that a repository that is new there need not be challenged first; and
//! what origins answered to requests without authorization, for each repository.
//!
//! Bounded; what is forgotten costs one more round trip.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Origin;

use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;
use crate::upstream::auth::challenge::Challenge;

/// Origins at most: registries, mirrors and redirect targets that a node pulls from at the same time.
const ORIGINS_MAX: usize = 256;

/// Repositories of which it is known what an origin answers without authorization, at most.
const REPOSITORIES_MAX: usize = 4_096;
/// For how long a repository that was challenged is not asked without authorization again: one that was made public is
/// open that soon, and one that is not costs no more requests than without Larder.
const CHALLENGED_COUNTS_FOR: Duration = Duration::from_secs(600);

/// What an origin answered to a request without authorization.
#[derive(Clone, Copy)]
enum Unauthorized {
    /// The content: it needs none, although the origin asks for it elsewhere.
    Opened,
    /// A challenge, at this time.
    Challenged(Instant),
}

/// The last challenge of each origin.
pub(crate) struct ChallengeCache {
    challenges: Mutex<BoundedMap<Origin, Challenge>>,
    unauthorized: Mutex<BoundedMap<(Origin, Repository), Unauthorized>>,
}

impl Default for ChallengeCache {
    fn default() -> Self {
        let challenges = Mutex::new(BoundedMap::new(ORIGINS_MAX));
        Self { challenges, unauthorized: Mutex::new(BoundedMap::new(REPOSITORIES_MAX)) }
    }
}

impl ChallengeCache {
    /// Remembers the challenge that `origin` gave for `repository`, unless it would not hold for another repository.
    pub(crate) fn remember(&self, origin: Origin, challenge: &Challenge, repository: &Repository) {
        let key = (origin.clone(), repository.clone());
        {
            let mut unauthorized = self.unauthorized.lock();
            if matches!(unauthorized.get(&key), Some(Unauthorized::Opened)) {
                unauthorized.remove(&key);
            }
        }
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
        let is_opened = || {
            let mut unauthorized = self.unauthorized.lock();
            matches!(unauthorized.get_by(|| (origin.clone(), repository.clone())), Some(Unauthorized::Opened))
        };
        expected.filter(|_| !is_opened())
    }

    /// Records that `origin` opened `repository` without authorization, until it gives a challenge for it.
    pub(crate) fn record_open(&self, origin: Origin, repository: &Repository) {
        self.unauthorized.lock().insert((origin, repository.clone()), Unauthorized::Opened);
    }

    /// Records that `origin` gave a challenge for `repository` to a request without authorization.
    pub(crate) fn record_challenged(&self, origin: Origin, repository: &Repository) {
        let challenged = Unauthorized::Challenged(Instant::now());
        self.unauthorized.lock().insert((origin, repository.clone()), challenged);
    }

    /// Whether it did so a short time ago.
    pub(crate) fn was_challenged(&self, origin: &Origin, repository: &Repository) -> bool {
        match self.unauthorized.lock().get(&(origin.clone(), repository.clone())) {
            Some(Unauthorized::Challenged(at)) => at.elapsed() < CHALLENGED_COUNTS_FOR,
            Some(Unauthorized::Opened) | None => false,
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_repository_that_was_challenged_is_not_asked_without_authorization_for_a_while() {
        let (cache, origin) = (ChallengeCache::default(), Url::parse("https://reg.test/").unwrap().origin());
        let [app, other] = ["reg.test/app", "reg.test/other"].map(|name| name.parse().unwrap());
        cache.record_challenged(origin.clone(), &app);
        cache.remember(origin.clone(), &Challenge::Basic, &app);
        assert!(cache.was_challenged(&origin, &app) && !cache.was_challenged(&origin, &other));
        tokio::time::advance(CHALLENGED_COUNTS_FOR).await;
        assert!(!cache.was_challenged(&origin, &app));
        cache.record_challenged(origin.clone(), &app);
        cache.record_open(origin.clone(), &app);
        assert!(!cache.was_challenged(&origin, &app));
    }
}
