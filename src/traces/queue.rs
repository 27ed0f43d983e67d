//! The queue between what ends a span and what sends it.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;

use super::counts::Counts;

/// Spans that may wait: OpenTelemetry's own default, a few megabytes at most.
pub(super) const QUEUED_MAX: usize = 2_048;

/// Takes each span that has ended, or drops and counts it.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<SpanData>,
    counts: Counts,
}

impl Queue {
    /// The queue, and where spans are taken from it.
    pub(super) fn new(counts: Counts) -> (Self, mpsc::Receiver<SpanData>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MAX);
        (Self { sender, counts }, receiver)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.counts.drop(1);
        }
    }

    // The queue is emptied by the task that sends, at the stop too.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
