//! Priority: downloads that no runtime waits for yield to those that one waits for.
//!
//! Promises: from a runtime's first question on, no background download begins and those under way slow down; what is
//! downloaded ahead for a pod goes before the background, and slows down only while a runtime waits for another download;
//! a download that a runtime joins goes on at full speed; nothing yields for ever.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::flight::{Flight, Flights};

/// How long a background download waits for foreground ones before it begins in any case.
const YIELD_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a background download waits before each of its chunks: its registry must not take it for dead.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a download ahead of a runtime waits before each of its chunks while a runtime waits for another: on a link that
/// both share, the other has nearly all of it; on one that limits each connection, this one is not stopped for the length
/// of the other.
const AHEAD_CHUNK_WAIT_MAX: Duration = Duration::from_millis(100);
/// A runtime that has just asked for something asks for more within this time.
const MORE_TO_COME: Duration = Duration::from_millis(300);

/// When runtimes pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Foreground {
    flights: Flights,
    last_asked: Arc<Mutex<Option<Instant>>>,
}

impl Foreground {
    pub(crate) fn new(flights: Flights) -> Self {
        Self { flights, last_asked: Arc::default() }
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
        flight.is_foreground() || flight.is_ahead() && !self.flights.any_foreground()
    }

    /// Until when a runtime that has asked counts as pulling.
    fn asked_until(&self) -> Instant {
        self.last_asked.lock().map_or_else(Instant::now, |at| at + MORE_TO_COME)
    }

    /// Waits while runtimes pull, within bounds: before a background download begins.
    pub(crate) async fn yield_before_start(&self) {
        self.wait_while(YIELD_WAIT_MAX, || self.is_active()).await;
    }

    /// Waits while runtimes pull, for less long: before each chunk of a download that no runtime waits for.
    pub(crate) async fn yield_before_chunk(&self, flight: &Flight) {
        if flight.is_foreground() {
            return;
        }
        if flight.is_ahead() {
            let other = self.flights.wait_while(|| !flight.is_foreground() && self.flights.any_foreground());
            let _ = tokio::time::timeout(AHEAD_CHUNK_WAIT_MAX, other).await;
            return;
        }
        self.wait_while(CHUNK_WAIT_MAX, || !flight.is_foreground() && self.is_active()).await;
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
mod tests {
    use super::*;
    use crate::pull::blob::flight::{Role, Sharing};
    use crate::pull::context::{Caller, Priority, PullContext};
    use crate::reference::Digest;
    use crate::support::metrics::IntGauge;

    #[tokio::test(start_paused = true)]
    async fn background_work_goes_on_in_the_moment_in_which_it_may() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let pull = || PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let lead = |context: &PullContext, of: &[u8]| {
            let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All) else {
                panic!("it is led")
            };
            leader
        };
        let (leader, begun) = (lead(&pull(), b"x"), Instant::now());
        let second = Duration::from_secs(1);
        let ends = async {
            tokio::time::sleep(second).await;
            drop(leader);
        };
        tokio::join!(foreground.yield_before_start(), ends);
        assert_eq!(begun.elapsed(), second, "the last download of a runtime ended");
        // A runtime asks again just before its download ends.
        let (leader, begun) = (lead(&pull(), b"x"), Instant::now());
        let asks = async {
            tokio::time::sleep(second).await;
            foreground.record();
            drop(leader);
        };
        tokio::join!(foreground.yield_before_start(), asks);
        assert_eq!(begun.elapsed(), second + MORE_TO_COME);
        // A runtime joins the background download itself.
        let own = lead(&pull().in_background(), b"own");
        let (_leader, begun) = (lead(&pull(), b"x"), Instant::now());
        let joins = async {
            tokio::time::sleep(second).await;
            let joined = flights.join_or_lead(&pull(), Digest::of(b"own"), Sharing::All);
            assert!(matches!(joined, Role::Follow(_)));
        };
        tokio::join!(foreground.yield_before_chunk(own.flight()), joins);
        assert_eq!(begun.elapsed(), second);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fetched_ahead_goes_before_the_background_and_never_before_what_a_runtime_waits_for() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let pull = || PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let lead = |context: &PullContext, of: &[u8]| {
            let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All) else {
                panic!("it is led")
            };
            leader
        };
        let elapsed = async |flight: &Flight| {
            let begun = Instant::now();
            foreground.yield_before_chunk(flight).await;
            begun.elapsed()
        };
        let ahead = lead(&pull().with_priority(Priority::Ahead), b"ahead");
        let background = lead(&pull().in_background(), b"background");
        // A question about a tag alone, which nearly every pull begins with, stops nothing that is fetched ahead.
        foreground.record();
        assert_eq!(elapsed(ahead.flight()).await, Duration::ZERO);
        assert!(foreground.may_widen(ahead.flight()) && !foreground.may_widen(background.flight()));
        tokio::time::sleep(MORE_TO_COME).await;
        assert_eq!(elapsed(background.flight()).await, CHUNK_WAIT_MAX, "a pod of this node goes first");
        let runtime = lead(&pull(), b"x");
        assert_eq!(elapsed(ahead.flight()).await, AHEAD_CHUNK_WAIT_MAX);
        assert_eq!(elapsed(runtime.flight()).await, Duration::ZERO);
        assert!(!foreground.may_widen(ahead.flight()));
        // The runtime gets so far.
        let _ = flights.join_or_lead(&pull(), Digest::of(b"ahead"), Sharing::All);
        assert_eq!(elapsed(ahead.flight()).await, Duration::ZERO);
        assert!(foreground.may_widen(ahead.flight()));
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_waits_for_runtimes_and_not_for_ever() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let begun = Instant::now();
        foreground.yield_before_start().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);

        foreground.record();
        foreground.yield_before_start().await;
        assert!(begun.elapsed() >= MORE_TO_COME);

        let context = PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let Role::Lead(leader) = flights.join_or_lead(&context, Digest::of(b"x"), Sharing::All) else {
            panic!()
        };
        let begun = Instant::now();
        foreground.yield_before_start().await;
        assert_eq!(begun.elapsed(), YIELD_WAIT_MAX);
        let begun = Instant::now();
        foreground.yield_before_chunk(leader.flight()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "a foreground download waits for itself");
    }
}
