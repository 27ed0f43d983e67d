//! The calls of one kind that are under way, and whether one of them has taken too long.
//!
//! Every piece that is written and every read that waits asks that. The answer costs no lock while none can have taken
//! so long: a look at all of them holds until the oldest would.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long one call may take before the disk counts as hanging. A read of 64 KiB or a write of 256 KiB takes less on a
/// disk that is merely busy; a client gets no bytes meanwhile, and runtimes wait a minute for them.
pub const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Calls that are under way. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(super) struct CallsUnderWay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Times are nanoseconds after this, and one more: 0 is none.
    created: Instant,
    begun: Mutex<Begun>,
    /// No call hangs before this.
    none_hangs_before: AtomicU64,
}

/// When calls began.
#[derive(Debug, Default)]
struct Begun {
    /// Each by itself, the oldest first. Bounded by the threads that may block.
    single: BTreeMap<u64, u64>,
    count: u64,
    /// Those of writers. Bounded by the files that are being written.
    writers: Vec<Weak<AtomicU64>>,
}

/// The calls of one writer, one at a time: a further one takes no lock.
#[derive(Debug)]
pub(super) struct CallsOfWriter {
    all: CallsUnderWay,
    /// When the one that is under way began; 0 if none is.
    begun: Arc<AtomicU64>,
}

impl Default for CallsUnderWay {
    fn default() -> Self {
        let (created, none_hangs_before) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Inner { created, begun: Mutex::default(), none_hangs_before }))
    }
}

impl CallsUnderWay {
    /// A call begins; returns its number.
    pub(in crate::store) fn begin(&self) -> u64 {
        let now = self.now();
        let mut begun = self.0.begun.lock();
        begun.count += 1;
        let number = begun.count;
        begun.single.insert(number, now);
        number
    }

    /// The call of that number ends.
    pub(in crate::store) fn end(&self, number: u64) {
        self.0.begun.lock().single.remove(&number);
    }

    /// For one more writer.
    pub(in crate::store) fn of_writer(&self) -> CallsOfWriter {
        let begun = Arc::default();
        let mut all = self.0.begun.lock();
        all.writers.retain(|writer| writer.strong_count() > 0);
        all.writers.push(Arc::downgrade(&begun));
        CallsOfWriter { all: self.clone(), begun }
    }

    /// When the oldest began.
    pub(in crate::store) fn oldest(&self) -> Option<Instant> {
        self.oldest_begun().map(|begun| self.0.created + Duration::from_nanos(begun - 1))
    }

    /// Whether one has been under way for [`HANGS_AFTER`].
    pub(in crate::store) fn is_hanging(&self) -> bool {
        let now = self.now();
        if now < self.0.none_hangs_before.load(Ordering::Relaxed) {
            return false;
        }
        let oldest = self.oldest_begun();
        // What begins after this look is younger.
        let hangs_at = oldest.unwrap_or(now) + HANGS_AFTER.as_nanos() as u64;
        self.0.none_hangs_before.store(hangs_at, Ordering::Relaxed);
        oldest.is_some() && now >= hangs_at
    }

    fn oldest_begun(&self) -> Option<u64> {
        let begun = self.0.begun.lock();
        let writers = begun.writers.iter().filter_map(Weak::upgrade);
        let of_writers = writers.map(|begun| begun.load(Ordering::Relaxed)).filter(|begun| *begun > 0).min();
        let single = begun.single.first_key_value().map(|(_, begun)| *begun);
        of_writers.into_iter().chain(single).min()
    }

    fn now(&self) -> u64 {
        let nanos = Instant::now().saturating_duration_since(self.0.created).as_nanos();
        // In 584 years there are more.
        u64::try_from(nanos).unwrap_or(u64::MAX).saturating_add(1)
    }
}

impl CallsOfWriter {
    /// A call begins, in the place of the one before.
    pub(in crate::store) fn begin(&self) {
        self.begun.store(self.all.now(), Ordering::Relaxed);
    }

    /// It ends.
    pub(in crate::store) fn end(&self) {
        self.begun.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_writer_hangs_in_a_call_and_not_between_two() {
        let calls = CallsUnderWay::default();
        let (writer, other) = (calls.of_writer(), calls.of_writer());
        // In the very first moment.
        writer.begin();
        tokio::time::advance(HANGS_AFTER).await;
        assert!(calls.is_hanging());
        for _ in 0..3 {
            writer.begin();
            tokio::time::advance(HANGS_AFTER / 2).await;
            assert!(!calls.is_hanging());
        }
        writer.end();
        tokio::time::advance(HANGS_AFTER).await;
        assert!(!calls.is_hanging() && calls.oldest().is_none(), "it waits for its next piece");
        other.begin();
        tokio::time::advance(HANGS_AFTER).await;
        assert!(calls.is_hanging());
        writer.begin();
        other.end();
        assert!(!calls.is_hanging(), "the other has just begun");
        other.begin();
        drop(other);
        tokio::time::advance(HANGS_AFTER - Duration::from_nanos(1)).await;
        assert!(!calls.is_hanging());
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert!(calls.is_hanging());
        drop(writer);
        assert!(!calls.is_hanging(), "a file that is not written any more");
        drop(calls.of_writer());
        assert!(calls.0.begun.lock().writers.len() <= 1, "and is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_hangs_unseen_because_none_did_a_moment_ago() {
        let calls = CallsUnderWay::default();
        assert!(!calls.is_hanging());
        tokio::time::advance(Duration::from_secs(1)).await;
        let first = calls.begin();
        assert_eq!(calls.oldest(), Some(Instant::now()));
        tokio::time::advance(HANGS_AFTER - Duration::from_secs(1)).await;
        assert!(!calls.is_hanging(), "the first look counts until now");
        let second = calls.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(calls.is_hanging());
        calls.end(first);
        assert!(!calls.is_hanging());
        tokio::time::advance(HANGS_AFTER).await;
        assert!(calls.is_hanging(), "the second does too");
        calls.end(second);
        assert!(!calls.is_hanging());
    }
}
