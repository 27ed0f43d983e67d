//! Whole blobs from the shared tier, where the registry confirms that the caller may have them.
//!
//! The tier saves the transfer, and not the proof: a body of the tier is used only if the registry says now that the
//! repository has the digest, of the same size, or if the caller's right and the membership are proved already. Anything but a plain yes is
//! left to the request for the content, which the registry answers. What comes is unverified, as from a mirror.
//!
//! Deliberately not here: parts of blobs. A part cannot be verified by the digest, so that it comes from the registry.

use std::time::Duration;

use super::source::{UpstreamBlobs, UpstreamBody};
use crate::pull::access::Purpose;
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::Digest;
use crate::tier::{self, ClaimSlot, Lookup, Role};
use crate::upstream::BlobHead;

/// How long the registry may take to confirm a blob, before it is asked for the blob itself instead.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);

/// A whole body, and what the shared tier gets of it.
pub(crate) struct Opened {
    pub(crate) body: UpstreamBody,
    pub(crate) share: Share,
}

/// Whether a blob is written to the shared tier while it is downloaded.
#[derive(Clone)]
pub(crate) enum Share {
    /// It is there, or nothing is known of it.
    No,
    /// It is not there; the place of this node's lease, if it has one.
    Yes(ClaimSlot),
    /// Another node is writing it, unless a claim is here by the time that one is given up.
    OnceClaimed(ClaimSlot),
}

/// What the registry says of content that the tier has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// The caller may have it, and it has that size.
    Yes,
    /// It has another size.
    OtherSize,
    /// It may have another size: what the registry delivers will tell.
    Doubtful,
    /// Nothing that counts.
    Nothing,
}

/// What it means that the registry answered with `head` about a blob of which the tier has `size` bytes and a manifest says
/// `declared`.
fn word_of(head: BlobHead, declared: Option<u64>, size: u64) -> Word {
    let agrees = declared == Some(size) || head.size == Some(size);
    match head.size {
        _ if agrees && head.shows_blob_of(Some(size)) => Word::Yes,
        // A manifest may lie, and then it must not cost others the object.
        Some(_) if !agrees && head.has_digest => Word::OtherSize,
        Some(_) if !agrees => Word::Doubtful,
        _ => Word::Nothing,
    }
}

