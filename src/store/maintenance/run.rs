//! What the store does by itself while it is open: names for other tools, its budget, looking at everything again,
//! removing records of what is not here any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::reference::Digest;
use crate::store::error::Error;
use crate::store::maintenance::scrub::{self, Finding};
use crate::store::reserve::Disk;
use crate::store::{Store, blocking, maintenance::oci_index, records::expire};
use crate::support::shutdown::Shutdown;

/// When the store is looked at first after a start, and how long after that again.
const SCRUB_AFTER: Duration = Duration::from_secs(10 * 60);
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 86_400);
/// The least urgent there is.
const NICE_MAX: i32 = 19;
/// How often the budget is looked at besides when something is stored.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long `index.json` may lag behind the tags.
const OCI_INDEX_DELAY: Duration = Duration::from_secs(2);

impl Store {
    /// Keeps `index.json` in step with the tags and the store within its budget, scrubs blobs and removes expired records,
    /// until `shutdown`, then closes the index.
    pub async fn maintain(self, shutdown: Shutdown) {
        tokio::join!(self.follow_tags(shutdown.clone()), self.scrub(shutdown));
        self.close().await;
    }

    async fn follow_tags(&self, mut shutdown: Shutdown) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.tags_changed.notified() => {}
                _ = look.tick() => {
                    self.keep_within_budget().await;
                    continue;
                }
                () = shutdown.requested() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(OCI_INDEX_DELAY) => {}
                () = shutdown.requested() => {}
            }
            self.write_oci_index().await;
        }
    }

    /// Closes the index cleanly.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.0);
        let _ = tokio::task::spawn_blocking(move || inner.index.close()).await;
    }

    /// Others fill the disk too, and a budget may have been made smaller.
    async fn keep_within_budget(&self) {
        let store = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            store.0.evict_what_is_missing(0);
            store.capacity(Disk::of(store.path()))
        });
        if let Ok(capacity) = looked.await {
            self.0.metrics.capacity.set(i64::try_from(capacity).unwrap_or(i64::MAX));
        }
    }

    /// Removes what has outlived its content, then looks at every blob again, one after the other at a bounded rate; and
    /// all that again a week later. A daemon that is restarted often begins anew, in another order each time.
    async fn scrub(&self, mut shutdown: Shutdown) {
        let mut wait = SCRUB_AFTER;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.requested() => return,
            }
            self.remove_outlived().await;
            let inner = Arc::clone(&self.0);
            let mut digests =
                tokio::task::spawn_blocking(move || scrub::digests(&inner.layout)).await.unwrap_or_default();
            fastrand::shuffle(&mut digests);
            for digest in digests {
                let look = self.look_at(digest);
                tokio::select! {
                    () = look => {}
                    () = shutdown.requested() => return,
                }
            }
            wait = SCRUB_EVERY;
        }
    }

    async fn remove_outlived(&self) {
        let inner = Arc::clone(&self.0);
        match quietly(move || Ok(expire::remove(&inner.layout, inner.clock.now()))).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(count, "old records of content that is not here any more were removed")
            }
            Err(error) => tracing::warn!(%error, "records could not be looked through"),
        }
    }

    pub(crate) async fn look_at(&self, digest: Digest) {
        let inner = Arc::clone(&self.0);
        let looked = quietly(move || {
            let finding = scrub::look_at(&inner.layout, &digest, Some(scrub::BACKGROUND_RATE))?;
            match &finding {
                Finding::Intact(size) => inner.metrics.scrubbed.inc_by(*size),
                Finding::Damaged(reason) => inner.set_aside(&digest, reason)?,
                Finding::Absent => {}
            }
            Ok(())
        });
        if let Err(error) = looked.await {
            tracing::warn!(%digest, %error, "a blob could not be looked at");
        }
    }

    pub(crate) async fn write_oci_index(&self) {
        let inner = Arc::clone(&self.0);
        if let Err(error) = blocking(move || oci_index::write(&inner.layout)).await {
            tracing::warn!(%error, "index.json could not be written; it serves other tools only");
        }
    }
}

/// Does `work` on a thread that gives way to everybody else, on the processor and, since the block layer goes by the same
/// value, on the disk.
async fn quietly<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (done, result) = tokio::sync::oneshot::channel();
    let quiet = move || {
        // Of this thread alone: Linux takes the number of a thread for one of a process here.
        if let Err(error) = setpriority_process(Some(gettid()), NICE_MAX) {
            tracing::debug!(%error, "the look at the store runs at the usual priority");
        }
        let _ = done.send(work());
    };
    let thread = std::thread::Builder::new().name("larder-scrub".to_owned()).spawn(quiet);
    let gone = |error| Error::io("look at", Path::new("the store"))(error);
    thread.map_err(gone)?;
    result.await.map_err(|error| gone(std::io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_look_gives_way_and_nobody_else_does() {
        let priority = || Ok(rustix::process::getpriority_process(Some(gettid())).unwrap());
        assert_eq!((quietly(priority).await.unwrap(), priority().unwrap()), (NICE_MAX, 0));
    }
}
