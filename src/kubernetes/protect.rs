//! What runs on this node is what will be pulled here again: the blobs of its images are evicted after all others.
//!
//! Promises: nothing of it is pinned, the budget holds as ever; an image counts once a container of it has started, so
//! that a pod that never starts protects nothing, and a pod that is gone or being deleted nothing any more; the work
//! and the memory are bounded, and no namespace takes the protection of another's images. What is in the store of an
//! image is read from the store itself, so that images count which were pulled before this process began.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::state::RunningImages;
use crate::reference::{Digest, Image};
use crate::store::{self, Store};
use crate::support::shutdown::Shutdown;

/// Pods come and go together, and so do the images that they pull: further changes within this time are looked at once.
const SETTLE: Duration = Duration::from_secs(5);
/// What an image consists of is read again after this: a tag may name something else, and what was not here may be.
const AGAIN: Duration = Duration::from_secs(300);
/// Blobs that are protected at most: those of some 2,000 images. Namespaces share them evenly.
const BLOBS_MAX: usize = 65_536;

/// The images of running pods.
#[derive(Default)]
pub(super) struct Running {
    images: watch::Sender<RunningImages>,
    /// Those of all namespaces, in which each manifest that a runtime gets is looked up.
    all: RwLock<HashSet<Image>>,
}

impl Running {
    /// These from now on.
    pub(super) fn change_to(&self, images: RunningImages) {
        self.images.send_if_modified(|before| {
            let is_new = *before != images;
            if is_new {
                *self.all.write() = images.values().flatten().cloned().collect();
                *before = images;
            }
            is_new
        });
    }

    /// More may be in the store of an image: it was fetched, or a runtime got its manifest.
    pub(super) fn look_again(&self, image: &Image) {
        let runs_here = self.all.read().contains(image);
        if runs_here {
            self.images.send_modify(|_| {});
        }
    }
}

/// Keeps the protected blobs of `store` in step with the images of running pods, until `shutdown`; `shown` is told how
/// many.
pub(super) async fn run(running: &Running, store: Store, shown: impl Fn(usize), mut shutdown: Shutdown) {
    let mut images = running.images.subscribe();
    loop {
        let round = async {
            let running = images.borrow_and_update().clone();
            // While the disk does not say what there is, what was protected stays so.
            if let Ok(blobs) = blobs(running, &store, BLOBS_MAX).await {
                shown(blobs.len());
                store.protect(blobs);
            }
            sleep(SETTLE).await;
            let _ = timeout(AGAIN, images.changed()).await;
        };
        tokio::select! {
            () = round => {}
            () = shutdown.requested() => return,
        }
    }
}

/// The blobs of these images that are here, `max` at most: what a namespace leaves of its equal part is for those with
/// more.
///
/// # Errors
/// The disk hangs.
async fn blobs(running: RunningImages, store: &Store, max: usize) -> Result<HashSet<Digest>, store::Error> {
    let mut namespaces: Vec<HashSet<Image>> = running.into_values().collect();
    namespaces.sort_by_key(HashSet::len);
    let (mut all, mut left) = (HashSet::new(), max);
    for (at, images) in namespaces.iter().enumerate() {
        let own = store.digests_of(images, left / (namespaces.len() - at)).await?;
        left -= own.len();
        all.extend(own);
    }
    Ok(all)
}

#[cfg(test)]
#[path = "protect_tests.rs"]
mod tests;
