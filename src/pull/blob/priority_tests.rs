//! Who yields to whom, and for how long.

use super::*;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::flight::{Leader, Role, Sharing};
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::context::{Caller, Priority, PullContext};
use crate::reference::Digest;
use crate::support::metrics::IntGauge;

fn world() -> (Flights, Foreground) {
    let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
    let foreground = Foreground::new(flights.clone());
    (flights, foreground)
}

fn pull_of(repository: &str) -> PullContext {
    PullContext::new(repository.parse().unwrap(), None, Caller::Anonymous)
}

fn pull() -> PullContext {
    pull_of("a.test/r")
}

/// The leader of a new flight.
fn lead(flights: &Flights, context: &PullContext, of: &[u8]) -> Leader {
    let Role::Lead(leader) = flights.join_or_lead(context, Digest::of(of), Sharing::All, Default::default())
    else {
        panic!("it is led")
    };
    leader
}

#[tokio::test(start_paused = true)]
async fn background_work_goes_on_in_the_moment_in_which_it_may() {
    let (flights, foreground) = world();
    let (leader, begun) = (lead(&flights, &pull(), b"x"), Instant::now());
    let second = Duration::from_secs(1);
    let ends = async {
        tokio::time::sleep(second).await;
        drop(leader);
    };
    tokio::join!(foreground.yield_before_start(), ends);
    assert_eq!(begun.elapsed(), second, "the last download of a runtime ended");
    // A runtime asks again just before its download ends.
    let (leader, begun) = (lead(&flights, &pull(), b"x"), Instant::now());
    let asks = async {
        tokio::time::sleep(second).await;
        foreground.record();
        drop(leader);
    };
    tokio::join!(foreground.yield_before_start(), asks);
    assert_eq!(begun.elapsed(), second + MORE_TO_COME);
    // A runtime joins the background download itself.
    let own = lead(&flights, &pull().with_priority(Priority::Background), b"own");
    let (_leader, begun) = (lead(&flights, &pull(), b"x"), Instant::now());
    let joins = async {
        tokio::time::sleep(second).await;
        let joined = flights.join_or_lead(&pull(), Digest::of(b"own"), Sharing::All, Default::default());
        assert!(matches!(joined, Role::Follow(_)));
    };
    tokio::join!(foreground.yield_before_chunk(own.flight()), joins);
    assert_eq!(begun.elapsed(), second);
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_goes_before_the_background_and_never_before_what_a_runtime_waits_for() {
    let (flights, foreground) = world();
    let elapsed = async |flight: &Flight| {
        let begun = Instant::now();
        foreground.yield_before_chunk(flight).await;
        begun.elapsed()
    };
    let ahead = lead(&flights, &pull().with_priority(Priority::Ahead), b"ahead");
    let background = lead(&flights, &pull().with_priority(Priority::Background), b"background");
    // A question about a tag alone, which nearly every pull begins with, stops nothing that is fetched ahead.
    foreground.record();
    assert_eq!(elapsed(ahead.flight()).await, Duration::ZERO);
    assert!(foreground.may_widen(ahead.flight()) && !foreground.may_widen(background.flight()));
    // Nor does one that is too slow excuse itself.
    assert!(!foreground.is_yielding(ahead.flight()) && foreground.is_yielding(background.flight()));
    tokio::time::sleep(MORE_TO_COME).await;
    assert_eq!(elapsed(background.flight()).await, CHUNK_WAIT_MAX, "a pod of this node goes first");
    let runtime = lead(&flights, &pull(), b"x");
    let _client = runtime.flight().follow();
    assert_eq!(elapsed(ahead.flight()).await, AHEAD_CHUNK_WAIT_MAX);
    assert_eq!(elapsed(runtime.flight()).await, Duration::ZERO);
    assert!(!foreground.may_widen(ahead.flight()));
    // The runtime gets so far.
    let _ = flights.join_or_lead(&pull(), Digest::of(b"ahead"), Sharing::All, Default::default());
    assert_eq!(elapsed(ahead.flight()).await, Duration::ZERO);
    assert!(foreground.may_widen(ahead.flight()));
}

#[tokio::test(start_paused = true)]
async fn however_many_downloads_are_ahead_they_take_one_chunk_at_a_time_from_a_runtime() {
    const CHUNK: u64 = 256 * 1024;
    let (flights, foreground) = world();
    let runtime = lead(&flights, &pull(), b"a runtime waits for it");
    let _client = runtime.flight().follow();
    let taken = [(); 36].map(|()| std::sync::atomic::AtomicU64::new(0));
    let downloads = taken.iter().enumerate().map(|(n, taken)| {
        let leader = lead(&flights, &pull().with_priority(Priority::Ahead), &n.to_le_bytes());
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
    let (flights, foreground) = world();
    let ahead = lead(&flights, &pull_of("a.test/r").with_priority(Priority::Ahead), b"ahead");
    let runtime = lead(&flights, &pull_of("other.test/r"), b"x");
    let brings = |bytes| {
        let written = HashedStart::new(bytes, Digest::of(b"x").hasher());
        runtime.publish(Progress::Detached { growing: None, written, size: None, window: None });
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
    assert!(!is_slowed() && foreground.may_widen(ahead.flight()), "100 kB/s is all that its registry sends");
    let of_registry = lead(&flights, &pull_of("a.test/other"), b"y");
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
async fn what_another_node_downloads_does_not_slow_down_what_this_one_fetches_ahead() {
    let flights = Flights::new(IntGauge::new("flights", "x").unwrap());
    let foreground = Foreground::new(flights.clone());
    let pull = || PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
    let lead = |context: &PullContext, of: &[u8]| {
        let Role::Lead(leader) =
            flights.join_or_lead(context, Digest::of(of), Sharing::All, Default::default())
        else {
            panic!("it is led")
        };
        leader
    };
    let ahead = lead(&pull().with_priority(Priority::Ahead), b"ahead");
    let waits = lead(&pull(), b"another node downloads it");
    let _client = waits.flight().follow();
    waits.flight().set_from_tier(true);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!foreground.is_yielding(ahead.flight()), "nothing comes, of that registry least of all");
    // The registry is asked after all.
    waits.flight().set_from_tier(false);
    assert!(foreground.is_yielding(ahead.flight()));
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_wants_does_not_wait_behind_the_pre_pull_that_downloads_it() {
    let (flights, foreground) = world();
    let own = lead(&flights, &pull().with_priority(Priority::Background), b"own");
    let _other = lead(&flights, &pull().with_priority(Priority::Ahead), b"other");
    assert!(!own.flight().is_ahead() && !foreground.may_widen(own.flight()));
    let begun = Instant::now();
    let joins = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let ahead = pull().with_priority(Priority::Ahead);
        assert!(matches!(
            flights.join_or_lead(&ahead, Digest::of(b"own"), Sharing::All, Default::default()),
            Role::Follow(_)
        ));
    };
    tokio::join!(foreground.yield_before_chunk(own.flight()), joins);
    assert_eq!(begun.elapsed(), Duration::from_millis(5));
    assert!(own.flight().is_ahead() && foreground.may_widen(own.flight()));
    // Another pre-pull that joins takes nothing back.
    let _ = flights.join_or_lead(
        &pull().with_priority(Priority::Background),
        Digest::of(b"own"),
        Sharing::All,
        Default::default(),
    );
    assert!(own.flight().is_ahead());
}

#[tokio::test(start_paused = true)]
async fn background_work_waits_for_runtimes_and_not_for_ever() {
    let (flights, foreground) = world();
    let begun = Instant::now();
    foreground.yield_before_start().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);

    foreground.record();
    foreground.yield_before_start().await;
    assert!(begun.elapsed() >= MORE_TO_COME);

    let leader = lead(&flights, &pull(), b"x");
    let begun = Instant::now();
    foreground.yield_before_start().await;
    assert_eq!(begun.elapsed(), YIELD_WAIT_MAX);
    let begun = Instant::now();
    foreground.yield_before_chunk(leader.flight()).await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "a foreground download waits for itself");
}
