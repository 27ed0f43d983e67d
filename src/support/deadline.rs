//! A point in time that is moved often and almost never reached.
//!
//! Moving it costs nothing: the timer behind it is moved only where it would fire too late, and when it has fired too
//! early. Deliberately not here: time by another clock than the runtime's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// When something has to have happened.
#[derive(Debug)]
pub(crate) struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// One that is reached at `at`.
    pub(crate) fn at(at: Instant) -> Self {
        Self { at, timer: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Moves it. What waits for it has to poll again.
    pub(crate) fn set(&mut self, at: Instant) {
        self.at = at;
    }

    /// Ready once it is reached, and until it is moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() > self.at {
            self.timer.as_mut().reset(self.at);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_moved_is_reached_neither_early_nor_late() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut deadline = Deadline::at(after(10));
        // Its timer fires too early, and is then in time.
        deadline.set(after(20));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(Instant::now(), after(20));
        // Its timer would fire too late.
        deadline.set(after(40));
        assert!(deadline.poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        deadline.set(after(30));
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(Instant::now(), after(30));
    }
}
