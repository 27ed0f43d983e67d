//! Following: every client reads a blob up to the watermark; a hit is a flight that has landed.
//!
//! A follower never hurries or holds up the fill. Its end is told exactly once: all bytes, or an error, after which
//! the connection must be closed so that the body is seen to be short.

use bytes::Bytes;
use tokio::sync::watch;

use super::error::Error;
use super::flight::Progress;
use crate::store::{self, Blob, Growing, Store};

/// Bytes a read of a growing file.
const PIECE: u64 = 64 * 1024;

/// A part of a blob, byte for byte.
#[derive(Debug)]
pub struct BlobBody {
    source: Source,
    at: u64,
    end: Option<u64>,
}

enum Source {
    Committed { blob: Blob, store: Store },
    Following(watch::Receiver<Progress>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Committed { .. } => "Committed",
            Self::Following(_) => "Following",
        })
    }
}

impl BlobBody {
    pub(super) fn committed(blob: Blob, store: Store) -> Self {
        let end = Some(blob.size());
        Self { source: Source::Committed { blob, store }, at: 0, end }
    }

    pub(super) fn following(progress: watch::Receiver<Progress>, size: Option<u64>) -> Self {
        Self { source: Source::Following(progress), at: 0, end: size }
    }

    /// Narrows the body to the bytes from `start` up to, not including, `end`.
    pub fn slice(&mut self, start: u64, end: u64) {
        self.at = start;
        self.end = Some(self.end.map_or(end, |size| size.min(end)));
    }

    /// The next bytes; `None` when all have been handed out.
    ///
    /// # Errors
    /// The rest cannot be had. What was handed out before is right, or will never be completed.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.end.is_some_and(|end| self.at >= end) {
            return None;
        }
        let read = match &mut self.source {
            Source::Committed { blob, store } => read_committed(blob, store, self.at, self.end).await,
            Source::Following(progress) => read_growing(progress, self.at, self.end).await,
        };
        match read {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => {
                self.at += bytes.len() as u64;
                Some(Ok(bytes))
            }
            Err(error) => {
                self.end = Some(self.at);
                Some(Err(error))
            }
        }
    }
}

async fn read_committed(blob: &Blob, store: &Store, at: u64, end: Option<u64>) -> Result<Bytes, Error> {
    let read = blob.read(at, end.unwrap_or(blob.size())).await;
    if let Err(store::Error::Damaged { digest, reason }) = &read {
        store.quarantine(*digest, reason.clone()).await;
    }
    Ok(read?)
}

/// The next bytes of a flight; empty at the end of the blob.
async fn read_growing(
    progress: &mut watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
) -> Result<Bytes, Error> {
    let has_more = |progress: &Progress| match progress {
        Progress::Filling { readable, .. } => *readable > at,
        other => other.is_over(),
    };
    // An error means that the flight is over and gone; its last word is still there.
    let _ = progress.wait_for(has_more).await;
    let (growing, up_to): (Growing, u64) = match &*progress.borrow_and_update() {
        Progress::Filling { growing, readable, .. } => (growing.clone(), *readable),
        Progress::Landed { growing, size } => (growing.clone(), *size),
        Progress::Failed(error) => return Err(error.clone()),
        Progress::Asking => return Err(Error::Abandoned),
    };
    let up_to = up_to.min(end.unwrap_or(u64::MAX)).min(at + PIECE);
    if up_to <= at {
        return Ok(Bytes::new());
    }
    let read = growing.read(at, (up_to - at) as usize).await;
    read.map_err(|error| {
        tracing::error!(%error, at, "a growing file cannot be read");
        Error::Abandoned
    })
}
