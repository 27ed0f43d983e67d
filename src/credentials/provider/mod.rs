//! Kubelet's credential-provider plugins: run unchanged, answers kept as long as they say.
//!
//! Promises: kubelet's matching, protocol, time limit and cache keys; equal questions run a plugin once; a plugin
//! that fails means no credential and a line in the log, never a failed pull. Deliberately not here: plugins that
//! want a pod's service-account token, which only kubelet can ask for.

mod config;
pub(super) mod response;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

pub use config::ProviderConfigError;
pub(super) use config::{Provider, read};

use super::credential::Credential;
use super::exec::{self, Run};
use super::keyring::{Keyring, urls_match};
use crate::support::singleflight::Singleflight;
use response::{CacheKey, Response};

/// What kubelet gives a plugin.
const WAIT: Duration = Duration::from_secs(60);
/// A plugin that failed is not run again for the same image before this: a pull asks many questions.
const FAILURE_KEPT: Duration = Duration::from_secs(10);
/// Answers kept at most; beyond that the expired ones go, then all.
const KEPT_MAX: usize = 1_024;

/// An entry of a plugin's answer.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) program: Arc<Path>,
    pub(super) name: Arc<str>,
    pub(super) credential: Option<Credential>,
}

/// All plugins. Cheap to clone.
#[derive(Clone)]
pub(super) struct Providers(Arc<Inner>);

struct Inner {
    providers: Vec<(Provider, Arc<Path>)>,
    kept: Mutex<HashMap<Key, Kept>>,
    running: Singleflight<(usize, String), Option<Response>>,
}

/// Which plugin, and for what its answer holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Image(usize, String),
    Registry(usize, String),
    Global(usize),
}

struct Kept {
    /// `None`: it failed.
    response: Option<Response>,
    until: Instant,
}

/// The same programs, asked in the same way.
impl PartialEq for Providers {
    fn eq(&self, other: &Self) -> bool {
        self.0.providers == other.0.providers
    }
}

impl Providers {
    pub(super) fn new(providers: Vec<Provider>, bin_dir: &Path) -> Self {
        let with_path = |provider: Provider| {
            let path: PathBuf = bin_dir.join(&provider.name);
            (provider, Arc::from(path))
        };
        let providers = providers.into_iter().map(with_path).collect();
        Self(Arc::new(Inner { providers, kept: Mutex::default(), running: Singleflight::default() }))
    }

    /// Whether any plugin is responsible for `image`.
    pub(super) fn is_responsible_for(&self, image: &str) -> bool {
        self.0.providers.iter().any(|(provider, _)| matches(provider, image))
    }

    /// What the responsible plugins say, as one keyring in their order.
    pub(super) async fn ring(&self, image: &str) -> Keyring<Given> {
        let responsible = self.0.providers.iter().enumerate().filter(|(_, (p, _))| matches(p, image));
        let asked = responsible.map(|(at, (provider, program))| async move {
            (self.ask(at, image).await, Arc::from(provider.name.as_str()), Arc::clone(program))
        });
        let mut ring = Keyring::default();
        for (response, name, program) in join_all(asked).await {
            let name: Arc<str> = name;
            for (key, credential) in response.map(|r| r.auth).unwrap_or_default() {
                ring.add(&key, Given { program: Arc::clone(&program), name: Arc::clone(&name), credential });
            }
        }
        ring
    }

    /// Forgets what the plugins said of `image`, because upstream refused it: it may have been withdrawn early.
    pub(super) fn forget(&self, image: &str) {
        let keys: Vec<Key> = (0..self.0.providers.len()).flat_map(|at| keys(at, image)).collect();
        self.kept().retain(|key, _| !keys.contains(key));
    }

    async fn ask(&self, at: usize, image: &str) -> Option<Response> {
        if let Some(kept) = self.known(at, image) {
            return kept;
        }
        let (this, image) = (self.clone(), image.to_owned());
        let work = || {
            let (this, image) = (this.clone(), image.clone());
            async move { this.run(at, &image).await }
        };
        this.0.running.run((at, image.clone()), work).await.flatten()
    }

    /// What is remembered; the outer `None` if nothing is.
    #[allow(clippy::option_option, reason = "nothing known, and known to have failed, are two things")]
    fn known(&self, at: usize, image: &str) -> Option<Option<Response>> {
        let (kept, now) = (self.kept(), Instant::now());
        let live = |key| kept.get(&key).filter(|kept: &&Kept| kept.until > now);
        keys(at, image).into_iter().find_map(live).map(|kept| kept.response.clone())
    }

    async fn run(&self, at: usize, image: &str) -> Option<Response> {
        let (provider, program) = self.0.providers.get(at)?;
        let input = response::request(provider.api, image);
        let run = Run { program, args: &provider.args, env: &provider.env, input, wait: WAIT };
        let said = match exec::run(run).await {
            Ok(output) => response::read(provider.api, &output).map_err(str::to_owned),
            Err(why) => Err(why),
        };
        let (response, life, key) = match said {
            Ok(response) => {
                let life = response.cache.unwrap_or(provider.default_cache);
                let [image, registry, global] = keys(at, image);
                let key = match response.reach {
                    CacheKey::Image => image,
                    CacheKey::Registry => registry,
                    CacheKey::Global => global,
                };
                (Some(response), life, key)
            }
            Err(why) => {
                tracing::warn!(
                    provider = provider.name,
                    image,
                    why,
                    "a credential provider gave no credential"
                );
                (None, FAILURE_KEPT, Key::Image(at, image.to_owned()))
            }
        };
        self.keep(key, Kept { response: response.clone(), until: Instant::now() + life });
        response
    }

    fn keep(&self, key: Key, fresh: Kept) {
        let now = Instant::now();
        if fresh.until <= now {
            return;
        }
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| kept.until > now);
        }
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, fresh);
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(provider: &Provider, image: &str) -> bool {
    provider.match_images.iter().any(|pattern| urls_match(pattern, image))
}

/// Under which keys an answer for `image` may be remembered, in kubelet's order.
fn keys(at: usize, image: &str) -> [Key; 3] {
    let registry = image.split('/').next().unwrap_or_default().to_owned();
    [Key::Image(at, image.to_owned()), Key::Registry(at, registry), Key::Global(at)]
}

#[cfg(test)]
mod tests;
