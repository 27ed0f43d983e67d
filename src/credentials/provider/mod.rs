//! Kubelet's credential-provider plugins: run unchanged, and their responses cached for as long as they say.
//!
//! Promises: kubelet's matching, protocol, time limit and cache keys; for equal requests a plugin is run once; a plugin
//! that fails means no credential and a line in the log; one that hangs costs one pull a few seconds.
//!
//! Deliberately not here: plugins that need a pod's service-account token, which only kubelet has. One that can do without
//! (`requireServiceAccount: false`) is run without.

mod cache;
mod config;
pub(super) mod response;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub use config::ProviderConfigError;
pub(super) use config::{Provider, check_directory, read};

use super::credential::Credential;
use super::exec::{self, Invocation};
use super::keyring::{Keyring, urls_match};
use super::patience::Patience;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use cache::{ProviderFailed, ResponseCache};
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
    /// By the position of the plugin, and the image.
    running: Singleflight<(usize, String), Result<Response, ProviderFailed>>,
    patience: Patience<(usize, String)>,
}

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
    /// The plugins of `bin_dir`; each run of one becomes one of `tasks`.
    pub(super) fn new(providers: Vec<Provider>, bin_dir: &Path, tasks: &Tasks) -> Self {
        let with_path = |provider: Provider| {
            let program = Arc::from(bin_dir.join(&provider.name));
            (provider, program)
        };
        let providers = providers.into_iter().map(with_path).collect();
        let running = Singleflight::new(tasks.clone());
        let (cache, patience) = (ResponseCache::default(), Patience::default());
        Self(Arc::new(Inner { providers, cache, running, patience }))
    }

    /// Whether any plugin is responsible for `image`.
    pub(super) fn is_responsible_for(&self, image: &str) -> bool {
        self.0.providers.iter().any(|(provider, _)| matches(provider, image))
    }

    /// What the responsible plugins return, as one keyring in their order.
    pub(super) async fn ring(&self, image: &str) -> Provided {
        let responsible = self.0.providers.iter().enumerate().filter(|(_, (p, _))| matches(p, image));
        let responses = responsible.map(|(position, (provider, program))| async move {
            let name: Arc<str> = Arc::from(provider.name.as_str());
            (self.response(position, image).await, name, Arc::clone(program))
        });
        let mut provided = Provided { ring: Keyring::default(), incomplete: false };
        for (response, provider, program) in join_all(responses).await {
            provided.incomplete |= response.is_err();
            for (key, credential) in response.map(|response| response.auth).unwrap_or_default() {
                let (program, provider) = (Arc::clone(&program), Arc::clone(&provider));
                provided.ring.add(&key, ProvidedCredential { program, provider, credential });
            }
        }
        provided
    }

    /// Forgets what the plugins returned for `image`: it may have been withdrawn before its time.
    pub(super) fn forget(&self, image: &str) {
        for position in 0..self.0.providers.len() {
            self.0.cache.forget(position, image);
        }
    }

    /// The cached response of the plugin at `position`, or that of a run.
    async fn response(&self, position: usize, image: &str) -> Result<Response, ProviderFailed> {
        if let Some(cached) = self.0.cache.lookup(position, image) {
            return cached;
        }
        let (this, image) = (self.clone(), image.to_owned());
        let work = || {
            let (this, image) = (this.clone(), image.clone());
            async move { this.run(position, &image).await }
        };
        let key = (position, image.clone());
        match self.0.patience.wait(&key, this.0.running.run(key.clone(), work)).await {
            Some(response) => response.unwrap_or(Err(ProviderFailed)),
            None => {
                let provider = self.0.providers.get(position).map_or("", |(provider, _)| &provider.name);
                tracing::warn!(
                    provider,
                    image,
                    "a credential provider takes long; pulls go on without its credential until it has ended"
                );
                Err(ProviderFailed)
            }
        }
    }

    async fn run(&self, position: usize, image: &str) -> Result<Response, ProviderFailed> {
        let (provider, program) = self.0.providers.get(position).ok_or(ProviderFailed)?;
        let (args, env) = (&provider.args, &provider.env);
        let input = response::request(provider.api, image);
        let output = exec::run(Invocation { program, args, env, input, wait: WAIT }).await;
        let response =
            output.map_err(|error| error.why).and_then(|output| response::read(provider.api, &output));
        let result = response.map_err(|why| {
            let provider = &provider.name;
            tracing::warn!(provider, image, why, "a credential provider gave no credential");
            ProviderFailed
        });
        let key = (position, image.to_owned());
        match &result {
            Ok(_) => self.0.patience.recovered(&key),
            Err(ProviderFailed) => self.0.patience.ended(&key),
        }
        self.0.cache.store(position, image, result.clone(), provider.default_cache);
        result
    }
}

fn matches(provider: &Provider, image: &str) -> bool {
    provider.match_images.iter().any(|pattern| urls_match(pattern, image))
}

#[cfg(test)]
mod tests;
