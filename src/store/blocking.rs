//! Blocking work away from the async threads, with a panic turned into an error of the store.

use std::path::Path;

use crate::store::disk_calls::{DiskCalls, HANGS_AFTER};
use crate::store::error::Error;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; a panic of `work` becomes [`Error::Io`].
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(Error::io("finish work on", Path::new("the store"))(std::io::Error::other(panic))),
    }
}

/// As [`run`], for what an answer waits for: [`HANGS_AFTER`] at most, and not at all while the disk hangs. Work that has begun
/// goes on, and what it made is dropped when it ends.
///
/// # Errors
/// Those of `work`; [`Error::Hangs`].
pub(super) async fn run_bounded<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if calls.is_hanging() {
        return Err(Error::Hangs);
    }
    tokio::time::timeout(HANGS_AFTER, run(work)).await.unwrap_or(Err(Error::Hangs))
}

/// Runs `work`, which reads something that may be absent. A panic is logged and counts as absence.
pub(super) async fn find<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "reading a record panicked; the record counts as absent");
            None
        }
    }
}
