//! Tokens of upstream: asked for once, kept while they last, never written down.
//!
//! A token belongs to (realm, service, scope, principal): what one principal was given is never used for another.
//! Equal requests for one are coalesced. A token request follows no redirect and is bounded in time and size. A user
//! name and password go by `GET` with Basic, which every token server knows; an identity token goes by `POST`
//! (distribution, "Docker Registry v2 authentication using OAuth2"), which is what it is for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::credentials::{Credential, PresentedCredential};
use crate::reference::{Principal, Registry};
use crate::upstream::Core;
use crate::upstream::auth::challenge::Bearer;
use crate::upstream::auth::realm;
use crate::upstream::endpoint::select::authority;
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::headers::retry_after;
use crate::upstream::metrics::Kind;
use crate::upstream::transport::address::Trust;

/// Everything about a token request at most.
const WAIT: Duration = Duration::from_secs(10);
/// Bytes of a token answer at most.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Without `expires_in`, and as a floor: what the distribution specification says clients assume.
const LIFE_MIN: Duration = Duration::from_secs(60);
/// A token that claims to live longer is asked for again after this.
const LIFE_MAX: Duration = Duration::from_secs(3_600);
/// A token is not used in its last moments.
const EARLY: Duration = Duration::from_secs(15);
/// Tokens kept at most; a node pulls from few repositories at a time.
const KEPT_MAX: usize = 4_096;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    realm: Url,
    service: Option<String>,
    scope: String,
    principal: Principal,
}

/// What authorizes a request: a bearer token, or a user name and password. It has no `Debug` and no `Display`.
#[derive(Clone)]
pub(crate) struct Token(HeaderValue);

impl Token {
    /// A user name and password (RFC 7617); `None` for an identity token, which is never shown that way.
    pub(crate) fn basic(credential: &Credential) -> Option<Self> {
        let encoded = credential.encode()?;
        let mut header = HeaderValue::try_from(format!("Basic {}", *encoded)).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

struct Kept {
    token: Token,
    since: Instant,
    until: Instant,
}

/// The tokens we have.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, Kept>>);

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that has not expired and, for a proof, is younger than `age_max`.
    fn live(&self, key: &Key, age_max: Option<Duration>) -> Option<Token> {
        let now = Instant::now();
        let kept = self.lock();
        let live = kept.get(key).filter(|kept| kept.until > now)?;
        age_max.is_none_or(|max| now - live.since < max).then(|| live.token.clone())
    }

    fn keep(&self, key: Key, token: Token, life: Duration) {
        let now = Instant::now();
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.until > now);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Kept { token, since: now, until: now + life });
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

/// As whom a token is asked for, and how young it must be.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) presented: &'a PresentedCredential,
    /// For a proof: no older than this.
    pub(crate) age_max: Option<Duration>,
    /// Whatever we have was refused.
    pub(crate) renew: bool,
}

impl Core {
    /// A token for `challenge`, which `asked` gave, and whether it was made for us just now.
    pub(crate) async fn token(
        self: &Arc<Self>,
        registry: &Registry,
        challenge: &Bearer,
        asked: &Url,
        trust: Trust,
        wanted: Wanted<'_>,
    ) -> Result<(Token, bool), Error> {
        let presented = wanted.presented;
        let secret = presented.credential.is_some();
        let configured = self.configured.current();
        let (realm, trust) =
            realm::check(&challenge.realm, asked, trust, &configured.config.trusted_realms, secret)
                .map_err(|why| Error::Refused { host: authority(asked), status: 401, why: why.to_owned() })?;
        let key = Key {
            realm,
            service: challenge.service.clone(),
            scope: challenge.scope.clone(),
            principal: presented.principal,
        };
        if let Some(token) = self.tokens.live(&key, wanted.age_max).filter(|_| !wanted.renew) {
            return Ok((token, false));
        }
        let (core, registry, credential) = (Arc::clone(self), registry.clone(), presented.credential.clone());
        let fetched = self
            .token_requests
            .run(key.clone(), || async move { core.fetch(&registry, key, trust, credential).await });
        let died = || {
            let why = "the request died".to_owned();
            Err(Error::Unreachable { host: authority(asked), stage: ConnectStage::Head, why })
        };
        fetched.await.unwrap_or_else(died).map(|token| (token, true))
    }

    async fn fetch(
        &self,
        registry: &Registry,
        key: Key,
        trust: Trust,
        credential: Option<Credential>,
    ) -> Result<Token, Error> {
        let host = authority(&key.realm);
        let asked = self.ask_for_token(registry, &key, trust, credential.as_ref());
        let (token, life) = tokio::time::timeout(WAIT, asked).await.unwrap_or_else(|_| {
            let why = format!("no token within {WAIT:?}");
            Err(Error::Unreachable { host, stage: ConnectStage::Head, why })
        })?;
        self.tokens.keep(key, token.clone(), life);
        Ok(token)
    }

    async fn ask_for_token(
        &self,
        registry: &Registry,
        key: &Key,
        trust: Trust,
        credential: Option<&Credential>,
    ) -> Result<(Token, Duration), Error> {
        let mut url = key.realm.clone();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let (method, body) = if let Some(Credential::IdentityToken(token)) = credential {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form);
            (Method::POST, refresh_form(key, token.reveal()))
        } else {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.service {
                query.append_pair("service", service);
            }
            for scope in key.scope.split(' ') {
                query.append_pair("scope", scope);
            }
            if let Some(basic) = credential.and_then(Token::basic) {
                query.append_pair("account", credential.map_or("", Credential::username));
                headers.insert(AUTHORIZATION, basic.header());
            }
            (Method::GET, Bytes::new())
        };
        let response = self.observed(Kind::Token, registry, trust, method, &url, headers, body).await?;
        let host = authority(&url);
        let status = response.status();
        if status != StatusCode::OK {
            return Err(match status.as_u16() {
                429 => Error::RateLimited {
                    host,
                    retry_after: retry_after(response.headers(), self.clock.now()),
                },
                500.. => Error::ServerError { host, status: status.as_u16() },
                _ => Error::Refused {
                    host,
                    status: 401,
                    why: format!("its token server answered {}", status.as_u16()),
                },
            });
        }
        let invalid = |why: &str| Error::Invalid { host: host.clone(), why: format!("token answer: {why}") };
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| invalid("too large or broken off"))?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| invalid("not the expected JSON"))?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).unwrap_or_default();
        let header = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
        let mut header = header.ok_or_else(|| invalid("no usable token in it"))?;
        header.set_sensitive(true);
        Ok((Token(header), life(answer.expires_in)))
    }
}

/// The form of a refresh-token grant.
fn refresh_form(key: &Key, token: &str) -> Bytes {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token);
    form.append_pair("client_id", "larder").append_pair("scope", &key.scope);
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    form.finish().into()
}

fn life(expires_in: Option<i64>) -> Duration {
    let claimed = expires_in.and_then(|s| u64::try_from(s).ok()).map_or(LIFE_MIN, Duration::from_secs);
    claimed.clamp(LIFE_MIN, LIFE_MAX) - EARLY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_claimed_life_is_believed_beyond_its_bounds() {
        for (claimed, seconds) in
            [(None, 45), (Some(0), 45), (Some(-5), 45), (Some(300), 285), (Some(i64::MAX), 3_585)]
        {
            assert_eq!(life(claimed), Duration::from_secs(seconds), "{claimed:?}");
        }
    }
}
