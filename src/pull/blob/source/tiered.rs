//! Whole blobs from the shared tier, where the registry confirms that the caller may have them.
//!
//! The tier saves the transfer, and not the proof: a body of the tier is used only if the registry says now that the
//! repository has the digest, of the same size, or if the caller's right and the membership are proved already. Without
//! a fresh right of the caller the tier is not asked before that; without that confirmation no lease is claimed and no
//! use is recorded. Anything but a plain yes is left to the request for the content, which the registry answers. The
//! registry is asked once, for a few seconds, and not where its answers were slow a while ago. What comes is
//! unverified, as from a mirror.
//!
//! Deliberately not here: parts of blobs. A part cannot be verified by the digest, so that it comes from the registry.

use super::UpstreamBlobs;
use super::upstream_body::UpstreamBody;
use crate::pull::access::membership::AnswerNumber;
use crate::pull::access::{CONFIRM_WAIT, Purpose};
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::Digest;
use crate::tier::{self, ClaimSlot, Lookup, Prospect, Role};
use crate::upstream::BlobHead;

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

/// What is known of a caller's right to a blob, and of its membership.
enum Confirmation {
    /// Both are proved; or they were, and the registry cannot be asked.
    Proved,
    /// The registry has the blob, by its answer of now, and the last answer about it before that.
    Answered(BlobHead, AnswerNumber),
    /// The registry took too long.
    Late,
    /// The registry does not confirm it.
    Denied,
}

/// Whether an object of the tier may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usable {
    /// The caller may have it, and it has the size that the registry says.
    Yes,
    /// The registry has another size.
    OtherSize,
    /// The registry may have another size: what it delivers decides.
    Doubtful,
    /// The registry does not say that.
    No,
}

/// What it means that the registry answered with `head` about a blob of which the tier has `size` bytes and a manifest
/// says `declared`.
fn is_usable(head: BlobHead, declared: Option<u64>, size: u64) -> Usable {
    let agrees = declared == Some(size) || head.size == Some(size);
    match head.size {
        _ if agrees && head.shows_blob_of(Some(size)) => Usable::Yes,
        // A manifest may lie, and then it must not cost others the object.
        Some(_) if !agrees && head.has_digest => Usable::OtherSize,
        Some(_) if !agrees => Usable::Doubtful,
        _ => Usable::No,
    }
}

