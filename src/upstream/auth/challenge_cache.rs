//! The challenges that endpoints gave before, so that a repository that is new there need not be challenged first; and
//! what origins answered to requests without authorization, for each repository.
//!
//! Bounded; what is forgotten costs one more round trip.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::{Origin, Url};

use crate::reference::Repository;
use crate::support::bounded_map::BoundedMap;
use crate::upstream::auth::challenge::Challenge;
use crate::upstream::auth::scope;

/// URLs at most: of registries, mirrors and redirect targets that a node pulls from at the same time.
const BASE_URLS_MAX: usize = 256;
/// Bytes of a path before the name of a repository at most: that of an endpoint has a few segments.
const BASE_BYTES_MAX: usize = 512;

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

/// A URL up to the name of a repository: under another path, the same origin may put another prefix before names.
type BaseUrl = (Origin, String);

/// A challenge that holds for every repository under its URL.
struct Known {
    challenge: Challenge,
    /// What it puts before the path of a repository.
    prefix: String,
}

/// The last challenge of each URL.
pub(crate) struct ChallengeCache {
    challenges: Mutex<BoundedMap<BaseUrl, Known>>,
    unauthorized: Mutex<BoundedMap<(Origin, Repository), Unauthorized>>,
}

impl Default for ChallengeCache {
    fn default() -> Self {
        let challenges = Mutex::new(BoundedMap::new(BASE_URLS_MAX));
        Self { challenges, unauthorized: Mutex::new(BoundedMap::new(REPOSITORIES_MAX)) }
    }
}

impl ChallengeCache {
    /// Remembers the challenge that `url` gave for `repository`, unless it would not hold for another repository.
    pub(crate) fn remember(&self, url: &Url, challenge: &Challenge, repository: &Repository) {
        let key = (url.origin(), repository.clone());
        {
            let mut unauthorized = self.unauthorized.lock();
            if matches!(unauthorized.get(&key), Some(Unauthorized::Opened)) {
                unauthorized.remove(&key);
            }
        }
        let prefix = match challenge {
            Challenge::Bearer(bearer) => bearer.prefix(repository),
            Challenge::Basic => Some(""),
            Challenge::Other(_) => None,
        };
        if let (Some(prefix), Some(base_url)) = (prefix, base_url(url, repository)) {
            let known = Known { challenge: challenge.clone(), prefix: prefix.to_owned() };
            self.challenges.lock().insert(base_url, known);
        }
    }

    /// The challenge that `url` is expected to give for `repository`.
    pub(crate) fn expected(&self, url: &Url, repository: &Repository) -> Option<Challenge> {
        let base_url = base_url(url, repository)?;
        let expected = self.challenges.lock().get(&base_url).map(|known| match &known.challenge {
            Challenge::Bearer(bearer) => Challenge::Bearer(bearer.for_repository(&known.prefix, repository)),
            other => other.clone(),
        });
        let is_opened = || {
            let mut unauthorized = self.unauthorized.lock();
            let key = || (base_url.0.clone(), repository.clone());
            matches!(unauthorized.get_by(key), Some(Unauthorized::Opened))
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

/// `None` if `url` is not that of a resource of `repository`, or a very long one.
fn base_url(url: &Url, repository: &Repository) -> Option<BaseUrl> {
    let base = scope::base(url, repository).filter(|base| base.len() <= BASE_BYTES_MAX)?;
    Some((url.origin(), base.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::auth::challenge::BearerChallenge;

    fn url(base: &str, repository: &Repository) -> Url {
        format!("https://reg.test{base}{}/manifests/v1", repository.path()).parse().unwrap()
    }

    fn bearer(scope: &str) -> Challenge {
        let realm = "https://auth.test/token".to_owned();
        Challenge::Bearer(BearerChallenge { realm, service: None, scope: scope.to_owned(), or_basic: false })
    }

    #[test]
    fn a_challenge_carries_over_to_another_repository_only_with_the_usual_scope() {
        let cache = ChallengeCache::default();
        let [app, other] = ["reg.test/team/app", "reg.test/team/other"].map(|name| name.parse().unwrap());
        let remember = |challenge: &Challenge, of| cache.remember(&url("/v2/", of), challenge, of);
        let expected = |of| cache.expected(&url("/v2/", of), of);
        remember(&bearer("aws repository:team/app:pull"), &app);
        remember(&bearer("repository:user/image:pull repository:team/app:pull"), &app);
        remember(&bearer("repository:x:pull repository:hub/team/app:pull"), &app);
        remember(&Challenge::Other(String::new()), &app);
        assert_eq!(expected(&other), None);
        remember(&bearer("repository:team/app:pull"), &app);
        assert_eq!(expected(&other), Some(bearer("repository:team/other:pull")));
        remember(&Challenge::Basic, &app);
        assert_eq!(expected(&other), Some(Challenge::Basic));
        cache.record_open(url("/v2/", &other).origin(), &other);
        assert_eq!(expected(&other), None, "a public repository beside a private one");
        assert_eq!(expected(&app), Some(Challenge::Basic));
        remember(&Challenge::Basic, &other);
        assert_eq!(expected(&other), Some(Challenge::Basic), "it was closed since");
    }

    #[test]
    fn a_challenge_is_not_expected_under_another_path_of_its_host_where_names_are_others() {
        let cache = ChallengeCache::default();
        let [app, other] = ["reg.test/team/app", "reg.test/team/other"].map(|name| name.parse().unwrap());
        for (base, scope) in [("/v2/hub/", "hub/team/app"), ("/v2/behind/", "p/hub/team/app")] {
            cache.remember(&url(base, &app), &bearer(&format!("repository:{scope}:pull")), &app);
        }
        for (base, expected) in
            [("/v2/hub/", Some("hub/")), ("/v2/behind/", Some("p/hub/")), ("/v2/quay/", None), ("/v2/", None)]
        {
            let expected = expected.map(|prefix| bearer(&format!("repository:{prefix}team/other:pull")));
            assert_eq!(cache.expected(&url(base, &other), &other), expected, "{base}");
        }
        let long = format!("/v2/{}/", "x".repeat(BASE_BYTES_MAX));
        cache.remember(&url(&long, &app), &Challenge::Basic, &app);
        assert_eq!(cache.expected(&url(&long, &app), &app), None, "a redirect may lead anywhere");
    }

    #[tokio::test(start_paused = true)]
    async fn a_repository_that_was_challenged_is_not_asked_without_authorization_for_a_while() {
        let [app, other] = ["reg.test/app", "reg.test/other"].map(|name| name.parse().unwrap());
        let (cache, at) = (ChallengeCache::default(), url("/v2/", &app));
        let origin = at.origin();
        cache.record_challenged(origin.clone(), &app);
        cache.remember(&at, &Challenge::Basic, &app);
        assert!(cache.was_challenged(&origin, &app) && !cache.was_challenged(&origin, &other));
        tokio::time::advance(CHALLENGED_COUNTS_FOR).await;
        assert!(!cache.was_challenged(&origin, &app));
        cache.record_challenged(origin.clone(), &app);
        cache.record_open(origin.clone(), &app);
        assert!(!cache.was_challenged(&origin, &app));
    }
}
