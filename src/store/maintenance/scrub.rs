//! Looking at everything again: each blob hashed and compared with its name, in the background at a bounded rate, or
//! at once for `larder verify`.
//!
//! Reads are taken out of the page cache behind us, so that a look at a cold store does not push out what is warm.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::reference::{Digest, Hasher};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::store::maintenance::quarantine;
use crate::support::clock::Clock;

/// Bytes a second in the background: a hundredth of what a disk does.
pub(crate) const BACKGROUND_RATE: u64 = 20 * 1024 * 1024;
/// Bytes a read.
const PIECE: usize = 1024 * 1024;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is what its name says; how many bytes it has.
    Intact(u64),
    /// It is not, and why.
    Damaged(String),
    /// It is gone: evicted or set aside meanwhile.
    Absent,
}

/// Hashes one blob. Blocks, no faster than `rate` bytes a second if there is one.
pub(crate) fn look_at(layout: &Layout, digest: &Digest, rate: Option<u64>) -> Result<Finding, Error> {
    let path = layout.blob(digest);
    let file = match layout::open_regular(&path) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Finding::Absent),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Ok(Finding::Damaged(e.to_string())),
        Err(e) => return Err(Error::io("open", &path)(e)),
    };
    let (mut hasher, mut buffer, mut size) = (Hasher::default(), vec![0; PIECE], 0);
    let begun = Instant::now();
    loop {
        let count = match std::io::Read::read(&mut &file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) => return Ok(Finding::Damaged(format!("reading at {size}: {e}"))),
        };
        hasher.update(&buffer[..count]);
        let length = std::num::NonZeroU64::new(count as u64);
        let _ = fadvise(&file, size, length, Advice::DontNeed);
        size += count as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(size as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    match hasher.finish() {
        actual if actual == *digest => Ok(Finding::Intact(size)),
        actual => Ok(Finding::Damaged(format!("its content has digest {actual}"))),
    }
}

/// Every blob by its name.
pub(crate) fn digests(layout: &Layout) -> Vec<Digest> {
    let entries = fs::read_dir(layout.blobs()).into_iter().flatten().flatten();
    entries.filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?).ok()).collect()
}

/// A store that is looked at from outside, whether a daemon serves from it or not: blobs are immutable, and setting one
/// aside is a rename that a daemon takes for an absent blob.
pub struct Verifier {
    layout: Layout,
}

impl Verifier {
    /// The store at `path`.
    ///
    /// # Errors
    /// There is none, or it is of another format.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let layout = Layout::new(path);
        crate::store::open::known_format(&layout)?;
        Ok(Self { layout })
    }

    /// Everything there is to look at.
    pub fn digests(&self) -> Vec<Digest> {
        digests(&self.layout)
    }

    /// Looks at one blob; with `repair` a damaged one is set aside, so that the next pull fetches it anew. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn verify(&self, digest: &Digest, repair: bool) -> Result<Finding, Error> {
        let finding = look_at(&self.layout, digest, None)?;
        if let (Finding::Damaged(reason), true) = (&finding, repair) {
            quarantine::set_aside(&self.layout, digest, reason, Clock::system().now())?;
        }
        Ok(finding)
    }
}
