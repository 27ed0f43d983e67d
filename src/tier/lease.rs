//! Leases: which node writes a blob to the tier, and how long the others wait for it. Pure decisions.
//!
//! A lease is an object that is created only if there is none. Its writer writes it again every few seconds; a lease
//! that does not change for a while is that of a writer that is gone. Others measure that by their own monotonic clock,
//! from when they saw it first: no time of day is compared, so that no clock can be wrong.
//!
//! Nothing depends on leases but the number of downloads: one that is lost, forged or written by two nodes costs a
//! second download, and a store that creates an object twice makes every node a writer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of a blob from which on nodes wait for each other: a smaller one is there before a lease would be.
pub(super) const LEASED_MIN: u64 = 4 * 1024 * 1024;
/// How often a writer writes its lease again.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a lease may stay the same before its writer counts as gone: a few renewals.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(12);
/// Bytes of a lease at most; a larger object is none.
pub(super) const BYTES_MAX: usize = 1024;

/// What is granted beside the time that the rest of a download takes: the last part has to be written, too.
const GRACE: Duration = Duration::from_secs(15);
/// Renewals of a lease from which on the time that the rest takes is estimated.
const ESTIMATED_AFTER: u64 = 2;
/// The shortest and the longest time between two looks at a lease.
const LOOK_MIN: Duration = Duration::from_millis(300);
const LOOK_MAX: Duration = Duration::from_secs(3);
/// That time is at least this part of the wait so far: the object is found at most that much later than it could be,
/// and nodes that have waited for long do not look ever more often near the end. docs/past-one-node.md has the
/// arithmetic.
const LOOK_SHARE: u32 = 16;

/// What a lease says, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Lease {
    /// Tells one writer's lease from another's.
    pub(super) nonce: u64,
    /// Goes up with each renewal.
    pub(super) renewals: u64,
    /// Bytes of the blob.
    pub(super) size: u64,
    /// Bytes of it that the writer has received.
    pub(super) done: u64,
    /// Bytes a second at which it receives them; 0 while that is not known.
    pub(super) rate: u64,
    /// Seconds for which it has had all of them, and the store has not.
    #[serde(default)]
    pub(super) complete_for: u64,
}

/// How long a writer took for the bytes that it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Took {
    /// For all of them.
    pub(super) since_begun: Duration,
    /// For those that the lease does not state yet.
    pub(super) since_stated: Duration,
}

impl Lease {
    /// Takes note that the writer has `done` bytes. The rate is that of receiving: it stays once all is here. A
    /// download begins slowly, with the wait for its first byte and with one connection: what came last counts where
    /// that is more.
    pub(super) fn progressed(&mut self, done: u64, took: Took, complete_for: Duration) {
        if self.done < self.size || self.rate == 0 {
            let of = |bytes: u64, time: Duration| (bytes as f64 / time.as_secs_f64().max(1e-3)) as u64;
            self.rate = of(done, took.since_begun).max(of(done.saturating_sub(self.done), took.since_stated));
        }
        self.done = done;
        self.complete_for = complete_for.as_secs();
    }
}

/// What a node does that finds the lease of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// It looks again after this time, give or take.
    Wait(Duration),
    /// It becomes the writer: the other one is gone.
    TakeOver,
    /// It asks the registry.
    GiveUp,
}

/// What is decided after `waited`, of a lease that has been the same for `silent`. No wait is longer than `wait_max`,
/// nor much longer than the rest of the download takes at the rate that the lease states: a writer that has received
/// everything and is still sending it is waited for no longer than [`GRACE`].
pub(super) fn decide(lease: Lease, waited: Duration, silent: Duration, wait_max: Duration) -> Decision {
    if silent >= SILENT_MAX {
        return Decision::TakeOver;
    }
    if waited >= wait_max {
        return Decision::GiveUp;
    }
    if lease.complete_for >= GRACE.as_secs() {
        return Decision::GiveUp;
    }
    let Some(whole) = seconds(lease.size, lease.rate) else {
        return Decision::Wait(pause(LOOK_MIN * 2, waited));
    };
    let rest = seconds(lease.size.saturating_sub(lease.done), lease.rate).unwrap_or_default();
    // The first rate that a lease states says little.
    let is_estimated = lease.renewals >= ESTIMATED_AFTER;
    if waited > whole * 2 + GRACE || is_estimated && waited + rest > wait_max {
        return Decision::GiveUp;
    }
    Decision::Wait(pause(rest / 4, waited))
}

