//! Tokens of token servers: requested when a challenge names one, and used while they last.
//!
//! Promises: equal requests are sent once, and a login that was refused not again for the same request; a token request
//! follows no redirect and is bounded in time and size.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::credentials::{Credential, PresentedCredential};
use crate::reference::{Registry, Repository};
use crate::support::clock::{Clock, Moment};
use crate::support::live::Live;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::auth::authorization::AuthorizationHeader;
use crate::upstream::auth::challenge::BearerChallenge;
use crate::upstream::auth::realm::{self, RealmError};
use crate::upstream::auth::token_cache::{Token, TokenCache, TokenKey};
use crate::upstream::auth::token_request::{self, TokenRequest};
use crate::upstream::body::read_small;
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::headers::retry_after;
use crate::upstream::metrics::RequestKind;
use crate::upstream::response::is_outage_status;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::send::OutgoingRequest;

/// The longest time for a token request, body included.
const WAIT: Duration = Duration::from_secs(10);
/// Bytes of a token server's response at most: some hold the token twice, and one to renew it by.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// The tokens of all registries. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<Inner>);

struct Inner {
    http: HttpClient,
    configured: Live<Configured>,
    clock: Clock,
    cache: TokenCache,
    /// By how often tokens had been forgotten, besides: none shares a token that was requested before that.
    requests: Singleflight<(TokenKey, u64), Result<Token, Error>>,
}

/// Which token is needed.
#[derive(Clone, Copy)]
pub(crate) struct WantedToken<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) challenge: &'a BearerChallenge,
    /// The URL whose response was the challenge, and the trust in its host.
    pub(crate) challenged_by: &'a Url,
    pub(crate) trust: HostTrust,
    pub(crate) presented: &'a PresentedCredential,
    /// For a proof: the token is younger than this.
    pub(crate) token_age_max: Option<Duration>,
    /// When the request began that it is for.
    pub(crate) begun: Instant,
    pub(crate) cached: Cached,
}

/// What a token that is cached is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cached {
    /// It is used while it lasts.
    MayServe,
    /// Nothing: the request was refused with it.
    WasRefused,
}

/// A token, and whether it was issued for this request: then no newer one would fare better.
pub(crate) struct IssuedToken {
    pub(crate) token: Token,
    pub(crate) is_new: bool,
}

/// A token server that may be asked for a token.
pub(crate) struct TokenServer {
    realm: Url,
    trust: HostTrust,
}

impl Tokens {
    /// Forgets the tokens of a repository, or all.
    pub(crate) fn forget(&self, repository: Option<&Repository>) {
        self.0.cache.forget(repository);
    }

    /// Each request for a token becomes one of `tasks`.
    pub(crate) fn new(http: HttpClient, configured: Live<Configured>, clock: Clock, tasks: Tasks) -> Self {
        let (cache, requests) = (TokenCache::default(), Singleflight::new(tasks));
        Self(Arc::new(Inner { http, configured, clock, cache, requests }))
    }

    /// The token server that a challenge names, if it may be asked.
    ///
    /// # Errors
    /// Why it must not be asked.
    pub(crate) fn server(&self, wanted: WantedToken<'_>) -> Result<TokenServer, RealmError> {
        let configured = self.0.configured.current();
        let nothing = HashSet::new();
        let trusted =
            configured.config.registries.get(wanted.registry).map_or(&nothing, |r| &r.trusted_realms);
        let secret = wanted.presented.credential.is_some();
        let (realm, trust) =
            realm::check(&wanted.challenge.realm, wanted.challenged_by, wanted.trust, trusted, secret)?;
        Ok(TokenServer { realm, trust })
    }

