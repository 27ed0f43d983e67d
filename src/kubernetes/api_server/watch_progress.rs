//! How far the watch of the node's pods is, and when it has to be begun anew: values.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after a first error; doubled with each further one.
const ERROR_WAIT: Duration = Duration::from_millis(500);

/// How far the watch is.
pub(super) struct Progress {
    /// From where it goes on; `None`: all pods are listed first.
    pub(super) version: Option<String>,
    /// Whether a list was told whose end was not: it ends when the watch has begun.
    pub(super) is_listing: bool,
    /// Whether it was told that the source sees nothing, and not yet that it sees again.
    pub(super) is_lost: bool,
    /// When all pods are listed anew, although the watch goes on.
    pub(super) list_at: Instant,
    /// Watches in a row that were short and had no event.
    pub(super) short_watches: u32,
    /// The wait after the next error.
    pub(super) wait: Duration,
}

impl Progress {
    pub(super) fn new() -> Self {
        let (is_listing, is_lost, list_at) = (false, false, Instant::now());
        Self { version: None, is_listing, is_lost, list_at, short_watches: 0, wait: ERROR_WAIT }
    }

    /// All pods were listed, and are again after `every`; not at the moment at which every other node lists them.
    pub(super) fn has_listed(&mut self, version: String, every: Duration) {
        self.is_listing = true;
        self.version = Some(version);
        self.list_at = Instant::now() + every.mul_f64(1.0 + fastrand::f64() / 2.0);
    }

    /// The version from which the watch goes on; `None`: all pods are listed first.
    pub(super) fn goes_on_from(&self) -> Option<String> {
        self.version.clone().filter(|_| Instant::now() < self.list_at)
    }

    /// The watch works: it has lived for a while, or an event has come.
    pub(super) fn works(&mut self) {
        (self.short_watches, self.wait) = (0, ERROR_WAIT);
    }
}
