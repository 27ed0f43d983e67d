//! The rest of a body that the disk does not take, on its way into a window: the body itself if nothing was written,
//! else what its download still brings.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::pull::blob::fill::piece_queue::{Piece, Received};
use crate::pull::blob::source::body::SourceBody;
use crate::pull::error::Error;

/// What comes after the bytes that were written.
pub(crate) enum Rest {
    /// Everything: upstream's body, which is open already.
    Body(Box<SourceBody>),
    /// What the writer was writing when the disk refused it, then what its queue brings.
    Queue(Option<Piece>, mpsc::Receiver<Piece>),
}

/// What one look at the rest brought.
pub(crate) enum NextOfRest {
    /// The next bytes.
    Bytes(Bytes),
    /// The proper end.
    End,
    /// The next bytes are not to be had here: the download broke off, or they lie in a file that the disk may not give
    /// back. Readers go on by themselves.
    Interrupted,
}

impl Rest {
    /// The next bytes.
    ///
    /// # Errors
    /// Upstream.
    pub(crate) async fn next(&mut self) -> Result<NextOfRest, Error> {
        let piece = match self {
            Self::Body(body) => {
                return match body.next().await {
                    Some(bytes) => Ok(NextOfRest::Bytes(bytes?)),
                    None => Ok(NextOfRest::End),
                };
            }
            Self::Queue(first, queue) => match first.take() {
                Some(piece) => Some(piece),
                None => queue.recv().await,
            },
        };
        // What the window keeps of it counts as memory of the windows.
        Ok(match piece.map(|piece| piece.received) {
            Some(Received::Bytes(bytes)) => NextOfRest::Bytes(bytes),
            Some(Received::End) => NextOfRest::End,
            Some(Received::InFile(_)) | None => NextOfRest::Interrupted,
        })
    }
}
