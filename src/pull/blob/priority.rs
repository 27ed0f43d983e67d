//! Priority: downloads that no runtime waits for yield to those that one waits for.
//!
//! Promises: from a runtime's first question on, no background download begins and those under way slow down; what is
//! downloaded ahead for a pod goes before the background, and slows down only while a runtime waits for another download
//! that fills the line or is of the same registry;
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
/// All downloads ahead of a runtime together take one chunk in this time while a runtime waits for another: at most 2.6 MB/s,
/// with chunks of 256 KiB. On a link that both share, the other has nearly all of it; on one that limits each connection,
/// none is stopped for the length of the other.
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

    /// Waits while runtimes pull, for less long: before each chunk of a download that no runtime waits for. Returns whether it
    /// had to.
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

    /// Waits for a chunk of what all downloads ahead may take together; ends at once when no runtime waits for another any
    /// more, or one waits for this.
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
mod tests {
    use super::*;
    use crate::pull::blob::flight::{Role, Sharing};
    use crate::pull::blob::progress::Progress;
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
        // Nor does one that is too slow excuse itself.
        assert!(!foreground.is_yielding(ahead.flight()) && foreground.is_yielding(background.flight()));
        tokio::time::sleep(MORE_TO_COME).await;
        assert_eq!(elapsed(background.flight()).await, CHUNK_WAIT_MAX, "a pod of this node goes first");
        let runtime = lead(&pull(), b"x");
        let _client = runtime.flight().follow();
        assert_eq!(elapsed(ahead.flight()).await, AHEAD_CHUNK_WAIT_MAX);
        assert_eq!(elapsed(runtime.flight()).await, Duration::ZERO);
        assert!(!foreground.may_widen(ahead.flight()));
        // The runtime gets so far.
        let _ = flights.join_or_lead(&pull(), Digest::of(b"ahead"), Sharing::All);
        assert_eq!(elapsed(ahead.flight()).await, Duration::ZERO);
        assert!(foreground.may_widen(ahead.flight()));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_downloads_are_ahead_they_take_one_chunk_at_a_time_from_a_runtime() {
        const CHUNK: u64 = 256 * 1024;
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let pull = || PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let lead = |context: &PullContext, of: &[u8]| {
            let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All) else {
                panic!("it is led")
            };
            leader
        };
        let runtime = lead(&pull(), b"a runtime waits for it");
        let _client = runtime.flight().follow();
        let taken = [(); 36].map(|()| std::sync::atomic::AtomicU64::new(0));
        let downloads = taken.iter().enumerate().map(|(n, taken)| {
            let leader = lead(&pull().with_priority(Priority::Ahead), &n.to_le_bytes());
            let foreground = &foreground;
            async move {
                loop {
                    foreground.yield_before_chunk(leader.flight()).await;
                    taken.fetch_add(CHUNK, std::sync::atomic::Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let all = futures_util::future::join_all(downloads);
        let mut all = std::pin::pin!(tokio::time::timeout(Duration::from_secs(60), all));
        let ten_seconds = tokio::time::sleep(Duration::from_secs(10));
        tokio::select! { _ = &mut all => panic!("they go on"), () = ten_seconds => {} }
        let bytes =
            || taken.iter().map(|taken| taken.load(std::sync::atomic::Ordering::Relaxed)).collect::<Vec<_>>();
        let (sum, least) = (bytes().iter().sum::<u64>(), bytes().into_iter().min());
        assert!(sum <= 101 * CHUNK, "{sum} bytes in ten seconds in which a runtime waits");
        assert!(least >= Some(CHUNK), "one of them got nothing");
        drop(runtime);
        let a_second = tokio::time::sleep(Duration::from_secs(1));
        tokio::select! { _ = &mut all => panic!("they go on"), () = a_second => {} }
        assert!(bytes().iter().sum::<u64>() > 1_000 * CHUNK, "no runtime waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_pull_of_one_tenant_takes_the_head_start_from_no_other() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let pull = |repository: &str| PullContext::new(repository.parse().unwrap(), None, Caller::Anonymous);
        let lead = |context: &PullContext, of: &[u8]| {
            let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All) else {
                panic!("it is led")
            };
            leader
        };
        let ahead = lead(&pull("a.test/r").with_priority(Priority::Ahead), b"ahead");
        let runtime = lead(&pull("other.test/r"), b"x");
        let brings = |bytes| {
            let (growing, hasher) = (None, Digest::of(b"x").hasher());
            runtime.publish(Progress::Detached { growing, written: bytes, hasher, size: None, window: None });
        };
        let is_slowed = || foreground.is_yielding(ahead.flight());
        assert!(!is_slowed(), "no client waits for it");
        let client = runtime.flight().follow();
        assert!(is_slowed() && !foreground.may_widen(ahead.flight()), "it has just begun");
        brings(50_000_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_slowed(), "it fills the line");
        brings(50_100_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(
            !is_slowed() && foreground.may_widen(ahead.flight()),
            "100 kB/s is all that its registry sends"
        );
        let of_registry = lead(&pull("a.test/other"), b"y");
        let another = of_registry.flight().follow();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(is_slowed(), "what a registry sends is shared");
        drop(another);
        assert!(!is_slowed());
        brings(90_000_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_slowed());
        drop(client);
        assert!(!is_slowed(), "its client has left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pod_wants_does_not_wait_behind_the_pre_pull_that_downloads_it() {
        let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
        let foreground = Foreground::new(flights.clone());
        let pull = || PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
        let lead = |context: &PullContext, of: &[u8]| {
            let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All) else {
                panic!("it is led")
            };
            leader
        };
        let own = lead(&pull().in_background(), b"own");
        let _other = lead(&pull().with_priority(Priority::Ahead), b"other");
        assert!(!own.flight().is_ahead() && !foreground.may_widen(own.flight()));
        let begun = Instant::now();
        let joins = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let ahead = pull().with_priority(Priority::Ahead);
            assert!(matches!(
                flights.join_or_lead(&ahead, Digest::of(b"own"), Sharing::All),
                Role::Follow(_)
            ));
        };
        tokio::join!(foreground.yield_before_chunk(own.flight()), joins);
        assert_eq!(begun.elapsed(), Duration::from_millis(5));
        assert!(own.flight().is_ahead() && foreground.may_widen(own.flight()));
        // Another pre-pull that joins takes nothing back.
        let _ = flights.join_or_lead(&pull().in_background(), Digest::of(b"own"), Sharing::All);
        assert!(own.flight().is_ahead());
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
