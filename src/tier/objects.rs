//! What is asked of an object store, as a trait: so that everything else here is tested without one, and compiles
//! without the crate that speaks to them.

use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;

use super::error::Error;
use crate::support::clock::Timestamp;

/// The chunks of an object.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send + Sync>>;

/// A stream that only one thread at a time polls, as one that others may hold a reference to.
struct Shareable<S>(Mutex<Pin<Box<S>>>);

impl<S: Stream> Stream for Shareable<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.0.get_mut().as_mut().poll_next(cx)
    }
}

/// The chunks of a stream.
pub(super) fn shareable(stream: impl Stream<Item = Result<Bytes, Error>> + Send + 'static) -> Chunks {
    Box::pin(Shareable(Mutex::new(Box::pin(stream))))
}

/// The whole of a body; `None` if it has more than `bytes_max` bytes.
///
/// # Errors
/// What the body says.
pub(super) async fn read_whole(
    mut body: impl Stream<Item = Result<Bytes, Error>> + Unpin,
    bytes_max: usize,
) -> Result<Option<Bytes>, Error> {
    let mut whole = BytesMut::with_capacity(bytes_max);
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if whole.len() + chunk.len() > bytes_max {
            return Ok(None);
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(Some(whole.freeze()))
}

/// An object, its body to come.
pub(super) struct Object {
    /// Bytes of the whole object.
    pub(super) size: u64,
    /// When it was written, by the clock of the store.
    pub(super) modified: Timestamp,
    pub(super) body: Chunks,
}

/// An object of a list.
pub(super) struct Listed {
    pub(super) key: String,
    /// Bytes of it.
    pub(super) size: u64,
    /// When it was written, by the clock of the store.
    pub(super) modified: Timestamp,
}

/// The objects of a list, in any order.
pub(super) type List<'a> = Pin<Box<dyn Stream<Item = Result<Listed, Error>> + Send + 'a>>;

/// What an object that is written may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    /// Whatever is there.
    Anything,
    /// Nothing: [`super::ErrorKind::Exists`] if there is one. A store that does not know the condition answers
    /// [`super::ErrorKind::Unsupported`].
    Nothing,
}

/// An object store. Requests are not bounded in time here.
pub(super) trait Objects: Send + Sync + Debug {
    /// Waits until the credential of the store is at hand; `None` where none has to be fetched.
    fn credential(&self) -> Option<BoxFuture<'_, Result<(), Error>>> {
        None
    }

    /// An object, from its first byte on.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, Error>>;

    /// Writes a small object.
    fn put<'a>(&'a self, key: &'a str, content: Bytes, replace: Replace) -> BoxFuture<'a, Result<(), Error>>;

    /// Begins to write a large object.
    fn begin<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Box<dyn Multipart>, Error>>;

    /// Deletes an object; one that is not there may be an error or none.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), Error>>;

    /// The objects whose keys begin with `directory`, which ends with a slash.
    fn list<'a>(&'a self, directory: &str) -> List<'a>;
}

/// A large object that is being written, in parts of equal size but the last. It is not there before it is completed.
pub(super) trait Multipart: Send {
    /// Writes the next part.
    fn part(&mut self, content: Bytes) -> BoxFuture<'static, Result<(), Error>>;

    /// Makes it an object.
    fn complete(&mut self) -> BoxFuture<'_, Result<(), Error>>;

    /// Throws its parts away.
    fn abort(&mut self) -> BoxFuture<'_, Result<(), Error>>;
}
