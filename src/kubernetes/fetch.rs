//! One image fetched for pods: as the callers, and in the order, in which kubelet will pull it.
//!
//! Each credential of the pod's secrets is a caller of its own: the registry is asked with it exactly as it will be
//! asked when kubelet's runtime brings it, and the right that this proves is that credential's and no other's. The
//! node's own credentials and its plugins' come after it, as in any pull; then what plugins gave for the pod's service
//! account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::metrics::FetchResult;
use super::plan::{Fetch, PodIdentity};
use super::pod::Pod;
use super::secrets::{PodSecrets, PodSecretsError};
use super::service_account::ServiceAccounts;
use super::source::ImagePresence;
use crate::credentials::{PodAccount, PullSecrets};
use crate::prepull::{FetchError, Fetcher, Platforms, RequestedImage};
use crate::reference::Image;
use crate::support::size;
use crate::support::slowness::{LEAST_RATE, LOOK_INTERVAL, SlownessWatch, Speed};

/// How long a runtime or API server is waited for that may have the image: after that it counts as not there.
const PRESENCE_WAIT: Duration = Duration::from_secs(2);
/// How long one image may take. What is under way then is finished without it, and joined by kubelet.
const FETCH_WAIT: Duration = Duration::from_secs(60 * 60);

/// Credentials of a pod's secrets that match one image at most: those of a few teams. Each is a question to its
/// registry, which bans an address that brings wrong ones without end.
const CREDENTIALS_MAX: usize = 32;

/// Why an image did not come: for people, by what follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFetched {
    /// The registry refused it or does not have it, or kubelet will not pull it.
    Refused(String),
    /// The store does not take it.
    NotStored(String),
    /// Something was in the way.
    Failed(String),
}

impl NotFetched {
    /// Why, for people.
    pub(super) fn why(&self) -> &str {
        let (Self::Refused(why) | Self::NotStored(why) | Self::Failed(why)) = self;
        why
    }
}

/// An image that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchedAhead {
    /// Bytes that were not there before.
    pub fetched_bytes: u64,
    /// Whether all of it is here: a layer that the store passes by is not.
    pub is_whole: bool,
}

/// Brings images into the store.
pub trait FetchAhead: Send + Sync {
    /// Fetches an image as the first of the pull secrets' credentials that is let in; without any, as the node may.
    /// `arrived` counts its bytes as they come.
    fn fetch<'a>(
        &'a self,
        image: &'a Image,
        secrets: PullSecrets,
        arrived: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<FetchedAhead, NotFetched>>;
}

impl FetchAhead for Fetcher {
    fn fetch<'a>(
        &'a self,
        image: &'a Image,
        secrets: PullSecrets,
        arrived: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<FetchedAhead, NotFetched>> {
        async move {
            let requested = RequestedImage { image: image.clone(), secrets };
            let fetched = self.fetch_ahead(&requested, &Platforms::of(Vec::new()), arrived).await;
            let not_fetched = |error: FetchError| match error.to_string() {
                why if error.is_refusal() => NotFetched::Refused(why),
                why if error.is_not_stored() => NotFetched::NotStored(why),
                why => NotFetched::Failed(why),
            };
            let fetched = fetched.map_err(not_fetched)?;
            Ok(FetchedAhead { fetched_bytes: fetched.fetched_bytes(), is_whole: fetched.is_whole() })
        }
        .boxed()
    }
}

/// What became of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the store, but for layers that the store does not take.
    Here(FetchedAhead),
    /// The runtime has it. kubelet pulls it only to check a pull secret that it has no record of (from Kubernetes 1.35
    /// on), and needs none of its layers then.
    InRuntime,
    /// It did not come.
    NotHere(NotFetched),
}

impl Outcome {
    /// For metrics.
    pub(super) fn result(&self) -> FetchResult {
        match self {
            Self::Here(FetchedAhead { fetched_bytes: 0, .. }) => FetchResult::Present,
            Self::Here(_) => FetchResult::Fetched,
            Self::InRuntime => FetchResult::InRuntime,
            Self::NotHere(NotFetched::Refused(_)) => FetchResult::Refused,
            Self::NotHere(NotFetched::NotStored(_)) => FetchResult::NotStored,
            Self::NotHere(NotFetched::Failed(_)) => FetchResult::Failed,
        }
    }
}

/// Fetches images for pods.
pub(super) struct PodFetcher {
    pub(super) images: Arc<dyn FetchAhead>,
    /// `None`: pull secrets are not read.
    pub(super) secrets: Option<PodSecrets>,
    pub(super) presence: Vec<Arc<dyn ImagePresence>>,
    /// `None`: no tokens of service accounts are requested.
    pub(super) accounts: Option<ServiceAccounts>,
    /// Whether other images wait for a place.
    pub(super) is_short_of_places: Arc<AtomicBool>,
}

impl PodFetcher {
    /// Says of each image of the pod whether a plugin asks for its service account.
    pub(super) fn mark(&self, pod: &mut Pod) {
        let Some(accounts) = self.accounts.as_ref().filter(|_| pod.service_account.is_some()) else {
            return;
        };
        for image in &mut pod.images {
            image.needs_account = accounts.are_wanted_for(&image.image.repository);
        }
    }

    /// Drops what counts no more of what was read for pods.
    pub(super) fn forget_old(&self) {
        self.secrets.iter().for_each(PodSecrets::forget_old);
        self.accounts.iter().for_each(ServiceAccounts::forget_old);
    }

