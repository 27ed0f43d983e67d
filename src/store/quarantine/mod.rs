//! Quarantine: blobs that failed a check are moved away from their name, with the reason beside them, so that the next
//! reader fetches them anew and an operator can see what the disk did.
//!
//! Promises: the file that failed the check is moved, and never a sound one that has taken its name since. A file that
//! cannot be moved, on a filesystem that takes no writes, is remembered and not opened again.

pub(super) mod files;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::reference::Digest;
use crate::store::disk::file_identity::FileIdentity;
use crate::store::disk::health::Health;
use crate::store::error::Error;
use crate::store::index::Index;
use crate::store::layout::{self, Layout};
use crate::store::metrics::Metrics;
use crate::store::quarantine::files::QuarantineFiles;
use crate::store::read::open_blobs::OpenBlobs;
use crate::support::bounded_map::BoundedMap;
use crate::support::clock::{Clock, Timestamp};

/// Blobs in quarantine at most; a further one replaces the oldest, so that a failing disk does not fill itself up.
const BLOBS_MAX: usize = 32;
/// Files that are remembered because they could not be moved; of more, the first is opened and checked again.
const REMEMBERED_MAX: usize = 4_096;

/// Moves damaged blobs out of a store that serves. Cheap to clone.
#[derive(Clone)]
pub(super) struct Quarantine {
    layout: Layout,
    clock: Clock,
    index: Index,
    open_blobs: Arc<OpenBlobs>,
    files: QuarantineFiles,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// The files that could not be moved, or not yet, until they are replaced.
    remembered: Arc<Mutex<BoundedMap<Digest, FileIdentity>>>,
}

impl Quarantine {
    pub(super) fn new(
        layout: Layout,
        clock: Clock,
        index: Index,
        open_blobs: Arc<OpenBlobs>,
        files: QuarantineFiles,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let remembered = Arc::new(Mutex::new(BoundedMap::new(REMEMBERED_MAX)));
        Self { layout, clock, index, open_blobs, files, health, metrics, remembered }
    }

    /// Moves the file that was found damaged into quarantine; it counts as absent from then on, also if it cannot be
    /// moved. Blocks.
    pub(super) fn add(&self, digest: &Digest, file: FileIdentity, reason: &str) {
        self.open_blobs.forget(digest);
        let changed = self.layout.change().and_then(|change| {
            let moved = set_aside(&self.layout, digest, file, reason, self.clock.now());
            drop(change);
            moved
        });
        if changed.is_ok() {
            self.forget(digest);
        }
        match changed {
            Ok(true) => {
                self.open_blobs.removals().add(*digest);
                self.index.remove(*digest);
                self.metrics.quarantined.inc();
                self.files.measure();
                self.health.record_damage(*digest);
            }
            Ok(false) => self.index.recheck(*digest),
            Err(error) => {
                self.remember(*digest, file);
                self.metrics.quarantine_failures.inc();
                let cause = error.cause();
                tracing::error!(%digest, reason, %error, cause, "a damaged blob cannot be moved to quarantine; it is not used any more");
            }
        }
    }

    /// This very file was found damaged: it is not opened until it was looked at where it lies, or was replaced.
    pub(super) fn remember(&self, digest: Digest, file: FileIdentity) {
        self.remembered.lock().insert(digest, file);
    }

    /// What has the name of a blob may be opened.
    pub(super) fn forget(&self, digest: &Digest) {
        self.remembered.lock().remove(digest);
    }

    /// Whether this very file was found damaged and could not be moved, or not yet.
    pub(super) fn remembers(&self, digest: &Digest, file: FileIdentity) -> bool {
        self.remembered.lock().peek(digest) == Some(&file)
    }
}

/// Moves the file of a blob if it is still the one that was found damaged; `false` if it is gone or was replaced.
/// Blocks.
///
/// # Errors
/// The disk; then the file is where it was.
pub(super) fn set_aside(
    layout: &Layout,
    digest: &Digest,
    file: FileIdentity,
    reason: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let from = layout.blob(digest);
    if FileIdentity::at(&from) != Some(file) {
        return Ok(false);
    }
    layout.make_directory(&layout.quarantine())?;
    // Leaves space for one more.
    files::keep_newest(layout, BLOBS_MAX - 1);
    let name = format!("{}.{}", digest.hex(), now.0);
    let to = layout.quarantine().join(&name);
    let moved = layout::publish(&from, &to);
    match FileIdentity::at(&to) {
        Some(found) if found == file => {}
        // A sound blob was committed between the look and the move.
        Some(_) => return put_back(layout, &to, &from).map(|()| false),
        None => return moved.map(|()| false),
    }
    if !from.exists() {
        let _ = fs::remove_file(layout.checks_of(digest));
    }
    tracing::error!(%digest, reason, moved_to = %to.display(), "a damaged blob was moved to quarantine");
    let written = moved.and_then(|()| {
        layout.write_small(&layout.quarantine().join(format!("{name}.reason")), reason.as_bytes())
    });
    if let Err(error) = written {
        tracing::warn!(%digest, %error, cause = error.cause(), "the reason is not recorded beside a blob in quarantine");
    }
    Ok(true)
}

/// Gives a blob its name back, unless another has it by now: they are equal.
fn put_back(layout: &Layout, from: &Path, to: &Path) -> Result<(), Error> {
    if let Err(error) = layout::publish_new(from, to) {
        layout.remove(from)?;
        tracing::debug!(%error, cause = error.cause(), "a blob was replaced twice while it was verified");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Algorithm;

    #[test]
    fn a_sound_blob_that_took_the_name_of_the_damaged_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.blobs(Algorithm::Sha256), layout.quarantine(), layout.ingest()] {
            fs::create_dir_all(directory).unwrap();
        }
        let digest = Digest::of(b"sound");
        let path = layout.blob(&digest);
        fs::write(&path, b"bad").unwrap();
        let damaged = FileIdentity::at(&path).unwrap();
        let replacement = layout.temporary("new");
        fs::write(&replacement, b"sound").unwrap();
        layout::publish(&replacement, &path).unwrap();
        let set_aside = |file| set_aside(&layout, &digest, file, "a test", Timestamp(1)).unwrap();
        assert!(!set_aside(damaged));
        assert_eq!(fs::read(&path).unwrap(), b"sound");
        assert_eq!(fs::read_dir(layout.quarantine()).unwrap().count(), 0);

        // It came between the look and the move.
        let moved = layout.quarantine().join("moved");
        layout::publish(&path, &moved).unwrap();
        put_back(&layout, &moved, &path).unwrap();
        assert_eq!((fs::read(&path).unwrap(), moved.exists()), (b"sound".to_vec(), false));
        fs::write(&moved, b"sound too").unwrap();
        put_back(&layout, &moved, &path).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), moved.exists()),
            (b"sound".to_vec(), false),
            "the newest stays"
        );

        assert!(set_aside(FileIdentity::at(&path).unwrap()));
        assert!(!path.exists());
        assert_eq!(fs::read_dir(layout.quarantine()).unwrap().count(), 2, "the bytes and the reason");
    }
}
