//! What can go wrong with the store, and whose fault it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reference::Digest;

/// A failure of the store. Cloneable, because one failure is told to every reader of a flight.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the disk's or the installation's fault.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// There is no room for it within the budget, and nothing more can be evicted.
    #[error("no room in the store for {needed} bytes")]
    Full {
        /// Bytes that were wanted.
        needed: u64,
    },
    /// The disk failed a moment ago; it is left alone for a while.
    #[error("the store's disk failed a moment ago and is left alone for a while")]
    Paused,
    /// Another daemon has the store.
    #[error("the store {} is in use by another larder; stop it or set another [store] path", .0.display())]
    Locked(PathBuf),
    /// The tree was written by a version that this one does not know.
    #[error(
        "the store {} has format {found:?}, this larder knows {known:?}; use the larder that wrote it or another [store] path",
        path.display()
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
        /// What this version writes.
        known: &'static str,
    },
    /// The bytes are not those of the digest; upstream's fault.
    #[error("content of {expected} arrived with digest {actual}")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More bytes than declared or allowed; upstream's fault.
    #[error("content of {digest} is longer than {limit} bytes")]
    TooLong {
        /// What was asked for.
        digest: Digest,
        /// The declared size or the limit.
        limit: u64,
    },
    /// Fewer bytes than declared; upstream's fault.
    #[error("content of {digest} ended after {got} of {expected} bytes")]
    TooShort {
        /// What was asked for.
        digest: Digest,
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// Bytes on disk failed their check; the blob has been set aside.
    #[error("cached content of {digest} is damaged: {reason}")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// How it shows.
        reason: String,
    },
}

impl Error {
    /// An operating system error with its context.
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether it is the fault of our disk or its lack of room: reason to pass content through instead of storing it.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Full { .. } | Self::Paused)
    }

    /// Whether the filesystem is mounted read-only.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::Full { .. } => "store_full",
            Self::Paused => "store_paused",
            Self::Locked(_) => "store_locked",
            Self::Format { .. } => "store_format",
            Self::Mismatch { .. } => "digest_mismatch",
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
            Self::Damaged { .. } => "damaged",
        }
    }
}
