//! What lies in `quarantine/`: how many bytes it is, and its removal, oldest first.
//!
//! Damaged blobs are evidence and of no use to a pull: they count towards the budget like blobs and are the first to go
//! when space is needed. Deliberately not here: what is damaged (`quarantine`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::layout::Layout;
use crate::store::metrics::gauge_value;
use crate::support::metrics::IntGauge;

/// The files in quarantine, as they were last measured. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct QuarantineFiles {
    layout: Layout,
    bytes: Arc<AtomicU64>,
    gauge: IntGauge,
}

impl QuarantineFiles {
    /// The quarantine of `layout`, which counts as empty until it is measured. `gauge` mirrors its bytes.
    pub(in crate::store) fn new(layout: Layout, gauge: IntGauge) -> Self {
        Self { layout, bytes: Arc::default(), gauge }
    }

    /// Bytes in quarantine.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts the files anew: they are few, and an operator may have removed some. Blocks.
    pub(in crate::store) fn measure(&self) {
        let bytes = list(&self.layout).iter().map(|file| file.bytes).sum();
        self.bytes.store(bytes, Ordering::Relaxed);
        self.gauge.set(gauge_value(bytes));
    }

    /// Removes the oldest until `wanted` bytes are free, or all are gone. Blocks.
    pub(in crate::store) fn free(&self, wanted: u64) {
        let Ok(_change) = self.layout.change() else { return };
        let mut freed = 0;
        for file in list(&self.layout) {
            if freed >= wanted {
                break;
            }
            freed += file.bytes * u64::from(file.remove());
        }
        self.measure();
    }
}

/// Removes the oldest until at most `blobs_max` are left. Blocks.
pub(super) fn keep_newest(layout: &Layout, blobs_max: usize) {
    let files = list(layout);
    let too_many = files.len().saturating_sub(blobs_max);
    for file in files.iter().take(too_many) {
        file.remove();
    }
}

/// A blob in quarantine.
struct Quarantined {
    path: PathBuf,
    /// When it was moved, as its name says it.
    moved_at: u64,
    bytes: u64,
}

impl Quarantined {
    /// Whether it is gone now. Its reason goes with it.
    fn remove(&self) -> bool {
        let removed = fs::remove_file(&self.path).or_else(|_| fs::remove_dir_all(&self.path));
        if let Err(error) = &removed {
            tracing::warn!(path = %self.path.display(), %error, "a file in quarantine cannot be removed");
            return false;
        }
        let mut reason = self.path.clone().into_os_string();
        reason.push(".reason");
        // A reason without its blob is a few bytes.
        let _ = fs::remove_file(reason);
        true
    }
}

/// The oldest first.
fn list(layout: &Layout) -> Vec<Quarantined> {
    let Ok(entries) = fs::read_dir(layout.quarantine()) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let bytes = entry.metadata().ok().filter(fs::Metadata::is_file).map_or(0, |found| found.len());
            Some(Quarantined { moved_at: time_of(&path)?, path, bytes })
        })
        .collect();
    files.sort_by_key(|file| file.moved_at);
    files
}

/// The extension is the time of the move; a reason has another.
fn time_of(path: &Path) -> Option<u64> {
    path.extension()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    #[test]
    fn the_oldest_damaged_blobs_go_first_and_their_bytes_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let gauge = Registry::new().gauge("store_quarantine_bytes", "of a test").unwrap();
        let files = QuarantineFiles::new(layout.clone(), gauge);
        files.measure();
        assert_eq!(files.bytes(), 0, "there is no quarantine yet");
        fs::create_dir(layout.quarantine()).unwrap();
        for moved_at in [9, 10, 100] {
            fs::write(layout.quarantine().join(format!("aa.{moved_at}")), [0; 50]).unwrap();
            fs::write(layout.quarantine().join(format!("aa.{moved_at}.reason")), "why").unwrap();
        }
        files.measure();
        assert_eq!((files.bytes(), files.gauge.get()), (150, 150));
        files.free(51);
        let left: Vec<_> =
            fs::read_dir(layout.quarantine()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() == 2 && left.contains(&"aa.100".into()), "{left:?}");
        assert_eq!(files.bytes(), 50);
        keep_newest(&layout, 0);
        files.measure();
        assert_eq!(files.bytes(), 0);
    }
}
