//! Flights: one download of a blob under way, and everybody who wants it.
//!
//! A flight belongs to (registry, digest). Whoever finds none leads: it gets an owned permit, and if that is dropped
//! without an outcome the flight has failed and the next comer leads anew. Everybody, the leader's client included,
//! follows. Different registries never share a flight, so that none can stall or spoil another's.
//!
//! Lock order: the map's lock is never held while a flight's progress is changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::pull::access::authorize::Caller;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher, Registry, Repository};
use crate::store::GrowingBlob;
use crate::support::metrics::IntGauge;

/// How far a download is.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// Upstream has been asked and has not answered.
    Waiting,
    /// Bytes are coming.
    Filling {
        /// Where they can be read.
        growing: GrowingBlob,
        /// Bytes of the whole blob, where upstream said so.
        size: Option<u64>,
        /// Bytes that may be handed out: never the last ones before the digest is verified.
        readable: u64,
    },
    /// All bytes are there and are what the digest says.
    Landed {
        /// Where they can be read.
        growing: GrowingBlob,
        /// How many there are.
        size: u64,
    },
    /// Our disk would not have it. What was written can still be read; the rest is each follower's own to fetch.
    Detached {
        /// Where what was written can be read, if anything was.
        growing: Option<GrowingBlob>,
        /// Bytes written.
        written: u64,
        /// Of those bytes: it goes on with the rest, so that the whole is verified as a whole.
        hasher: Hasher,
        /// Bytes of the whole blob, where upstream said so.
        size: Option<u64>,
    },
    /// It ended without the whole blob.
    Failed(Error),
}

impl Progress {
    /// Whether nothing more will change.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Landed { .. } | Self::Detached { .. } | Self::Failed(_))
    }
}

/// One download under way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// On whose behalf upstream was asked: that repository's right is what upstream's answer proves.
    pub(crate) repository: Repository,
    /// As whom: the answer is an answer to callers with the same credential, and to no others.
    pub(crate) caller: Caller,
    /// Whether somebody waits for it, or will in a moment; a pre-pull does not.
    hurried: AtomicBool,
    progress: watch::Sender<Progress>,
}

impl Flight {
    /// Whether somebody waits for it.
    pub(crate) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }

    /// Watches the progress.
    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

type Key = (Registry, Digest);
type Map = Arc<Mutex<HashMap<Key, Arc<Flight>>>>;

/// All flights.
#[derive(Debug)]
pub(crate) struct Flights {
    map: Map,
    ended: Arc<AtomicU64>,
    gauge: IntGauge,
}

/// A seat in a flight.
pub(crate) enum Boarding {
    /// There was none: this caller must fill.
    Lead(Lead),
    /// One is under way.
    Join(Arc<Flight>),
}

impl Flights {
    pub(crate) fn new(gauge: IntGauge) -> Self {
        Self { map: Map::default(), ended: Arc::default(), gauge }
    }

    /// Flights that have ended. If it has not changed between a look into the store and a boarding, nothing can have
    /// landed in between.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether `digest` is being fetched from `registry`.
    pub(crate) fn has(&self, registry: &Registry, digest: Digest) -> bool {
        lock(&self.map).contains_key(&(registry.clone(), digest))
    }

    /// Whether there is a flight that somebody waits for.
    pub(crate) fn somebody_waits(&self) -> bool {
        lock(&self.map).values().any(|flight| flight.is_hurried())
    }

    /// Joins the flight for `digest` from the registry of `repository`, or leads a new one. `hurry` says that somebody
    /// waits.
    pub(crate) fn board(
        &self,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        hurry: bool,
    ) -> Boarding {
        let key = (repository.registry().clone(), digest);
        match lock(&self.map).entry(key.clone()) {
            Entry::Occupied(under_way) => {
                under_way.get().hurried.fetch_or(hurry, Ordering::Relaxed);
                Boarding::Join(Arc::clone(under_way.get()))
            }
            Entry::Vacant(vacant) => {
                let progress = watch::Sender::new(Progress::Waiting);
                let flight = Arc::new(Flight {
                    repository: repository.clone(),
                    caller: caller.clone(),
                    hurried: AtomicBool::new(hurry),
                    progress,
                });
                vacant.insert(Arc::clone(&flight));
                self.gauge.inc();
                let (map, ended) = (Arc::clone(&self.map), Arc::clone(&self.ended));
                Boarding::Lead(Lead { flight, key, map, ended, gauge: self.gauge.clone() })
            }
        }
    }
}