    /// Fetches an image, unless kubelet finds it in the runtime; `account` is that of a pod that wants it, where a
    /// plugin asks for one. `arrived` counts its bytes as they come.
    pub(super) async fn fetch(
        &self,
        fetch: &Fetch,
        account: Option<PodAccount>,
        arrived: &AtomicU64,
    ) -> Outcome {
        if !fetch.is_always && self.runtime_has(&fetch.image).await {
            return Outcome::InRuntime;
        }
        match self.fetch_as_kubelet(fetch, account, arrived).await {
            Ok(fetched) => Outcome::Here(fetched),
            Err(not_fetched) => Outcome::NotHere(not_fetched),
        }
    }

    async fn fetch_as_kubelet(
        &self,
        fetch: &Fetch,
        account: Option<PodAccount>,
        arrived: &AtomicU64,
    ) -> Result<FetchedAhead, NotFetched> {
        let named = fetch.identity.as_ref().filter(|identity| !identity.secrets.is_empty());
        let secrets = match (named, &self.secrets) {
            (Some(PodIdentity { namespace, secrets: names, .. }), Some(secrets)) => {
                secrets.merged(namespace, names).await
            }
            // kubelet will pull with an account: asking without it spends the node's anonymous limit in its place.
            (Some(_), None) => {
                let why = "the pod has pull secrets, which are not read here: it is left to kubelet";
                return Err(NotFetched::Refused(why.to_owned()));
            }
            (None, _) => Ok(PullSecrets::default()),
        };
        let mut secrets = match secrets {
            Ok(secrets) => secrets,
            Err(why @ PodSecretsError::Malformed(_)) => return Err(NotFetched::Refused(why.to_string())),
            Err(why @ PodSecretsError::Unavailable(_)) => return Err(NotFetched::Failed(why.to_string())),
        };
        if secrets.count_for(&fetch.image.repository) > CREDENTIALS_MAX {
            let why = "more than 32 credentials of the pod's secrets match the image: it is left to kubelet";
            return Err(NotFetched::Refused(why.to_owned()));
        }
        if let (Some(accounts), Some(account)) = (&self.accounts, account) {
            match accounts.credentials(&fetch.image.repository, &account).await {
                Ok(credentials) => secrets.add_account_credentials(credentials),
                Err(error) => return Err(NotFetched::Failed(format!("the pod's service account: {error}"))),
            }
        }
        tokio::select! {
            fetched = timeout(FETCH_WAIT, self.images.fetch(&fetch.image, secrets, arrived)) => {
                fetched.unwrap_or_else(|_| Err(NotFetched::Failed("it took too long".to_owned())))
            }
            () = self.too_slow(arrived) => {
                let least = size::shown(LEAST_RATE);
                Err(NotFetched::Failed(format!("it brings less than {least} a second, and others wait")))
            }
        }
    }

    /// Returns once less than [`LEAST_RATE`] came for a while and others wait for the place: a registry that sends a
    /// byte now and then holds no place from them.
    async fn too_slow(&self, arrived: &AtomicU64) {
        let mut watch = SlownessWatch::new(Instant::now());
        loop {
            sleep(LOOK_INTERVAL).await;
            let is_excused = !self.is_short_of_places.load(Ordering::Relaxed);
            if watch.judge(Instant::now(), arrived.load(Ordering::Relaxed), is_excused) == Speed::TooSlow {
                return;
            }
        }
    }

    /// Whether one of those that may know says that the runtime has it. Only a yes counts.
    async fn runtime_has(&self, image: &Image) -> bool {
        for presence in &self.presence {
            if timeout(PRESENCE_WAIT, presence.has(image)).await.unwrap_or(false) {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::source::{Secret, SecretError, SecretSource};

    /// A secret with so many credentials of one registry.
    struct OneSecret(usize);

    impl SecretSource for OneSecret {
        fn secret<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
            let entry = |n| format!(r##""reg.test#{n}":{{"username":"u{n}","password":"p"}}"##);
            let entries: Vec<String> = (0..self.0).map(entry).collect();
            let config = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
            let manifest = serde_json::json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": config}});
            let secret = Secret { manifest: serde_json::to_vec(&manifest).unwrap().into() };
            std::future::ready(Ok(secret)).boxed()
        }
    }

    /// Counts how often a registry would be asked for an image.
    #[derive(Default)]
    struct Asked(AtomicU64);

    impl FetchAhead for Asked {
        fn fetch<'a>(
            &'a self,
            image: &'a Image,
            secrets: PullSecrets,
            _: &'a AtomicU64,
        ) -> BoxFuture<'a, Result<FetchedAhead, NotFetched>> {
            self.0.fetch_add(secrets.count_for(&image.repository) as u64, Ordering::Relaxed);
            std::future::ready(Err(NotFetched::Refused("wrong".to_owned()))).boxed()
        }
    }

    #[tokio::test]
    async fn a_pod_with_ever_so_many_passwords_for_one_registry_asks_it_with_none_of_them() {
        for (count, asked) in [(CREDENTIALS_MAX, CREDENTIALS_MAX as u64), (CREDENTIALS_MAX + 1, 0)] {
            let images = Arc::new(Asked::default());
            let fetcher = PodFetcher {
                images: Arc::clone(&images) as _,
                secrets: Some(PodSecrets::new(Arc::new(OneSecret(count)))),
                presence: Vec::new(),
                accounts: None,
                is_short_of_places: Arc::default(),
            };
            let fetch = Fetch {
                image: "reg.test/team/app:v1".parse().unwrap(),
                identity: Some(PodIdentity {
                    namespace: "shop".to_owned(),
                    secrets: ["pull".to_owned()].into(),
                    account: None,
                }),
                is_always: true,
            };
            let outcome = fetcher.fetch(&fetch, None, &AtomicU64::new(0)).await;
            assert!(matches!(outcome, Outcome::NotHere(NotFetched::Refused(_))), "{outcome:?}");
            assert_eq!(images.0.load(Ordering::Relaxed), asked);
        }
    }
}
