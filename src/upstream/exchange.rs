//! One question to one endpoint: challenge answered, redirects followed, the final answer sorted.
//!
//! A token is sent to the origin (scheme, host and port) whose challenge it answers and to no other: a redirect to
//! another origin starts without any, and what challenges us there is answered anonymously. Credentials, and the
//! extra fields of a docker config, are for the endpoint's own origin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Incoming;
use url::{Origin, Url};

use super::Core;
use super::auth::challenge::{self, Challenge};
use super::auth::token::{Token, Wanted};
use super::body;
use super::endpoint::select::{Endpoint, authority};
use super::error::Error;
use super::headers::retry_after;
use super::metrics::Kind;
use super::redirect;
use super::transport::address::Trust;
use crate::credentials::{HttpHeaders, PresentedCredential};
use crate::reference::Repository;

/// How long an error document may take.
const ERROR_WAIT: Duration = Duration::from_secs(2);

/// As whom upstream is asked, and what the answer is for.
#[derive(Debug, Clone)]
pub struct AuthContext {
    /// What is shown.
    pub presented: PresentedCredential,
    /// Set if the answer is to prove a right: then only endpoints whose word counts are asked, and with a token no
    /// older than this. Without it any endpoint may deliver.
    pub proof: Option<Duration>,
}

/// A question about something in a repository.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub(super) auth: &'a AuthContext,
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
pub(super) struct RegistryAnswer {
    pub(super) response: Response<Incoming>,
    /// Who gave it, for error texts.
    pub(super) host: String,
    /// Whether nothing that could be a credential was shown.
    pub(super) public: bool,
}

/// A token that is shown to an origin.
struct Held {
    token: Token,
    /// Whether it was made for this question: then there is no better one.
    fresh: bool,
    challenge: Challenge,
}

impl Held {
    /// Whether a new one may fare better after this status.
    fn may_be_renewed(&self, status: u16) -> bool {
        !self.fresh && (status == 401 || matches!(self.challenge, Challenge::Bearer(_)))
    }
}