    /// A cached token, or one that is requested now.
    ///
    /// # Errors
    /// [`Error::Refused`] if the token server refuses the credential; [`Error::Unauthenticated`] if it gives no token
    /// for another reason; an outage.
    pub(crate) async fn token(
        &self,
        server: TokenServer,
        wanted: WantedToken<'_>,
    ) -> Result<IssuedToken, Error> {
        let (challenge, presented) = (wanted.challenge, wanted.presented);
        let TokenServer { realm, trust } = server;
        let key = TokenKey {
            registry: wanted.registry.clone(),
            realm,
            service: challenge.service.clone(),
            scope: challenge.scope.clone(),
            principal: presented.principal,
        };
        if wanted.cached == Cached::MayServe
            && let Some(token) = self.0.cache.valid_token(&key, wanted.token_age_max, self.0.clock.now())
        {
            return Ok(IssuedToken { token, is_new: false });
        }
        let negative_ttl = self.0.configured.current().config.negative_ttl;
        if let Some(credential) = &presented.credential
            && let Some(refusal) = self.0.cache.refusal(&key, credential, negative_ttl, wanted.begun)
        {
            return Err(refusal);
        }
        let (this, registry, credential) =
            (self.clone(), wanted.registry.clone(), presented.credential.clone());
        let generation = self.0.cache.generation();
        let fetch = || {
            let key = key.clone();
            async move { this.0.fetch(&registry, key, trust, credential.as_ref(), generation).await }
        };
        let issued = self.0.requests.run((key.clone(), generation), fetch).await.unwrap_or_else(|| {
            let why = "the token request ended in a defect of Larder".to_owned();
            let host = authority(wanted.challenged_by);
            Err(Error::Unreachable { host, stage: ConnectStage::Head, why })
        });
        issued.map(|token| IssuedToken { token, is_new: true })
    }
}

impl Inner {
    /// Requests a token within [`WAIT`] and caches it, unless tokens were forgotten since `generation`.
    async fn fetch(
        &self,
        registry: &Registry,
        key: TokenKey,
        trust: HostTrust,
        credential: Option<&Credential>,
        generation: u64,
    ) -> Result<Token, Error> {
        let sending = self.send(registry, &key, trust, credential);
        let result = tokio::time::timeout(WAIT, sending).await.unwrap_or_else(|_| {
            let why = format!("no token within {WAIT:?}");
            Err(Error::Unreachable { host: authority(&key.realm), stage: ConnectStage::Timeout, why })
        });
        if let (Err(error @ Error::Refused { .. }), Some(credential)) = (&result, credential) {
            self.cache.record_refusal(&key, credential, error);
        }
        let (authorization, lifetime) = result?;
        let token = Token { authorization, issued: Moment::recorded(self.clock.now()) };
        self.cache.store(key, token.clone(), lifetime, generation);
        Ok(token)
    }

    async fn send(
        &self,
        registry: &Registry,
        key: &TokenKey,
        trust: HostTrust,
        credential: Option<&Credential>,
    ) -> Result<(AuthorizationHeader, Duration), Error> {
        let TokenRequest { method, url, headers, body } = TokenRequest::new(key, credential);
        let request =
            OutgoingRequest { registry, trust, method, url: &url, headers, body, is_for_token: true };
        let response = self.http.send(RequestKind::Token, request).await?;
        let host = authority(&url);
        match response.status().as_u16() {
            200..=299 => {}
            429 => {
                let retry_after = retry_after(response.headers(), self.clock.now());
                return Err(Error::RateLimited { host, retry_after });
            }
            status if is_outage_status(status) => {
                let retry_after = retry_after(response.headers(), self.clock.now());
                return Err(Error::ServerError { host, status, retry_after });
            }
            // It checks the credential in the registry's place.
            status @ (401 | 403) => {
                let why = format!("as the token server it answered {status}");
                return Err(Error::Refused { host, status: 401, why, public: credential.is_none() });
            }
            // A redirect, a path that is not there, a request that it does not understand: no word about the
            // credential.
            status => {
                let why = format!("as the token server it answered {status}");
                return Err(Error::Unauthenticated { host, why });
            }
        }
        let invalid = |why: String| Error::Invalid { host, why: format!("token answer: {why}") };
        match read_small(response.into_body(), RESPONSE_BYTES_MAX).await {
            Ok(body) => token_request::parse(&body).map_err(invalid),
            Err(why) => Err(invalid(why)),
        }
    }
}
