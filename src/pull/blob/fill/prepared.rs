//! The file of a blob, made while its registry is asked: the first byte of an answer does not wait for the disk after
//! it has waited for the registry.
//!
//! Only of a blob whose size a manifest of the repository states: what a client invents makes no file. What the
//! registry says of the size counts; a file that was made for another size is not used.

use tokio::task::JoinHandle;

use crate::reference::Digest;
use crate::store::{Error, Ingest, Owner, Store};
use crate::support::tasks::Tasks;

/// An ingest that is being begun. Dropped, it leaves nothing behind.
pub(crate) struct Prepared {
    size: u64,
    owner: Owner,
    begun: Option<JoinHandle<Result<Ingest, Error>>>,
    tasks: Tasks,
}

impl Prepared {
    /// Begins to receive `digest`, of `size` bytes, from `owner`.
    pub(crate) fn new(store: &Store, digest: Digest, size: u64, owner: Owner, tasks: &Tasks) -> Self {
        let store = store.clone();
        let begun = tasks.spawn(async move { store.begin(digest, Some(size), owner).await });
        Self { size, owner, begun: Some(begun), tasks: tasks.clone() }
    }

    /// The ingest, if it is for `owner` and as many bytes as the registry says; `None` if it is not.
    pub(crate) async fn take(mut self, size: Option<u64>, owner: Owner) -> Option<Result<Ingest, Error>> {
        if size != Some(self.size) || owner != self.owner {
            return None;
        }
        // Of one that panicked nothing is left: it is begun anew.
        self.begun.take()?.await.ok()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        let tasks = self.tasks.clone();
        self.tasks.spawn_if_running(async move {
            // What removes a file belongs on a blocking thread.
            if let Ok(Ok(ingest)) = begun.await {
                let _ = tasks.spawn_blocking(move || drop(ingest)).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::pull::blob::BlobRange;
    use crate::pull::for_tests::{self, Parts};
    use crate::reference::Repository;

    static LAYER: [u8; 300_000] = [7; 300_000];

    /// Waits until so many files are being written.
    async fn until_written(parts: &Parts, count: usize) {
        let ingest = parts.directory.path().join("store/ingest");
        let is_so = || std::fs::read_dir(&ingest).map_or(0, Iterator::count) == count;
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the file is not made, or left");
    }

    #[tokio::test]
    async fn no_answer_waits_for_the_registry_and_then_for_the_disk_and_a_refusal_leaves_no_file() {
        let (parts, app): (_, Repository) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        parts.declare_size(&app, digest, LAYER.len() as u64);
        let gate = parts.registry.fail_download(&app, for_tests::outage());
        let context = for_tests::pull(&app);
        let refused = parts.blobs.find(&context, digest, BlobRange::Whole);
        let meanwhile = async {
            until_written(&parts, 1).await;
            gate.add_permits(1);
        };
        let (refused, ()) = tokio::join!(refused, meanwhile);
        assert!(refused.is_err());
        until_written(&parts, 0).await;
    }

    #[tokio::test]
    async fn a_manifest_that_states_another_size_than_the_registry_costs_nothing() {
        let (parts, app): (_, Repository) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        parts.declare_size(&app, digest, 5);
        let found = parts.blobs.find(&for_tests::pull(&app), digest, BlobRange::Whole).await.unwrap();
        assert_eq!(crate::pull::blob::tests::read(found).await.unwrap(), LAYER);
        parts.blobs.settle(Duration::from_secs(10)).await;
        assert!(parts.blobs.has(digest).await);
        until_written(&parts, 0).await;
    }
}
