//! Whether the store can be written: after a failure of the disk nothing is written until a pause has passed, and the
//! store counts as one that stores nothing until a write has ended well.
//!
//! Reading is never paused. A blob that is damaged again after it was fetched anew says that the disk does not hold
//! what is written to it; that is told and decides nothing. Which failures are worth a line in the log is decided here
//! too, because a disk that stays broken or full fails again with every blob.

use std::io::ErrorKind;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::reference::Digest;
use crate::store::disk::calls::DiskCalls;
use crate::store::error::Error;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Clock, Moment};
use crate::support::metrics::IntGauge;

/// How long nothing is written after the disk failed.
const PAUSE: Duration = Duration::from_secs(10);
/// How often a full store is logged.
const FULL_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Times that one blob is found damaged before the disk is said to be failing: one flipped bit happens, the same blob
/// twice may be a flaw of one sector that is remapped, three times is a disk.
const DAMAGED_TIMES: u32 = 3;
/// Damaged blobs that are remembered; a disk that damages more of them than this damages some of them again.
const DAMAGED_BLOBS_MAX: usize = 1_024;

/// Why nothing could be written when it was last tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteFailure {
    /// Files or directories of the store belong to another user.
    NotPermitted,
    /// The filesystem is mounted read-only.
    ReadOnly,
    /// The filesystem is full, or a quota is used up.
    NoSpace,
    /// The disk did not end a call for seconds.
    Hangs,
    /// The disk refused in another way.
    Disk,
}

impl WriteFailure {
    /// What a failure of the disk says; `None` for one that is not of the disk.
    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Hangs => Some(Self::Hangs),
            Error::Io { source, .. } => Some(match source.kind() {
                ErrorKind::PermissionDenied => Self::NotPermitted,
                ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
                _ => Self::Disk,
            }),
            _ => None,
        }
    }
}

/// The state of the disk, as writing has found it.
#[derive(Debug)]
pub(in crate::store) struct Health {
    clock: Clock,
    calls: DiskCalls,
    state: Mutex<State>,
    /// Mirrors [`Health::is_caching`]: 1 or 0.
    caching: IntGauge,
    /// Mirrors [`Health::is_failing`]: 1 or 0.
    failing: IntGauge,
}

#[derive(Debug)]
struct State {
    failed: Option<(Moment, WriteFailure)>,
    full_logged_at: Option<Moment>,
    /// How often each blob was found damaged since the start.
    damaged: BoundedMap<Digest, u32>,
    is_failing: bool,
}

impl Health {
    /// A disk that has not failed, and that `calls` are made to.
    pub(in crate::store) fn new(
        clock: Clock,
        calls: DiskCalls,
        caching: IntGauge,
        failing: IntGauge,
    ) -> Self {
        caching.set(1);
        let state = State {
            failed: None,
            full_logged_at: None,
            damaged: BoundedMap::new(DAMAGED_BLOBS_MAX),
            is_failing: false,
        };
        Self { clock, calls, state: Mutex::new(state), caching, failing }
    }

    /// Whether one blob has been damaged on disk again and again.
    pub(in crate::store) fn is_failing(&self) -> bool {
        self.state.lock().is_failing
    }

    /// Takes note of a blob whose bytes on disk are not those that were written.
    pub(in crate::store) fn record_damage(&self, digest: Digest) {
        let mut state = self.state.lock();
        let times = state.damaged.get_or_insert_with(digest, || 0);
        *times += 1;
        let times = *times;
        if times >= DAMAGED_TIMES {
            state.is_failing = true;
            self.failing.set(1);
            tracing::error!(%digest, times, "the same blob was damaged on disk again: the disk of the store does not hold what is written to it and should be replaced");
        }
    }

    /// Whether fetched content is stored. After a failure it is again once content has been stored: a disk that takes
    /// the beginning of each write and fails its end stores nothing.
    pub(in crate::store) fn is_caching(&self) -> bool {
        self.write_failure().is_none()
    }

    /// Why fetched content is not stored; `None` while it is.
    pub(in crate::store) fn write_failure(&self) -> Option<WriteFailure> {
        self.state.lock().failed.map(|(_, why)| why)
    }

    /// Whether a write has to wait. While the disk hangs the pause does not pass: each further call would keep a thread
    /// and its client waiting.
    pub(in crate::store) fn is_paused(&self) -> bool {
        self.calls.is_hanging() || self.failed_at().is_some_and(|at| !self.has_passed(at))
    }

    /// To be asked before each write.
    ///
    /// # Errors
    /// [`Error::Paused`]; a disk that hangs has failed once more.
    pub(in crate::store) fn begin_write(&self) -> Result<(), Error> {
        if self.calls.is_hanging() {
            self.record_failure(&Error::Hangs);
        }
        if self.is_paused() { Err(Error::Paused) } else { Ok(()) }
    }

