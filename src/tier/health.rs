//! When the tier is left alone because it fails: for a second after a failure, for twice as long after each further
//! one.
//!
//! After that time one request tests it; the others go past it until that one has been answered. Refused access is
//! looked at again after minutes only: an operator has to change something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::{Error, ErrorKind};

/// After the first failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// After many.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After refused access.
const DENIED_PAUSE: Duration = Duration::from_secs(300);

/// Bytes of a body from which on its success counts as one of bodies.
pub(super) const BODY_BYTES_MIN: u64 = 1024 * 1024;

/// Whether the tier answers, by kind of access.
#[derive(Debug, Default)]
pub(super) struct Healths {
    /// Looks for objects.
    pub(super) reading: Health,
    /// Bodies. That a small object is read says nothing of large ones.
    pub(super) bodies: Health,
    /// Content and records that are written.
    pub(super) writing: Health,
    /// Leases. They are small: that they work says nothing of uploads.
    pub(super) leasing: Health,
}

impl Healths {
    /// Whether no blob would be looked for now; takes the place of no request that tests it.
    pub(super) fn is_reading_left_alone(&self, now: Instant) -> bool {
        self.reading.is_left_alone(now) || self.bodies.is_left_alone(now)
    }

    /// Why it is not read; `None` while it answers.
    pub(super) fn reading_trouble(&self, now: Instant) -> Option<Trouble> {
        self.reading.trouble(now).or(self.bodies.trouble(now))
    }

    /// Why it is not written; `None` while it takes what it is given.
    pub(super) fn writing_trouble(&self, now: Instant) -> Option<Trouble> {
        self.writing.trouble(now).or(self.leasing.trouble(now))
    }

    /// What made it fail with `kind` is mended, for every kind of access.
    pub(super) fn forgive_all(&self, kind: ErrorKind) {
        for health in [&self.reading, &self.bodies, &self.writing, &self.leasing] {
            health.forgive(kind);
        }
    }
}

/// Whether the tier answers, for one kind of access.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Failing>>);

/// What is known since the first of the failures in a row.
#[derive(Debug)]
struct Failing {
    failures: u32,
    since: Instant,
    last_at: Instant,
    kind: ErrorKind,
    alone_until: Instant,
    /// Until when no other small object is tried; `None` since one came whole.
    small_until: Option<Instant>,
}

/// What is known of a tier that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) lasts: Duration,
    pub(crate) kind: ErrorKind,
}

impl Health {
    /// Whether a request may be sent at `now`. After a pause the first one may, and the others once it succeeded.
    pub(super) fn admits(&self, now: Instant) -> bool {
        match self.0.lock().as_mut() {
            None => true,
            Some(failing) if now < failing.alone_until => false,
            Some(failing) => {
                failing.alone_until = now + failing.pause();
                true
            }
        }
    }

    /// Whether a small object may be read at `now`: after a pause one, and the others once it came whole. It takes the
    /// test from no large one, of which it says little.
    pub(super) fn admits_small(&self, now: Instant) -> bool {
        match self.0.lock().as_mut() {
            None => true,
            Some(failing) if now < failing.alone_until => false,
            Some(failing) => match failing.small_until {
                None => true,
                Some(until) if now < until => false,
                Some(_) => {
                    failing.small_until = Some(now + failing.pause());
                    true
                }
            },
        }
    }

    /// Whether no request would be admitted now; takes the place of none.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.0.lock().as_ref().is_some_and(|failing| now < failing.alone_until)
    }

    /// Takes note of what came of a request. That an object is absent, or is there already, is an answer; what
    /// concerns one object alone says nothing of the tier.
    pub(super) fn record<T>(&self, result: &Result<T, Error>, now: Instant) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) => self.record_error(error, now),
        }
    }

    /// The same for a request that failed.
    pub(super) fn record_error(&self, error: &Error, now: Instant) {
        if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Exists) {
            self.succeeded();
        } else if error.kind.is_trouble() {
            self.failed(error.kind, now);
        }
    }

    /// The tier answered.
    pub(super) fn succeeded(&self) {
        *self.0.lock() = None;
    }

    /// What made it fail with `kind` is mended: it is not left alone for that any longer.
    fn forgive(&self, kind: ErrorKind) {
        self.0.lock().take_if(|failing| failing.kind == kind);
    }

    /// A body of `bytes` bytes came whole. A small one says little of large ones, and counts once there was no failure
    /// for as long as the longest pause.
    pub(super) fn succeeded_with(&self, bytes: u64, now: Instant) {
        let is_long_ago = |failing: &mut Failing| now.saturating_duration_since(failing.last_at) >= PAUSE_MAX;
        let mut state = self.0.lock();
        if state.take_if(|failing| bytes >= BODY_BYTES_MIN || is_long_ago(failing)).is_none()
            && let Some(failing) = state.as_mut()
        {
            failing.small_until = None;
        }
    }

    /// A request failed, at `now`, in a way that concerns the tier as a whole.
    pub(super) fn failed(&self, kind: ErrorKind, now: Instant) {
        let mut state = self.0.lock();
        let first =
            Failing { failures: 0, since: now, last_at: now, kind, alone_until: now, small_until: None };
        let failing = state.get_or_insert(first);
        failing.failures = failing.failures.saturating_add(1);
        failing.kind = kind;
        failing.last_at = now;
        let pause = failing.pause();
        // The nodes of a fleet do not all come back at once.
        let jitter = pause.mul_f64(0.25 * fastrand::f64());
        failing.alone_until = now + pause + jitter;
        failing.small_until = Some(now);
    }

    /// Why it is left alone; `None` while it answers.
    fn trouble(&self, now: Instant) -> Option<Trouble> {
        let trouble = |failing: &Failing| Trouble {
            lasts: now.saturating_duration_since(failing.since),
            kind: failing.kind,
        };
        self.0.lock().as_ref().map(trouble)
    }
}

