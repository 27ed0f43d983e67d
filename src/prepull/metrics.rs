//! What is counted of the images that the daemon keeps by itself.

use crate::support::metrics::{IntGaugeVec, MetricsError, Registry};

/// The metrics of `prepull`.
pub struct Metrics {
    /// Images of the list, by how they stand.
    pub(super) images: IntGaugeVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let help = "Images of [prepull] when they were last looked at: here, or failed.";
        let images = registry.gauges("prepull_images", help, &["state"])?;
        for state in ["here", "failed"] {
            images.with_label_values(&[state]).set(0);
        }
        Ok(Self { images })
    }
}
