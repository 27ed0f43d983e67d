//! Quarantine: blobs that failed a check are moved away from their name, with the reason beside them, so that the next
//! reader fetches them anew and an operator can see what the disk did.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::layout::{self, Layout};
use crate::store::open_blobs::OpenBlobs;
use crate::support::clock::{Clock, Timestamp};
use crate::support::metrics::IntCounter;

/// Blobs in quarantine at most; a further one replaces the oldest, so that a failing disk does not fill itself up.
const BLOBS_MAX: usize = 32;

/// Moves damaged blobs out of a store that serves. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Quarantine {
    layout: Layout,
    clock: Clock,
    index: Index,
    open_blobs: Arc<OpenBlobs>,
    quarantined: IntCounter,
}

impl Quarantine {
    pub(super) fn new(
        layout: Layout,
        clock: Clock,
        index: Index,
        open_blobs: Arc<OpenBlobs>,
        quarantined: IntCounter,
    ) -> Self {
        Self { layout, clock, index, open_blobs, quarantined }
    }

    /// Moves a blob into quarantine; it counts as absent from then on. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn add(&self, digest: &Digest, reason: &str) -> Result<(), Error> {
        let _change = self.layout.change()?;
        self.open_blobs.forget(digest);
        if set_aside(&self.layout, digest, reason, self.clock.now())? {
            self.index.remove(*digest);
            self.quarantined.inc();
        }
        Ok(())
    }
}

/// Moves the file of a blob; `false` if it was gone already. Blocks.
///
/// # Errors
/// The disk.
pub(super) fn set_aside(
    layout: &Layout,
    digest: &Digest,
    reason: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    layout.make_directory(&layout.quarantine())?;
    remove_oldest(layout);
    let name = format!("{}.{}", digest.hex(), now.0);
    let to = layout.quarantine().join(&name);
    match layout::publish(&layout.blob(digest), &to) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(false),
        moved => moved?,
    }
    let _ = fs::remove_file(layout.checks_of(digest));
    tracing::error!(%digest, reason, moved_to = %to.display(), "a damaged blob was moved to quarantine");
    layout.write_small(&layout.quarantine().join(format!("{name}.reason")), reason.as_bytes())?;
    Ok(true)
}

/// Leaves space for one more blob.
fn remove_oldest(layout: &Layout) {
    let Ok(entries) = fs::read_dir(layout.quarantine()) else { return };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut blobs: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e != "reason")).collect();
    if blobs.len() < BLOBS_MAX {
        return;
    }
    // The extension is the time of the move.
    blobs.sort_by_key(|path| path.extension().map(OsStr::to_owned));
    for old in &blobs[..=blobs.len() - BLOBS_MAX] {
        let _ = fs::remove_dir_all(old).or_else(|_| fs::remove_file(old));
        let mut reason = old.clone().into_os_string();
        reason.push(".reason");
        let _ = fs::remove_file(reason);
    }
}
