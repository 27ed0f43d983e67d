//! The objects of the tier: their keys, and requests for them, each of which ends in bounded time.
//!
//! Promises: a request that fails is counted by its kind; that an object is absent, or is there already, is an answer.
//!
//! Deliberately not here: whether the tier is to be asked now (`health`), and what objects hold.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::error::{Error, ErrorKind};
use super::layout::Layout;
use super::metrics::{Failure, Metrics};
use super::objects::{Multipart, Object, Objects, Replace, read_whole};
use crate::support::clock::Clock;
use crate::support::tasks::Tasks;

/// What asks for the objects of the tier.
pub(super) struct Bucket {
    pub(super) layout: Layout,
    pub(super) objects: Arc<dyn Objects>,
    /// How long the head of an answer may take.
    pub(super) head_timeout: Duration,
    /// That of this node, and not of the store.
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// What goes on in the background.
    pub(super) tasks: Tasks,
}

impl Bucket {
    /// An object, from its first byte on.
    pub(super) async fn get(&self, key: &str) -> Result<Object, Error> {
        self.bounded(self.objects.get(key)).await
    }

    /// The content of a small object; `None` if it has more than `bytes_max` bytes.
    pub(super) async fn get_whole(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Error> {
        let reading = async {
            let object = self.objects.get(key).await?;
            read_whole(object.body, bytes_max).await
        };
        self.bounded(reading).await
    }

    /// Writes a small object.
    pub(super) async fn put(&self, key: &str, content: Bytes, replace: Replace) -> Result<(), Error> {
        self.bounded(self.objects.put(key, content, replace)).await
    }

    /// Begins to write a large object.
    pub(super) async fn begin(&self, key: &str) -> Result<Box<dyn Multipart>, Error> {
        self.bounded(self.objects.begin(key)).await
    }

    /// Deletes an object. Some stores say that there was none, which is an error of its kind here, and some do not.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        self.bounded(self.objects.delete(key)).await
    }

    /// Sees to it that there is no such object.
    pub(super) async fn ensure_absent(&self, key: &str) -> Result<(), Error> {
        match self.delete(key).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A request that is answered within the time that a head may take.
    pub(super) async fn bounded<T>(
        &self,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let wait = self.head_timeout;
        let result = timeout(wait, request).await.unwrap_or_else(|_| Err(Error::timed_out(wait)));
        if let Err(error) = &result
            && error.kind != ErrorKind::NotFound
            && error.kind != ErrorKind::Exists
        {
            self.count_error(error);
        }
        result
    }

    /// A request that may take as long as `wait`.
    pub(super) async fn within<T>(
        &self,
        wait: Duration,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = timeout(wait, request).await.unwrap_or_else(|_| Err(Error::timed_out(wait)));
        result.inspect_err(|error| self.count_error(error))
    }

    fn count_error(&self, error: &Error) {
        self.metrics.errors.count(Failure::Request(error.kind));
    }
}
