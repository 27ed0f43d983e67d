//! The numbers of the last day, a sample a minute, for the plots of the page: in memory, about 200 KiB, and gone with
//! the process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::status::DaemonStatus;
use crate::support::shutdown::Shutdown;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(60);
/// Samples of an hour, and of a day.
pub(super) const HOUR: usize = 60;
pub(super) const DAY: usize = 24 * HOUR;

/// The samples. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

/// The numbers at one moment; all but those of the store are counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes served that upstream had to send for it.
    pub from_upstream: u64,
    /// Bytes served that did not have to be fetched.
    pub saved: u64,
    /// Requests that were served.
    pub served: u64,
    /// Requests that were challenged: the ordinary first step of a pull with a credential.
    pub challenged: u64,
    /// Requests that were refused, by upstream or because they were wrong.
    pub refused: u64,
    /// Requests that failed, for a fault of upstream or of this node.
    pub failed: u64,
    /// Bytes in the store.
    pub store: u64,
}

impl History {
    /// Takes a sample now and every minute until the stop.
    pub async fn run(self, status: impl AsyncFn() -> DaemonStatus, mut shutdown: Shutdown) {
        loop {
            self.add(Sample::of(&status().await));
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock();
        // One more than the day has minutes: each of them is a difference.
        if samples.len() > DAY {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// What came from one sample to the next, in the last `minutes`, each `step` of them together; the last first
    /// sample of a step is `None` where there was none yet. Always `minutes / step` steps.
    pub(super) fn steps(&self, minutes: usize, step: usize) -> Vec<Option<Sample>> {
        let samples = self.0.lock();
        let at = |ago: usize| samples.len().checked_sub(ago + 1).map(|n| samples[n]);
        (0..minutes / step)
            .rev()
            .map(|n| {
                let now = at(n * step)?;
                // The first step of all may be shorter.
                let before = (1..=step).rev().find_map(|back| at(n * step + back))?;
                Some(now.since(&before))
            })
            .collect()
    }
}

impl Sample {
    pub(super) fn of(status: &DaemonStatus) -> Self {
        let mut sample = Self {
            from_upstream: status.served.from_upstream_bytes,
            saved: status.served.saved_bytes,
            store: status.store.bytes,
            ..Self::default()
        };
        for (outcome, count) in &status.requests {
            let kind = match outcome.as_str() {
                "challenged" => &mut sample.challenged,
                "declined" | "bad_request" | "misdirected" => &mut sample.refused,
                "failed" | "timeout" | "overloaded" => &mut sample.failed,
                _ => &mut sample.served,
            };
            *kind += count;
        }
        sample
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            from_upstream: self.from_upstream.saturating_sub(before.from_upstream),
            saved: self.saved.saturating_sub(before.saved),
            served: self.served.saturating_sub(before.served),
            challenged: self.challenged.saturating_sub(before.challenged),
            refused: self.refused.saturating_sub(before.refused),
            failed: self.failed.saturating_sub(before.failed),
            store: self.store,
        }
    }
}

#[cfg(test)]
impl History {
    /// A history of these samples.
    pub(super) fn of(samples: impl IntoIterator<Item = Sample>) -> Self {
        let history = Self::default();
        samples.into_iter().for_each(|sample| history.add(sample));
        history
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: u64) -> Sample {
        Sample { saved: n, store: n, ..Sample::default() }
    }

    #[test]
    fn a_step_is_what_came_in_it_and_there_is_none_before_the_start() {
        let history = History::of([0, 5, 5, 12].map(sample));
        let saved = |minutes, step| -> Vec<Option<u64>> {
            history.steps(minutes, step).iter().map(|step| step.map(|step| step.saved)).collect()
        };
        assert_eq!(saved(5, 1), [None, None, Some(5), Some(0), Some(7)]);
        assert_eq!(saved(4, 2), [Some(5), Some(7)], "the first step has one minute only");
        assert_eq!(history.steps(2, 1)[1].map(|step| step.store), Some(12));
    }

    #[test]
    fn a_year_of_samples_takes_no_more_than_a_day() {
        let history = History::of((0..100_000).map(sample));
        assert_eq!(history.0.lock().len(), DAY + 1);
        assert!(history.steps(DAY, 1).iter().all(|step| step.is_some_and(|step| step.saved == 1)));
    }
}