fn lock(map: &Map) -> MutexGuard<'_, HashMap<Key, Arc<Flight>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right and the duty to fill a flight.
pub(crate) struct Lead {
    flight: Arc<Flight>,
    key: Key,
    map: Map,
    ended: Arc<AtomicU64>,
    gauge: IntGauge,
}

impl Lead {
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub(crate) fn digest(&self) -> Digest {
        self.key.1
    }

    /// Tells all followers.
    pub(crate) fn publish(&self, progress: Progress) {
        self.flight.progress.send_replace(progress);
    }

    /// Ends the flight and tells all followers why. Nobody boards it any more by then: who is told may ask again at once,
    /// and is to get an answer of its own.
    pub(crate) fn fail(&self, error: Error) {
        self.end();
        self.publish(Progress::Failed(error));
    }

    fn end(&self) {
        let mut map = lock(&self.map);
        // The next one may be under way already.
        if map.get(&self.key).is_some_and(|under_way| Arc::ptr_eq(under_way, &self.flight)) {
            // Before it is gone, so that whoever leads the next one notices.
            self.ended.fetch_add(1, Ordering::Release);
            map.remove(&self.key);
            self.gauge.dec();
        }
    }

    /// Tells all followers that everything is there and right.
    pub(crate) fn publish_landed(&self, size: u64) {
        self.flight.progress.send_modify(|progress| {
            if let Progress::Filling { growing, .. } = progress {
                *progress = Progress::Landed { growing: growing.clone(), size };
            }
        });
    }

    /// Tells all followers that more may be read.
    pub(crate) fn publish_readable(&self, up_to: u64) {
        self.flight.progress.send_modify(|progress| {
            if let Progress::Filling { readable, .. } = progress {
                *readable = up_to;
            }
        });
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.end();
        self.flight.progress.send_if_modified(|progress| {
            let abandoned = !progress.is_over();
            if abandoned {
                *progress = Progress::Failed(Error::Abandoned);
            }
            abandoned
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(name: &str) -> Repository {
        let (registry, path) = name.split_once('/').unwrap();
        Repository::new(registry.parse().unwrap(), path.parse().unwrap()).unwrap()
    }

    #[test]
    fn one_leads_all_join_and_registries_never_share() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let digest = Digest::of(b"x");
        let Boarding::Lead(lead) = flights.board(&repository("a.test/r"), digest, &Caller::anonymous(), true)
        else {
            panic!("nobody led")
        };
        assert!(matches!(
            flights.board(&repository("a.test/r"), digest, &Caller::anonymous(), true),
            Boarding::Join(_)
        ));
        assert!(matches!(
            flights.board(&repository("a.test/other"), digest, &Caller::anonymous(), true),
            Boarding::Join(_)
        ));
        assert!(matches!(
            flights.board(&repository("b.test/r"), digest, &Caller::anonymous(), true),
            Boarding::Lead(_)
        ));
        drop(lead);
        assert!(matches!(
            flights.board(&repository("a.test/r"), digest, &Caller::anonymous(), true),
            Boarding::Lead(_)
        ));
    }

    #[test]
    fn who_asks_again_after_a_failure_boards_another_flight() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let board = || flights.board(&repository("a.test/r"), Digest::of(b"x"), &Caller::anonymous(), true);
        let Boarding::Lead(first) = board() else { panic!() };
        let following = first.flight().follow();
        first.fail(Error::NotStored);
        assert!(matches!(&*following.borrow(), Progress::Failed(Error::NotStored)));
        let Boarding::Lead(second) = board() else { panic!("joined one that has failed") };
        drop(first);
        assert!(matches!(board(), Boarding::Join(_)), "the first took the second along");
        assert!(matches!(&*following.borrow(), Progress::Failed(Error::NotStored)));
        assert_eq!((flights.gauge.get(), flights.ended()), (1, 1));
        drop(second);
        assert_eq!((flights.gauge.get(), flights.ended()), (0, 2));
    }

    #[test]
    fn a_leader_that_vanishes_is_a_failure_and_never_a_normal_end() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let Boarding::Lead(lead) =
            flights.board(&repository("a.test/r"), Digest::of(b"x"), &Caller::anonymous(), true)
        else {
            panic!()
        };
        let following = lead.flight().follow();
        drop(lead);
        assert!(matches!(&*following.borrow(), Progress::Failed(Error::Abandoned)));
        assert_eq!(flights.gauge.get(), 0);
    }
}
