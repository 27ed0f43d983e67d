//! How far a download is, as its leader publishes it to all who follow. A value; what changes it is `flight`'s.

use super::content::FlightContent;
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::past_the_disk::window::WindowHandle;
use crate::pull::blob::vouched::Vouched;
use crate::pull::error::Error;

/// How far a download is.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// Upstream has been asked and has not answered.
    Waiting,
    /// Bytes are arriving.
    Filling {
        /// The file that they are read from.
        growing: FlightContent,
        /// Bytes of the whole blob, where upstream said so.
        size: Option<u64>,
        /// Whether a mirror delivers it: what it says of the size does not count before bytes may be served.
        is_mirrored: bool,
        /// The registry's word for the leader: without it only readers that ask as the leader does bring bytes for it.
        vouched: Option<Vouched>,
        /// Bytes that may be served: never the last ones before the digest is verified.
        readable: u64,
    },
    /// All bytes are there and verified.
    Complete {
        /// The file that they are read from.
        growing: FlightContent,
        /// Bytes of the blob.
        size: u64,
    },
    /// The disk does not take the blob. What was written can still be read; the rest goes to the followers past the
    /// disk.
    Detached {
        /// The file with what was written, if anything was.
        growing: Option<FlightContent>,
        /// The bytes written: their hash goes on with the rest, so that the whole is verified as a whole.
        written: HashedStart,
        /// Bytes of the whole blob, where upstream said so.
        size: Option<u64>,
        /// Where followers share what comes after those bytes.
        window: Option<WindowHandle>,
    },
    /// It ended without the whole blob.
    Failed(Error),
}

impl Progress {
    /// Bytes of the whole blob, where upstream said so.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Filling { size, .. } | Self::Detached { size, .. } => *size,
            Self::Complete { size, .. } => Some(*size),
            Self::Waiting | Self::Failed(_) => None,
        }
    }

    /// Bytes of the blob, once all of them were verified.
    pub(crate) fn verified_size(&self) -> Option<u64> {
        match self {
            Self::Complete { size, .. } => Some(*size),
            _ => None,
        }
    }

    /// Whether nothing more will change.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::Detached { .. } | Self::Failed(_))
    }

    /// Bytes that have come so far, on disk or past it: also those that are withheld.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::Filling { growing, .. } => growing.written(),
            Self::Detached { window: Some(window), .. } => window.received(),
            Self::Detached { written, .. } => written.len(),
            Self::Complete { size, .. } => *size,
            Self::Waiting | Self::Failed(_) => 0,
        }
    }

    /// Whether a client reads it in its window.
    pub(crate) fn has_window_reader(&self) -> bool {
        matches!(self, Self::Detached { window: Some(window), .. } if window.has_reader())
    }
}
