//! How many syncs are done at a time: one after the other where the disk is quick, on several threads where it is slow.
//!
//! A thread costs more than a sync of a quick disk takes: a cold blob took half a millisecond longer with threads for
//! its few syncs. A slow disk joins syncs that come together into one write of its journal. What the last syncs took
//! decides, and is looked at again after each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::error::Error;

/// Syncs at the same time: more than these a disk does not join into one write of its journal much better.
const AT_ONCE_MAX: usize = 8;
/// A mean from which threads are worth their cost, some tenths of a millisecond.
const SLOW: Duration = Duration::from_millis(2);
/// The share of the mean, one in so many, that the last sync makes.
const SHARE: u32 = 8;
/// What one sync counts at most: one alone may make the disk count as slow, and no longer than for the next few.
const COUNTED_MAX: Duration = Duration::from_millis(16);

/// The mean time of the last syncs of one store. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct SyncPace {
    mean_us: Arc<AtomicU64>,
}

impl SyncPace {
    /// Does the same sync with each of `items`. The results are in the order of the items. Blocks.
    pub(in crate::store) fn run<T: Sync>(
        &self,
        items: &[T],
        sync: impl Fn(&T) -> Result<(), Error> + Sync,
    ) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(items.len());
        while results.len() < items.len() {
            let left = &items[results.len()..];
            let began = Instant::now();
            match at_a_time(left.len(), self.mean()) {
                0 | 1 => results.extend(left.first().map(&sync)),
                threads => results.extend(on_threads(threads, left, &sync)),
            }
            // That of all that were done at once: where even that is quick, no threads are needed.
            self.record(began.elapsed());
        }
        results
    }

    fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us.load(Ordering::Relaxed))
    }

    fn record(&self, took: Duration) {
        // Of two threads that record at the same time one may be lost.
        let mean = mean_after(self.mean(), took);
        self.mean_us.store(u64::try_from(mean.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// How many of the syncs that are left are done at a time, where the last ones took `mean`.
fn at_a_time(left: usize, mean: Duration) -> usize {
    if mean < SLOW { left.min(1) } else { left.min(AT_ONCE_MAX) }
}

/// The mean after a sync that took so long.
fn mean_after(mean: Duration, took: Duration) -> Duration {
    mean - mean / SHARE + took.min(COUNTED_MAX) / SHARE
}

/// Does the syncs on so many threads, this one included, as far as there are threads.
fn on_threads<T: Sync>(
    threads: usize,
    items: &[T],
    sync: &(impl Fn(&T) -> Result<(), Error> + Sync),
) -> Vec<Result<(), Error>> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let take_turns = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { return };
            let result = sync(item);
            results.lock().insert(number, result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let builder = std::thread::Builder::new().name("larder-sync".to_owned());
            // Without a thread the others take more turns.
            if builder.spawn_scoped(scope, take_turns).is_err() {
                break;
            }
        }
        take_turns();
    });
    results.into_inner().into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(syncs: impl IntoIterator<Item = u64>) -> Duration {
        syncs.into_iter().fold(Duration::ZERO, |mean, ms| mean_after(mean, Duration::from_millis(ms)))
    }

    #[test]
    fn a_quick_disk_costs_no_thread_and_a_slow_one_no_sync_after_the_other() {
        for (why, syncs, threads) in [
            ("nothing is known yet", &[][..], 1),
            ("quick", &[0, 1, 0, 1, 1, 0, 1], 1),
            ("one that took long", &[0, 1, 1_000], 8),
            ("quick again after that", &[0, 1, 1_000, 0, 0], 1),
            ("a disk that spins", &[10, 10, 10], 8),
        ] {
            assert_eq!(at_a_time(20, means(syncs.iter().copied())), threads, "{why}");
        }
        assert_eq!(at_a_time(3, SLOW), 3);
        assert_eq!((at_a_time(0, SLOW), at_a_time(0, Duration::ZERO)), (0, 0));
        assert!(means([u64::MAX / 2_000; 100]) <= COUNTED_MAX, "an age of hanging is forgotten soon");
    }

    #[test]
    fn everything_is_synced_once_and_its_result_is_in_its_place_whatever_the_pace() {
        for mean_us in [0, 1_000_000] {
            let items: Vec<usize> = (0..100).collect();
            let done = Mutex::new(Vec::new());
            let pace = SyncPace::default();
            pace.mean_us.store(mean_us, Ordering::Relaxed);
            let results = pace.run(&items, |item| {
                done.lock().push(*item);
                if item % 7 == 0 { Err(Error::Closed) } else { Ok(()) }
            });
            assert!(results.iter().enumerate().all(|(item, result)| result.is_err() == (item % 7 == 0)));
            let mut done = done.into_inner();
            done.sort_unstable();
            assert_eq!(done, items);
        }
    }
}
