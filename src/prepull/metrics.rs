//! What is shown of the images that the daemon fetches by itself.

use super::event::Summary;
use crate::support::metrics::{IntGaugeVec, MetricsError, Registry};

/// The metrics of `prepull`.
pub struct Metrics {
    images: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Images of [prepull] when they were last checked: in the store, or failed.";
        let metrics = Self { images: registry.gauges("prepull_images", help, &["state"])? };
        metrics.show(&Summary::default());
        Ok(metrics)
    }

    /// Shows the result of a check.
    pub(super) fn show(&self, summary: &Summary) {
        for (state, count) in [("present", summary.pulled), ("failed", summary.failed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.images.with_label_values(&[state]).set(count);
        }
    }
}