impl UpstreamBlobs {
    /// Asks for a whole blob: the shared tier, else the registry.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open_whole(&self, context: &PullContext, digest: Digest) -> Result<Opened, Error> {
        let (registry, membership) = (context.repository().registry(), self.access().membership());
        let alone = Share::Yes(ClaimSlot::default());
        if !self.tier().shares(registry) {
            return self.open_sharing(context, digest, Share::No).await;
        }
        if membership.has_ended(context.repository(), digest) {
            return self.open_sharing(context, digest, alone).await;
        }
        match self.tier().prospect(registry, digest) {
            Prospect::Look => {}
            Prospect::WriteOnly => return self.open_sharing(context, digest, alone).await,
            Prospect::LeftAlone => return self.open_sharing(context, digest, Share::No).await,
        }
        if self.slow().has(registry) && !self.is_proved(context, digest).await {
            self.tier().record_unconfirmed();
            return self.open_sharing(context, digest, alone).await;
        }
        let known = match self.access().purpose(context).await {
            Purpose::Deliver(_) => None,
            // The tier is asked nothing for a caller without a right.
            _ => match self.confirm(context, digest).await {
                Confirmation::Denied => return self.open_sharing(context, digest, alone).await,
                Confirmation::Late => return self.open_after_silence(context, digest).await,
                confirmation => Some(confirmation),
            },
        };
        let found = match self.tier().blob(registry, digest).await {
            Lookup::Found(found) => found,
            Lookup::Absent => return self.open_leased(context, digest, known).await,
            Lookup::Unavailable => return self.open_sharing(context, digest, Share::No).await,
        };
        let confirmation = match known {
            Some(confirmation) => confirmation,
            None => self.confirm(context, digest).await,
        };
        match self.usable(context, digest, &confirmation, found.size) {
            Usable::Yes => {
                self.record_confirmed(context, digest, &confirmation).await;
                self.tier().record_use(registry, digest, found.modified);
                Ok(Opened { body: self.body_from_tier(context, digest, found), share: Share::No })
            }
            Usable::OtherSize => {
                self.tier().record_fault(registry, digest, tier::Fault::Wrong);
                self.open_sharing(context, digest, alone).await
            }
            Usable::Doubtful => {
                self.tier().forget_present(registry, digest);
                self.open_sharing(context, digest, alone).await
            }
            Usable::No if matches!(confirmation, Confirmation::Late) => {
                self.open_after_silence(context, digest).await
            }
            Usable::No => self.open_sharing(context, digest, Share::No).await,
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

    /// Asks the registry for a blob that it did not confirm in time. If it delivers, it is only slow to confirm.
    async fn open_after_silence(&self, context: &PullContext, digest: Digest) -> Result<Opened, Error> {
        let opened = self.open_sharing(context, digest, Share::Yes(ClaimSlot::default())).await?;
        self.slow().record(context.repository().registry());
        Ok(opened)
    }

    /// Asks for a whole blob that the tier lacks: of a large one one node is to ask the registry, and the others wait
    /// for what that one writes. A digest that the registry does not confirm is no reason for a lease: anyone can
    /// publish an index that lists it.
    async fn open_leased(
        &self,
        context: &PullContext,
        digest: Digest,
        known: Option<Confirmation>,
    ) -> Result<Opened, Error> {
        let registry = context.repository().registry();
        let alone = Share::Yes(ClaimSlot::default());
        let declared = self.access().membership().declared_size(context.repository(), digest);
        if !self.tier().is_leased(registry, declared.unwrap_or(u64::MAX)) {
            return self.open_sharing(context, digest, alone).await;
        }
        let confirmation = match known {
            Some(confirmation) => confirmation,
            None => self.confirm(context, digest).await,
        };
        // A manifest may state any size, and others join this download, or wait for this node: the registry's own
        // counts.
        let confirmation = match confirmation {
            Confirmation::Proved => self.ask(context, digest).await,
            other => other,
        };
        let size = match &confirmation {
            Confirmation::Answered(head, _) => head.size,
            Confirmation::Late => return self.open_after_silence(context, digest).await,
            Confirmation::Proved | Confirmation::Denied => None,
        };
        let size = match size {
            Some(size) if self.tier().is_leased(registry, size) => size,
            _ => return self.open_sharing(context, digest, alone).await,
        };
        match self.tier().role(registry, digest, size).await {
            Role::Alone => self.open_sharing(context, digest, alone).await,
            Role::Writer(slot) => self.open_sharing(context, digest, Share::Yes(slot)).await,
            Role::Waiter(found, slot) => match self.usable(context, digest, &confirmation, size) {
                Usable::Yes => {
                    self.record_confirmed(context, digest, &confirmation).await;
                    let body = self.body_from_tier(context, digest, found);
                    Ok(Opened { body, share: Share::OnceClaimed(slot) })
                }
                _ => self.open_sharing(context, digest, Share::No).await,
            },
        }
    }

    /// What is known of the caller's right and the membership; the registry is asked where that is not enough.
    async fn confirm(&self, context: &PullContext, digest: Digest) -> Confirmation {
        if self.is_proved(context, digest).await {
            Confirmation::Proved
        } else {
            self.ask(context, digest).await
        }
    }

    /// Whether the caller's right and the membership are proved, and a manifest states the size.
    async fn is_proved(&self, context: &PullContext, digest: Digest) -> bool {
        let (access, repository) = (self.access(), context.repository());
        let membership = access.membership();
        membership.declared_size(repository, digest).is_some()
            && membership.is_confirmed(repository, digest).await
            && matches!(access.purpose(context).await, Purpose::Deliver(_))
    }

    /// What the registry says of the caller's right and of the membership, unless it was slow to say that a while ago.
    async fn ask(&self, context: &PullContext, digest: Digest) -> Confirmation {
        let (access, repository) = (self.access(), context.repository());
        let declared = access.membership().declared_size(repository, digest);
        if self.slow().has(repository.registry()) {
            return Confirmation::Denied;
        }
        let before = access.membership().last_answer_about(repository, digest);
        let confirming = access.confirm_blob(context, digest, declared);
        match tokio::time::timeout(CONFIRM_WAIT, confirming).await {
            Ok(Ok(head)) => {
                self.slow().forget(repository.registry());
                Confirmation::Answered(head, before)
            }
            Ok(Err(error)) if declared.is_some() && self.holds(context, digest, &error).await => {
                Confirmation::Proved
            }
            Ok(Err(error)) => {
                tracing::debug!(%repository, %digest, %error, "the registry does not confirm a blob for the shared tier");
                Confirmation::Denied
            }
            Err(_) => Confirmation::Late,
        }
    }

    /// Records the membership of a blob that the registry confirmed by its size, which only the tier knew.
    async fn record_confirmed(&self, context: &PullContext, digest: Digest, confirmation: &Confirmation) {
        if let Confirmation::Answered(_, before) = confirmation {
            self.access().membership().confirm_blob(context.repository(), digest, *before).await;
        }
    }

    /// Whether an object of `size` bytes may be used.
    fn usable(
        &self,
        context: &PullContext,
        digest: Digest,
        confirmation: &Confirmation,
        size: u64,
    ) -> Usable {
        let declared = self.access().membership().declared_size(context.repository(), digest);
        match confirmation {
            Confirmation::Proved if declared == Some(size) => Usable::Yes,
            Confirmation::Answered(head, _) => is_usable(*head, declared, size),
            Confirmation::Proved | Confirmation::Late | Confirmation::Denied => Usable::No,
        }
    }

    /// Whether a blob may come from the shared tier although its registry cannot be asked, which failed with `error`.
    pub(crate) async fn has_tier_in_outage(
        &self,
        context: &PullContext,
        digest: Digest,
        error: &Error,
    ) -> bool {
        self.tier().shares(context.repository().registry()) && self.holds(context, digest, error).await
    }

    /// Whether the caller's right and the membership hold although the registry cannot be asked, which failed with
    /// `error`: they were proved before, or another node shared that everyone may read the blob.
    async fn holds(&self, context: &PullContext, digest: Digest, error: &Error) -> bool {
        let (access, repository, names) = (self.access(), context.repository(), self.names());
        if error.fault() != Fault::Outage || access.membership().has_ended(repository, digest) {
            return false;
        }
        let is_confirmed = access.membership().is_confirmed(repository, digest).await;
        let is_member = is_confirmed
            || access.shared().is_member(repository, digest)
            || names.shared_member(repository, digest).await.is_some();
        if !is_member {
            return false;
        }
        let is_held = access.known().held_since(context, error).await.is_some()
            || names.hold_right(repository, error).await
                && access.known().held_since(context, error).await.is_some();
        if is_held && !is_confirmed {
            // What is stored now is found again while the right is held.
            access.shared().hold_member(repository, digest);
        }
        is_held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_of_another_size_is_used_and_none_is_blamed_for_an_answer_that_says_little() {
        let head = |size, has_digest| BlobHead { size, has_digest };
        for (head, declared, usable) in [
            (head(Some(5), true), None, Usable::Yes),
            (head(Some(5), false), None, Usable::Yes),
            (head(None, true), Some(5), Usable::Yes),
            (head(None, true), None, Usable::No),
            (head(None, false), Some(5), Usable::No),
            (head(Some(6), true), None, Usable::OtherSize),
            (head(Some(6), false), None, Usable::Doubtful),
            (head(Some(5), true), Some(6), Usable::Yes),
            (head(None, true), Some(6), Usable::No),
            // The length of an answer to HEAD may be that of something else.
            (head(Some(6), true), Some(5), Usable::Yes),
            (head(Some(6), false), Some(5), Usable::No),
        ] {
            assert_eq!(is_usable(head, declared, 5), usable, "{head:?} {declared:?}");
        }
    }
}
