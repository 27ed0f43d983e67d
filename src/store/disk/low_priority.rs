//! Work on a thread of the lowest priority, for the processor and, since the block layer goes by the same value, for
//! the disk.

use std::path::Path;

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::store::error::Error;

/// The lowest priority there is.
const NICE_MAX: i32 = 19;

/// Does `work` on such a thread, and joins it.
///
/// # Errors
/// Those of `work`; no thread can be started; a panic of `work`.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, result) = tokio::sync::oneshot::channel();
    let at_low_priority = move || {
        // Of this thread alone: Linux takes the id of a thread for that of a process here.
        if let Err(error) = setpriority_process(Some(gettid()), NICE_MAX) {
            tracing::debug!(%error, "work in the background runs at the usual priority");
        }
        let _ = done.send(work());
    };
    let failed = |error| Error::io("do work in the background on", Path::new("the store"))(error);
    let thread = std::thread::Builder::new().name("larder-low".to_owned()).spawn(at_low_priority);
    let thread = thread.map_err(failed)?;
    let result = result.await;
    // The thread has sent its result or panicked, so it ends at once.
    let joined = thread.join();
    match (result, joined) {
        (Ok(result), Ok(())) => result,
        _ => Err(failed(std::io::Error::other("the thread panicked"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_thread_of_the_work_has_the_low_priority() {
        let priority = || Ok(rustix::process::getpriority_process(Some(gettid())).unwrap());
        let before = priority().unwrap();
        assert_eq!((run(priority).await.unwrap(), priority().unwrap()), (NICE_MAX, before));
    }

    #[tokio::test]
    async fn a_panic_of_the_work_is_an_error() {
        let panics = || -> Result<(), Error> { panic!("on purpose") };
        assert!(run(panics).await.is_err());
    }
}
