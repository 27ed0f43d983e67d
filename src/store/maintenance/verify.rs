//! Verifying blobs as a whole: each is hashed and its digest compared with its name, in the background at a bounded
//! rate, or at once for `larder verify`.
//!
//! Pages that were read are dropped from the page cache, so that verifying a cold store does not push out what is warm.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::reference::{Algorithm, Digest};
use crate::store::disk::file_identity::FileIdentity;
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::store::{open, quarantine};
use crate::support::clock::Clock;

/// Bytes of one read.
const READ_BYTES: usize = 1024 * 1024;

/// The result for one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Its digest is right; how many bytes it has.
    Intact(u64),
    /// Its digest is wrong or it cannot be read, and why.
    Damaged(String),
    /// It is gone: evicted or moved to quarantine meanwhile.
    Absent,
}

/// The result for one blob, and for which file under its name.
pub(crate) struct Looked {
    pub(crate) finding: Finding,
    pub(crate) file: Option<FileIdentity>,
}

impl Looked {
    fn damaged(file: Option<FileIdentity>, reason: String) -> Self {
        Self { finding: Finding::Damaged(reason), file }
    }
}

/// How a blob is read.
pub(crate) struct Pace<'a> {
    /// Bytes a second at most; `None` for no limit.
    pub(crate) rate: Option<u64>,
    /// Ends the reading early.
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
}

/// Hashes one blob; `None` if it was stopped before the end. Blocks.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn verify(layout: &Layout, digest: &Digest, pace: &Pace<'_>) -> Result<Option<Looked>, Error> {
    let path = layout.blob(digest);
    let file = match layout::open_regular(&path) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Some(Looked { finding: Finding::Absent, file: None })),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Some(Looked::damaged(FileIdentity::at(&path), e.to_string())));
        }
        Err(e) => return Err(Error::io("open", &path)(e)),
    };
    let identity = Some(FileIdentity::of(&file).map_err(Error::io("inspect", &path))?);
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; READ_BYTES];
    let mut size = 0;
    let begun = Instant::now();
    loop {
        if (pace.is_stopped)() {
            return Ok(None);
        }
        let count = match std::io::Read::read(&mut &file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) => return Ok(Some(Looked::damaged(identity, format!("reading at {size}: {e}")))),
        };
        hasher.update(&buffer[..count]);
        let length = std::num::NonZeroU64::new(count as u64);
        let _ = fadvise(&file, size, length, Advice::DontNeed);
        size += count as u64;
        if let Some(rate) = pace.rate {
            let due = Duration::from_secs_f64(size as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    let actual = hasher.finish();
    if actual == *digest {
        Ok(Some(Looked { finding: Finding::Intact(size), file: identity }))
    } else {
        Ok(Some(Looked::damaged(identity, format!("its content has digest {actual}"))))
    }
}

/// Every blob by its file name, in the order of the directories.
pub(crate) fn digests(layout: &Layout) -> impl Iterator<Item = Digest> {
    let named = |algorithm| {
        let entries = fs::read_dir(layout.blobs(algorithm)).into_iter().flatten().flatten();
        let digests = entries.filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok());
        digests.filter(move |digest| digest.algorithm() == algorithm)
    };
    Algorithm::ALL.into_iter().flat_map(named)
}

/// Verifies a store from outside of its daemon, whether one runs or not: blobs are immutable, and a blob that is moved
/// to quarantine is absent for the daemon.
pub struct Verifier {
    layout: Layout,
}

impl Verifier {
    /// The store at `path`.
    ///
    /// # Errors
    /// There is none, or it has another format.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let layout = Layout::new(path);
        open::require_format(&layout)?;
        Ok(Self { layout })
    }

    /// Every blob in the store.
    pub fn digests(&self) -> Vec<Digest> {
        digests(&self.layout).collect()
    }

    /// Verifies one blob; with `repair` the file that was found damaged is moved to quarantine, so that the next pull
    /// fetches the blob anew. One that has replaced it meanwhile stays. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn verify(&self, digest: &Digest, repair: bool) -> Result<Finding, Error> {
        let pace = Pace { rate: None, is_stopped: &|| false };
        let Some(Looked { finding, file }) = verify(&self.layout, digest, &pace)? else {
            return Ok(Finding::Absent);
        };
        if let (Finding::Damaged(reason), Some(file), true) = (&finding, file, repair) {
            quarantine::set_aside(&self.layout, digest, file, reason, Clock::system().now())?;
        }
        Ok(finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_verified_by_its_own_algorithm_and_a_stopped_verification_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for algorithm in Algorithm::ALL {
            fs::create_dir_all(layout.blobs(algorithm)).unwrap();
            let digest = Digest::computed(algorithm, b"intact");
            fs::write(layout.blob(&digest), b"intact").unwrap();
            let finding = |is_stopped| {
                let pace = Pace { rate: None, is_stopped: &|| is_stopped };
                verify(&layout, &digest, &pace).unwrap().map(|looked| looked.finding)
            };
            assert_eq!(finding(true), None);
            assert_eq!(finding(false), Some(Finding::Intact(6)));
            assert!(digests(&layout).any(|found| found == digest));
            fs::write(layout.blob(&digest), b"wrong!").unwrap();
            assert!(matches!(finding(false), Some(Finding::Damaged(_))));
        }
        fs::write(layout.blobs(Algorithm::Sha512).join(Digest::of(b"x").hex()), b"x").unwrap();
        assert_eq!(digests(&layout).count(), 2, "a file in the directory of another algorithm is no blob");
    }
}
