//! The scrub: verifies every blob in the background, so that damage is found while upstream still has the content.

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::quarantine::Quarantine;
use crate::support::metrics::IntCounter;

use super::verify::{self, Finding, Looked, Pace};

/// Bytes a second: about a hundredth of what a disk does.
const BYTES_PER_SECOND: u64 = 20 * 1024 * 1024;

/// Parts of the store that are scrubbed one after the other, by the second hex digit of a digest: the names of one are
/// in memory meanwhile, 65 bytes each, and the directory is read for each.
const PARTS: u8 = 16;

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

    /// Verifies every blob once, in another order each time: a daemon that is restarted often begins anew each time.
    /// Ends early once `is_stopped`. Blocks.
    pub(crate) fn verify_all(&self, is_stopped: &dyn Fn() -> bool) {
        let mut parts: Vec<u8> = (0..PARTS).collect();
        fastrand::shuffle(&mut parts);
        for part in parts {
            let mut digests = self.digests_of(part);
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
    }

    fn digests_of(&self, part: u8) -> Vec<Digest> {
        let is_in_part = |digest: &Digest| digest.as_bytes().first().is_some_and(|byte| byte % PARTS == part);
        verify::digests(&self.layout).filter(is_in_part).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::World;

    #[tokio::test]
    async fn every_blob_is_in_one_part_of_the_scrub_and_no_part_has_them_all() {
        let world = World::new();
        let repository = "reg.test/app".parse().unwrap();
        let mut stored = Vec::new();
        for n in 0..64_u8 {
            stored.push(world.put(&repository, &[n]).await);
        }
        let scrubber = world.store.0.maintenance.scrubber();
        let parts: Vec<Vec<Digest>> = (0..PARTS).map(|part| scrubber.digests_of(part)).collect();
        assert!(parts.iter().all(|part| part.len() < 32), "{parts:?}");
        let mut scrubbed = parts.concat();
        scrubbed.sort();
        stored.sort();
        assert_eq!(scrubbed, stored);
    }
}