impl UpstreamBlobs {
    /// Asks for a whole blob: the shared tier, else the registry.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open_whole(&self, context: &PullContext, digest: Digest) -> Result<Opened, Error> {
        let registry = context.repository().registry();
        match self.tier().blob(registry, digest).await {
            Lookup::Found(found) => match self.word_on(context, digest, found.size).await {
                Word::Yes => {
                    Ok(Opened { body: self.body_from_tier(context, digest, found), share: Share::No })
                }
                Word::OtherSize => {
                    self.tier().record_fault(registry, digest, tier::Fault::Wrong);
                    self.open_sharing(context, digest, Share::Yes(ClaimSlot::default())).await
                }
                Word::Doubtful => {
                    self.tier().forget_present(registry, digest);
                    self.open_sharing(context, digest, Share::Yes(ClaimSlot::default())).await
                }
                Word::Nothing => self.open_sharing(context, digest, Share::No).await,
            },
            Lookup::Absent => self.open_leased(context, digest).await,
            Lookup::Unavailable => self.open_sharing(context, digest, Share::No).await,
        }
    }

    async fn open_sharing(
        &self,
        context: &PullContext,
        digest: Digest,
        share: Share,
    ) -> Result<Opened, Error> {
        Ok(Opened { body: self.open(context, digest, 0, None).await?, share })
    }

    /// Asks for a whole blob that the tier lacks: of a large one one node is to ask the registry, and the others wait for what
    /// that one writes.
    async fn open_leased(&self, context: &PullContext, digest: Digest) -> Result<Opened, Error> {
        let registry = context.repository().registry();
        let alone = Share::Yes(ClaimSlot::default());
        let size = match self.size_of_leased(context, digest).await {
            Some(size) if self.tier().is_leased(size) => size,
            _ => return self.open_sharing(context, digest, alone).await,
        };
        match self.tier().role(registry, digest, size).await {
            Role::Alone => self.open_sharing(context, digest, alone).await,
            Role::Writer(slot) => self.open_sharing(context, digest, Share::Yes(slot)).await,
            Role::Waiter(found, slot) => match self.word_on(context, digest, size).await {
                Word::Yes => {
                    let body = self.body_from_tier(context, digest, found);
                    Ok(Opened { body, share: Share::OnceClaimed(slot) })
                }
                _ => self.open_sharing(context, digest, Share::No).await,
            },
        }
    }

    /// The size of a blob that may be leased: a manifest or, if none does, the registry says it.
    async fn size_of_leased(&self, context: &PullContext, digest: Digest) -> Option<u64> {
        let declared = self.access().membership().declared_size(context.repository(), digest);
        if declared.is_some() || !self.tier().is_leased(u64::MAX) {
            return declared;
        }
        let confirming = self.access().confirm_blob(context, digest, None);
        // A hint: a waiter's right is proved by an answer of its own.
        tokio::time::timeout(CONFIRM_WAIT, confirming).await.ok()?.ok()?.size
    }

    /// Whether the caller's right and the membership hold although the registry cannot be asked, which failed with `error`:
    /// they were proved before, or another node was told that everyone may read the blob.
    async fn holds(&self, context: &PullContext, digest: Digest, error: &Error) -> bool {
        let (access, repository, names) = (self.access(), context.repository(), self.names());
        if error.fault() != Fault::Outage {
            return false;
        }
        let is_member = access.membership().is_confirmed(repository, digest).await
            || names.told_member(repository, digest).await.is_some();
        if !is_member {
            return false;
        }
        access.known().held_since(context, error).await.is_some()
            || names.take_over_right(repository).await
                && access.known().held_since(context, error).await.is_some()
    }

    /// Whether the caller may have the blob, and it has `size` bytes, by the registry's word.
    async fn word_on(&self, context: &PullContext, digest: Digest, size: u64) -> Word {
        let (access, repository) = (self.access(), context.repository());
        let membership = access.membership();
        if membership.has_ended(repository, digest) {
            return Word::Nothing;
        }
        let declared = membership.declared_size(repository, digest);
        if declared == Some(size)
            && membership.is_confirmed(repository, digest).await
            && matches!(access.purpose(context).await, Purpose::Deliver(_))
        {
            return Word::Yes;
        }
        let confirming = access.confirm_blob(context, digest, Some(size));
        match tokio::time::timeout(CONFIRM_WAIT, confirming).await {
            Ok(Ok(head)) => word_of(head, declared, size),
            Ok(Err(error)) if declared == Some(size) && self.holds(context, digest, &error).await => {
                Word::Yes
            }
            Ok(Err(error)) => {
                tracing::debug!(%repository, %digest, %error, "the registry does not confirm what the shared tier has");
                Word::Nothing
            }
            Err(_) => Word::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_of_another_size_is_used_and_none_is_blamed_for_an_answer_that_says_little() {
        let head = |size, has_digest| BlobHead { size, has_digest };
        for (head, declared, word) in [
            (head(Some(5), true), None, Word::Yes),
            (head(Some(5), false), None, Word::Yes),
            (head(None, true), Some(5), Word::Yes),
            (head(None, true), None, Word::Nothing),
            (head(None, false), Some(5), Word::Nothing),
            (head(Some(6), true), None, Word::OtherSize),
            (head(Some(6), false), None, Word::Doubtful),
            (head(Some(5), true), Some(6), Word::Yes),
            (head(None, true), Some(6), Word::Nothing),
            // The length of an answer to HEAD may be that of something else.
            (head(Some(6), true), Some(5), Word::Yes),
            (head(Some(6), false), Some(5), Word::Nothing),
        ] {
            assert_eq!(word_of(head, declared, 5), word, "{head:?} {declared:?}");
        }
    }
}