impl Core {
    /// Asks `endpoint`. Anything but 200 or 206 is an error.
    pub(super) async fn ask(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        question: &Question<'_>,
    ) -> Result<RegistryAnswer, Error> {
        let registry = question.repository.registry();
        let mut url = endpoint.url(question.repository, &question.rest, question.query.as_deref());
        let home = url.origin();
        let first = authority(&url);
        let mut trust = endpoint.trust;
        let nobody = self.nobody();
        let shown = Some(&question.auth.presented).filter(|p| endpoint.may_see(p.principal.kind));
        let presented_at = |url: &Url| shown.filter(|_| url.origin() == home).unwrap_or(&nobody);
        // The extra fields of a docker config may be what opened it.
        let bare = shown.is_none_or(|presented| presented.headers.is_empty());
        let mut tokens: HashMap<Origin, Held> = HashMap::new();
        if let Some(held) = self.token_known_for(&url, question, presented_at(&url), trust).await? {
            tokens.insert(url.origin(), held);
        }
        let mut hops = 0;
        loop {
            let (held, presented) = (tokens.get(&url.origin()), presented_at(&url));
            let headers = headers(question, held.map(|held| &held.token), &presented.headers);
            let method = question.method.clone();
            let sent = self.observed(question.kind, registry, trust, method, &url, headers, Bytes::new());
            let response = sent.await?;
            let host = authority(&url);
            if url.origin() == home && response.status() != StatusCode::UNAUTHORIZED {
                self.limits.note(registry, endpoint.name(), presented.principal, response.headers());
            }
            match response.status().as_u16() {
                // ECR Public says 400 of a token that has expired.
                status @ (400 | 401) if held.map_or(status == 401, |held| held.may_be_renewed(status)) => {
                    let offered = challenge::read(response.headers(), question.repository);
                    let challenge = offered.or_else(|| held.map(|held| held.challenge.clone()));
                    let wanted = Wanted { presented, age_max: question.auth.proof, renew: held.is_some() };
                    body::drain(response.into_body()).await;
                    let held = self.answer(challenge, question.repository, &url, trust, wanted).await?;
                    tokens.insert(url.origin(), held);
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
                // Whoever the registry sent us to does not speak for it: its signed address may have expired.
                status @ (401 | 403) if url.origin() != home => {
                    return Err(Error::ServerError { host, status });
                }
                404 | 410 => {
                    let public = bare && tokens.is_empty();
                    let at_home = url.origin() == home;
                    return Err(not_found(response, host, public, at_home).await);
                }
                429 => {
                    let retry_after = retry_after(response.headers(), self.clock.now());
                    return Err(Error::RateLimited { host, retry_after });
                }
                _ => return sorted(response, host, presented, bare && tokens.is_empty()),
            }
        }
    }

    /// What an earlier challenge of the same origin suggests, so that only the first repository pays for being
    /// challenged.
    ///
    /// # Errors
    /// Its token server is in an outage.
    async fn token_known_for(
        self: &Arc<Self>,
        url: &Url,
        question: &Question<'_>,
        presented: &PresentedCredential,
        trust: Trust,
    ) -> Result<Option<Held>, Error> {
        let registry = question.repository.registry();
        let Some(challenge) = self.challenges.recall(&url.origin(), question.repository) else {
            return Ok(None);
        };
        let token = match &challenge {
            Challenge::Bearer(bearer) => {
                let wanted = Wanted { presented, age_max: question.auth.proof, renew: false };
                match self.token(registry, bearer, url, trust, wanted).await {
                    Ok((token, _)) => Some(token),
                    // AuthContext without one would only lead to the same token server, and to waiting for it twice.
                    Err(error) if error.is_outage() => return Err(error),
                    // The challenge may have changed.
                    Err(_) => None,
                }
            }
            Challenge::Basic => presented.credential.as_ref().and_then(Token::basic),
            Challenge::Other => None,
        };
        Ok(token.map(|token| Held { token, fresh: false, challenge }))
    }

    async fn answer(
        self: &Arc<Self>,
        challenge: Option<Challenge>,
        repository: &Repository,
        url: &Url,
        trust: Trust,
        wanted: Wanted<'_>,
    ) -> Result<Held, Error> {
        let refused = |why: &str| Error::Refused { host: authority(url), status: 401, why: why.to_owned() };
        let challenge = challenge.ok_or_else(|| refused("it answered 401 without a challenge"))?;
        let (token, fresh) = match &challenge {
            Challenge::Bearer(bearer) => {
                self.token(repository.registry(), bearer, url, trust, wanted).await?
            }
            // The same user name and password would only be refused again.
            Challenge::Basic if wanted.renew => return Err(refused("it refuses the user name and password")),
            Challenge::Basic => match wanted.presented.credential.as_ref().map(Token::basic) {
                None => return Err(refused("it asks for a user name and password")),
                Some(None) => {
                    return Err(refused("it takes no identity token, only a user name and password"));
                }
                Some(Some(basic)) => (basic, true),
            },
            Challenge::Other => return Err(refused("it asks for a scheme that is not supported")),
        };
        self.challenges.remember(url.origin(), &challenge, repository);
        Ok(Held { token, fresh, challenge })
    }

    fn trust_of_redirect(&self, to: &Url, first: &str, trust: Trust) -> Trust {
        let at = authority(to);
        if at == first {
            trust
        } else if self.configured.current().config.trusted_redirects.contains(&at) {
            Trust::Operator
        } else {
            Trust::Stranger
        }
    }
}

fn headers(question: &Question<'_>, token: Option<&Token>, extra: &HttpHeaders) -> HeaderMap {
    // The docker config's own fields first: none of them can replace one of ours.
    let mut headers: HeaderMap = extra.iter().cloned().collect();
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

/// Bytes of an error document that are read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A 404; only the registry itself can say that it knows no such repository.
async fn not_found(response: Response<Incoming>, host: String, public: bool, at_home: bool) -> Error {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        code: String,
    }
    let body =
        tokio::time::timeout(ERROR_WAIT, Limited::new(response.into_body(), ERROR_BYTES_MAX).collect());
    let body = body.await.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let document = serde_json::from_slice::<Document>(&body).ok().filter(|_| at_home);
    let repository_unknown =
        document.is_some_and(|document| document.errors.iter().any(|error| error.code == "NAME_UNKNOWN"));
    Error::NotFound { host, repository_unknown, public }
}

fn sorted(
    response: Response<Incoming>,
    host: String,
    presented: &PresentedCredential,
    public: bool,
) -> Result<RegistryAnswer, Error> {
    let status = response.status().as_u16();
    let whom = || match &presented.credential {
        Some(credential) => format!("the credential of {:?}", credential.username()),
        None => "an anonymous caller".to_owned(),
    };
    match status {
        200 | 206 => {
            let encoding = response.headers().get(CONTENT_ENCODING);
            if encoding.is_some_and(|e| !e.as_bytes().eq_ignore_ascii_case(b"identity")) {
                return Err(Error::Invalid {
                    host,
                    why: "a Content-Encoding that was not asked for".to_owned(),
                });
            }
            Ok(RegistryAnswer { response, host, public })
        }
        401 => Err(Error::Refused { host, status, why: format!("it refuses {}", whom()) }),
        403 => Err(Error::Refused { host, status, why: format!("it forbids access to {}", whom()) }),
        405 => Err(Error::MethodNotAllowed { host }),
        408 | 500..=599 => Err(Error::ServerError { host, status }),
        _ => Err(Error::Invalid { host, why: format!("status {status}") }),
    }
}
