//! When a body that upstream broke off is asked for again, and when it is given up: a pure decision, but for the time.
//!
//! Promises: a few resumes without a byte of progress, as many as it takes with it; 25 s while no endpoint answers or
//! the registry limits requests.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream;

/// Times in a row that a broken body is resumed without a single byte of progress.
const RESUMES_MAX: u32 = 3;
/// Before the first resume; then twice as long each time.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two resumes.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long a body whose rest no endpoint answers is resumed: as long as the head of an answer may take.
const OUTAGE_WAIT_MAX: Duration = Duration::from_secs(25);

/// The breaks of a body since its last progress.
pub(super) struct Breaks {
    at: u64,
    times: u32,
    since: Instant,
}

impl Breaks {
    /// No break yet of a body that begins at byte `at`.
    pub(super) fn none(at: u64) -> Self {
        Self { at, times: 0, since: Instant::now() }
    }

    /// Counts a break at byte `at`; returns the pause before the first resume.
    pub(super) fn count(&mut self, at: u64) -> Duration {
        if at > self.at || self.times == 0 {
            *self = Self::none(at);
        }
        let pause = RESUME_PAUSE * 2_u32.pow(self.times);
        self.times += 1;
        pause
    }

    /// Whether there were too many without progress.
    pub(super) fn are_too_many(&self) -> bool {
        self.times > RESUMES_MAX
    }

    /// The pause that follows one of length `pause`.
    pub(super) fn longer(pause: Duration) -> Duration {
        (pause * 2).min(RESUME_PAUSE_MAX)
    }

    /// How long to wait, where `pause` is due, before the next resume after one that failed with `error`; `None` if
    /// there is no next one.
    pub(super) fn pause_after(&self, error: &upstream::Error, pause: Duration) -> Option<Duration> {
        let lasted = self.since.elapsed();
        match error {
            // A rate limit that ends in time; the registry is not asked before.
            upstream::Error::RateLimited { retry_after, .. } => {
                let wait = retry_after.unwrap_or(pause);
                (lasted + wait < OUTAGE_WAIT_MAX).then_some(pause.max(wait))
            }
            // It may be back in a moment.
            upstream::Error::Unreachable { .. }
            | upstream::Error::ServerError { .. }
            | upstream::Error::Overloaded { .. } => (lasted < OUTAGE_WAIT_MAX).then_some(pause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(retry_after: Option<u64>) -> upstream::Error {
        let retry_after = retry_after.map(Duration::from_secs);
        upstream::Error::RateLimited { host: "reg.test".to_owned(), retry_after }
    }

    #[test]
    fn a_body_without_progress_is_not_resumed_for_ever_and_one_with_progress_is_not_given_up() {
        let mut breaks = Breaks::none(0);
        for pause in [200, 400, 800] {
            assert_eq!(breaks.count(0), Duration::from_millis(pause));
            assert!(!breaks.are_too_many());
        }
        breaks.count(0);
        assert!(breaks.are_too_many());
        for at in 1..100 {
            assert_eq!(breaks.count(at), RESUME_PAUSE);
            assert!(!breaks.are_too_many());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_limits_requests_is_not_asked_before_it_said_so_nor_waited_for_without_a_bound() {
        let mut breaks = Breaks::none(0);
        let pause = breaks.count(10);
        assert_eq!(breaks.pause_after(&limited(None), pause), Some(pause));
        assert_eq!(breaks.pause_after(&limited(Some(20)), pause), Some(Duration::from_secs(20)));
        assert_eq!(breaks.pause_after(&limited(Some(25)), pause), None);
        let gone =
            upstream::Error::ServerError { host: "reg.test".to_owned(), status: 503, retry_after: None };
        assert_eq!(breaks.pause_after(&gone, pause), Some(pause));
        let wrong = upstream::Error::Invalid { host: "reg.test".to_owned(), why: String::new() };
        assert_eq!(breaks.pause_after(&wrong, pause), None);
        tokio::time::advance(Duration::from_secs(25)).await;
        assert_eq!(breaks.pause_after(&gone, pause), None);
        assert_eq!(breaks.pause_after(&limited(None), pause), None);
    }
}
