//! Fetching ahead: whoever was just given an image manifest by its digest will ask for its config and layers next.
//!
//! Promises: as the same caller, so that nothing is fetched that it could not ask for itself; a few at a time; never
//! after a `HEAD`, a tag or an index, and never while the rate limit of whoever would be asked for is nearly used up.
//! Nobody waits for it, nobody's hang-up ends it, and its failures are nobody's: the client's own request will tell.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use crate::pull::access::authorize::Caller;
use crate::pull::blob::follow::Reader;
use crate::pull::blob::lookup::Flown;
use crate::pull::manifest::fetch::ManifestAnswer;
use crate::pull::{AnswerSource, Puller};
use crate::reference::{Digest, Document, Kind, Repository};

/// Blobs of one image at a time: as many as containerd asks for.
const AT_ONCE: usize = 3;
/// Images at a time; the next one is not fetched ahead.
const IMAGES_MAX: usize = 8;

/// Places for images.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(IMAGES_MAX))
}

impl Puller {
    /// Begins to fetch what an image manifest lists, if it was fetched itself just now.
    pub(crate) fn fetch_ahead(&self, repository: &Repository, answer: &ManifestAnswer, caller: &Caller) {
        // What is on disk already was pulled before, and its blobs with it.
        if answer.source != AnswerSource::Fill {
            return;
        }
        let Ok(place) = Arc::clone(&self.0.ahead).try_acquire_owned() else { return };
        let Ok(Document { kind: Kind::Image(children), .. }) =
            Document::parse(&answer.bytes, Some(&answer.media_type))
        else {
            return;
        };
        let reader = self.reader(repository, answer.digest, caller);
        tokio::spawn(async move {
            if reader.puller.is_budget_low(&reader.repository, &reader.caller).await {
                return;
            }
            let digests = children.into_iter().map(|child| child.digest);
            stream::iter(digests).for_each_concurrent(AT_ONCE, |digest| fetch(&reader, digest)).await;
            drop(place);
        });
    }
}

async fn fetch(reader: &Reader, digest: Digest) {
    let Reader { puller, repository, caller, .. } = reader;
    match puller.0.store.blob(digest).await {
        Ok(None) => {}
        // Whether this repository may hand it out is asked when somebody wants it.
        _ => return,
    }
    match puller.fly(repository, digest, caller, None, true).await {
        Ok(Flown::Seat(_, mut progress)) => {
            let _ = progress.wait_for(crate::pull::blob::flight::Progress::is_over).await;
        }
        Ok(Flown::Landed(_)) => {}
        Err(error) => tracing::debug!(%repository, %digest, %error, "not fetched ahead"),
    }
}