/// The time to the first look at a lease that another node holds.
pub(super) fn first_pause() -> Duration {
    LOOK_MIN
}

/// The time to the next look after one that failed, or after a lease that could not be written.
pub(super) fn longer(before: Duration) -> Duration {
    (before * 2).min(LOOK_MAX)
}

fn pause(wanted: Duration, waited: Duration) -> Duration {
    wanted.max(waited / LOOK_SHARE).clamp(LOOK_MIN, LOOK_MAX)
}

/// How long so many bytes take; `None` if the rate is not known.
fn seconds(bytes: u64, rate: u64) -> Option<Duration> {
    // The longest that is of interest: a forged rate makes no overflow.
    let days = 7.0 * 86_400.0;
    (rate > 0).then(|| Duration::from_secs_f64((bytes as f64 / rate as f64).min(days)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const MAX: Duration = Duration::from_secs(240);

    fn at(waited: u64, silent: u64, done: u64, rate: u64) -> Decision {
        let (done, rate) = (done * MIB, rate * MIB);
        let lease = Lease { size: 1_000 * MIB, done, rate, renewals: 2, ..Lease::default() };
        decide(lease, Duration::from_secs(waited), Duration::from_secs(silent), MAX)
    }

    #[test]
    fn no_node_waits_for_a_writer_that_is_gone_or_will_not_make_it() {
        for (waited, silent, done, rate, decision) in [
            (0, 0, 0, 0, Decision::Wait(LOOK_MIN * 2)),
            (10, 0, 200, 20, Decision::Wait(LOOK_MAX)),
            // Nearly done: soon, and the later the longer it has taken.
            (3, 0, 980, 20, Decision::Wait(LOOK_MIN)),
            (32, 0, 980, 20, Decision::Wait(Duration::from_secs(2))),
            (49, 0, 980, 20, Decision::Wait(LOOK_MAX)),
            (10, 12, 200, 20, Decision::TakeOver),
            (500, 12, 200, 20, Decision::TakeOver),
            (240, 0, 999, 20, Decision::GiveUp),
            // The rest takes longer than anyone waits.
            (10, 0, 10, 1, Decision::GiveUp),
            // It is much slower than it says.
            (116, 0, 200, 20, Decision::GiveUp),
        ] {
            assert_eq!(at(waited, silent, done, rate), decision, "{waited} {silent} {done} {rate}");
        }
    }

    #[test]
    fn a_writer_that_has_everything_and_is_slow_to_send_it_is_not_waited_for() {
        let mut lease = Lease { size: 100 * MIB, ..Lease::default() };
        let at = |lease: Lease| decide(lease, Duration::from_secs(1), Duration::ZERO, MAX);
        let times = |begun, stated| Took {
            since_begun: Duration::from_secs(begun),
            since_stated: Duration::from_secs(stated),
        };
        lease.progressed(50 * MIB, times(5, 5), Duration::ZERO);
        lease.progressed(100 * MIB, times(10, 5), Duration::ZERO);
        lease.progressed(100 * MIB, times(20, 10), Duration::from_secs(10));
        assert_eq!((lease.rate, lease.complete_for), (10 * MIB, 10), "the rate of receiving");
        assert!(matches!(at(lease), Decision::Wait(_)), "the last parts take a moment");
        lease.progressed(100 * MIB, times(26, 6), GRACE);
        assert_eq!(at(lease), Decision::GiveUp);
    }

    /// Looks of one node at the lease of a writer that receives the blob in `whole` seconds, renews its lease in time,
    /// and completes the object `late` seconds after that; how long after that the node finds it.
    fn looks(whole: f64, late: f64) -> (u32, f64) {
        let size = 1_000 * MIB;
        let rate = size as f64 / whole;
        let (mut at, mut looks) = (first_pause(), 1);
        while at.as_secs_f64() < whole + late {
            let renewed = (at.as_secs() / RENEW_EVERY.as_secs() * RENEW_EVERY.as_secs()) as f64;
            let done = ((renewed * rate) as u64).min(size);
            let known = if renewed > 0.0 { rate as u64 } else { 0 };
            let lease = Lease { size, done, rate: known, ..Lease::default() };
            let Decision::Wait(pause) = decide(lease, at, Duration::ZERO, MAX) else { panic!("{at:?}") };
            at += pause;
            looks += 1;
        }
        (looks, at.as_secs_f64() - whole - late)
    }

    #[test]
    fn nodes_that_wait_do_not_ask_the_store_ever_more_often_near_the_end() {
        for (whole, late, looks_max) in
            [(2.0, 0.0, 5), (11.0, 0.0, 13), (30.0, 0.0, 18), (30.0, 10.0, 23), (180.0, 10.0, 72)]
        {
            let (looks, later) = looks(whole, late);
            assert!(looks <= looks_max, "{whole} + {late}: {looks} looks");
            assert!(later <= 0.6_f64.max((whole + late) / 16.0), "{whole} + {late}: {later} s later");
        }
        let pauses = std::iter::successors(Some(first_pause()), |before| Some(longer(*before)));
        assert!(pauses.take(100).all(|pause| pause <= LOOK_MAX), "nor ever less often");
    }

    #[test]
    fn a_forged_lease_makes_no_node_wait_for_ever() {
        for (size, done, rate) in [(u64::MAX, 0, 1), (0, u64::MAX, u64::MAX), (u64::MAX, u64::MAX, 0)] {
            let lease = Lease { size, done, rate, ..Lease::default() };
            let last = decide(lease, MAX, Duration::ZERO, MAX);
            assert_eq!(last, Decision::GiveUp);
            let _ = decide(lease, Duration::ZERO, Duration::ZERO, MAX);
        }
    }

    #[test]
    fn a_layer_whose_download_begins_slowly_is_not_downloaded_by_every_node() {
        // 1.5 GB at 100 MB/s: the first byte comes after two seconds.
        let (mut lease, wait_max) =
            (Lease { size: 1_500_000_000, ..Lease::default() }, Duration::from_secs(40));
        for renewal in 1..=4_u64 {
            let elapsed = Duration::from_secs(3 * renewal);
            lease.renewals = renewal;
            lease.progressed(
                (elapsed.as_secs() - 2) * 100_000_000,
                Took { since_begun: elapsed, since_stated: RENEW_EVERY },
                Duration::ZERO,
            );
            let decided = decide(lease, elapsed, Duration::ZERO, wait_max);
            assert!(matches!(decided, Decision::Wait(_)), "{renewal}: {lease:?}");
        }
        // One that will not be there in time is not waited for.
        let mut slow = Lease { size: 1_500_000_000, renewals: 1, ..Lease::default() };
        slow.progressed(
            30_000_000,
            Took { since_begun: RENEW_EVERY, since_stated: RENEW_EVERY },
            Duration::ZERO,
        );
        assert!(matches!(decide(slow, RENEW_EVERY, Duration::ZERO, wait_max), Decision::Wait(_)));
        slow.renewals = 2;
        slow.progressed(
            60_000_000,
            Took { since_begun: RENEW_EVERY * 2, since_stated: RENEW_EVERY },
            Duration::ZERO,
        );
        assert_eq!(decide(slow, RENEW_EVERY * 2, Duration::ZERO, wait_max), Decision::GiveUp);
    }
}
