//! Prefetch: a client that was given an image manifest by its digest asks for its config and layers next.
//!
//! Promises: blobs are fetched as the same caller, so that nothing is fetched that it could not ask for itself; a few at
//! a time; never after a `HEAD`, a tag or an index, never in the background, and never while the rate limit of the
//! principal that would be asked as is nearly used up. No request waits for a prefetch, and none fails by one.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use super::access::Access;
use super::answer::{AnswerSource, ManifestAnswer};
use super::blob::Blobs;
use super::context::PullContext;
use crate::reference::{Document, Kind};
use crate::support::tasks::Tasks;

/// Blobs of one image at a time: as many as containerd asks for.
const BLOBS_AT_ONCE: usize = 3;
/// Images at a time; the next one is not prefetched.
const IMAGES_MAX: usize = 8;

/// Prefetches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Prefetch {
    access: Access,
    blobs: Blobs,
    permits: Arc<Semaphore>,
    tasks: Tasks,
}

impl Prefetch {
    pub(crate) fn new(access: Access, blobs: Blobs, tasks: Tasks) -> Self {
        Self { access, blobs, permits: Arc::new(Semaphore::new(IMAGES_MAX)), tasks }
    }

    /// Begins to fetch what an image manifest lists, if the manifest was fetched from upstream just now.
    pub(crate) fn begin(&self, context: &PullContext, answer: &ManifestAnswer) {
        // A manifest from the store was pulled before, and its blobs with it.
        if answer.source != AnswerSource::Fill {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let Ok(Document { kind: Kind::Image(children), .. }) =
            Document::parse(&answer.bytes, Some(&answer.media_type))
        else {
            return;
        };
        let (prefetch, context) = (self.clone(), context.clone());
        self.tasks.spawn(async move {
            if prefetch.access.is_budget_low(&context).await {
                return;
            }
            let digests = children.into_iter().map(|child| child.digest);
            let fetch = |digest| prefetch.blobs.prefetch(&context, digest);
            stream::iter(digests).for_each_concurrent(BLOBS_AT_ONCE, fetch).await;
            drop(permit);
        });
    }
}
