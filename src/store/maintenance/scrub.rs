//! The scrub: verifies every blob in the background, so that damage is found while upstream still has the content.

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::quarantine::Quarantine;
use crate::support::metrics::IntCounter;

use super::verify::{self, Finding, Looked, Pace};

/// Bytes a second: about a hundredth of what a disk does.
const BYTES_PER_SECOND: u64 = 20 * 1024 * 1024;

/// Verifies the blobs of a store that serves. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scrubber {
    layout: Layout,
    quarantine: Quarantine,
    scrubbed_bytes: IntCounter,
}

impl Scrubber {
    pub(crate) fn new(layout: Layout, quarantine: Quarantine, scrubbed_bytes: IntCounter) -> Self {
        Self { layout, quarantine, scrubbed_bytes }
    }

    /// Verifies every blob once, in another order each time: a daemon that is restarted often begins anew each time. Ends
    /// early once `is_stopped`. Blocks.
    pub(crate) fn verify_all(&self, is_stopped: &dyn Fn() -> bool) {
        let mut digests = verify::digests(&self.layout);
        fastrand::shuffle(&mut digests);
        for digest in digests {
            if is_stopped() {
                return;
            }
            if let Err(error) = self.verify(&digest, is_stopped) {
                tracing::warn!(%digest, %error, cause = error.cause(), "a blob could not be verified");
            }
        }
    }

    /// Verifies one blob; a damaged one is moved to quarantine. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn verify(&self, digest: &Digest, is_stopped: &dyn Fn() -> bool) -> Result<(), Error> {
        let pace = Pace { rate: Some(BYTES_PER_SECOND), is_stopped };
        let Some(Looked { finding, file }) = verify::verify(&self.layout, digest, &pace)? else {
            return Ok(());
        };
        match (finding, file) {
            (Finding::Intact(size), _) => self.scrubbed_bytes.inc_by(size),
            (Finding::Damaged(reason), Some(file)) => self.quarantine.add(digest, file, &reason),
            (Finding::Damaged(_) | Finding::Absent, _) => {}
        }
        Ok(())
    }
}
