//! Where the next bytes of a body come from, and what a look there brings.

use std::sync::Arc;

use tokio::sync::watch;

use super::refetch::RefetchOfBody;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::parts::partial::Partial;
use crate::pull::blob::past_the_disk::passthrough::Passthrough;
use crate::pull::blob::past_the_disk::window::WindowReader;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::error::Error;
use crate::pull::metrics::PassedBytes;
use crate::store::Blob;
use crate::support::body_chunk::BodyChunk;

/// Where a body is: what its next bytes are read from.
pub(super) enum BodyState {
    /// A blob in the store.
    Stored(Blob),
    /// A flight; and whether a range far ahead may be asked for by itself.
    Following { progress: watch::Receiver<Progress>, may_jump: bool },
    /// A window on upstream's body, past the disk, that several clients share.
    Shared(Box<WindowReader>),
    /// Nothing is open yet: upstream, past the disk, from where the body is narrowed to.
    Unopened,
    /// Upstream, past the disk, and why.
    Passthrough(Box<Passthrough>, PassedBytes),
    /// Upstream's whole blob, which also comes in the place of what was handed over and is not there any more.
    Again(Arc<RefetchOfBody>),
    /// Parts that are kept; what is missing of them is fetched and kept first.
    Partial(Arc<Partial>),
    /// Upstream, out of order, until the flight gets there; the fill is given the bytes.
    OutOfOrder(Box<SourceBody>, watch::Receiver<Progress>),
}

impl BodyState {
    /// A flight that is just joined, or that has caught up.
    pub(super) fn following(progress: watch::Receiver<Progress>) -> Self {
        Self::Following { progress, may_jump: true }
    }
}

/// What one look at the source brought.
pub(super) enum Next {
    /// The next bytes; a piece from upstream may be empty.
    Chunk(BodyChunk),
    /// The proper end.
    End,
    ChangeTo(BodyState),
}

impl Next {
    /// A source ends at byte `at` of a body up to `end`: the proper end of a blob of unknown size.
    ///
    /// # Errors
    /// Any other has ended short.
    pub(super) fn end_of(at: u64, end: Option<u64>) -> Result<Self, Error> {
        match end {
            None => Ok(Self::End),
            Some(end) => Err(Error::ShortBody { missing: end - at }),
        }
    }
}
