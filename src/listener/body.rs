//! The body of an answer: no bytes, bytes in memory, or chunks as they come, some of them still in a file.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use crate::support::body_chunk::BodyChunk;

/// What can end a response body early.
pub type BodyError = Box<dyn StdError + Send + Sync>;

type Chunks = Pin<Box<dyn Stream<Item = Result<BodyChunk, BodyError>> + Send>>;

/// The body of every response. Only a connection of this module can send it, because only a connection knows what to
/// do with a chunk that is still in a file.
pub struct Body(Content);

enum Content {
    Empty,
    Full(Bytes),
    Stream(Chunks),
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
    pub fn stream(chunks: impl Stream<Item = Result<BodyChunk, BodyError>> + Send + 'static) -> Self {
        Self(Content::Stream(Box::pin(chunks)))
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyChunk, BodyError>>> {
        match std::mem::replace(&mut self.0, Content::Empty) {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(bytes.into()))),
            Content::Stream(mut chunks) => {
                let next = chunks.as_mut().poll_next(cx);
                self.0 = Content::Stream(chunks);
                next
            }
        }
    }

    /// Bytes left, where that is known before they come.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.0 {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(bytes.len() as u64),
            Content::Stream(_) => None,
        }
    }
}
