//! Registries: what Larder asks of them, and nothing of what it does with the answers.
//!
//! Promises: every wait is bounded; a credential goes to the endpoint that it was shown for and to that registry's own
//! token server, a token to the origin that it was made for, and neither anywhere else; a host that a stranger named
//! (an unconfigured registry, a redirect, a token realm) is never inside the node's network; errors say who failed and
//! why without any secret.
//!
//! Deliberately not here: the store, caching of content, who may ask with which credential (`pull`), and following a
//! descriptor's `urls`.

mod ask;
mod auth;
mod body;
mod config;
mod endpoint;
mod error;
mod exchange;
mod headers;
pub mod metrics;
mod redirect;
mod transport;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LINK};
use http::{Method, StatusCode};

pub use body::Download;
pub use config::{
    Allow, ClientCertificate, Config, CredentialUse, EndpointConfig, Proxy, RegistryConfig, Timeouts,
};
pub use endpoint::health::FailingEndpoint;
pub use endpoint::rate_limit::RateLimitStatus;
pub use endpoint::select::has_authoritative_endpoint;
pub use error::{ConnectStage, Error};
pub use exchange::AuthContext;
pub use transport::connect::BuildError;
pub use transport::network::{Io, Network, Pending, Reach};

use crate::credentials::PresentedCredential;
use crate::reference::{Digest, MediaType, Principal, Reference, Registry, Repository, Tag};
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::RegistryLabels;
use crate::support::singleflight::Singleflight;
use ask::{blob_question, manifest_question};
use auth::token::{Key, Token, Tokens};
use body::Chunks;
use endpoint::health::Health;
use endpoint::rate_limit::Limits;
use endpoint::select;
use exchange::{Question, RegistryAnswer};
use headers::{content_length, header, next_query, parse_content_range, total_of};
use metrics::{Kind, Metrics};
use transport::connect::Transport;

/// All registries. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Core>);

struct Core {
    configured: Live<Configured>,
    tokens: Tokens,
    token_requests: Singleflight<Key, Result<Token, Error>>,
    challenges: auth::challenge::Remembered,
    limits: Limits,
    health: Health,
    anonymous: PresentedCredential,
    clock: Clock,
    metrics: Arc<Metrics>,
    labels: Arc<RegistryLabels>,
}

/// Settings, with the HTTP clients that were built from them.
pub struct Configured {
    config: Config,
    transport: Transport,
}

impl Configured {
    /// Reads the certificate files that `config` names and builds the clients. Blocks for a moment.
    ///
    /// # Errors
    /// A certificate file that cannot be used.
    pub fn new(config: Config) -> Result<Self, BuildError> {
        Ok(Self { transport: Transport::new(&config)?, config })
    }
}

/// A yes of upstream.
#[derive(Debug, Clone)]
pub struct Allowed<T> {
    /// What it said.
    pub value: T,
    /// Whether it wanted no credential: then the right that it proves is everybody's.
    pub public: bool,
}

impl<T> Allowed<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Allowed<U> {
        Allowed { value: change(self.value), public: self.public }
    }
}

/// A manifest as upstream sent it: unverified.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The document.
    pub bytes: Bytes,
    /// `Content-Type`, where it was one.
    pub media_type: Option<MediaType>,
    /// Who sent it, for error texts.
    pub host: String,
}

/// A list that is handed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The tags of a repository.
    Tags,
    /// What refers to a manifest.
    Referrers(Digest),
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// The JSON document as upstream sent it.
    pub bytes: Bytes,
    /// Its `Content-Type`.
    pub media_type: Option<MediaType>,
    /// The query of the next page, from `Link`.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`.
    pub filters_applied: Option<String>,
}

impl Upstream {
    /// All registries, asked as `configured` says. `anonymous` is what is shown where nothing else may be.
    pub fn new(
        configured: Configured,
        anonymous: PresentedCredential,
        metrics: Metrics,
        labels: Arc<RegistryLabels>,
        clock: Clock,
    ) -> Self {
        let metrics = Arc::new(metrics);
        Self(Arc::new(Core {
            configured: Live::new(configured),
            tokens: Tokens::default(),
            token_requests: Singleflight::default(),
            challenges: auth::challenge::Remembered::default(),
            limits: Limits::new(Arc::clone(&metrics), Arc::clone(&labels), clock.clone()),
            health: Health::new(Arc::clone(&metrics), Arc::clone(&labels)),
            anonymous,
            clock,
            metrics,
            labels,
        }))
    }

