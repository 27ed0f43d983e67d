//! What a service answers with: nothing, bytes in memory, or pieces as they come, some of them still in a file.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use crate::support::body_chunk::BodyChunk;

/// What can end a response body early.
pub type BodyError = Box<dyn StdError + Send + Sync>;

type Pieces = Pin<Box<dyn Stream<Item = Result<BodyChunk, BodyError>> + Send>>;

/// The body of every response. Only a connection of this module can send it, because only that knows what to do with
/// a piece of a file.
pub struct Body(Content);

enum Content {
    Empty,
    Full(Bytes),
    Pieces(Pieces),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self(Content::Empty)
    }

    /// All bytes at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Content::Empty } else { Content::Full(bytes) })
    }

    /// Bytes as they come. An error ends the connection, so that the body is seen to be short.
    pub fn pieces(pieces: impl Stream<Item = Result<BodyChunk, BodyError>> + Send + 'static) -> Self {
        Self(Content::Pieces(Box::pin(pieces)))
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyChunk, BodyError>>> {
        match std::mem::replace(&mut self.0, Content::Empty) {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(bytes.into()))),
            Content::Pieces(mut pieces) => {
                let next = pieces.as_mut().poll_next(cx);
                self.0 = Content::Pieces(pieces);
                next
            }
        }
    }

    /// Bytes left, where that is known before they come.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.0 {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(bytes.len() as u64),
            Content::Pieces(_) => None,
        }
    }
}
