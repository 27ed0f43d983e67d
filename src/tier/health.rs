//! When the tier is left alone because it fails: for a second after a failure, for twice as long after each further
//! one.
//!
//! After that time one request tests it; the others go past it until that one has been answered. Refused access is
//! looked at again after minutes only: an operator has to change something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::ErrorKind;

/// After the first failure.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// After many.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// After refused access.
const DENIED_PAUSE: Duration = Duration::from_secs(300);

/// Bytes of a body from which on its success counts as one of bodies.
const BODY_BYTES_MIN: u64 = 1024 * 1024;

/// Whether the tier answers, for one kind of access.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    alone_until: Option<Instant>,
    failing_since: Option<Instant>,
    failed_at: Option<Instant>,
    last: Option<ErrorKind>,
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
        let mut state = self.0.lock();
        match state.alone_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.alone_until = Some(now + state.pause());
                true
            }
        }
    }

    /// Whether no request would be admitted now; takes the place of none.
    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.0.lock().alone_until.is_some_and(|until| now < until)
    }

    /// The tier answered.
    pub(super) fn succeeded(&self) {
        *self.0.lock() = State::default();
    }

    /// What made it fail with `kind` is mended: it is not left alone for that any longer.
    pub(super) fn forgive(&self, kind: ErrorKind) {
        let mut state = self.0.lock();
        if state.last == Some(kind) {
            *state = State::default();
        }
    }

    /// A body of `bytes` bytes came whole. A small one says little of large ones, and counts once there was no failure
    /// for as long as the longest pause.
    pub(super) fn succeeded_with(&self, bytes: u64, now: Instant) {
        let mut state = self.0.lock();
        let is_long_ago = state.failed_at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE_MAX);
        if bytes >= BODY_BYTES_MIN || is_long_ago {
            *state = State::default();
        }
    }

    /// A request failed, at `now`, in a way that concerns the tier as a whole.
    pub(super) fn failed(&self, kind: ErrorKind, now: Instant) {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        state.last = Some(kind);
        state.failing_since.get_or_insert(now);
        state.failed_at = Some(now);
        let pause = state.pause();
        // The nodes of a fleet do not all come back at once.
        let jitter = pause.mul_f64(0.25 * fastrand::f64());
        state.alone_until = Some(now + pause + jitter);
    }

    /// Why it is left alone; `None` while it answers.
    pub(crate) fn trouble(&self, now: Instant) -> Option<Trouble> {
        let state = self.0.lock();
        let (since, kind) = (state.failing_since?, state.last?);
        Some(Trouble { lasts: now.saturating_duration_since(since), kind })
    }
}

impl State {
    fn pause(&self) -> Duration {
        if self.last == Some(ErrorKind::Denied) {
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
}
