//! What is shown of the images that the daemon fetches by itself.

use super::event::Summary;
use crate::support::metrics::{IntGauge, IntGaugeVec, MetricsError, Registry};

/// The metrics of `prepull`.
pub struct Metrics {
    images: IntGaugeVec,
    list_readable: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Images of [prepull] when they were last checked: in the store, or failed.";
        let images = registry.gauges("prepull_images", help, &["state"])?;
        let help =
            "Whether the list of [prepull], its manifests and its pull secrets could be read (1) or not (0).";
        let metrics = Self { images, list_readable: registry.gauge("prepull_list_readable", help)? };
        metrics.show(&Summary::default());
        metrics.show_list(true);
        Ok(metrics)
    }

    /// Shows whether the whole list could be read.
    pub(super) fn show_list(&self, readable: bool) {
        self.list_readable.set(i64::from(readable));
    }

    /// Shows the result of a check.
    pub(super) fn show(&self, summary: &Summary) {
        for (state, count) in [("present", summary.pulled), ("failed", summary.failed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.images.with_label_values(&[state]).set(count);
        }
    }
}
