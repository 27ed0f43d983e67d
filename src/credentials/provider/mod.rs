//! Kubelet's credential-provider plugins: run unchanged, and their responses cached for as long as they say.
//!
//! Promises: kubelet's matching, protocol, time limit and cache keys; for equal requests a plugin is run once, also for
//! images that have one response, if its last one said so; a plugin that fails means no credential and a line in the
//! log; one that hangs costs one pull a few seconds; no more run at a time than there are places (`run_places`).
//!
//! A plugin that asks for a token of a pod's service account is run with one for pods alone
//! ([`Providers::account_ring`]); for the node, it is run without where it can do without (`requireServiceAccount:
//! false`). What it gave for one account is never used for another.
//!
//! Deliberately not here: where service accounts and their tokens come from ([`AccountSource`]).

mod account;
mod cache;
mod config;
pub(super) mod response;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub use account::{AccountError, AccountSource, PodAccount, ServiceAccount};
pub use config::ProviderConfigError;
pub(super) use config::{Provider, check_directory, read};

use super::credential::Credential;
use super::exec::{self, Invocation};
use super::keyring::{Keyring, urls_match, warn_of_dropped};
use super::patience::Patience;
use super::run_places::RunPlaces;
use crate::reference::Digest;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use account::AccountInput;
use cache::{ProviderFailed, ResponseCache};
use config::{CacheType, TokenAttributes};
use response::Response;

/// The time that kubelet gives a plugin, after which its run is ended. Requests wait for less.
const WAIT: Duration = Duration::from_secs(60);

/// A credential that a plugin returned.
#[derive(Debug, Clone)]
pub(super) struct ProvidedCredential {
    /// The path of the plugin.
    pub(super) program: Arc<Path>,
    /// The name of the plugin.
    pub(super) provider: Arc<str>,
    /// `None` for an entry without a user name or password.
    pub(super) credential: Option<Credential>,
}

/// All plugins. Cheap to clone.
#[derive(Clone)]
pub(super) struct Providers(Arc<Inner>);

struct Inner {
    /// With the paths of their programs.
    providers: Vec<(Provider, Arc<Path>)>,
    cache: ResponseCache,
    running: Singleflight<RunKey, Ran>,
    patience: Patience<RunKey>,
    places: RunPlaces,
}

/// The position of the plugin, the images that are alike for it ([`ResponseCache::alike`]), and whose run it is: that
/// of a service account or of the node.
type RunKey = (usize, String, Option<Digest>);

/// The image that a plugin was run for, and what it returned.
type Ran = (Arc<str>, Result<Response, ProviderFailed>);

/// What plugins returned for an image.
pub(super) struct Provided {
    pub(super) ring: Keyring<ProvidedCredential>,
    /// Whether a responsible plugin failed or takes too long: there may be a credential that is not in the ring.
    pub(super) incomplete: bool,
}

/// The same programs, run in the same way.
impl PartialEq for Providers {
    fn eq(&self, other: &Self) -> bool {
        self.0.providers == other.0.providers
    }
}

impl Providers {
    /// The plugins of `bin_dir`; each run of one becomes one of `tasks`, and takes one of `places`.
    pub(super) fn new(providers: Vec<Provider>, bin_dir: &Path, tasks: &Tasks, places: RunPlaces) -> Self {
        let with_path = |provider: Provider| {
            let program = Arc::from(bin_dir.join(&provider.name));
            (provider, program)
        };
        let providers = providers.into_iter().map(with_path).collect();
        let running = Singleflight::new(tasks.clone());
        let (cache, patience) = (ResponseCache::default(), Patience::default());
        Self(Arc::new(Inner { providers, cache, running, patience, places }))
    }

    /// Whether any plugin is responsible for `image` without a service account.
    pub(super) fn is_responsible_for(&self, image: &str) -> bool {
        self.0.providers.iter().any(|(provider, _)| provider.is_run_for_node() && matches(provider, image))
    }

    /// Whether any plugin that asks for a service account's token is responsible for `image`.
    pub(super) fn wants_account_for(&self, image: &str) -> bool {
        self.0.providers.iter().any(|(provider, _)| provider.token.is_some() && matches(provider, image))
    }

    /// What the responsible plugins return without a service account, as one keyring in their order.
    pub(super) async fn ring(&self, image: &str) -> Provided {
        let all = self.0.providers.iter().enumerate();
        let responsible = all.filter(|(_, (p, _))| p.is_run_for_node() && matches(p, image));
        let responses = responsible.map(|(position, (provider, program))| async move {
            let name: Arc<str> = Arc::from(provider.name.as_str());
            (self.response(position, image, None).await, name, Arc::clone(program))
        });
        let mut provided = Provided { ring: Keyring::default(), incomplete: false };
        for (response, provider, program) in join_all(responses).await {
            provided.incomplete |= response.is_err();
            let mut dropped = 0;
            for (key, credential) in response.map(|response| response.auth).unwrap_or_default() {
                let (program, provider) = (Arc::clone(&program), Arc::clone(&provider));
                let entry = ProvidedCredential { program, provider, credential };
                dropped += usize::from(!provided.ring.add(&key, entry));
            }
            warn_of_dropped(dropped);
        }
        provided
    }

