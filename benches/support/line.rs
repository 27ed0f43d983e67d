//! A line that carries so many bytes a second, shared by the connections that use it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A sleep takes longer than it was asked to; up to this much of that is made up for. Idle time is not.
const MADE_UP_FOR: Duration = Duration::from_millis(5);

/// A line.
pub(crate) struct Line {
    rate: f64,
    busy_until: Mutex<Instant>,
}

impl Line {
    /// A line of `rate` bytes a second.
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, busy_until: Mutex::new(Instant::now()) }
    }

    /// Waits until the line has carried `bytes` more.
    pub(crate) fn carry(&self, bytes: usize) {
        let until = {
            let mut busy_until = self.busy_until.lock().unwrap();
            let from = (*busy_until).max(Instant::now() - MADE_UP_FOR);
            *busy_until = from + Duration::from_secs_f64(bytes as f64 / self.rate);
            *busy_until
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}
