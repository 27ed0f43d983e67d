//! The time of day, so that tests can move it.
//!
//! Wall-clock time is used only where it is written down or shown (when a tag was confirmed, how old an answer is);
//! everything that waits uses tokio's monotonic clock. A step of the wall clock must therefore never expire or
//! resurrect anything by itself: ages are computed with [`Timestamp::age_at`], which is never negative.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// Seconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// For the standard library.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }

    /// How long before `now` this was; zero if the clock was set back since.
    pub fn age_at(self, now: Self) -> Duration {
        Duration::from_secs(now.0.saturating_sub(self.0))
    }
}

/// When something happened: by the wall clock, and by the monotonic clock besides, so that a clock set back makes
/// nothing young again.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the wall clock.
    pub at: Timestamp,
    since: Instant,
}

impl Moment {
    /// Something that happened at `at`, before this process began to count.
    pub fn recorded(at: Timestamp) -> Self {
        Self { at, since: Instant::now() }
    }

    /// Something that happened `age` before `now`.
    pub fn ago(age: Duration, now: Timestamp) -> Self {
        let at = Timestamp(now.0.saturating_sub(age.as_secs()));
        // A machine that has not been up for so long has an older reading of its wall clock.
        Self { at, since: Instant::now().checked_sub(age).unwrap_or_else(Instant::now) }
    }

    /// How long ago it was.
    pub fn age_at(&self, now: Timestamp) -> Duration {
        self.at.age_at(now).max(self.since.elapsed())
    }
}

/// A source of the time of day.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicU64::new(start.0))))
    }

    /// Moves a manual clock on; the machine's clock stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(seconds) = &self.0 {
            seconds.fetch_add(by.as_secs(), Ordering::Relaxed);
        }
    }

    /// Sets a manual clock back; the machine's clock stays as it is.
    pub fn set_back(&self, by: Duration) {
        if let Some(seconds) = &self.0 {
            let back = |now: u64| Some(now.saturating_sub(by.as_secs()));
            let _ = seconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
    }

    /// The time now.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(seconds) => Timestamp(seconds.load(Ordering::Relaxed)),
            None => Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_makes_nothing_younger_than_now() {
        let clock = Clock::manual(Timestamp(1_000));
        let then = clock.now();
        clock.advance(Duration::from_secs(60));
        assert_eq!(then.age_at(clock.now()), Duration::from_secs(60));
        assert_eq!(then.age_at(Timestamp(10)), Duration::ZERO);
    }
}
