//! The tokens that token servers issued, in memory, while they last; never written down.
//!
//! A token belongs to a realm, a service, a scope and a principal: what was issued to one principal is never used for
//! another.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::reference::Principal;
use crate::support::bounded_map::BoundedMap;
use crate::upstream::auth::authorization::AuthorizationHeader;

/// Tokens at most; a node pulls from few repositories at a time. One that is forgotten is requested again.
const TOKENS_MAX: usize = 4_096;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    /// Separated by spaces.
    pub(crate) scope: String,
    pub(crate) principal: Principal,
}

struct CachedToken {
    authorization: AuthorizationHeader,
    issued: Instant,
    expires: Instant,
}

/// The tokens that have not expired.
pub(crate) struct TokenCache(Mutex<BoundedMap<TokenKey, CachedToken>>);

impl Default for TokenCache {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(TOKENS_MAX)))
    }
}

impl TokenCache {
    /// A token that has not expired and, for a proof, is younger than `age_max`.
    pub(crate) fn valid_token(
        &self,
        key: &TokenKey,
        age_max: Option<Duration>,
    ) -> Option<AuthorizationHeader> {
        let (now, mut tokens) = (Instant::now(), self.0.lock());
        let token = tokens.get(key)?;
        if token.expires <= now {
            tokens.remove(key);
            return None;
        }
        age_max.is_none_or(|max| now - token.issued < max).then(|| token.authorization.clone())
    }

    /// Keeps a token that was issued just now for `lifetime`.
    pub(crate) fn store(&self, key: TokenKey, authorization: AuthorizationHeader, lifetime: Duration) {
        let issued = Instant::now();
        let token = CachedToken { authorization, issued, expires: issued + lifetime };
        self.0.lock().insert(key, token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::PrincipalKind;

    fn key(fingerprint: u8) -> TokenKey {
        TokenKey {
            realm: "https://auth.test/token".parse().unwrap(),
            service: None,
            scope: "repository:a:pull".to_owned(),
            principal: Principal::new(PrincipalKind::Caller, [fingerprint; 16]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_by_its_principal_alone_and_only_while_it_lasts() {
        let (cache, minute) = (TokenCache::default(), Duration::from_secs(60));
        cache.store(key(1), AuthorizationHeader::bearer("t").unwrap(), minute);
        assert!(cache.valid_token(&key(1), None).is_some());
        assert!(cache.valid_token(&key(2), None).is_none(), "the token of another principal");
        tokio::time::advance(minute - Duration::from_secs(1)).await;
        assert!(cache.valid_token(&key(1), None).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.valid_token(&key(1), None).is_none(), "it has expired");
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_does_not_rest_on_an_old_token() {
        let (cache, seconds) = (TokenCache::default(), Duration::from_secs);
        cache.store(key(1), AuthorizationHeader::bearer("t").unwrap(), seconds(60));
        tokio::time::advance(seconds(10)).await;
        assert!(cache.valid_token(&key(1), Some(seconds(10))).is_none());
        assert!(cache.valid_token(&key(1), Some(seconds(11))).is_some());
    }
}
