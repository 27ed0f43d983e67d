//! The credential that a platform gives to its machines and pods, kept at hand.
//!
//! Such a credential comes from a service of the platform (169.254.169.254, a token exchange) and expires. It is
//! fetched here, on a task of its own, once for all requests.
//!
//! Promises: while a credential is held, no request waits for the next one. Without one, requests wait for a fetch only
//! within the first second of it, all of them together: later ones fail at once. A fetch goes on when those that wait
//! for it have given up, and what it brings counts for the next request; it ends after a minute. The service is asked
//! again 5 s after a failure at the earliest.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use object_store::CredentialProvider;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::{NotAtHand, error_of};
use crate::tier::error::{Error, ErrorKind};

/// After this time a credential is asked for again. The provider has it at hand until minutes before its end, so that
/// hardly any of these questions reaches the platform.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a credential is used while the next one is fetched. Providers fetch theirs 4 minutes before the end of the
/// one before.
const USED_FOR: Duration = Duration::from_secs(120);
/// How long after the begin of a fetch requests wait for it.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a fetch may take.
const FETCH_MAX: Duration = Duration::from_secs(60);
/// After a failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where a credential comes from.
type Provider<C> = Arc<dyn CredentialProvider<Credential = C>>;
type Fetched<C> = Result<Arc<C>, Error>;

/// What a store needs before it can be asked.
pub(super) trait AtHand: Send + Sync + fmt::Debug {
    /// Waits until a credential is here that is younger than [`ASKED_AGAIN_AFTER`].
    fn fetched(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// The credential of `provider`, kept.
pub(super) struct KeptCredential<C> {
    provider: Provider<C>,
    state: Arc<Mutex<State<C>>>,
}

struct State<C> {
    held: Option<(Arc<C>, Instant)>,
    fetch: Option<Fetch<C>>,
    failed: Option<(Error, Instant)>,
}

/// A fetch under way.
struct Fetch<C> {
    begun: Instant,
    ended: watch::Receiver<Option<Fetched<C>>>,
}

impl<C> Clone for Fetch<C> {
    fn clone(&self) -> Self {
        Self { begun: self.begun, ended: self.ended.clone() }
    }
}

/// What is there for a request.
enum There<C> {
    Credential(Arc<C>),
    Fetch(Fetch<C>),
    Failure(Error),
}

impl<C: Send + Sync + 'static> KeptCredential<C> {
    pub(super) fn new(provider: Provider<C>) -> Self {
        Self { provider, state: Arc::new(Mutex::new(State { held: None, fetch: None, failed: None })) }
    }

    /// What is there now for a request that uses a credential of up to `age_max`. A fetch is begun where one is due.
    fn there(&self, age_max: Duration) -> There<C> {
        let (mut state, now) = (self.state.lock(), Instant::now());
        let held = state.held.clone().map(|(credential, at)| (credential, now - at));
        if let Some((credential, age)) = &held
            && *age < ASKED_AGAIN_AFTER
        {
            return There::Credential(Arc::clone(credential));
        }
        // A task that panicked has ended.
        if state.fetch.as_ref().is_some_and(|fetch| fetch.ended.has_changed().is_err()) {
            state.fetch = None;
        }
        let failed = state.failed.clone().filter(|(_, at)| now - *at < RETRY_AFTER);
        if state.fetch.is_none() && failed.is_none() {
            state.fetch = Some(self.fetch(now));
        }
        match (held.filter(|(_, age)| *age < age_max), &state.fetch, failed) {
            (Some((credential, _)), ..) => There::Credential(credential),
            (None, Some(fetch), _) => There::Fetch(fetch.clone()),
            (None, None, Some((error, _))) => There::Failure(error),
            (None, None, None) => There::Failure(Error::new(ErrorKind::NoCredential, "none was fetched")),
        }
    }

    fn fetch(&self, begun: Instant) -> Fetch<C> {
        let (provider, state) = (Arc::clone(&self.provider), Arc::clone(&self.state));
        let (end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let fetched = timeout(FETCH_MAX, provider.get_credential()).await;
            let fetched = match fetched {
                Ok(Ok(credential)) => Ok(credential),
                Ok(Err(error)) => Err(Error::new(ErrorKind::NoCredential, error_of(&error).why)),
                Err(_) => Err(Error::new(ErrorKind::NoCredential, format!("none within {FETCH_MAX:?}"))),
            };
            let (mut state, now) = (state.lock(), Instant::now());
            state.fetch = None;
            match &fetched {
                Ok(credential) => {
                    state.held = Some((Arc::clone(credential), now));
                    state.failed = None;
                }
                Err(error) => state.failed = Some((error.clone(), now)),
            }
            drop(state);
            end.send_replace(Some(fetched));
        });
        Fetch { begun, ended }
    }
}

