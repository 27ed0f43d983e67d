//! Threads for the requests to a directory.
//!
//! A file system that hangs keeps a thread in the kernel for as long as it hangs, whatever the time limit of the
//! request. So these requests have few threads of their own: the daemon's blocking threads are not among them, and once
//! all are stuck a request waits a moment for one and fails.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::tier::error::{Error, ErrorKind};

/// Requests at the same time, stuck ones included: a few for each layer that is read or written.
const THREADS: usize = 16;
/// How long a request waits for a thread: on a busy node others are done by then.
const THREAD_WAIT: Duration = Duration::from_secs(1);

/// The threads. Dropped, those that are stuck are left behind.
pub(super) struct FileThreads {
    runtime: Option<Runtime>,
    places: Arc<Semaphore>,
}

impl FileThreads {
    /// # Errors
    /// No thread can be started.
    pub(super) fn new() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(THREADS).thread_name("tier-files");
        Ok(Self { runtime: Some(builder.build()?), places: Arc::new(Semaphore::new(THREADS)) })
    }

    /// Carries out `request`, whose blocking calls are on these threads. Given up by its caller, it goes on and keeps
    /// its place.
    ///
    /// # Errors
    /// That of `request`, or that every thread is in use.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let place = tokio::time::timeout(THREAD_WAIT, Arc::clone(&self.places).acquire_owned()).await;
        let (Some(runtime), Ok(Ok(place))) = (&self.runtime, place) else {
            return Err(Error::new(ErrorKind::Unavailable, "its file system does not answer"));
        };
        let task = runtime.spawn(async move {
            let result = request.await;
            drop(place);
            result
        });
        task.await.unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable, error.to_string())))
    }

    /// The same for one blocking call.
    ///
    /// # Errors
    /// That of `call`, or that every thread is in use.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |why: String| Error::new(ErrorKind::Unavailable, why);
        self.run(async move {
            let called =
                tokio::task::spawn_blocking(call).await.map_err(|error| failed(error.to_string()))?;
            called.map_err(|error| failed(error.to_string()))
        })
        .await
    }
}

impl Drop for FileThreads {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl fmt::Debug for FileThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileThreads")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_takes_few_threads_and_none_of_the_daemons() {
        let threads = FileThreads::new().unwrap();
        let mut stuck = Vec::new();
        for _ in 0..THREADS {
            let (release, hangs) = mpsc::channel::<()>();
            stuck.push(release);
            let called = threads.call(move || Ok(hangs.recv().is_ok()));
            assert!(tokio::time::timeout(Duration::from_millis(10), called).await.is_err(), "it hangs");
        }
        // It does not wait for a thread for long.
        assert_eq!(threads.call(|| Ok(())).await.unwrap_err().kind, ErrorKind::Unavailable);
        drop(stuck);
        while threads.places.available_permits() < THREADS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        threads.call(|| Ok(())).await.unwrap();
    }
}