impl Failing {
    fn pause(&self) -> Duration {
        if self.kind == ErrorKind::Denied {
            return DENIED_PAUSE;
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        (PAUSE_MIN * 2_u32.pow(doublings)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_fails_costs_one_attempt_and_not_one_a_pull() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.admits(start) && health.trouble(start).is_none());
        health.failed(ErrorKind::TimedOut, start);
        assert!((0..100).all(|_| !health.admits(start + Duration::from_millis(900))));
        let later = start + Duration::from_secs(2);
        assert!(health.admits(later), "one tests it");
        assert!(!health.admits(later), "and the others wait for that");
        (0..20).for_each(|_| health.failed(ErrorKind::TimedOut, later));
        assert!(!health.admits(later + Duration::from_secs(59)));
        assert!(health.admits(later + Duration::from_secs(80)));
        assert_eq!(health.trouble(later).unwrap().lasts, Duration::from_secs(2));
        health.succeeded();
        assert!(health.admits(later) && health.admits(later) && health.trouble(later).is_none());
    }

    #[test]
    fn small_objects_take_no_test_of_large_ones_and_are_tried_one_at_a_time_until_one_came() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(health.admits_small(start) && health.admits_small(start));
        health.failed(ErrorKind::TimedOut, start);
        assert!(!health.admits_small(start));
        let later = start + Duration::from_secs(2);
        assert!(health.admits_small(later) && !health.admits_small(later), "one at a time");
        assert!(health.admits(later), "the test of large ones was taken");
        health.succeeded_with(2_000, later);
        let after = later + Duration::from_secs(2);
        assert!(health.admits_small(after) && health.admits_small(after), "they come");
        health.failed(ErrorKind::TimedOut, after);
        let last = after + Duration::from_secs(5);
        assert!(health.admits_small(last) && !health.admits_small(last));
    }

    #[test]
    fn small_objects_that_come_do_not_hide_that_large_ones_do_not() {
        let (health, start) = (Health::default(), Instant::now());
        for _ in 0..4 {
            health.failed(ErrorKind::TimedOut, start);
            health.succeeded_with(2_000, start);
        }
        assert!(!health.admits(start + Duration::from_secs(7)), "four failures in a row");
        health.succeeded_with(2_000, start + PAUSE_MAX);
        assert!(health.trouble(start).is_none(), "long ago");
        health.failed(ErrorKind::TimedOut, start);
        health.succeeded_with(BODY_BYTES_MIN, start);
        assert!(health.admits(start) && health.trouble(start).is_none());
    }

    #[test]
    fn refused_access_is_not_asked_about_every_minute() {
        let (health, start) = (Health::default(), Instant::now());
        health.failed(ErrorKind::Denied, start);
        assert!(!health.admits(start + Duration::from_secs(290)));
        assert!(health.admits(start + Duration::from_secs(400)));
    }

    #[test]
    fn what_concerns_one_object_does_not_count_as_a_tier_that_fails() {
        let (health, start) = (Health::default(), Instant::now());
        let record = |kind| health.record_error(&Error::new(kind, "as the test says"), start);
        for kind in [ErrorKind::Changed, ErrorKind::Unsupported, ErrorKind::Slower, ErrorKind::GaveUp] {
            record(kind);
            assert!(health.trouble(start).is_none(), "{kind:?}");
        }
        for answered in [ErrorKind::NotFound, ErrorKind::Exists] {
            record(ErrorKind::Throttled);
            record(ErrorKind::Changed);
            assert_eq!(health.trouble(start).unwrap().kind, ErrorKind::Throttled, "nothing was answered");
            record(answered);
            assert!(health.trouble(start).is_none(), "{answered:?}");
        }
    }
}
