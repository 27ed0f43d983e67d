//! Answers the challenge of an origin with what may be presented to it.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use url::Url;

use crate::credentials::{Credential, PresentedCredential};
use crate::reference::Repository;
use crate::support::clock::{Moment, Timestamp};
use crate::upstream::auth::authorization::AuthorizationHeader;
use crate::upstream::auth::challenge::{BearerChallenge, Challenge};
use crate::upstream::auth::challenge_cache::ChallengeCache;
use crate::upstream::auth::token_cache::Token;
use crate::upstream::auth::tokens::{Cached, Tokens, WantedToken};
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
    /// For a proof: the token is younger than this.
    pub(crate) token_age_max: Option<Duration>,
    /// When the request began that this is a part of.
    pub(crate) begun: Instant,
}

/// What authorizes requests to one origin.
pub(crate) struct OriginAuthorization {
    authorization: AuthorizationHeader,
    /// When the token was issued; `None` for a user name and password.
    issued: Option<Moment>,
    made: Made,
    basis: Basis,
    challenge: Challenge,
}

/// How an authorization came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Before this request: there may be a better one.
    Earlier,
    /// For this request: there is no better one.
    ForThisRequest,
    /// For this request, by the token server that issued the refused token, although the refusal named another one.
    ForThisRequestAtIssuer,
}

/// What says that an origin wants an authorization for a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// Its challenge.
    Challenged,
    /// A challenge that it gave before, which was taken for its word.
    Expected,
}

/// A challenge that is expected and could not be answered.
pub(crate) struct Unanswered {
    pub(crate) challenge: Challenge,
    pub(crate) error: Error,
}

impl OriginAuthorization {
    fn new(
        authorization: AuthorizationHeader,
        issued: Option<Moment>,
        made: Made,
        challenge: Challenge,
    ) -> Self {
        Self { authorization, issued, made, basis: Basis::Challenged, challenge }
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header_value(&self) -> HeaderValue {
        self.authorization.value()
    }

    /// Whether it is a user name and password, which the origin itself checks.
    pub(crate) fn is_login(&self) -> bool {
        matches!(self.challenge, Challenge::Basic)
    }

    /// The challenge that it answers.
    pub(crate) fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Whether the origin is not known to ask for it for this repository.
    pub(crate) fn is_expected(&self) -> bool {
        self.basis == Basis::Expected
    }

    /// Notes that no better one can be had for this request.
    pub(crate) fn note_no_better(&mut self) {
        self.made = Made::ForThisRequest;
    }

    /// How old the token is; zero for a user name and password.
    pub(crate) fn token_age(&self, now: Timestamp) -> Duration {
        self.issued.map_or(Duration::ZERO, |issued| issued.age_at(now))
    }

    /// Whether a new one may fare better after a response of this status. ECR Public answers 400 to an expired token.
    pub(crate) fn is_renewable_after(&self, status: u16) -> bool {
        matches!((status, self.made), (400 | 401, Made::Earlier) | (401, Made::ForThisRequestAtIssuer))
    }
}

impl Authenticator {
    pub(crate) fn new(tokens: Tokens) -> Self {
        Self { tokens, challenges: ChallengeCache::default() }
    }

    /// What the last challenge of the same base URL lets expect, so that only the first repository pays for being
    /// challenged; `None` if a challenge has to come first.
    ///
    /// # Errors
    /// What is expected cannot be had. The origin may not ask for it for this repository.
    pub(crate) async fn expected(
        &self,
        request: AuthRequest<'_>,
    ) -> Result<Option<OriginAuthorization>, Unanswered> {
        let Some(challenge) = self.challenges.expected(request.url, request.repository) else {
            return Ok(None);
        };
        // A user name and password that there is not, or that do not fit, may not be asked for.
        if matches!(challenge, Challenge::Basic) && basic(request.presented).is_err() {
            return Ok(None);
        }
        match self.made_for(challenge.clone(), Cached::MayServe, request).await {
            Ok(made) => Ok(Some(OriginAuthorization { basis: Basis::Expected, ..made })),
            Err(error) => Err(Unanswered { challenge, error }),
        }
    }

    /// Answers a challenge. `refused` is the authorization that the origin did not accept, if the request had one; its
    /// challenge counts where the response has none.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if what may be presented is no answer to the challenge; [`Error::Refused`] if it is
    /// an answer and is not accepted, or if the origin wants a credential and there is none; any error of the token
    /// server.
    pub(crate) async fn answer(
        &self,
        challenge: Option<Challenge>,
        refused: Option<&OriginAuthorization>,
        request: AuthRequest<'_>,
    ) -> Result<OriginAuthorization, Error> {
        let (origin, repository) = (request.url.origin(), request.repository);
        if refused.is_none() && challenge.is_some() {
            self.challenges.record_challenged(origin.clone(), repository);
        }
        // A challenge to a request with a token says that the token is refused, and not that one is needed.
        let is_needed = challenge.is_some() && self.challenges.was_challenged(&origin, repository);
        let basis = match refused {
            Some(refused) if !is_needed => refused.basis,
            _ => Basis::Challenged,
        };
        // Harbor and OpenShift answer a token that they refuse with Basic, and name the token server to who shows none.
        let is_for_token = |new: &Challenge| {
            matches!(new, Challenge::Basic) && refused.is_some_and(|refused| !refused.is_login())
        };
        let challenge = challenge.filter(|new| !is_for_token(new));
        let challenge = challenge.or_else(|| refused.map(|refused| refused.challenge.clone()));
        let Some(challenge) = challenge else {
            let host = authority(request.url);
            let why = "it answered 401 without a challenge that can be read".to_owned();
            // It was not shown any credential, so that it said nothing about one.
            return Err(match request.presented.credential {
                Some(_) => Error::Unauthenticated { host, why },
                None => Error::Refused { host, status: 401, why, public: true },
            });
        };
        // The same user name and password would only be refused again.
        if refused.is_some() && matches!(challenge, Challenge::Basic) {
            let why = "it refuses the user name and password".to_owned();
            return Err(Error::Refused { host: authority(request.url), status: 401, why, public: false });
        }
        let made = match refused {
            Some(refused) => self.renewed(refused, challenge, request).await?,
            None => self.made_for(challenge, Cached::MayServe, request).await?,
        };
        self.challenges.remember(request.url, &made.challenge, repository);
        Ok(OriginAuthorization { basis, ..made })
    }

