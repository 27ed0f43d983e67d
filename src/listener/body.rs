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

/// Learns what becomes of a body. It is dropped with it, also where the client has gone before the end.
pub trait BodyWatch: Send {
    /// So many bytes were handed to the connection.
    fn sent(&mut self, bytes: usize);
    /// No byte follows.
    fn ended(&mut self);
    /// The body ends early.
    fn failed(&mut self, error: &BodyError);
}

/// The body of every response. Only a connection of this module can send it, because only a connection knows what to
/// do with a chunk that is still in a file.
pub struct Body {
    content: Content,
    watch: Option<Box<dyn BodyWatch>>,
}

enum Content {
    Empty,
    Full(Bytes),
    Stream(Chunks),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::of(Content::Empty)
    }

    /// All bytes at once.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::of(if bytes.is_empty() { Content::Empty } else { Content::Full(bytes) })
    }

    /// Bytes as they come. An error ends the connection, so that the body is seen to be short.
    pub fn stream(chunks: impl Stream<Item = Result<BodyChunk, BodyError>> + Send + 'static) -> Self {
        Self::of(Content::Stream(Box::pin(chunks)))
    }

    /// Whether there is no byte, and none will come.
    pub fn is_empty(&self) -> bool {
        self.left() == Some(0)
    }

    fn of(content: Content) -> Self {
        Self { content, watch: None }
    }

    /// The same body, watched by `watch`.
    #[must_use]
    pub fn watched(self, watch: Box<dyn BodyWatch>) -> Self {
        Self { watch: Some(watch), ..self }
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyChunk, BodyError>>> {
        let next = match std::mem::replace(&mut self.content, Content::Empty) {
            Content::Empty => Poll::Ready(None),
            Content::Full(bytes) => Poll::Ready(Some(Ok(bytes.into()))),
            Content::Stream(mut chunks) => {
                let next = chunks.as_mut().poll_next(cx);
                self.content = Content::Stream(chunks);
                next
            }
        };
        if let (Some(watch), Poll::Ready(next)) = (&mut self.watch, &next) {
            match next {
                Some(Ok(chunk)) => {
                    watch.sent(chunk.len());
                    // hyper asks for no more than that.
                    if matches!(self.content, Content::Empty) {
                        watch.ended();
                    }
                }
                Some(Err(error)) => watch.failed(error),
                None => watch.ended(),
            }
        }
        next
    }

    /// Bytes left, where that is known before they come.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.content {
            Content::Empty => Some(0),
            Content::Full(bytes) => Some(bytes.len() as u64),
            Content::Stream(_) => None,
        }
    }
}
