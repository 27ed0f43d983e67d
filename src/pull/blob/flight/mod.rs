//! Flights: one download of a blob under way, and every request that waits for it (singleflight).
//!
//! A flight belongs to (registry, digest), and is shared by all who ask the registry for the blob; after one that
//! failed for reasons of its leader, to a repository and a credential besides. The first request leads: it gets an
//! owned permit ([`Leader`]), and if that is dropped without an outcome the flight has failed and the next request
//! leads anew. Every other request follows, and so does the leader's own client. Different registries never share a
//! flight, so that none can stall or spoil another's download.
//!
//! Lock order: the map's lock is never held while a flight's progress is changed.

pub(super) mod content;
pub(super) mod led_by;
mod pace;
pub(super) mod progress;
mod sharing;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::flight::pace::Pace;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::flight::sharing::Key;
pub(crate) use crate::pull::blob::flight::sharing::{FlightStart, Sharing};
use crate::pull::blob::vouched::Vouched;
use crate::pull::context::{Caller, Priority, PullContext};
use crate::pull::error::Error;
use crate::reference::{Digest, Registry, Repository};
use crate::store::GrowingBlob;
use crate::support::metrics::IntGauge;
use crate::support::sync::Mutex;
use crate::support::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Pulls as which a flight may go on besides its own: a blob has a few repositories.
const ALTERNATES_MAX: usize = 4;

/// One download under way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// The pull that upstream was asked for: its repository's right is what upstream's answer proves, and its answer is
    /// an answer to callers with the same credential and to no others.
    context: PullContext,
    start: FlightStart,
    /// The greatest [`Priority`] of those who joined, as a number: it only rises.
    priority: AtomicU8,
    /// Whether the shared tier delivers it.
    from_tier: AtomicBool,
    /// Pulls of followers whose own question was answered yes: one of them may be used to go on where the leader's
    /// repository or credential fails in mid-body, if the registry vouched for the leader.
    alternates: Mutex<Vec<PullContext>>,
    /// How fast it brings bytes.
    pace: Mutex<Pace>,
    progress: watch::Sender<Progress>,
}

impl Flight {
    /// The pull on whose behalf upstream was asked.
    pub(crate) fn context(&self) -> &PullContext {
        &self.context
    }

    /// What was known when it began.
    pub(crate) fn start(&self) -> FlightStart {
        self.start
    }

    /// Whether it is for this repository.
    pub(crate) fn is_for(&self, repository: &Repository) -> bool {
        self.context.repository() == repository
    }

    /// Whether upstream was asked with the credential of `caller`.
    pub(crate) fn asked_as(&self, caller: &Caller) -> bool {
        self.context.caller().has_same_credential_as(caller)
    }

    /// Whether this pull asks what the leader asked. That answer may be older than the pull's right.
    pub(crate) fn is_same_question(&self, context: &PullContext) -> bool {
        self.is_for(context.repository()) && self.asked_as(context.caller())
    }

    /// Adds the pull of a follower whose own question was answered yes.
    pub(crate) fn add_alternate(&self, context: &PullContext) {
        let is_same = |other: &PullContext| {
            other.repository() == context.repository()
                && other.caller().has_same_credential_as(context.caller())
        };
        let mut alternates = self.alternates.lock();
        if alternates.len() < ALTERNATES_MAX && !is_same(&self.context) && !alternates.iter().any(is_same) {
            alternates.push(context.after_the_answer());
        }
    }

    /// Whether there is a pull as which upstream may be asked for the rest.
    pub(crate) fn has_alternate(&self) -> bool {
        !self.alternates.lock().is_empty()
    }

    /// A pull as which upstream may be asked for the rest, each once.
    pub(crate) fn take_alternate(&self) -> Option<PullContext> {
        self.alternates.lock().pop()
    }

    /// Whether a runtime waits for it.
    pub(crate) fn is_foreground(&self) -> bool {
        self.priority.load(Ordering::Relaxed) == Priority::Foreground as u8
    }

    /// Whether a runtime will wait for it, and does not yet.
    pub(crate) fn is_ahead(&self) -> bool {
        self.priority.load(Ordering::Relaxed) == Priority::Ahead as u8
    }

