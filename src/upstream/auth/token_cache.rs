//! The tokens that token servers issued, in memory, while they last; never written down. And the logins that they
//! refused, so that none is repeated at once or for the same request: some registries lock an account for that.
//!
//! A token belongs to a registry, a realm, a service, a scope and a principal: what was issued to one principal is
//! never used for another. A refused login is known by a keyed hash of its credential.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::credentials::Credential;
use crate::reference::{Principal, Registry, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Moment, Timestamp};
use crate::support::sized_map::SizedMap;
use crate::upstream::auth::authorization::AuthorizationHeader;
use crate::upstream::auth::scope;
use crate::upstream::error::Error;

/// Tokens at most; a node pulls from few repositories at a time. One that is forgotten is requested again.
const TOKENS_MAX: usize = 4_096;
/// Bytes of all tokens at most, with what each is for: some 4,000 of the usual size.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same of one token. One for which a registry names a longer realm is used once.
const ONE_BYTES_MAX: usize = 32 * 1024;
/// What an entry takes besides its texts.
const ENTRY_BYTES: usize = size_of::<TokenKey>() + size_of::<CachedToken>() + 64;
/// Refused logins at most. One that is forgotten is repeated.
const REFUSALS_MAX: usize = 1_024;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) registry: Registry,
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    /// Separated by spaces.
    pub(crate) scope: String,
    pub(crate) principal: Principal,
}

impl TokenKey {
    /// Bytes of its texts.
    fn bytes(&self) -> usize {
        let Self { registry, realm, service, scope, .. } = self;
        let service = service.as_ref().map_or(0, String::len);
        registry.as_str().len() + realm.as_str().len() + service + scope.len()
    }
}

/// A token, and when it was issued.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) authorization: AuthorizationHeader,
    pub(crate) issued: Moment,
}

struct CachedToken {
    token: Token,
    expires: Instant,
}

/// The tokens that have not expired, and the logins that were refused.
pub(crate) struct TokenCache {
    tokens: Mutex<Tokens>,
    /// By [`TokenCache::login`].
    refusals: Mutex<BoundedMap<u64, (Instant, Error)>>,
    hasher: RandomState,
}

struct Tokens {
    cached: SizedMap<TokenKey, CachedToken>,
    /// How often tokens were forgotten.
    generation: u64,
}

impl Default for TokenCache {
    fn default() -> Self {
        let tokens = Tokens { cached: SizedMap::new(TOKENS_MAX, BYTES_MAX), generation: 0 };
        let refusals = BoundedMap::new(REFUSALS_MAX);
        Self { tokens: Mutex::new(tokens), refusals: Mutex::new(refusals), hasher: RandomState::new() }
    }
}

impl TokenCache {
    /// A token that has not expired and, for a proof, is younger than `token_age_max`.
    pub(crate) fn valid_token(
        &self,
        key: &TokenKey,
        token_age_max: Option<Duration>,
        now: Timestamp,
    ) -> Option<Token> {
        let mut tokens = self.tokens.lock();
        let cached = tokens.cached.get(key)?;
        if cached.expires <= Instant::now() {
            tokens.cached.remove(key);
            return None;
        }
        let is_young = token_age_max.is_none_or(|max| cached.token.issued.age_at(now) < max);
        is_young.then(|| cached.token.clone())
    }

    /// Keeps a token for `lifetime`, unless tokens were forgotten since `generation`.
    pub(crate) fn store(&self, key: TokenKey, token: Token, lifetime: Duration, generation: u64) {
        let mut tokens = self.tokens.lock();
        let bytes = ENTRY_BYTES + key.bytes() + token.authorization.bytes();
        if tokens.generation == generation && bytes <= ONE_BYTES_MAX {
            tokens.cached.insert(key, CachedToken { token, expires: Instant::now() + lifetime }, bytes);
        }
    }

    /// For [`Self::store`], before a token is requested.
    pub(crate) fn generation(&self) -> u64 {
        self.tokens.lock().generation
    }

    /// Forgets the tokens of a repository, or all: no right rests on them any more.
    pub(crate) fn forget(&self, repository: Option<&Repository>) {
        let mut tokens = self.tokens.lock();
        tokens.generation += 1;
        match repository {
            None => tokens.cached.clear(),
            Some(repository) => {
                let is_of_repository = |scope: &str| scope::prefix(scope, repository).is_some();
                let is_of = |key: &TokenKey| {
                    key.registry == *repository.registry() && key.scope.split(' ').any(is_of_repository)
                };
                tokens.cached.retain(|key, _| !is_of(key));
            }
        }
    }

    /// Why this login was refused less than `ttl` ago, or since `begun`, if it was.
    pub(crate) fn refusal(
        &self,
        key: &TokenKey,
        credential: &Credential,
        ttl: Duration,
        begun: Instant,
    ) -> Option<Error> {
        let mut refusals = self.refusals.lock();
        let (at, error) = refusals.get(&self.login(key, credential))?;
        (at.elapsed() < ttl || *at >= begun).then(|| error.clone())
    }

    /// Records that the token server refused a login.
    pub(crate) fn record_refusal(&self, key: &TokenKey, credential: &Credential, error: &Error) {
        self.refusals.lock().insert(self.login(key, credential), (Instant::now(), error.clone()));
    }

