//! Priority: downloads that no runtime waits for yield to those that one waits for.
//!
//! Promises: from a runtime's first question on, no background download begins and those under way slow down; what is
//! downloaded ahead for a pod goes before the background, and slows down only while a runtime waits for another
//! download that fills the line or is of the same registry; a download that a runtime joins goes on at full speed;
//! nothing yields for ever.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::flight::{Flight, Flights};

/// How long a background download waits for foreground ones before it begins in any case.
const YIELD_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a background download waits before each of its chunks: its registry must not take it for dead.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(2);
/// All downloads ahead of a runtime together take one chunk in this time while a runtime waits for another: at most 2.6
/// MB/s, with chunks of 256 KiB. On a link that both share, the other has nearly all of it; on one that limits each
/// connection, none is stopped for the length of the other.
const AHEAD_CHUNK_WAIT_MAX: Duration = Duration::from_millis(100);
/// A runtime that has just asked for something asks for more within this time.
const MORE_TO_COME: Duration = Duration::from_millis(300);

/// When runtimes pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Foreground {
    flights: Flights,
    last_asked: Arc<Mutex<Option<Instant>>>,
    /// Whose turn it is of the downloads ahead, in the order in which they asked.
    ahead_turn: Arc<tokio::sync::Mutex<()>>,
}

impl Foreground {
    pub(crate) fn new(flights: Flights) -> Self {
        Self { flights, last_asked: Arc::default(), ahead_turn: Arc::default() }
    }

    /// Records that a runtime asked for content that is not here, or what a tag names.
    pub(crate) fn record(&self) {
        *self.last_asked.lock() = Some(Instant::now());
    }

    /// Whether background work yields: runtimes pull, or did a moment ago, or will in a moment.
    pub(crate) fn is_active(&self) -> bool {
        self.asked_until() > Instant::now() || self.flights.any_before_background()
    }

    /// Whether a download may take further connections: not while a runtime waits for another one.
    pub(crate) fn may_widen(&self, flight: &Flight) -> bool {
        flight.is_foreground() || flight.is_ahead() && !self.flights.any_before(flight)
    }

    /// Whether a download yields now to what others wait for.
    pub(crate) fn is_yielding(&self, flight: &Flight) -> bool {
        if flight.is_ahead() {
            self.flights.any_before(flight)
        } else {
            !flight.is_foreground() && self.is_active()
        }
    }

    /// Until when a runtime that has asked counts as pulling.
    fn asked_until(&self) -> Instant {
        self.last_asked.lock().map_or_else(Instant::now, |at| at + MORE_TO_COME)
    }

    /// Waits while runtimes pull, within bounds: before a background download begins.
    pub(crate) async fn yield_before_start(&self) {
        self.wait_while(YIELD_WAIT_MAX, || self.is_active()).await;
    }

    /// Waits while runtimes pull, for less long: before each chunk of a download that no runtime waits for. Returns
    /// whether it had to.
    pub(crate) async fn yield_before_chunk(&self, flight: &Flight) -> bool {
        if !self.is_yielding(flight) {
            return false;
        }
        if flight.is_ahead() {
            self.take_turn_ahead(flight).await;
        } else {
            self.wait_while(CHUNK_WAIT_MAX, || self.is_yielding(flight)).await;
        }
        true
    }

    /// Waits for a chunk of what all downloads ahead may take together; ends at once when no runtime waits for another
    /// any more, or one waits for this.
    async fn take_turn_ahead(&self, flight: &Flight) {
        let yields = || flight.is_ahead() && self.is_yielding(flight);
        let turn = tokio::select! {
            biased;
            () = self.flights.wait_while(yields) => return,
            turn = self.ahead_turn.lock() => turn,
        };
        let _ = tokio::time::timeout(AHEAD_CHUNK_WAIT_MAX, self.flights.wait_while(yields)).await;
        drop(turn);
    }

    async fn wait_while(&self, wait_max: Duration, active: impl Fn() -> bool) {
        let wait = async {
            while active() {
                let asked_until = self.asked_until();
                if asked_until > Instant::now() {
                    // While a runtime may ask for more, the end of its downloads is not the end of its pull.
                    let _ = tokio::time::timeout_at(asked_until, self.flights.wait_while(&active)).await;
                } else {
                    let goes_on = || active() && self.asked_until() <= Instant::now();
                    self.flights.wait_while(goes_on).await;
                }
            }
        };
        let _ = tokio::time::timeout(wait_max, wait).await;
    }
}

#[cfg(test)]
#[path = "priority_tests.rs"]
mod tests;
