//! What runs on this node is what will be pulled here again: the blobs of its images are evicted after all others.
//!
//! Promises: nothing of it is pinned, the budget holds as ever; a pod that is gone protects nothing any more; the work and
//! the memory are bounded. What is in the store of an image is read from the store itself, so that images count which were
//! pulled before this process began.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::reference::{Digest, Image};
use crate::store::Store;
use crate::support::shutdown::Shutdown;

/// Pods come and go together: further changes within this time are looked at once.
const SETTLE: Duration = Duration::from_secs(2);
/// What an image consists of is read again after this: a tag may name something else, and what was not here may be.
const AGAIN: Duration = Duration::from_secs(300);
/// Blobs that are protected at most: those of some 2,000 images.
const BLOBS_MAX: usize = 65_536;

/// Keeps the protected blobs of `store` in step with the images of running pods, until `shutdown`; `shown` is told how many.
pub(super) async fn run(
    mut images: watch::Receiver<HashSet<Image>>,
    store: Store,
    shown: impl Fn(usize),
    mut shutdown: Shutdown,
) {
    loop {
        let round = async {
            let running = images.borrow_and_update().clone();
            let blobs = blobs_of(&running, &store).await;
            shown(blobs.len());
            store.protect(blobs);
            sleep(SETTLE).await;
            timeout(AGAIN, images.changed()).await.is_ok_and(|changed| changed.is_err())
        };
        tokio::select! {
            is_over = round => if is_over { return },
            () = shutdown.requested() => return,
        }
    }
}

/// The manifests and blobs of these images, as far as they are known here.
async fn blobs_of(images: &HashSet<Image>, store: &Store) -> HashSet<Digest> {
    let mut blobs = HashSet::new();
    for image in images {
        let contents = store.contents(&image.repository, &image.reference).await;
        if let Ok(Some(contents)) = contents {
            blobs.extend(contents.digests);
        }
        if blobs.len() > BLOBS_MAX {
            break;
        }
    }
    blobs
}
