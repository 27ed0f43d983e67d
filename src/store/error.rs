//! What can go wrong with the store, and whose fault it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::reference::Digest;
use crate::support::size;

/// A failure of the store. Cloneable, because every follower of a download receives the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the fault of the disk or of the installation.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The answer of the operating system.
        source: Arc<io::Error>,
    },
    /// The bytes do not fit into the budget, and nothing more can be evicted.
    #[error("no space in the store for {}", size::shown(*needed))]
    Full {
        /// Bytes that were wanted.
        needed: u64,
    },
    /// The filesystem has too few inodes for another file, and nothing more can be evicted.
    #[error("the filesystem of the store has too few free inodes for another file")]
    NoInodes,
    /// A large blob that is asked for the first time, and would take the place of others.
    #[error("{needed} bytes would take the place of much that is stored, and are asked for the first time")]
    PassedBy {
        /// Bytes that were wanted.
        needed: u64,
    },
    /// The disk failed a moment ago, and nothing is written until a pause has passed.
    #[error("the disk of the store failed a moment ago; writing is paused")]
    Paused,
    /// The disk answers no call for so long that nothing waits for it any more.
    #[error("the disk of the store hangs: it has not ended a call for seconds")]
    Hangs,
    /// The store was closed: its files belong to the next daemon.
    #[error("the store is closed")]
    Closed,
    /// The daemon may not write where the store is to be, and so there is none that it could serve from.
    #[error(
        "the store {} cannot be opened, since this process may not write there; under systemd mount the other filesystem at \
         /var/lib/private/larder/store and leave [store] path as it is, or set User= and ReadWritePaths= \
         (docs/reference-deployment.md)",
        path.display()
    )]
    NotWritable {
        /// The root of the store.
        path: PathBuf,
        /// The answer of the operating system.
        source: Arc<io::Error>,
    },
    /// Another daemon holds the lock of the store.
    #[error("the store {} is in use by another larder; stop it or set another [store] path", .0.display())]
    Locked(PathBuf),
    /// The tree was written by a version that this one does not know.
    #[error(
        "the store {} has format {found:?}, this larder knows {known:?}; use the larder that wrote it, or go back by the steps of docs/reference-deployment.md (Upgrades)",
        path.display()
    )]
    Format {
        /// The root of the store.
        path: PathBuf,
        /// Content of its `format` file.
        found: String,
        /// Content that this version writes.
        known: &'static str,
    },
    /// The bytes are not those of the digest; the fault of upstream.
    #[error("content of {expected} arrived with digest {actual}")]
    Mismatch {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes that arrived; boxed, so that an error stays small.
        actual: Box<Digest>,
    },
    /// More bytes than declared or allowed; the fault of upstream.
    #[error("content of {digest} is longer than {limit} bytes")]
    TooLong {
        /// The digest that was asked for.
        digest: Digest,
        /// The declared size or the limit, in bytes.
        limit: u64,
    },
    /// Fewer bytes than declared; the fault of upstream.
    #[error("content of {digest} ended after {got} of {expected} bytes")]
    TooShort {
        /// The digest that was asked for.
        digest: Digest,
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// Bytes on disk failed their check.
    #[error("cached content of {digest} is damaged: {reason}")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// The check that failed, and where.
        reason: String,
    },
}

impl Error {
    /// An operating system error with its context.
    pub(super) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether the cause lies on this node, in its disk or its budget: a reason to pass content through to clients
    /// instead of storing it.
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Full { .. }
                | Self::NoInodes
                | Self::PassedBy { .. }
                | Self::Paused
                | Self::Hangs
                | Self::Closed
        )
    }

    /// Whether the filesystem is mounted read-only.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// The text for a client of the data plane: as `Display`, without any path of this node.
    pub fn without_paths(&self) -> String {
        match self {
            Self::Io { what, source, .. } => format!("the store cannot {what} a file: {}", source.kind()),
            Self::Locked(_) => "the store is in use by another larder".to_owned(),
            Self::NotWritable { .. } => "the store cannot be written to".to_owned(),
            Self::Format { .. } => "the store has a format that this larder does not know".to_owned(),
            // A reason may quote the operating system, which names no file.
            Self::Full { .. }
            | Self::NoInodes
            | Self::PassedBy { .. }
            | Self::Paused
            | Self::Hangs
            | Self::Closed
            | Self::Mismatch { .. }
            | Self::TooLong { .. }
            | Self::TooShort { .. }
            | Self::Damaged { .. } => self.to_string(),
        }
    }

    /// The answer of the operating system for a log line, since `Display` leaves it to [`std::error::Error::source`];
    /// empty for other errors.
    pub fn cause(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }

    /// The value of the `reason` label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::Full { .. } => "store_full",
            Self::NoInodes => "store_no_inodes",
            Self::PassedBy { .. } => "store_passed_by",
            Self::Paused => "store_paused",
            Self::Hangs => "store_hangs",
            Self::Closed => "store_closed",
            Self::Locked(_) => "store_locked",
            Self::NotWritable { .. } => "store_not_writable",
            Self::Format { .. } => "store_format",
            Self::Mismatch { .. } => "digest_mismatch",
            Self::TooLong { .. } => "too_long",
            Self::TooShort { .. } => "too_short",
            Self::Damaged { .. } => "damaged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_tells_a_client_a_path_of_this_node() {
        let (digest, path) = (Digest::of(b"x"), Path::new("/var/lib/larder/store/blobs/x"));
        let failed = || io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let errors = [
            Error::io("open", path)(failed()),
            Error::Full { needed: 1 },
            Error::NoInodes,
            Error::PassedBy { needed: 1 },
            Error::Paused,
            Error::Hangs,
            Error::Closed,
            Error::Locked(path.to_owned()),
            Error::NotWritable { path: path.to_owned(), source: Arc::new(failed()) },
            Error::Format { path: path.to_owned(), found: "x".to_owned(), known: "y" },
            Error::Mismatch { expected: digest, actual: digest.into() },
            Error::TooLong { digest, limit: 1 },
            Error::TooShort { digest, expected: 2, got: 1 },
            Error::Damaged { digest, reason: format!("reading at 0: {}", failed()) },
        ];
        for error in errors {
            assert!(!error.without_paths().contains('/'), "{}", error.without_paths());
        }
    }
}