    /// How many clients wait for it, those not counted that share a window.
    pub(crate) fn followers(&self) -> usize {
        self.progress.receiver_count()
    }

    /// Waits until no client waits for it.
    pub(crate) async fn no_follower(&self) {
        self.progress.closed().await;
    }

    /// Whether a client waits for it, or reads it in its window.
    pub(crate) fn has_client(&self) -> bool {
        self.followers() > 0 || self.progress.borrow().has_window_reader()
    }

    /// Bytes that have come so far, on disk or past it: also those that are withheld.
    pub(crate) fn received(&self) -> u64 {
        self.progress.borrow().received()
    }

    /// Says whether the shared tier delivers it, so that nothing of it comes from its registry.
    pub(crate) fn set_from_tier(&self, from_tier: bool) {
        self.from_tier.store(from_tier, Ordering::Relaxed);
    }

    /// Whether it waits for what another node writes to the shared tier, which has its own bound.
    pub(crate) fn waits_for_tier(&self) -> bool {
        self.from_tier.load(Ordering::Relaxed) && self.received() == 0
    }

    /// Whether what is fetched ahead in `other` slows down for it: a client waits for it, and it fills the line that
    /// both share, or is of the same registry. One that waits for what another node downloads does neither.
    fn is_before(&self, other: &Self) -> bool {
        let is_of_registry = || {
            !self.from_tier.load(Ordering::Relaxed)
                && self.context.repository().registry() == other.context.repository().registry()
        };
        let fills_line = || self.pace.lock().measure(Instant::now(), self.received());
        self.is_foreground() && self.has_client() && (is_of_registry() || fills_line())
    }

