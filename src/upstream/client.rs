//! The interface of this module: one method for each kind of resource that Larder requests from registries.
//!
//! Promises: `HEAD` comes first where a yes is enough; content of another digest than the one asked for is no answer.
//!
//! Deliberately not here: the order of endpoints and retries (`attempts`), reading of bodies (`read_body`).

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::credentials::PresentedCredential;
use crate::reference::{
    Digest, Principal, Reference, Registry, Repository, Tag, is_manifest_of, manifest_digest,
};
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::support::unserved::Unserved;
use crate::upstream::attempts::Attempts;
use crate::upstream::auth::authenticator::Authenticator;
use crate::upstream::auth::tokens::Tokens;
use crate::upstream::authenticated::AuthenticatedRequests;
use crate::upstream::blob_head::BlobHead;
use crate::upstream::download::Download;
use crate::upstream::endpoint::avoided::{AvoidedEndpoints, DeliveryFault};
use crate::upstream::endpoint::head_support::HeadSupport;
use crate::upstream::endpoint::health::{FailingEndpoint, Health};
use crate::upstream::endpoint::known::Endpoints;
use crate::upstream::endpoint::rate_limit::{RateLimitStatus, RateLimits};
use crate::upstream::endpoint::select::{self, EndpointId};
use crate::upstream::error::Error;
use crate::upstream::exchange::Exchange;
use crate::upstream::metrics::{Metrics, Recorder};
use crate::upstream::page::Page;
use crate::upstream::read_body::{BodyReader, Manifest, headers_of, stated_digest};
use crate::upstream::received::ReceivedBytes;
use crate::upstream::registry_labels::RegistryLabels;
use crate::upstream::request::{AuthContext, Listing, RegistryRequest};
use crate::upstream::response::{Allowed, RegistryResponse};
use crate::upstream::transport::client::HttpClient;
use crate::upstream::transport::configured::Configured;

/// All registries. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    attempts: Attempts,
    configured: Live<Configured>,
    health: Health,
    avoided: AvoidedEndpoints,
    rate_limits: Arc<RateLimits>,
    tokens: Tokens,
    recorder: Recorder,
    bodies: BodyReader,
    tasks: Tasks,
}

/// What a tag names.
#[derive(Debug, Clone)]
pub struct ResolvedTag {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest, where the registry had to be asked for all of it.
    pub manifest: Option<Manifest>,
}

impl Upstream {
    /// The registries as `configured` says. `anonymous` is presented where no credential may be.
    pub fn new(
        configured: Configured,
        anonymous: PresentedCredential,
        metrics: Metrics,
        labels: Arc<RegistryLabels>,
        clock: Clock,
    ) -> Self {
        let (configured, tasks) = (Live::new(configured), Tasks::default());
        let recorder = Recorder::new(metrics, labels);
        let health = Health::new(recorder.clone());
        let avoided = AvoidedEndpoints::new(recorder.clone());
        let rate_limits = Arc::new(RateLimits::new(recorder.clone(), clock.clone()));
        let http = HttpClient::new(configured.clone(), recorder.clone());
        let tokens = Tokens::new(http.clone(), configured.clone(), clock.clone(), tasks.clone());
        let requests = AuthenticatedRequests {
            http: http.clone(),
            authenticator: Authenticator::new(tokens.clone()),
            rate_limits: Arc::clone(&rate_limits),
            configured: configured.clone(),
            anonymous,
        };
        let exchange = Exchange {
            requests,
            http,
            rate_limits: Arc::clone(&rate_limits),
            heads: HeadSupport::default(),
            clock,
        };
        let attempts = Attempts {
            exchange: Arc::new(exchange),
            health: health.clone(),
            avoided: avoided.clone(),
            endpoints: Endpoints::new(configured.clone()),
            recorder: recorder.clone(),
            tasks: tasks.clone(),
        };
        let received = ReceivedBytes::new(recorder.clone());
        let bodies = BodyReader::new(configured.clone(), avoided.clone(), received);
        let inner =
            Inner { attempts, configured, health, avoided, rate_limits, tokens, recorder, bodies, tasks };
        Self(Arc::new(inner))
    }

    /// From now on requests are sent as `configured` says. A request that is under way ends as it began.
    pub fn reconfigure(&self, configured: Configured) {
        let before = self.0.configured.current();
        self.0.recorder.label_registries(configured.config.registries.keys());
        for registry in before.config.registries.keys().chain(configured.config.registries.keys()) {
            let of = |config| select::endpoints(config, registry).unwrap_or_default();
            let now = of(&configured.config);
            for gone in of(&before.config) {
                if now.iter().all(|endpoint| endpoint.key() != gone.key()) {
                    self.0.health.forget(&gone);
                }
                if now.iter().all(|endpoint| endpoint.base_url() != gone.base_url()) {
                    self.0.recorder.endpoint_removed(registry, gone.host_and_port());
                }
            }
        }
        self.0.configured.replace(configured);
    }

