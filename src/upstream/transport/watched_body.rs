//! The body of a response, watched for a standstill of its connection.
//!
//! When it has brought nothing for almost as long as its reader waits, the host's idle connections are closed, so that
//! what is asked for next is asked over a new one. Deliberately not here: ending the body; its reader does.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::support::deadline::Deadline;
use crate::upstream::error::BoxError;
use crate::upstream::transport::pool::{Belonging, Keepable};

/// A body that came over a connection of a host.
pub(super) struct WatchedBody<T> {
    body: Incoming,
    of: Belonging<T>,
    wait: Duration,
    /// Whether the next frame is waited for.
    is_waiting: bool,
    /// When it is late; `None` before the first that was waited for.
    late: Option<Deadline>,
}

impl<T: Keepable> WatchedBody<T> {
    /// Watches a body, whose reader waits for `idle` for each frame.
    pub(super) fn new(body: Incoming, of: Belonging<T>, idle: Duration) -> Self {
        Self { body, of, wait: idle.mul_f64(0.9), is_waiting: false, late: None }
    }

    fn wait_for_a_frame(&mut self, cx: &mut Context<'_>) {
        let until = || Instant::now() + self.wait;
        let late = self.late.get_or_insert_with(|| Deadline::at(until()));
        if !std::mem::replace(&mut self.is_waiting, true) {
            late.set(until());
        }
        while late.poll(cx).is_ready() {
            self.of.close_idle();
            late.set(until());
        }
    }
}

impl<T: Keepable> Body for WatchedBody<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() {
            self.wait_for_a_frame(cx);
        } else {
            self.is_waiting = false;
        }
        polled.map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