    /// From now on registries are asked as `configured` says. A request that is under way ends as it began.
    pub fn replace(&self, configured: Configured) {
        let before = self.0.configured.current();
        self.0.labels.configure(configured.config.registries.keys().map(ToString::to_string));
        for registry in before.config.registries.keys().chain(configured.config.registries.keys()) {
            let of = |config| select::endpoints(config, registry).unwrap_or_default();
            let now = of(&configured.config);
            for gone in of(&before.config) {
                if now.iter().all(|endpoint| endpoint.name() != gone.name()) {
                    self.0.health.forget(registry, &gone);
                }
            }
        }
        self.0.configured.replace(configured);
    }

    /// The digest that `tag` means now, by `HEAD`; `None` if upstream has the tag but does not say.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn resolve(
        &self,
        repository: &Repository,
        tag: &Tag,
        auth: &AuthContext,
    ) -> Result<Allowed<Option<Digest>>, Error> {
        let question = manifest_question(Method::HEAD, repository, &tag.clone().into(), auth);
        let answer = match self
            .small(&question, |answer| async move { Ok(answer.response.headers().clone()) })
            .await
        {
            // Registries that do not know HEAD here are asked with GET by the caller.
            Err(Error::MethodNotAllowed { .. }) => {
                let first = self.confirm_by_get(&question).await?;
                return Ok(first.map(|()| None));
            }
            answer => answer?,
        };
        Ok(answer.map(|headers| header(&headers, "docker-content-digest").and_then(|text| text.parse().ok())))
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`]; a body over 4 MiB is [`Error::Invalid`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        auth: &AuthContext,
    ) -> Result<Allowed<Manifest>, Error> {
        let question = manifest_question(Method::GET, repository, reference, auth);
        self.small(&question, |answer| async move {
            let media_type =
                header(answer.response.headers(), CONTENT_TYPE.as_str()).and_then(|t| t.parse().ok());
            let bytes = self.whole(repository, answer.response, &answer.host).await?;
            Ok(Manifest { bytes, media_type, host: answer.host })
        })
        .await
    }

    /// Whether `repository` has a manifest, by `HEAD` of its digest.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn confirm_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Result<Allowed<()>, Error> {
        let question = manifest_question(Method::HEAD, repository, &digest.into(), auth);
        match self.small(&question, |_| std::future::ready(Ok(()))).await {
            Err(Error::MethodNotAllowed { .. }) => self.confirm_by_get(&question).await,
            answer => answer,
        }
    }

    /// For registries that do not know `HEAD` here.
    async fn confirm_by_get(&self, question: &Question<'_>) -> Result<Allowed<()>, Error> {
        let question = Question { method: Method::GET, ..question.clone() };
        let drained = |answer: RegistryAnswer| async move {
            body::drain(answer.response.into_body()).await;
            Ok(())
        };
        self.small(&question, drained).await
    }

    /// The size of a blob that `repository` has, by `HEAD`; the proof that it has it.
    ///
    /// # Errors
    /// Any of [`Error`]. A registry that refuses `HEAD` of blobs (ECR public) is asked for the first byte instead.
    pub async fn confirm_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Result<Allowed<Option<u64>>, Error> {
        let mut question = blob_question(Method::HEAD, repository, digest, auth);
        let headers = |answer: RegistryAnswer| async move {
            let headers = answer.response.headers().clone();
            body::drain(answer.response.into_body()).await;
            Ok(headers)
        };
        match self.small(&question, headers).await {
            Ok(yes) => return Ok(yes.map(|headers| content_length(&headers))),
            Err(Error::Refused { .. } | Error::MethodNotAllowed { .. }) => {}
            Err(error) => return Err(error),
        }
        question.method = Method::GET;
        question.range = Some("bytes=0-0".to_owned());
        let yes = self.small(&question, headers).await?;
        Ok(yes.map(|headers| total_of(&headers).or_else(|| content_length(&headers))))
    }

    /// Begins to download a blob at byte `from`.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn download(
        &self,
        repository: &Repository,
        digest: Digest,
        from: u64,
        until: Option<u64>,
        auth: &AuthContext,
    ) -> Result<Download, Error> {
        let mut question = blob_question(Method::GET, repository, digest, auth);
        question.range = match until {
            Some(until) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
            None => (from > 0).then(|| format!("bytes={from}-")),
        };
        let RegistryAnswer { response, host, public } = self.head_of(&question).await?;
        let (size, offset) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(response.headers(), CONTENT_RANGE.as_str()).and_then(parse_content_range);
            match range {
                Some((start, total)) if start == from => (total, start),
                _ => {
                    let why = format!("a range that does not begin at {from} as asked");
                    return Err(Error::Invalid { host, why });
                }
            }
        } else {
            (content_length(response.headers()), 0)
        };
        let received = self.received(repository.registry());
        let idle = self.0.configured.current().config.timeouts.idle;
        let chunks = Chunks { body: response.into_body(), host: host.clone(), received };
        Ok(Download::new(size, offset, public, chunks).bounded(host, idle))
    }

    /// One page of a list; `query` is what the client asked for, checked.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn list(
        &self,
        repository: &Repository,
        listing: &Listing,
        query: Option<String>,
        auth: &AuthContext,
    ) -> Result<Allowed<Page>, Error> {
        let rest = match listing {
            Listing::Tags => "tags/list".to_owned(),
            Listing::Referrers(digest) => format!("referrers/{digest}"),
        };
        let accept = match listing {
            Listing::Tags => "application/json",
            Listing::Referrers(_) => MediaType::OCI_INDEX,
        };
        let question = Question {
            auth,
            kind: Kind::List,
            method: Method::GET,
            repository,
            rest,
            query,
            accept: Some(accept),
            range: None,
        };
        self.small(&question, |answer| async move {
            let headers = answer.response.headers().clone();
            let bytes = self.whole(repository, answer.response, &answer.host).await?;
            Ok(Page {
                bytes,
                media_type: header(&headers, CONTENT_TYPE.as_str()).and_then(|t| t.parse().ok()),
                next: header(&headers, LINK.as_str()).and_then(next_query),
                filters_applied: header(&headers, "oci-filters-applied").map(str::to_owned),
            })
        })
        .await
    }

    /// Whether the rate limit of a registry is nearly used up for `principal`: what can wait had better wait.
    pub fn is_budget_low(&self, registry: &Registry, principal: Principal) -> bool {
        self.0.limits.is_low(registry, principal)
    }

    /// Body bytes of manifests and blobs that were received since the start.
    pub fn received_bytes(&self) -> u64 {
        crate::support::metrics::sums(&self.0.metrics.bytes, "registry")
            .into_iter()
            .map(|(_, bytes)| bytes)
            .sum()
    }

    /// What registries have told about their rate limits.
    pub fn rate_limits(&self) -> Vec<RateLimitStatus> {
        self.0.limits.status()
    }

    /// The endpoints in trouble.
    pub fn failing_endpoints(&self) -> Vec<FailingEndpoint> {
        self.0.health.status()
    }
}

/// For the fuzzers.
#[cfg(fuzzing)]
pub mod fuzzing {
    use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
    use url::Url;

    use super::auth::{challenge, realm};
    use super::transport::address::Trust;

    /// A challenge, and judging its realm.
    pub fn challenge(bytes: &[u8]) {
        let (Ok(value), Ok(repository)) = (HeaderValue::from_bytes(bytes), "reg.test/a/b".parse()) else {
            return;
        };
        let headers: HeaderMap = [(WWW_AUTHENTICATE, value)].into_iter().collect();
        let Some(challenge::Challenge::Bearer(bearer)) = challenge::read(&headers, &repository) else {
            return;
        };
        let asked = Url::parse("https://reg.test/v2/");
        for secret in [false, true] {
            if let Ok(asked) = &asked {
                let trust = Trust::Stranger;
                let _ = realm::check(&bearer.realm, asked, trust, &Default::default(), secret);
            }
        }
    }
}
