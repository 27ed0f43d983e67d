//! Answers the challenge of an origin with what may be presented to it.

use std::time::Duration;

use http::HeaderValue;
use url::Url;

use crate::credentials::PresentedCredential;
use crate::reference::Repository;
use crate::upstream::auth::authorization::AuthorizationHeader;
use crate::upstream::auth::challenge::{BearerChallenge, Challenge};
use crate::upstream::auth::challenge_cache::ChallengeCache;
use crate::upstream::auth::tokens::{IssuedToken, Tokens, WantedToken};
use crate::upstream::error::Error;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;

/// Authenticates requests to any origin.
pub(crate) struct Authenticator {
    tokens: Tokens,
    challenges: ChallengeCache,
}

/// A request that needs authentication.
#[derive(Clone, Copy)]
pub(crate) struct AuthRequest<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) url: &'a Url,
    pub(crate) trust: HostTrust,
    /// What may be presented to the origin of `url`.
    pub(crate) presented: &'a PresentedCredential,
    /// For a proof: no token older than this.
    pub(crate) age_max: Option<Duration>,
}

/// What authorizes requests to one origin.
pub(crate) struct OriginAuthorization {
    authorization: AuthorizationHeader,
    /// Whether it was made for this request: then there is no better one.
    fresh: bool,
    challenge: Challenge,
}

impl OriginAuthorization {
    /// The value of the `Authorization` header.
    pub(crate) fn header_value(&self) -> HeaderValue {
        self.authorization.value()
    }

    /// Whether it is a user name and password, which the origin itself checks.
    pub(crate) fn is_login(&self) -> bool {
        matches!(self.challenge, Challenge::Basic)
    }

    /// Whether a new one may fare better after a response of this status. ECR Public answers 400 to an expired token.
    pub(crate) fn is_renewable_after(&self, status: u16) -> bool {
        !self.fresh && (status == 401 || status == 400 && matches!(self.challenge, Challenge::Bearer(_)))
    }
}

impl Authenticator {
    pub(crate) fn new(tokens: Tokens) -> Self {
        Self { tokens, challenges: ChallengeCache::default() }
    }

    /// What the last challenge of the same origin lets expect, so that only the first repository pays for being
    /// challenged; `None` if a challenge has to come first.
    ///
    /// # Errors
    /// The token server is in an outage: without a token, the origin would only refer to it again.
    pub(crate) async fn expected(
        &self,
        request: AuthRequest<'_>,
    ) -> Result<Option<OriginAuthorization>, Error> {
        let Some(challenge) = self.challenges.expected(&request.url.origin(), request.repository) else {
            return Ok(None);
        };
        let authorization = match &challenge {
            Challenge::Bearer(bearer) => match self.tokens.token(wanted(request, bearer, false)).await {
                Ok(token) => Some(token.authorization),
                Err(error) if error.is_outage() => return Err(error),
                // The challenge may have changed.
                Err(_) => None,
            },
            Challenge::Basic => request.presented.credential.as_ref().and_then(AuthorizationHeader::basic),
            Challenge::Other => None,
        };
        Ok(authorization.map(|authorization| OriginAuthorization { authorization, fresh: false, challenge }))
    }

    /// Answers a challenge. `refused` is the authorization that the origin did not accept, if the request had one; its
    /// challenge counts where the response has none.
    ///
    /// # Errors
    /// [`Error::Refused`] if what may be presented is no answer to the challenge; any error of the token server.
    pub(crate) async fn answer(
        &self,
        challenge: Option<Challenge>,
        refused: Option<&OriginAuthorization>,
        request: AuthRequest<'_>,
    ) -> Result<OriginAuthorization, Error> {
        let unanswerable =
            |why: &str| Error::Refused { host: authority(request.url), status: 401, why: why.to_owned() };
        let challenge = challenge
            .or_else(|| refused.map(|refused| refused.challenge.clone()))
            .ok_or_else(|| unanswerable("it answered 401 without a challenge"))?;
        let renew = refused.is_some();
        let IssuedToken { authorization, fresh } = match &challenge {
            Challenge::Bearer(bearer) => self.tokens.token(wanted(request, bearer, renew)).await?,
            // The same user name and password would only be refused again.
            Challenge::Basic if renew => {
                return Err(unanswerable("it refuses the user name and password"));
            }
            Challenge::Basic => match request.presented.credential.as_ref().map(AuthorizationHeader::basic) {
                None => return Err(unanswerable("it asks for a user name and password")),
                Some(None) => {
                    return Err(unanswerable("it takes no identity token, only a user name and password"));
                }
                Some(Some(authorization)) => IssuedToken { authorization, fresh: true },
            },
            Challenge::Other => return Err(unanswerable("it asks for a scheme that is not supported")),
        };
        self.challenges.remember(request.url.origin(), &challenge, request.repository);
        Ok(OriginAuthorization { authorization, fresh, challenge })
    }
}

fn wanted<'a>(request: AuthRequest<'a>, challenge: &'a BearerChallenge, renew: bool) -> WantedToken<'a> {
    WantedToken {
        registry: request.repository.registry(),
        challenge,
        challenged_by: request.url,
        trust: request.trust,
        presented: request.presented,
        age_max: request.age_max,
        renew,
    }
}