    /// The digest that `tag` means now, by `HEAD`; where that does not say it, by `GET`, which brings the manifest too.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn resolve(
        &self,
        repository: &Repository,
        tag: &Tag,
        auth: &AuthContext,
    ) -> Result<Allowed<ResolvedTag>, Error> {
        let request = RegistryRequest::manifest(Method::HEAD, repository, &tag.clone().into(), auth);
        let read = |response: RegistryResponse| async move {
            if response.answer.by_get {
                let stated = stated_digest(response.answer.response.headers());
                // On the heap: most tags are answered by a head alone, and what is moved with each question stays
                // small.
                let whole = Box::pin(self.0.bodies.manifest_of_tag(repository.registry(), response));
                let manifest = whole.await?;
                let stated = stated.filter(|digest| is_manifest_of(&manifest.bytes, digest));
                let digest = stated.unwrap_or_else(|| manifest_digest(&manifest.bytes));
                return Ok(ResolvedTag { digest, manifest: Some(manifest) });
            }
            let host = response.answer.host.clone();
            let digest = stated_digest(&headers_of(response).await?);
            let why = || "an answer to HEAD without a digest".to_owned();
            let digest = digest.ok_or_else(|| Error::Invalid { host, why: why() })?;
            Ok(ResolvedTag { digest, manifest: None })
        };
        self.0.attempts.send_and_read(&request, read).await
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// Any of [`Error`]; a body over 16 MiB is [`Error::Invalid`].
    pub async fn manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        auth: &AuthContext,
    ) -> Result<Allowed<Manifest>, Error> {
        let request = RegistryRequest::manifest(Method::GET, repository, reference, auth);
        let (bodies, registry) = (&self.0.bodies, repository.registry());
        let read = |response| async move {
            match reference {
                Reference::Digest(digest) => bodies.manifest_of(registry, *digest, response).await,
                Reference::Tag(_) => bodies.manifest_of_tag(registry, response).await,
            }
        };
        self.0.attempts.send_and_read(&request, read).await
    }

    /// Whether `repository` has a manifest, by `HEAD` of its digest; by `GET` where `HEAD` does not say yes.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::Invalid`] if `GET` brings other content.
    pub async fn confirm_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Result<Allowed<()>, Error> {
        let request = RegistryRequest::manifest(Method::HEAD, repository, &digest.into(), auth);
        let read = |response: RegistryResponse| async move {
            if !response.answer.by_get {
                return Ok(());
            }
            let whole = Box::pin(self.0.bodies.manifest_of(repository.registry(), digest, response));
            whole.await.map(|_| ())
        };
        self.0.attempts.send_and_read(&request, read).await
    }

    /// What the registry says of a blob to `HEAD`. Where `HEAD` does not say that `repository` has it and its size, the
    /// first byte is asked for.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub async fn confirm_blob(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Result<Allowed<BlobHead>, Error> {
        let request = RegistryRequest::blob(Method::HEAD, repository, digest, auth);
        let read = |response: RegistryResponse| async move {
            let status = response.answer.response.status();
            Ok(BlobHead::of(digest, status, &headers_of(response).await?))
        };
        self.0.attempts.send_and_read(&request, read).await
    }

    /// Begins to download a blob at byte `from`, up to, not including, byte `until`, or to its end. A registry may
    /// ignore the range; see [`Download::offset`].
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
        let request = RegistryRequest::blob(Method::GET, repository, digest, auth).with_range(from, until);
        let read = |response| self.0.bodies.blob(repository.registry(), digest, from, response);
        Ok(self.0.attempts.send_and_read(&request, read).await?.value)
    }

    /// Records that an endpoint of `registry` did not deliver the content of `digest`: others are asked before it for a
    /// while. Returns whether one is left that has not failed to.
    pub fn record_wrong_content(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        self.0.avoided.record(registry, digest, endpoint, fault);
        self.0.attempts.has_alternative(registry, digest)
    }

    /// One page of a list; `query` is that of the client's request, as it wrote it.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::QueryRefused`] if the registry does not take the query.
    pub async fn list(
        &self,
        repository: &Repository,
        listing: &Listing,
        query: Option<String>,
        auth: &AuthContext,
    ) -> Result<Allowed<Page>, Error> {
        let request = RegistryRequest::list(repository, listing, query, auth);
        let read = |response| self.0.bodies.page(repository.registry(), response);
        self.0.attempts.send_and_read(&request, read).await
    }

    /// The registries as they are configured now.
    pub(super) fn configuration(&self) -> Arc<Configured> {
        self.0.configured.current()
    }

    /// Whether the rate limit of a repository or its registry is nearly used up for `principal`: requests that can wait
    /// should.
    pub fn is_budget_low(&self, repository: &Repository, principal: Principal) -> bool {
        self.0.rate_limits.is_low(repository, principal)
    }

    /// Whether no authoritative endpoint of a registry answers anything: none can be connected to, or several
    /// repositories fail and no request was answered since.
    pub fn is_in_outage(&self, registry: &Registry) -> bool {
        let Ok(endpoints) = self.0.attempts.endpoints.of(registry) else { return false };
        let mut authoritative = endpoints.iter().filter(|endpoint| endpoint.is_authoritative()).peekable();
        authoritative.peek().is_some() && authoritative.all(|endpoint| self.0.health.is_in_outage(endpoint))
    }

    /// Forgets the tokens for a repository, or all: the next request needs a new one.
    pub fn forget_tokens(&self, repository: Option<&Repository>) {
        self.0.tokens.forget(repository);
    }

    /// Body bytes of manifests and blobs received since the start.
    pub fn received_bytes(&self) -> u64 {
        self.0.bodies.received().total()
    }

    /// What of that was served to no client yet, as the data plane says, which serves it.
    pub fn unserved(&self) -> Unserved<Digest> {
        self.0.bodies.received().unserved().clone()
    }

    /// What registries said about their rate limits in the last ten minutes.
    pub fn rate_limits(&self) -> Vec<RateLimitStatus> {
        self.0.rate_limits.statuses()
    }

    /// The endpoints whose last request failed.
    pub fn failing_endpoints(&self) -> Vec<FailingEndpoint> {
        self.0.health.failing_endpoints()
    }

    /// Waits until no request for a token and no probe of an endpoint is under way, but no longer than `wait`; returns
    /// how many still are.
    pub async fn finish(&self, wait: Duration) -> usize {
        self.0.tasks.finish(wait).await
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
