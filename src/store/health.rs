//! Whether the store can be written: after a failure of the disk nothing is written until a pause has passed.
//!
//! Reading is never paused. Which failures are worth a line in the log is decided here too, because a disk that stays
//! broken or full fails again with every blob.

use std::time::Duration;

use parking_lot::Mutex;

use crate::store::error::Error;
use crate::support::clock::{Clock, Moment};
use crate::support::metrics::IntGauge;

/// How long nothing is written after the disk failed.
const PAUSE: Duration = Duration::from_secs(10);
/// How often a full store is logged.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The state of the disk, as writing has found it.
#[derive(Debug)]
pub(super) struct Health {
    clock: Clock,
    state: Mutex<State>,
    /// Mirrors [`Health::is_caching`]: 1 or 0.
    caching: IntGauge,
}

#[derive(Debug, Default)]
struct State {
    failed_at: Option<Moment>,
    full_logged_at: Option<Moment>,
}

impl Health {
    /// A disk that has not failed.
    pub(super) fn new(clock: Clock, caching: IntGauge) -> Self {
        caching.set(1);
        Self { clock, state: Mutex::default(), caching }
    }

    /// Whether fetched content is stored. After a failure it is again from the first write on that is tried after the
    /// pause.
    pub(super) fn is_caching(&self) -> bool {
        self.state.lock().failed_at.is_none()
    }

    /// Whether writing has to wait; ends the pause when it has passed.
    pub(super) fn is_paused(&self) -> bool {
        let mut state = self.state.lock();
        let Some(failed_at) = state.failed_at else { return false };
        if failed_at.age_at(self.clock.now()) < PAUSE {
            return true;
        }
        tracing::info!("the pause after a failure of the store's disk is over; content is stored again");
        state.failed_at = None;
        self.caching.set(1);
        false
    }

    /// Begins a pause if the disk is what failed.
    pub(super) fn record_failure(&self, error: &Error) {
        if let Error::Io { .. } = error {
            let mut state = self.state.lock();
            state.failed_at = Some(Moment::recorded(self.clock.now()));
            self.caching.set(0);
        }
    }

    /// Whether a failure to store something is worth a line in the log: a pause is not, a full store is once a minute,
    /// everything else is.
    pub(super) fn should_log(&self, error: &Error) -> bool {
        match error {
            Error::Paused => false,
            Error::Full { .. } => {
                let now = self.clock.now();
                let mut state = self.state.lock();
                if state.full_logged_at.is_some_and(|at| at.age_at(now) < FULL_LOG_INTERVAL) {
                    return false;
                }
                state.full_logged_at = Some(Moment::recorded(now));
                true
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::support::clock::Timestamp;
    use crate::support::metrics::Registry;

    fn health() -> Health {
        let gauge = Registry::new().gauge("store_caching", "of a test").unwrap();
        Health::new(Clock::manual(Timestamp(1_000)), gauge)
    }

    fn failure() -> Error {
        Error::io("write", Path::new("/store/x"))(std::io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn a_full_store_is_logged_once_a_minute_and_a_failing_disk_each_time() {
        let health = health();
        let full = Error::Full { needed: 1 };
        assert!(health.should_log(&full));
        assert!(!health.should_log(&full) && !health.should_log(&Error::Paused));
        health.clock.advance(FULL_LOG_INTERVAL);
        assert!(health.should_log(&full) && !health.should_log(&full));
        assert!(health.should_log(&failure()) && health.should_log(&failure()));
    }

    #[test]
    fn a_failing_disk_is_not_written_during_the_pause_and_is_tried_again_after_it() {
        let health = health();
        for error in [Error::Full { needed: 1 }, Error::Paused] {
            health.record_failure(&error);
            assert!(health.is_caching() && !health.is_paused(), "{error}: the disk did not fail");
        }
        health.record_failure(&failure());
        assert!(!health.is_caching() && health.is_paused());
        assert_eq!(health.caching.get(), 0);
        health.clock.advance(PAUSE);
        assert!(!health.is_caching(), "no write has been tried yet");
        assert!(!health.is_paused());
        assert!(health.is_caching());
        assert_eq!(health.caching.get(), 1);
    }
}