    /// Watches the progress.
    pub(crate) fn follow(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

#[derive(Debug)]
struct AllFlights {
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
    ended: AtomicU64,
    /// A flight ended, or one was joined and may be more urgent.
    changed: Notify,
    gauge: IntGauge,
}

/// All flights. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Flights(Arc<AllFlights>);

/// What a request for a blob becomes.
pub(crate) enum Role {
    /// There was no flight: this request fills a new one.
    Lead(Leader),
    /// One is under way.
    Follow(Arc<Flight>),
}

impl Flights {
    /// No flights; `gauge` mirrors how many there are.
    pub(crate) fn new(gauge: IntGauge) -> Self {
        let (flights, ended, changed) = (Mutex::default(), AtomicU64::new(0), Notify::new());
        Self(Arc::new(AllFlights { flights, ended, changed, gauge }))
    }

    /// Flights under way.
    pub(crate) fn count(&self) -> usize {
        self.0.flights.lock().len()
    }

    /// Flights that have ended. If it did not change between a look into the store and [`Self::join_or_lead`], no
    /// flight can have completed in between.
    pub(crate) fn ended(&self) -> u64 {
        self.0.ended.load(Ordering::Acquire)
    }

    /// Whether `digest` is being downloaded from `registry`.
    pub(crate) fn has(&self, registry: &Registry, digest: Digest) -> bool {
        self.0.flights.lock().contains_key(&(registry.clone(), digest, None))
    }

    /// Waits as long as `goes_on`, which is asked again whenever a flight has ended or become foreground.
    pub(crate) async fn wait_while(&self, goes_on: impl Fn() -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            // Registered before the look, so that nothing that happens in between is missed.
            changed.as_mut().enable();
            if !goes_on() {
                return;
            }
            changed.await;
        }
    }

    /// Whether what is fetched ahead in `flight` slows down for another that a runtime waits for.
    pub(crate) fn any_before(&self, flight: &Flight) -> bool {
        // Outside of the lock: the others are asked how far they are.
        let flights: Vec<_> = self.0.flights.lock().values().map(Arc::clone).collect();
        flights.iter().any(|other| other.is_before(flight))
    }

    /// Whether there is a flight that a runtime waits for, or will wait for.
    pub(crate) fn any_before_background(&self) -> bool {
        self.0.flights.lock().values().any(|flight| flight.is_foreground() || flight.is_ahead())
    }

    /// Joins the flight for `digest` from the registry of the pull's repository, or leads a new one.
    pub(crate) fn join_or_lead(
        &self,
        context: &PullContext,
        digest: Digest,
        sharing: Sharing,
        start: FlightStart,
    ) -> Role {
        let key = sharing.key(context, digest);
        let priority = context.priority() as u8;
        let mut flights = self.0.flights.lock();
        let role = match flights.entry(key.clone()) {
            Entry::Occupied(under_way) => {
                under_way.get().priority.fetch_max(priority, Ordering::Relaxed);
                Role::Follow(Arc::clone(under_way.get()))
            }
            Entry::Vacant(vacant) => {
                let flight = Arc::new(Flight {
                    context: context.clone(),
                    start,
                    priority: AtomicU8::new(priority),
                    from_tier: AtomicBool::new(false),
                    alternates: Mutex::default(),
                    pace: Mutex::new(Pace::from(Instant::now())),
                    progress: watch::Sender::new(Progress::Waiting),
                });
                vacant.insert(Arc::clone(&flight));
                Role::Lead(Leader { flight, key, shared: Arc::clone(&self.0) })
            }
        };
        self.0.mirror(flights.len());
        drop(flights);
        self.0.changed.notify_waiters();
        role
    }
}

impl AllFlights {
    fn mirror(&self, count: usize) {
        self.gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// The permit and the duty to fill a flight.
pub(crate) struct Leader {
    flight: Arc<Flight>,
    key: Key,
    shared: Arc<AllFlights>,
}

impl Leader {
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub(crate) fn digest(&self) -> Digest {
        self.key.1
    }

    /// Publishes the progress to all followers.
    pub(crate) fn publish(&self, progress: Progress) {
        self.flight.progress.send_replace(progress);
    }

    /// Publishes that bytes arrive, in `growing`. What arrived before was wrong, if any did.
    pub(crate) fn publish_filling(
        &self,
        growing: GrowingBlob,
        size: Option<u64>,
        is_mirrored: bool,
        vouched: Option<Vouched>,
    ) -> FlightContent {
        let content = match &*self.flight.progress.borrow() {
            Progress::Filling { growing: before, .. } => before.replaced_by(growing),
            _ => FlightContent::new(growing),
        };
        self.publish(Progress::Filling { growing: content.clone(), size, is_mirrored, vouched, readable: 0 });
        content
    }

    /// Ends the flight and publishes why. No request joins it any more by then: a follower that learns it may ask
    /// again at once, and gets an answer of its own.
    pub(crate) fn fail(&self, error: Error) {
        self.end();
        self.publish(Progress::Failed(error));
    }

    /// Whether what the disk does not take goes to the followers past it.
    pub(crate) fn is_detached(&self) -> bool {
        matches!(&*self.flight.progress.borrow(), Progress::Detached { .. })
    }

    /// Publishes that all bytes are there and verified.
    pub(crate) fn publish_complete(&self, size: u64) {
        self.flight.progress.send_modify(|progress| {
            if let Progress::Filling { growing, .. } = progress {
                *progress = Progress::Complete { growing: growing.clone(), size };
            }
        });
    }

    /// Publishes up to which byte may be read.
    pub(crate) fn publish_readable(&self, up_to: u64) {
        self.flight.progress.send_modify(|progress| {
            if let Progress::Filling { readable, .. } = progress {
                // A mirror that goes on with a body withholds nothing that was given out.
                *readable = up_to.max(*readable);
            }
        });
    }

    /// Ends the flight: no request joins it any more.
    pub(crate) fn end(&self) {
        let mut flights = self.shared.flights.lock();
        // The next flight of the same blob may be under way already.
        if flights.get(&self.key).is_some_and(|under_way| Arc::ptr_eq(under_way, &self.flight)) {
            // Before it is removed, so that the leader of the next flight notices.
            self.shared.ended.fetch_add(1, Ordering::Release);
            flights.remove(&self.key);
            self.shared.mirror(flights.len());
            drop(flights);
            self.shared.changed.notify_waiters();
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.end();
        self.flight.progress.send_if_modified(|progress| {
            let gone = !progress.is_over();
            if gone {
                *progress = Progress::Failed(Error::LeaderGone);
            }
            gone
        });
    }
}

#[cfg(test)]
#[cfg(feature = "model")]
#[path = "schedule_tests.rs"]
mod schedule_tests;
#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
