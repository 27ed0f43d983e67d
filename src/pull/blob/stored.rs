//! Blobs in the store: found, and justified for a caller.

use crate::pull::access::rights::Use;
use crate::pull::access::{Access, Purpose};
use crate::pull::answer::{AnswerSource, Stale};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::{Digest, MediaType};
use crate::store::{Blob, Member, Store};

/// A blob on disk that may be served to the caller it was looked up for.
pub(crate) struct StoredBlob {
    pub(crate) blob: Blob,
    /// Set if the repository has it as a manifest.
    pub(crate) media_type: Option<MediaType>,
    pub(crate) source: AnswerSource,
    pub(crate) stale: Option<Stale>,
}

/// The stored blobs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StoredBlobs {
    store: Store,
    access: Access,
}

impl StoredBlobs {
    pub(crate) fn new(store: Store, access: Access) -> Self {
        Self { store, access }
    }

    /// A blob on disk that the repository may hand out to the caller; its registry is asked first where that is not
    /// known. `None` if the blob is not on disk, if its registry never delivered it, or if the registry's answer does
    /// not show that the repository has it: the content will.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn find(
        &self,
        context: &PullContext,
        digest: Digest,
    ) -> Result<Option<StoredBlob>, Error> {
        let Self { store, access } = self;
        let repository = context.repository();
        let Some((blob, member)) = store.received_blob(repository, digest).await else { return Ok(None) };
        // The record of one that has ended may still be on a disk that hangs.
        let member = member.filter(|_| !access.membership().has_ended(repository, digest));
        let (member, media_type) = match member {
            Some(Member::Manifest(media_type)) => (true, Some(media_type)),
            other => (other.is_some(), None),
        };
        if member && access.known().open_cached(context, Use::Read).await {
            return Ok(Some(StoredBlob { blob, media_type, source: AnswerSource::Hit, stale: None }));
        }
        let size = Some(blob.size());
        let error = match access.ask_for_blob(context, digest, size).await {
            Ok(head) if !head.shows_blob_of(size) => return Ok(None),
            Ok(_) => {
                return Ok(Some(StoredBlob {
                    blob,
                    media_type,
                    source: AnswerSource::Revalidated,
                    stale: None,
                }));
            }
            Err(error) => error,
        };
        if !member && !error.is_denied() && matches!(access.purpose(context).await, Purpose::Deliver(_)) {
            // The registry cannot say that the repository has it; a mirror of it may deliver it to this caller.
            return Ok(None);
        }
        // In an outage the word of another node, by which the blob came from the shared tier, counts as it did then.
        let is_member = member || access.shared().is_member(repository, digest);
        let held_since = if is_member { access.known().held_since(context, &error).await } else { None };
        match held_since {
            Some(confirmed_at) => {
                let stale = Some(Stale { confirmed_at, error });
                Ok(Some(StoredBlob { blob, media_type, source: AnswerSource::Stale, stale }))
            }
            None => Err(error),
        }
    }

    /// A blob on disk; says nothing about who may read it. One that the disk does not give counts as absent: it comes
    /// from upstream.
    pub(crate) async fn open(&self, digest: Digest) -> Option<Blob> {
        self.store.blob(digest).await
    }

    /// Waits until what was to be written later is on disk, a few seconds at most.
    pub(crate) async fn flush(&self) {
        self.store.flush_for_a_while().await;
    }

    /// Sets a damaged blob aside; the next reader fetches it anew.
    pub(crate) async fn quarantine(&self, blob: &Blob, reason: String) {
        self.store.quarantine(blob, reason).await;
    }
}