    fn login(&self, key: &TokenKey, credential: &Credential) -> u64 {
        self.hasher.hash_one((key, credential))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::PrincipalKind;

    const NOW: Timestamp = Timestamp(1_000);

    fn key(fingerprint: u8) -> TokenKey {
        TokenKey {
            registry: "reg.test".parse().unwrap(),
            realm: "https://auth.test/token".parse().unwrap(),
            service: None,
            scope: "aws repository:a/b:pull".to_owned(),
            principal: Principal::new(PrincipalKind::Caller, [fingerprint; 16]),
        }
    }

    fn token() -> Token {
        let authorization = AuthorizationHeader::bearer("t").unwrap();
        Token { authorization, issued: Moment::recorded(NOW) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_by_its_principal_alone_and_only_while_it_lasts() {
        let (cache, minute) = (TokenCache::default(), Duration::from_secs(60));
        cache.store(key(1), token(), minute, cache.generation());
        assert!(cache.valid_token(&key(1), None, NOW).is_some());
        assert!(cache.valid_token(&key(2), None, NOW).is_none(), "the token of another principal");
        tokio::time::advance(minute - Duration::from_secs(1)).await;
        assert!(cache.valid_token(&key(1), None, NOW).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.valid_token(&key(1), None, NOW).is_none(), "it has expired");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_does_not_rest_on_an_old_token() {
        let (cache, seconds) = (TokenCache::default(), Duration::from_secs);
        cache.store(key(1), token(), seconds(60), cache.generation());
        let later = Timestamp(NOW.0 + 10);
        assert!(cache.valid_token(&key(1), Some(seconds(10)), later).is_none());
        assert!(cache.valid_token(&key(1), Some(seconds(12)), later).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_right_rests_on_a_token_that_was_issued_before_it_was_revoked() {
        let (cache, minute) = (TokenCache::default(), Duration::from_secs(60));
        // Of the registry, and of an endpoint at which its repositories have a prefix before their names.
        for (revoked, forgotten) in [
            (Some("reg.test/a/b"), [true, true]),
            (Some("reg.test/a"), [false, false]),
            (Some("reg.test/a/bc"), [false, false]),
            (Some("other.test/a/b"), [false, false]),
            (Some("reg.test/hub/a/b"), [false, true]),
            (None, [true, true]),
        ] {
            for (scope, forgotten) in
                [("aws repository:a/b:pull", forgotten[0]), ("repository:hub/a/b:pull", forgotten[1])]
            {
                let key = TokenKey { scope: scope.to_owned(), ..key(1) };
                let before = cache.generation();
                cache.store(key.clone(), token(), minute, before);
                cache.forget(revoked.map(|name| name.parse().unwrap()).as_ref());
                assert_eq!(cache.valid_token(&key, None, NOW).is_none(), forgotten, "{revoked:?} {scope}");
                cache.forget(None);
                cache.store(key.clone(), token(), minute, before);
                assert!(cache.valid_token(&key, None, NOW).is_none(), "it was requested before");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_and_long_tokens_a_hostile_registry_issues_they_hold_no_more_than_their_bound() {
        let (cache, hour) = (TokenCache::default(), Duration::from_secs(3_600));
        let evil = |n: usize, realm: usize, scope: usize| TokenKey {
            realm: format!("https://evil.test/t?n={n}&{}", "x".repeat(realm)).parse().unwrap(),
            scope: "y".repeat(scope),
            ..key(1)
        };
        let long = || {
            let authorization = AuthorizationHeader::bearer(&"t".repeat(16 * 1024)).unwrap();
            Token { authorization, issued: Moment::recorded(NOW) }
        };
        // Each of them fits, and all of them would not: by their tokens, their realms or their scopes.
        for n in 0..600 {
            cache.store(evil(n, 0, 0), long(), hour, cache.generation());
            cache.store(evil(n, 16 * 1024, 0), token(), hour, cache.generation());
            cache.store(evil(n, 0, 16 * 1024), token(), hour, cache.generation());
        }
        let held = |cache: &TokenCache| {
            cache
                .tokens
                .lock()
                .cached
                .iter()
                .map(|(key, cached)| {
                    key.realm.as_str().len() + key.scope.len() + cached.token.authorization.bytes()
                })
                .sum::<usize>()
        };
        assert!(held(&cache) <= BYTES_MAX, "{} bytes", held(&cache));
        assert!(cache.valid_token(&evil(599, 0, 0), None, NOW).is_some(), "the last one is there");
        // One that pushes out hundreds of others is not kept at all.
        cache.store(evil(1, 20 * 1024, 20 * 1024), token(), hour, cache.generation());
        assert!(cache.valid_token(&evil(1, 20 * 1024, 20 * 1024), None, NOW).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_is_not_repeated_at_once_and_another_password_is_not_taken_for_it() {
        let (cache, ttl) = (TokenCache::default(), Duration::from_secs(3));
        let [wrong, right] = ["wrong", "right"].map(|p| Credential::password("u", p).unwrap());
        let error = Error::Refused {
            host: "auth.test:443".to_owned(),
            status: 401,
            why: String::new(),
            public: false,
        };
        let before = Instant::now();
        cache.record_refusal(&key(1), &wrong, &error);
        tokio::time::advance(ttl / 2).await;
        let later = Instant::now();
        assert_eq!(cache.refusal(&key(1), &wrong, ttl, later), Some(error.clone()));
        assert_eq!(cache.refusal(&key(1), &right, ttl, later), None, "the password was changed");
        assert_eq!(cache.refusal(&key(2), &wrong, ttl, later), None);
        assert_eq!(cache.refusal(&key(1), &wrong, Duration::ZERO, later), None);
        tokio::time::advance(ttl / 2).await;
        assert_eq!(cache.refusal(&key(1), &wrong, ttl, later), None);
        assert_eq!(cache.refusal(&key(1), &wrong, ttl, before), Some(error), "for the same request");
    }
}