    /// What the plugins return for the service account of `pod`, those that ask for its token, as one keyring in their
    /// order. One that fails, or that kubelet would not run, is passed over, as kubelet does.
    ///
    /// # Errors
    /// [`AccountError::Unavailable`]: what kubelet will have is not known now.
    pub(super) async fn account_ring(
        &self,
        image: &str,
        pod: &PodAccount,
        source: &dyn AccountSource,
    ) -> Result<Keyring<Option<Credential>>, AccountError> {
        let all = self.0.providers.iter().enumerate().filter(|(_, (p, _))| matches(p, image));
        let asking = all.filter_map(|(position, (p, _))| Some((position, p.token.as_ref()?)));
        let responses = asking.map(|(position, attributes)| async move {
            match self.account_response(position, attributes, image, pod, source).await {
                Err(error @ AccountError::Unavailable(_)) => Err(error),
                Err(AccountError::Missing | AccountError::Forbidden(_)) => Ok(Vec::new()),
                Ok(response) => Ok(response.map(|response| response.auth).unwrap_or_default()),
            }
        });
        let mut ring = Keyring::default();
        for auth in join_all(responses).await {
            let mut dropped = 0;
            for (key, credential) in auth? {
                dropped += usize::from(!ring.add(&key, credential));
            }
            warn_of_dropped(dropped);
        }
        Ok(ring)
    }

    /// What a plugin returns for a service account; [`ProviderFailed`] also where it is not run. In kubelet's order:
    /// the account is read, a token requested, the plugin run; but no token is requested where a response counts for
    /// all of the account's.
    async fn account_response(
        &self,
        position: usize,
        attributes: &TokenAttributes,
        image: &str,
        pod: &PodAccount,
        source: &dyn AccountSource,
    ) -> Result<Result<Response, ProviderFailed>, AccountError> {
        let account = source.account(pod).await?;
        let Some(annotations) = account::annotations(attributes, &account) else {
            return Ok(Err(ProviderFailed));
        };
        if attributes.cache_type == CacheType::ServiceAccount {
            let kept_for = account::kept_for(pod, &account, &annotations, None);
            if let Some(cached) = self.0.cache.lookup(position, image, Some(kept_for)) {
                return Ok(cached);
            }
        }
        let token = source.token(pod, &attributes.audience).await?;
        let input = AccountInput::new(attributes, pod, &account, annotations, token);
        Ok(self.response(position, image, Some(&input)).await)
    }

    /// Forgets what the plugins returned for `image`: it may have been withdrawn before its time.
    pub(super) fn forget(&self, image: &str) {
        for position in 0..self.0.providers.len() {
            self.0.cache.forget(position, image);
        }
    }

    /// The cached response of the plugin at `position`, or that of a run.
    async fn response(
        &self,
        position: usize,
        image: &str,
        account: Option<&AccountInput>,
    ) -> Result<Response, ProviderFailed> {
        let kept_for = account.map(|account| account.kept_for);
        if let Some(cached) = self.0.cache.lookup(position, image, kept_for) {
            return cached;
        }
        // A pod's images ask at once, where kubelet asks for one after the other and finds the first one's response:
        // they wait for the run for one of them, and only where its response does not count for this image, for one of
        // their own.
        let whose = account.map(|account| account.run_for);
        let shared: RunKey = (position, self.0.cache.alike(position, image), whose);
        let (ran_for, response) = self.waited(shared, image, account).await;
        if *ran_for == *image {
            return response;
        }
        match self.0.cache.lookup(position, image, kept_for) {
            Some(cached) => cached,
            None => self.waited((position, image.to_owned(), whose), image, account).await.1,
        }
    }

    /// What a run returns, that of `image` if none is under way; a failure where it takes too long.
    async fn waited(&self, key: RunKey, image: &str, account: Option<&AccountInput>) -> Ran {
        let (position, of): (usize, Arc<str>) = (key.0, Arc::from(image));
        let work = || {
            let (this, key, image) = (self.clone(), key.clone(), Arc::clone(&of));
            let account = account.cloned();
            async move {
                let response = this.run(&key, &image, account.as_ref()).await;
                (image, response)
            }
        };
        match self.0.patience.wait(&key, self.0.running.run(key.clone(), work)).await {
            Some(ran) => ran.unwrap_or((of, Err(ProviderFailed))),
            None => {
                let provider = self.0.providers.get(position).map_or("", |(provider, _)| &provider.name);
                tracing::warn!(
                    provider,
                    image,
                    "a credential provider takes long; pulls go on without its credential until it has ended"
                );
                (of, Err(ProviderFailed))
            }
        }
    }

    async fn run(
        &self,
        key: &RunKey,
        image: &str,
        account: Option<&AccountInput>,
    ) -> Result<Response, ProviderFailed> {
        let position = key.0;
        let (provider, program) = self.0.providers.get(position).ok_or(ProviderFailed)?;
        let Some(_place) = self.0.places.take(image).await else {
            // It was not run, and is waited for the next time.
            self.0.patience.recovered(key);
            return Err(ProviderFailed);
        };
        let (args, env) = (&provider.args, &provider.env);
        let told = account.map(|account| (account.token.reveal(), &account.annotations));
        let input = response::request(provider.api, image, told);
        let output = exec::run(Invocation { program, args, env, input, wait: WAIT }).await;
        let output = output.map_err(|error| account::why(error, account.is_some()));
        let response = output.and_then(|output| response::read(provider.api, &output));
        let response = response.and_then(|response| match (account, &provider.token) {
            (Some(account), Some(attributes)) => account::checked(response, attributes, &account.token),
            _ => Ok(response),
        });
        let result = response.map_err(|why| {
            let provider = &provider.name;
            tracing::warn!(provider, image, why, "a credential provider gave no credential");
            ProviderFailed
        });
        match &result {
            Ok(_) => self.0.patience.recovered(key),
            Err(ProviderFailed) => self.0.patience.ended(key),
        }
        let kept_for = account.map(|account| account.kept_for);
        self.0.cache.store(position, image, kept_for, result.clone(), provider.default_cache);
        result
    }
}

fn matches(provider: &Provider, image: &str) -> bool {
    provider.match_images.iter().any(|pattern| urls_match(pattern, image))
}

#[cfg(test)]
mod account_tests;
#[cfg(test)]
mod tests;