    /// Takes note of content that is on disk for good. One whose write began before the disk failed does not end the
    /// pause.
    pub(in crate::store) fn record_success(&self) {
        let mut state = self.state.lock();
        if state.failed.is_some_and(|(at, _)| self.has_passed(at)) {
            tracing::info!("the store's disk takes content again");
            state.failed = None;
            self.caching.set(1);
        }
    }

    fn failed_at(&self) -> Option<Moment> {
        self.state.lock().failed.map(|(at, _)| at)
    }

    /// Whether the pause after a failure at that time is over.
    fn has_passed(&self, failed_at: Moment) -> bool {
        failed_at.age_at(self.clock.now()) >= PAUSE
    }

    /// Begins a pause if the disk is what failed.
    pub(in crate::store) fn record_failure(&self, error: &Error) {
        if let Some(why) = WriteFailure::of(error) {
            let mut state = self.state.lock();
            state.failed = Some((Moment::recorded(self.clock.now()), why));
            self.caching.set(0);
        }
    }

    /// Whether a failure to store something is worth a line in the log: a pause is not, a full store is once a minute,
    /// everything else is.
    pub(in crate::store) fn should_log(&self, error: &Error) -> bool {
        match error {
            // As it is meant to be.
            Error::Paused | Error::PassedBy { .. } => false,
            Error::Full { .. } | Error::NoInodes => {
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
    use crate::store::disk::calls_under_way::HANGS_AFTER;
    use crate::support::clock::Timestamp;
    use crate::support::metrics::Registry;

    fn health() -> Health {
        let gauge = |name| Registry::new().gauge(name, "of a test").unwrap();
        let (clock, calls) = (Clock::manual(Timestamp(1_000)), DiskCalls::default());
        Health::new(clock, calls, gauge("store_caching"), gauge("store_disk_failing"))
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
    fn why_the_disk_takes_nothing_is_known_until_it_takes_something() {
        let health = health();
        assert_eq!(health.write_failure(), None);
        for (kind, why) in [
            (ErrorKind::PermissionDenied, WriteFailure::NotPermitted),
            (ErrorKind::ReadOnlyFilesystem, WriteFailure::ReadOnly),
            (ErrorKind::QuotaExceeded, WriteFailure::NoSpace),
            (ErrorKind::Other, WriteFailure::Disk),
        ] {
            health.record_failure(&Error::io("write", Path::new("/store/x"))(kind.into()));
            assert_eq!(health.write_failure(), Some(why));
        }
        health.clock.advance(PAUSE);
        health.record_success();
        assert_eq!(health.write_failure(), None);
    }

    #[test]
    fn a_failing_disk_is_not_written_during_the_pause_and_is_tried_again_after_it() {
        let health = health();
        for error in [Error::Full { needed: 1 }, Error::NoInodes, Error::Paused] {
            health.record_failure(&error);
            assert!(health.is_caching() && health.begin_write().is_ok(), "{error}: the disk did not fail");
        }
        health.record_failure(&failure());
        assert!(!health.is_caching() && health.is_paused());
        assert!(matches!(health.begin_write(), Err(Error::Paused)));
        health.record_success();
        assert!(health.is_paused(), "a write that began before says nothing of the disk now");
        health.clock.advance(PAUSE);
        assert!(!health.is_paused() && health.begin_write().is_ok());
    }

    #[test]
    fn a_disk_that_fails_at_the_end_of_each_write_does_not_count_as_one_that_stores() {
        let health = health();
        for _ in 0..3 {
            health.record_failure(&failure());
            health.clock.advance(PAUSE);
            assert!(health.begin_write().is_ok(), "it is tried");
            assert!(!health.is_caching() && health.caching.get() == 0, "and has not ended yet");
        }
        health.record_success();
        assert!(health.is_caching() && health.caching.get() == 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_written_again_when_the_pause_after_it_has_passed() {
        let health = health();
        let call = health.calls.begin();
        assert!(health.begin_write().is_ok());
        tokio::time::advance(HANGS_AFTER).await;
        assert!(health.is_paused() && health.is_caching(), "a question is no failure");
        for _ in 0..3 {
            assert!(health.begin_write().is_err() && !health.is_caching(), "as long as it hangs");
            health.clock.advance(PAUSE);
            tokio::time::advance(PAUSE).await;
        }
        assert!(health.begin_write().is_err());
        drop(call);
        assert!(health.begin_write().is_err(), "ten seconds from the last write that it held up");
        health.clock.advance(PAUSE);
        assert!(health.begin_write().is_ok());
    }

    #[test]
    fn a_disk_is_failing_once_it_damages_the_same_blob_again_and_again() {
        let health = health();
        for n in 0..100_u8 {
            health.record_damage(Digest::of(&[n]));
        }
        health.record_damage(Digest::of(&[0]));
        assert!(!health.is_failing() && health.failing.get() == 0, "each of them once or twice");
        health.record_damage(Digest::of(&[0]));
        assert!(health.is_failing() && health.failing.get() == 1);
    }
}
