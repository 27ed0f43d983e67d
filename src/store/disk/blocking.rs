//! Blocking work away from the async threads, with a panic turned into an error of the store.

use std::path::Path;

use tokio::task::JoinError;

use crate::store::disk::calls::{Call, DiskCalls};
use crate::store::disk::calls_under_way::HANGS_AFTER;
use crate::store::error::Error;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// Those of `work`; a panic of `work` becomes [`Error::Io`].
pub(in crate::store) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(unfinished(panic)),
    }
}

/// The error for work that panicked.
fn unfinished(panic: JoinError) -> Error {
    Error::io("finish work on", Path::new("the store"))(std::io::Error::other(panic))
}

/// As [`run`], for content that an answer waits for: [`HANGS_AFTER`] at most, and not at all while the disk hangs. Work
/// that has begun goes on, and what it made is dropped when it ends.
///
/// # Errors
/// Those of `work`; [`Error::Hangs`].
pub(in crate::store) async fn run_bounded<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if calls.is_hanging() {
        return Err(Error::Hangs);
    }
    let calls = calls.clone();
    let counted = move || {
        let _call = calls.begin();
        work()
    };
    tokio::time::timeout(HANGS_AFTER, run(counted)).await.unwrap_or(Err(Error::Hangs))
}

/// As [`run_bounded`], for a record, or what else is made durable while an answer waits for it: where that takes long,
/// no further record is waited for until it is done, and content is stored all the same.
///
/// # Errors
/// As [`run_bounded`].
pub(in crate::store) async fn record<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if calls.is_hanging() || calls.records_hang() {
        return Err(Error::Hangs);
    }
    let calls = calls.clone();
    let counted = move || {
        let _call = calls.begin_record();
        work()
    };
    tokio::time::timeout(HANGS_AFTER, run(counted)).await.unwrap_or(Err(Error::Hangs))
}

/// Runs `work`, which reads from the disk of the store, on a thread that may block. Waits no longer than the disk gives
/// nothing back for [`HANGS_AFTER`]; work that has begun goes on, and what it found is dropped when it ends. Of several
/// calls one after the other, `work` says when each has ended ([`Call::goes_on`]).
///
/// # Errors
/// [`Error::Hangs`]; a panic of `work` becomes [`Error::Io`].
pub(in crate::store) async fn read<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce(&mut Call<'_>) -> T + Send + 'static,
) -> Result<T, Error> {
    let place = calls.place_to_read().await.ok_or(Error::Hangs)?;
    let calls_of_work = calls.clone();
    let mut reading = tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut call = calls_of_work.begin_read();
        work(&mut call)
    });
    loop {
        match tokio::time::timeout_at(calls.reads_hang_at(), &mut reading).await {
            Ok(Ok(read)) => return Ok(read),
            Ok(Err(panic)) => return Err(unfinished(panic)),
            Err(_) if calls.reads_hang() => return Err(Error::Hangs),
            Err(_) => {}
        }
    }
}

/// As [`read`], for what a command looks at, and nothing else waits for: a frozen filesystem still gives what it has.
///
/// # Errors
/// Those of `work`; [`Error::Hangs`].
pub(in crate::store) async fn look<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce(&mut Call<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if calls.reads_hang() {
        return Err(Error::Hangs);
    }
    read(&DiskCalls::of_command(), work).await?
}

/// As [`look`], for what a command changes. Its operator is told that the disk hangs once no call of `work` ends for
/// [`HANGS_AFTER`]. It is not begun while the disk hangs.
///
/// # Errors
/// Those of `work`; [`Error::Hangs`]: what has begun goes on.
pub(in crate::store) async fn command<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce(&mut Call<'_>) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if calls.is_hanging() {
        return Err(Error::Hangs);
    }
    look(calls, work).await
}

/// As [`read`], for what may be absent: what cannot be read counts as absent.
pub(in crate::store) async fn find<T: Send + 'static>(
    calls: &DiskCalls,
    work: impl FnOnce() -> Option<T> + Send + 'static,
) -> Option<T> {
    found(read(calls, move |_| work()).await)
}

/// What was read of something that may be absent. A panic is logged and counts as absence.
pub(in crate::store) fn found<T>(read: Result<Option<T>, Error>) -> Option<T> {
    read.unwrap_or_else(|error| {
        if !matches!(error, Error::Hangs) {
            tracing::error!(%error, cause = error.cause(), "reading the store panicked; what was looked for counts as absent");
        }
        None
    })
}
