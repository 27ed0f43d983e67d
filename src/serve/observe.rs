//! Watching an answer leave: bytes, the first of them, and bodies that end early.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream;

use super::metrics::Metrics;
use crate::listener::{Body, BodyError};
use crate::pull::{AnswerSource, BlobBody};
use crate::support::body_chunk::BodyChunk;
use crate::support::metrics::IntCounter;

/// Watches one answer.
pub(super) struct Watch {
    metrics: Arc<Metrics>,
    route: &'static str,
    source: AnswerSource,
    bytes: IntCounter,
    since: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        route: &'static str,
        source: AnswerSource,
        since: Instant,
    ) -> Self {
        let bytes = metrics.bytes.with_label_values(&[source.label()]);
        Self { metrics, route, source, bytes, since: Some(since) }
    }

    /// Counts bytes that leave.
    pub(super) fn saw(&mut self, count: usize) {
        if let Some(since) = self.since.take() {
            let first = self.metrics.first_byte.with_label_values(&[self.route, self.source.label()]);
            first.observe(since.elapsed().as_secs_f64());
        }
        self.bytes.inc_by(count as u64);
    }

    fn broke_off(&self, reason: &str) {
        self.metrics.errors.with_label_values(&[reason]).inc();
    }
}

/// A blob as a response body, watched. An error ends the connection, so that the body is seen to be short.
pub(super) fn body(blob: BlobBody, watch: Watch) -> Body {
    let pieces = stream::unfold((blob, watch), |(mut blob, mut watch)| async move {
        let piece: Result<BodyChunk, BodyError> = match blob.next().await? {
            Ok(piece) => {
                watch.saw(piece.len());
                Ok(piece)
            }
            Err(error) => {
                tracing::warn!(%error, "a body ended early");
                watch.broke_off(error.reason());
                // hyper drops what it has buffered when a body fails, the head included; let it flush that first.
                tokio::task::yield_now().await;
                Err(error.into())
            }
        };
        Some((piece, (blob, watch)))
    });
    Body::stream(pieces)
}
