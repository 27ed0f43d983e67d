//! The parts of one blob that are being fetched: each once, for all who read it.
//!
//! Promises: no two of them overlap; a part is received at upstream's speed and kept, however slowly its readers read;
//! one that fails leaves its readers to ask for themselves. Deliberately not here: which part may be fetched alone, and
//! who may read it.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pull::blob::places::{Place, Places, Shares};
use crate::pull::blob::source::body::SourceBody;
use crate::pull::config::Config;
use crate::pull::error::Error;
use crate::pull::metrics::{Metrics, PassedBytes};
use crate::reference::{Digest, Registry};
use crate::store::PartialBlob;
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// Parts of one blob that are fetched at the same time; further ones are not kept.
const FETCHES_MAX: usize = 64;
/// The same of all blobs, a quarter of them for a registry that the operator did not name: each has a connection that
/// its client need not wait for.
const ALL_FETCHES: Shares = Shares::of(256);

/// The places of the parts that are fetched.
pub(super) fn places(config: Live<Config>) -> Places {
    Places::new(ALL_FETCHES, config)
}

/// The parts of one blob that are kept, and those on their way there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FetchedParts {
    blob: PartialBlob,
    digest: Digest,
    coming: Arc<Mutex<Vec<Coming>>>,
    places: PlacesOf,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// The places that parts of one registry are fetched in.
#[derive(Clone)]
pub(super) struct PlacesOf {
    pub(super) places: Places,
    pub(super) registry: Registry,
}

/// A part on its way, for one who waits for it.
#[derive(Clone)]
pub(crate) struct Coming {
    start: u64,
    end: u64,
    /// Up to where it is kept.
    kept: watch::Receiver<u64>,
}

/// What stands in the way of fetching a part, if anything does.
pub(crate) enum Reserved {
    /// Nothing: this caller fetches it.
    New(Reservation),
    /// Another one does.
    Coming(Coming),
    /// Its first byte is kept by now.
    Kept,
    /// Too many parts are being fetched.
    Full,
}

/// The right to fetch a part; its end, however it comes, is the end of the waiting for it.
pub(crate) struct Reservation {
    parts: FetchedParts,
    coming: Coming,
    kept: watch::Sender<u64>,
    _place: Place,
}

impl FetchedParts {
    pub(super) fn new(
        blob: PartialBlob,
        digest: Digest,
        places: PlacesOf,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { blob, digest, coming: Arc::default(), places, tasks, metrics }
    }

    /// What is kept.
    pub(crate) fn blob(&self) -> &PartialBlob {
        &self.blob
    }

    /// Reserves the bytes from `start` on, up to `end` or to where others are kept or on their way.
    pub(crate) fn reserve(&self, start: u64, end: u64) -> Reserved {
        let mut all = self.coming.lock();
        if let Some(coming) = all.iter().find(|coming| coming.start <= start && start < coming.end) {
            return Reserved::Coming(coming.clone());
        }
        // What came is kept before it is on its way no more.
        if self.blob.first_missing(start, start + 1).is_none() {
            return Reserved::Kept;
        }
        if all.len() == FETCHES_MAX {
            return Reserved::Full;
        }
        let PlacesOf { places, registry } = &self.places;
        let Some(place) = places.take(registry) else { return Reserved::Full };
        let next_coming = all.iter().map(|coming| coming.start).filter(|next| *next > start).min();
        let end = [self.blob.next_from(start), next_coming].into_iter().flatten().fold(end, u64::min);
        let (kept, receiver) = watch::channel(start);
        let coming = Coming { start, end, kept: receiver };
        all.push(coming.clone());
        Reserved::New(Reservation { parts: self.clone(), coming, kept, _place: place })
    }
}

impl Coming {
    /// Waits until the byte at `at` is kept; false if it does not come.
    pub(crate) async fn has_reached(&mut self, at: u64) -> bool {
        self.kept.wait_for(|kept| *kept > at).await.is_ok()
    }
}

impl Reservation {
    /// The first byte.
    pub(crate) fn start(&self) -> u64 {
        self.coming.start
    }

