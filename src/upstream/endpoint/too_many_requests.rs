//! One 429: for how long a request is held back, and the one request that then finds out whether the limit is over.

use std::time::Duration;

use tokio::time::Instant;

/// How long a 429 without `Retry-After` counts at first; then twice as long each time.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// The longest of those pauses: four requests a minute are no storm.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// The longest that a `Retry-After` counts: the budget may be back earlier, and some registries name a whole day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// How long the one request that finds out whether the limit is over holds back the others.
pub(crate) const TRIAL: Duration = Duration::from_secs(5);

/// A 429.
pub(crate) struct Refusal {
    pub(crate) until: Instant,
    times: u32,
    /// Whether the time is over and a request is finding out whether the limit is.
    on_trial: bool,
}

/// Why a request is not sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The time that was named is not over.
    For(Duration),
    /// Another request is finding out, within this time.
    OnTrial(Duration),
    /// Other repositories were answered 429, and for this time it is taken for the limit of the account.
    Suspected(Duration),
}

impl Hold {
    pub(crate) fn time(self) -> Duration {
        match self {
            Self::For(time) | Self::OnTrial(time) | Self::Suspected(time) => time,
        }
    }
}

impl Refusal {
    pub(crate) fn new(now: Instant) -> Self {
        Self { until: now, times: 0, on_trial: false }
    }

    /// Why a request is held back; `None` if it would be the one that finds out.
    pub(crate) fn hold(&self, now: Instant) -> Option<Hold> {
        let left = self.until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(if self.on_trial { Hold::OnTrial(left) } else { Hold::For(left) })
    }

    /// A request is sent to find out whether the limit is over.
    pub(crate) fn begin_trial(&mut self, now: Instant) {
        self.until = now + TRIAL;
        self.on_trial = true;
    }

    /// Another 429; returns for how long requests are held back now.
    pub(crate) fn repeat(&mut self, now: Instant, retry_after: Option<Duration>) -> Duration {
        let wait = pause(self.times, retry_after);
        *self = Self { until: now + wait, times: self.times.saturating_add(1), on_trial: false };
        wait
    }

    /// The same for one that says no time, if requests are not held back by an earlier one.
    pub(crate) fn repeat_unless_held(&mut self, now: Instant) {
        if !matches!(self.hold(now), Some(Hold::For(_))) {
            self.repeat(now, None);
        }
    }
}

/// How long a 429 counts: as long as it says, within bounds; and a little longer, so that the nodes of a cluster do not
/// come back all at once.
fn pause(times: u32, retry_after: Option<Duration>) -> Duration {
    let wait = match retry_after {
        Some(named) => named.clamp(PAUSE, RETRY_AFTER_MAX),
        None => PAUSE.saturating_mul(2_u32.saturating_pow(times)).min(PAUSE_MAX),
    };
    wait + wait.mul_f64(fastrand::f64() / 10.0)
}