    /// Records that an origin, which asks for authorization elsewhere, opened a repository without any.
    pub(crate) fn record_open(&self, url: &Url, repository: &Repository) {
        self.challenges.record_open(url.origin(), repository);
    }

    /// Records that an origin gave the challenge that is expected to a request without authorization.
    pub(crate) fn record_challenged(&self, url: &Url, repository: &Repository) {
        self.challenges.record_challenged(url.origin(), repository);
    }

    /// What takes the place of an authorization that was refused with `challenge`. Where that names another token
    /// server, the one that issued the token is asked first: to who shows an expired token, nvcr.io names one that must
    /// not be shown its credentials. If the new token is refused too, the other token server is asked.
    async fn renewed(
        &self,
        refused: &OriginAuthorization,
        challenge: Challenge,
        request: AuthRequest<'_>,
    ) -> Result<OriginAuthorization, Error> {
        let is_elsewhere = match (&refused.challenge, &challenge) {
            (Challenge::Bearer(before), Challenge::Bearer(now)) => before.realm != now.realm,
            _ => false,
        };
        let cached = Cached::WasRefused;
        let failed = match (refused.made == Made::ForThisRequestAtIssuer, is_elsewhere) {
            (false, false) => return self.made_for(challenge, cached, request).await,
            (false, true) => match self.made_for(refused.challenge.clone(), cached, request).await {
                Ok(at_issuer) => {
                    return Ok(OriginAuthorization { made: Made::ForThisRequestAtIssuer, ..at_issuer });
                }
                Err(error) => error,
            },
            (true, _) => {
                let (host, why) = (authority(request.url), "it refuses a token that is new".to_owned());
                Error::Refused { host, status: 401, why, public: request.presented.credential.is_none() }
            }
        };
        if !is_elsewhere {
            return Err(failed);
        }
        match self.made_for(challenge, cached, request).await {
            Err(Error::Unauthenticated { .. }) => Err(failed),
            made => made,
        }
    }

    /// What answers `challenge`.
    async fn made_for(
        &self,
        challenge: Challenge,
        cached: Cached,
        request: AuthRequest<'_>,
    ) -> Result<OriginAuthorization, Error> {
        let host = || authority(request.url);
        let login = |challenge| {
            let authorization = basic(request.presented).map_err(|lacks| lacks.error(host()))?;
            Ok(OriginAuthorization::new(authorization, None, Made::ForThisRequest, challenge))
        };
        let bearer = match &challenge {
            Challenge::Bearer(bearer) => bearer,
            Challenge::Basic => return login(challenge),
            Challenge::Other(what) => {
                let why = format!("it asks for what is not supported: {what}");
                return Err(Error::Unauthenticated { host: host(), why });
            }
        };
        let wanted = wanted(request, bearer, cached);
        match self.tokens.server(wanted) {
            Ok(server) => {
                let issued = self.tokens.token(server, wanted).await?;
                let Token { authorization, issued: at } = issued.token;
                let made = if issued.is_new { Made::ForThisRequest } else { Made::Earlier };
                Ok(OriginAuthorization::new(authorization, Some(at), made, challenge))
            }
            // The registry itself takes the user name and password, too.
            Err(_) if bearer.or_basic && cached == Cached::MayServe && basic(request.presented).is_ok() => {
                login(Challenge::Basic)
            }
            Err(error) => Err(Error::Unauthenticated { host: host(), why: error.to_string() }),
        }
    }
}

/// Why there is no user name and password to show.
enum Lacks {
    Credential,
    /// There is an identity token, which is never sent that way.
    Password,
}

impl Lacks {
    fn error(self, host: String) -> Error {
        match self {
            Self::Credential => {
                let why = "it asks for a user name and password".to_owned();
                Error::Refused { host, status: 401, why, public: true }
            }
            Self::Password => {
                let why = "it takes no identity token, only a user name and password".to_owned();
                Error::Unauthenticated { host, why }
            }
        }
    }
}

fn basic(presented: &PresentedCredential) -> Result<AuthorizationHeader, Lacks> {
    let credential: &Credential = presented.credential.as_ref().ok_or(Lacks::Credential)?;
    AuthorizationHeader::basic(credential).ok_or(Lacks::Password)
}

fn wanted<'a>(request: AuthRequest<'a>, challenge: &'a BearerChallenge, cached: Cached) -> WantedToken<'a> {
    WantedToken {
        registry: request.repository.registry(),
        challenge,
        challenged_by: request.url,
        trust: request.trust,
        presented: request.presented,
        token_age_max: request.token_age_max,
        begun: request.begun,
        cached,
    }
}