impl<C> Fetch<C> {
    /// What it brought, if that is here before `until`.
    async fn wait(mut self, until: Instant) -> Fetched<C> {
        let ended = timeout_at(until, self.ended.wait_for(Option::is_some)).await;
        let why = "its platform has not given one yet";
        let none = || Err(Error::new(ErrorKind::NoCredential, why));
        match ended {
            Ok(Ok(fetched)) => fetched.clone().unwrap_or_else(none),
            Ok(Err(_)) | Err(_) => none(),
        }
    }
}

impl<C: Send + Sync + 'static> AtHand for KeptCredential<C> {
    fn fetched(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match self.there(ASKED_AGAIN_AFTER) {
                There::Credential(_) => Ok(()),
                There::Fetch(fetch) => {
                    let until = fetch.begun + FETCH_MAX * 2;
                    fetch.wait(until).await.map(drop)
                }
                There::Failure(error) => Err(error),
            }
        })
    }
}

impl<C: Send + Sync + 'static> CredentialProvider for KeptCredential<C> {
    type Credential = C;

    // As `async_trait` writes it.
    fn get_credential<'s, 'f>(
        &'s self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<C>>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let got = match self.there(USED_FOR) {
                There::Credential(credential) => Ok(credential),
                There::Fetch(fetch) => {
                    let until = fetch.begun + WAIT_MAX;
                    fetch.wait(until).await
                }
                There::Failure(error) => Err(error),
            };
            got.map_err(|error| object_store::Error::Generic {
                store: "shared tier",
                source: Box::new(NotAtHand(error)),
            })
        })
    }
}

impl<C> fmt::Debug for KeptCredential<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptCredential")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A platform that takes so many milliseconds to give the number of the question; it fails for those above
    /// 1,000,000.
    #[derive(Debug, Default)]
    struct Platform {
        takes: AtomicU64,
        asked: AtomicU64,
    }

    impl CredentialProvider for Platform {
        type Credential = u64;

        fn get_credential<'s, 'f>(
            &'s self,
        ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<u64>>> + Send + 'f>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let (takes, number) =
                    (self.takes.load(Ordering::Relaxed), self.asked.fetch_add(1, Ordering::Relaxed));
                if takes > 1_000_000 {
                    let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
                    return Err(object_store::Error::Generic { store: "platform", source });
                }
                tokio::time::sleep(Duration::from_millis(takes)).await;
                Ok(Arc::new(number))
            })
        }
    }

    fn kept(takes: u64) -> (Arc<Platform>, KeptCredential<u64>) {
        let platform = Arc::new(Platform { takes: takes.into(), ..Platform::default() });
        (Arc::clone(&platform), KeptCredential::new(platform))
    }

    /// What a request gets, and how long it waits for that.
    async fn request(kept: &KeptCredential<u64>) -> (Result<u64, Error>, Duration) {
        let begun = Instant::now();
        let got = kept.get_credential().await.map(|number| *number).map_err(|error| error_of(&error));
        (got, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_service_for_credentials_costs_all_pulls_together_a_second_and_is_asked_once() {
        let (platform, kept) = kept(12_000);
        let mut cost = Duration::ZERO;
        let mut got = None;
        for _ in 0..40 {
            let (result, waited) = request(&kept).await;
            cost += waited;
            match result {
                Ok(number) => got = Some(number),
                Err(error) => assert_eq!(error.kind, ErrorKind::NoCredential, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(got, Some(0), "the fetch went on after the requests that waited for it");
        assert_eq!(cost, WAIT_MAX);
        assert!(platform.asked.load(Ordering::Relaxed) <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pull_waits_for_the_next_credential_while_one_is_held() {
        let (platform, kept) = kept(100);
        assert!(kept.fetched().await.is_ok());
        platform.takes.store(5_000, Ordering::Relaxed);
        tokio::time::sleep(ASKED_AGAIN_AFTER).await;
        assert_eq!(request(&kept).await, (Ok(0), Duration::ZERO));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(request(&kept).await, (Ok(1), Duration::ZERO), "it was fetched meanwhile");
        // Long after, it may have expired.
        tokio::time::sleep(USED_FOR).await;
        let (got, waited) = request(&kept).await;
        assert_eq!((got.unwrap_err().kind, waited), (ErrorKind::NoCredential, WAIT_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_for_credentials_that_fails_is_not_asked_for_each_request() {
        let (platform, kept) = kept(2_000_000);
        for _ in 0..100 {
            let (got, waited) = request(&kept).await;
            let error = got.unwrap_err();
            assert_eq!((error.kind, error.why.as_str()), (ErrorKind::NoCredential, "connection refused"));
            assert_eq!(waited, Duration::ZERO);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(platform.asked.load(Ordering::Relaxed) <= 2);
        platform.takes.store(100, Ordering::Relaxed);
        tokio::time::sleep(RETRY_AFTER).await;
        assert!(request(&kept).await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_for_credentials_that_hangs_is_asked_again() {
        let (platform, kept) = kept(1_000_000);
        assert_eq!(kept.fetched().await.unwrap_err().kind, ErrorKind::NoCredential);
        platform.takes.store(10, Ordering::Relaxed);
        tokio::time::sleep(RETRY_AFTER).await;
        assert!(kept.fetched().await.is_ok());
    }
}