    /// One past the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.coming.end
    }

    /// Receives the part on a task of its own, from the body that `open` comes to.
    pub(crate) fn receive(
        self,
        open: impl Future<Output = Result<SourceBody, Error>> + Send + 'static,
    ) -> Coming {
        let (tasks, coming) = (self.parts.tasks.clone(), self.coming.clone());
        tasks.spawn_detached(async move {
            let received = match open.await {
                Ok(body) => self.keep(body).await,
                Err(error) => Err(error),
            };
            if let Err(error) = received {
                let (digest, start) = (self.parts.digest, self.start());
                tracing::debug!(%digest, start, %error, "a part of a blob is not kept");
            }
        });
        coming
    }

    async fn keep(&self, mut body: SourceBody) -> Result<(), Error> {
        let (mut at, end) = (self.start(), self.end());
        while at < end {
            let mut bytes: Bytes = body.next().await.ok_or(Error::ShortBody { missing: end - at })??;
            bytes.truncate(usize::try_from(end - at).unwrap_or(usize::MAX));
            let len = bytes.len() as u64;
            self.parts.metrics.passthrough.add(PassedBytes::ByteRange, len);
            if !self.parts.blob.keep(at, bytes).await? {
                return Ok(());
            }
            at += len;
            self.kept.send_replace(at);
        }
        body.finish().await;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.parts.coming.lock().retain(|coming| coming.start != self.coming.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests;
    use crate::store::Owner;

    /// All places, where the operator named `reg.test`.
    fn all_places() -> Places {
        let named = ["reg.test".parse().unwrap()].into();
        places(Live::new(Config { named, ..Config::default() }))
    }

    fn of(registry: &str, places: &Places) -> PlacesOf {
        PlacesOf { places: places.clone(), registry: registry.parse().unwrap() }
    }

    #[tokio::test]
    async fn parts_of_a_strangers_blobs_are_fetched_in_its_share_of_the_places_however_many_blobs_it_has() {
        let ((store, _clock, _directory), all) = (for_tests::store(), all_places());
        let mut taken = Vec::new();
        for (n, name) in [(0, "evil.test"), (1, "a.evil.test"), (2, "evil.test"), (3, "reg.test")] {
            let digest = Digest::of(&[n]);
            let owner = Owner::unlimited(&name.parse().unwrap());
            let blob = store.begin_partial(digest, 1_000, owner).await.unwrap();
            let (places, tasks) = (of(name, &all), Tasks::default());
            let parts = FetchedParts::new(blob, digest, places, tasks, for_tests::metrics());
            let before = taken.len();
            for at in 0..40 {
                if let Reserved::New(part) = parts.reserve(at * 10, at * 10 + 10) {
                    taken.push(part);
                }
            }
            assert_eq!(taken.len() - before, [40, 24, 0, 40][usize::from(n)], "{name}");
        }
    }

    #[tokio::test]
    async fn no_byte_that_is_kept_or_on_its_way_is_reserved_again() {
        let ((store, _clock, _directory), metrics) = (for_tests::store(), for_tests::metrics());
        let (digest, owner) = (Digest::of(b"x"), Owner::unlimited(&"reg.test".parse().unwrap()));
        let blob = store.begin_partial(digest, 1_000, owner).await.unwrap();
        let parts = FetchedParts::new(blob, digest, of("reg.test", &all_places()), Tasks::default(), metrics);
        assert!(parts.blob().keep(100, Bytes::from_static(&[1; 50])).await.unwrap());
        let reserved = |start, end| match parts.reserve(start, end) {
            Reserved::New(part) => Some(part),
            _ => None,
        };
        assert!(matches!(parts.reserve(100, 200), Reserved::Kept), "it came between the look and the turn");
        assert!(matches!(parts.reserve(149, 150), Reserved::Kept));
        let behind = reserved(150, 1_000).unwrap();
        assert_eq!((behind.start(), behind.end()), (150, 1_000));
        assert!(matches!(parts.reserve(500, 600), Reserved::Coming(_)));
        let before = reserved(50, 1_000).unwrap();
        assert_eq!((before.start(), before.end()), (50, 100));
        drop((before, behind));
        assert!(reserved(500, 600).is_some(), "what did not come is fetched by the next");
    }
}
