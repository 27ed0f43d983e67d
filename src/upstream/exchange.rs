//! One question to one endpoint: challenge answered, redirects followed, the final answer sorted.
//!
//! A token is sent to the origin (scheme, host and port) whose challenge it answers and to no other: a redirect to
//! another origin starts without any.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RANGE,
    RETRY_AFTER,
};
use http::{Method, Response};
use hyper::body::Incoming;
use url::{Origin, Url};

use super::Core;
use super::address::Trust;
use super::body;
use super::challenge::{self, Challenge};
use super::endpoint::{Endpoint, authority};
use super::error::Error;
use super::metrics::Kind;
use super::redirect;
use super::token::Token;
use crate::reference::Repository;

/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 3_600);

/// A question about something in a repository.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) repository: &'a Repository,
    /// What follows the repository's name in the URL.
    pub(super) rest: String,
    pub(super) query: Option<String>,
    pub(super) accept: Option<&'static str>,
    /// `Range`, as `bytes=` has it.
    pub(super) range: Option<String>,
}

/// A successful answer.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    /// Who gave it, for error texts.
    pub(super) host: String,
}

impl Core {
    /// Asks `endpoint`. Anything but 200 or 206 is an error.
    pub(super) async fn ask(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        question: &Question<'_>,
    ) -> Result<Answered, Error> {
        let registry = question.repository.registry();
        let mut url = endpoint.url(question.repository, &question.rest, question.query.as_deref());
        let first = authority(&url);
        let mut trust = endpoint.trust;
        let mut tokens: HashMap<Origin, (Token, bool)> = HashMap::new();
        if let Some(token) = self.token_known_for(&url, question.repository, trust).await {
            tokens.insert(url.origin(), (token, false));
        }
        let mut hops = 0;
        loop {
            let token = tokens.get(&url.origin());
            let headers = headers(question, token.map(|(token, _)| token));
            let response =
                self.observed(question.kind, registry, trust, question.method.clone(), &url, headers).await?;
            let host = authority(&url);
            match response.status().as_u16() {
                401 if token.is_none_or(|(_, fresh)| !fresh) => {
                    let had_one = token.is_some();
                    let challenges = response.headers().clone();
                    body::drain(response.into_body()).await;
                    let token = self.answer(&challenges, question.repository, &url, trust, had_one).await?;
                    tokens.insert(url.origin(), (token, true));
                }
                301 | 302 | 303 | 307 | 308 => {
                    let invalid = |why: &str| Error::Invalid { host: host.clone(), why: why.to_owned() };
                    hops += 1;
                    if hops > redirect::HOPS_MAX {
                        return Err(invalid("too many redirects"));
                    }
                    let location = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
                    url = redirect::next(&url, location).map_err(invalid)?;
                    trust = self.trust_of_redirect(&url, &first, endpoint.trust);
                    body::drain(response.into_body()).await;
                }
                _ => return sorted(response, host),
            }
        }
    }

    /// A token that an earlier challenge of the same origin suggests, so that only the first repository pays for
    /// being challenged.
    async fn token_known_for(
        self: &Arc<Self>,
        url: &Url,
        repository: &Repository,
        trust: Trust,
    ) -> Option<Token> {
        let challenge = self.challenges.recall(&url.origin(), repository)?;
        self.token(repository.registry(), &challenge, url, trust, false).await.ok()
    }

    async fn answer(
        self: &Arc<Self>,
        challenges: &HeaderMap,
        repository: &Repository,
        url: &Url,
        trust: Trust,
        renew: bool,
    ) -> Result<Token, Error> {
        let refused = |why: &str| Error::Refused { host: authority(url), status: 401, why: why.to_owned() };
        match challenge::read(challenges, repository) {
            Some(Challenge::Bearer(bearer)) => {
                let token = self.token(repository.registry(), &bearer, url, trust, renew).await?;
                self.challenges.remember(url.origin(), &bearer, repository);
                Ok(token)
            }
            Some(Challenge::Other) => Err(refused("it asks for a user name and password")),
            None => Err(refused("it answered 401 without a challenge")),
        }
    }

    fn trust_of_redirect(&self, to: &Url, first: &str, trust: Trust) -> Trust {
        let at = authority(to);
        if at == first {
            trust
        } else if self.config.trusted_redirects.contains(&at) {
            Trust::Operator
        } else {
            Trust::Stranger
        }
    }
}

fn headers(question: &Question<'_>, token: Option<&Token>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A transport encoding would make lengths and ranges meaningless.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, HeaderValue::from_static(question.accept.unwrap_or("*/*")));
    if let Some(range) = question.range.as_ref().and_then(|r| HeaderValue::try_from(r).ok()) {
        headers.insert(RANGE, range);
    }
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token.header());
    }
    headers
}

fn sorted(response: Response<Incoming>, host: String) -> Result<Answered, Error> {
    let status = response.status().as_u16();
    match status {
        200 | 206 => {
            let encoding = response.headers().get(CONTENT_ENCODING);
            if encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
                return Err(Error::Invalid {
                    host,
                    why: "a Content-Encoding that was not asked for".to_owned(),
                });
            }
            Ok(Answered { response, host })
        }
        401 => Err(Error::Refused { host, status, why: "it refuses an anonymous token".to_owned() }),
        403 => Err(Error::Refused { host, status, why: "it forbids anonymous access".to_owned() }),
        404 | 410 => Err(Error::NotFound { host }),
        405 => Err(Error::NotAllowed { host }),
        429 => Err(Error::RateLimited { host, retry_after: retry_after(response.headers()) }),
        408 | 500..=599 => Err(Error::Failing { host, status }),
        _ => Err(Error::Invalid { host, why: format!("status {status}") }),
    }
}

/// `Retry-After` in seconds, bounded; its date form is rare and counts as absent.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
