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

use super::BlobSource;
use super::body::SourceBody;
use crate::pull::access::membership::DigestQuestion;
use crate::pull::access::{Access, CONFIRM_WAIT, Purpose};
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::{Digest, Repository};
use crate::tier::{self, ClaimSlot, Found, Lookup, Prospect, Role, Tier};
use crate::upstream::BlobHead;

/// A whole body, and what the shared tier gets of it.
pub(crate) struct Opened {
    pub(crate) body: SourceBody,
    pub(crate) tier_copy: TierCopy,
}

/// Whether a blob is written to the shared tier while it is downloaded.
#[derive(Clone)]
pub(crate) enum TierCopy {
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
    /// The registry has the blob, by its answer of now to this question.
    Answered(BlobHead, Box<DigestQuestion>),
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

/// A blob that the caller of a pull wants as a whole.
pub(crate) struct WholeBlob<'a> {
    pub(crate) source: &'a BlobSource,
    pub(crate) context: &'a PullContext,
    pub(crate) digest: Digest,
}

impl WholeBlob<'_> {
    /// Asks the shared tier for it, else the registry.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open(&self) -> Result<Opened, Error> {
        let (registry, digest) = (self.repository().registry(), self.digest);
        let alone = TierCopy::Yes(ClaimSlot::default());
        if !self.tier().shares(registry) {
            return self.open_at_registry(TierCopy::No).await;
        }
        if self.access().membership().has_ended(self.repository(), digest) {
            return self.open_at_registry(alone).await;
        }
        match self.tier().prospect(registry, digest) {
            Prospect::Look => {}
            Prospect::WriteOnly => return self.open_at_registry(alone).await,
            Prospect::LeftAlone => return self.open_at_registry(TierCopy::No).await,
        }
        if self.source.slow().has(registry) && !self.is_proved().await {
            self.tier().record_unconfirmed();
            return self.open_at_registry(alone).await;
        }
        let known = match self.access().purpose(self.context).await {
            Purpose::Deliver(_) => None,
            // The tier is asked nothing for a caller without a right.
            _ => match self.confirm().await {
                Confirmation::Denied => return self.open_at_registry(alone).await,
                Confirmation::Late => return self.open_after_silence().await,
                confirmation => Some(confirmation),
            },
        };
        let found = match self.tier().blob(registry, digest).await {
            Lookup::Found(found) => found,
            Lookup::Absent => return self.open_leased(known).await,
            Lookup::Unavailable => return self.open_at_registry(TierCopy::No).await,
        };
        let confirmation = match known {
            Some(confirmation) => confirmation,
            None => self.confirm().await,
        };
        match self.usable(&confirmation, found.size) {
            Usable::Yes => {
                self.record_confirmed(&confirmation).await;
                self.tier().record_use(registry, digest, found.modified);
                Ok(Opened { body: self.body_from_tier(found), tier_copy: TierCopy::No })
            }
            Usable::OtherSize => {
                self.tier().record_fault(registry, digest, tier::Fault::Wrong);
                self.open_at_registry(alone).await
            }
            Usable::Doubtful => {
                self.tier().forget_present(registry, digest);
                self.open_at_registry(alone).await
            }
            Usable::No if matches!(confirmation, Confirmation::Late) => self.open_after_silence().await,
            Usable::No => self.open_at_registry(TierCopy::No).await,
        }
    }

    async fn open_at_registry(&self, tier_copy: TierCopy) -> Result<Opened, Error> {
        Ok(Opened { body: self.source.open(self.context, self.digest, 0, None).await?, tier_copy })
    }

    /// Asks the registry for a blob that it did not confirm in time. If it delivers, it is only slow to confirm.
    async fn open_after_silence(&self) -> Result<Opened, Error> {
        let opened = self.open_at_registry(TierCopy::Yes(ClaimSlot::default())).await?;
        self.source.slow().record(self.repository().registry());
        Ok(opened)
    }

    /// Asks for one that the tier lacks: of a large one one node is to ask the registry, and the others wait
    /// for what that one writes. A digest that the registry does not confirm is no reason for a lease: anyone can
    /// publish an index that lists it.
    async fn open_leased(&self, known: Option<Confirmation>) -> Result<Opened, Error> {
        let (registry, digest) = (self.repository().registry(), self.digest);
        let alone = TierCopy::Yes(ClaimSlot::default());
        if !self.tier().is_leased(registry, self.declared_size().unwrap_or(u64::MAX)) {
            return self.open_at_registry(alone).await;
        }
        let confirmation = match known {
            Some(confirmation) => confirmation,
            None => self.confirm().await,
        };
        // A manifest may state any size, and others join this download, or wait for this node: the registry's own
        // counts.
        let confirmation = match confirmation {
            Confirmation::Proved => self.ask().await,
            other => other,
        };
        let size = match &confirmation {
            Confirmation::Answered(head, _) => head.size,
            Confirmation::Late => return self.open_after_silence().await,
            Confirmation::Proved | Confirmation::Denied => None,
        };
        let size = match size {
            Some(size) if self.tier().is_leased(registry, size) => size,
            _ => return self.open_at_registry(alone).await,
        };
        match self.tier().role(registry, digest, size).await {
            Role::Alone => self.open_at_registry(alone).await,
            Role::Writer(slot) => self.open_at_registry(TierCopy::Yes(slot)).await,
            Role::Waiter(found, slot) => match self.usable(&confirmation, size) {
                Usable::Yes => {
                    self.record_confirmed(&confirmation).await;
                    let body = self.body_from_tier(found);
                    Ok(Opened { body, tier_copy: TierCopy::OnceClaimed(slot) })
                }
                _ => self.open_at_registry(TierCopy::No).await,
            },
        }
    }

    /// What is known of the caller's right and the membership; the registry is asked where that is not enough.
    async fn confirm(&self) -> Confirmation {
        if self.is_proved().await { Confirmation::Proved } else { self.ask().await }
    }

    /// Whether the caller's right and the membership are proved, and a manifest states the size.
    async fn is_proved(&self) -> bool {
        self.declared_size().is_some()
            && self.access().membership().is_confirmed(self.repository(), self.digest).await
            && matches!(self.access().purpose(self.context).await, Purpose::Deliver(_))
    }

    /// What the registry says of the caller's right and of the membership, unless it was slow to say that a while ago.
    async fn ask(&self) -> Confirmation {
        let (registry, declared) = (self.repository().registry(), self.declared_size());
        if self.source.slow().has(registry) {
            return Confirmation::Denied;
        }
        let question = self.access().membership().question(self.repository(), self.digest);
        let confirming = self.access().ask_for_blob(self.context, self.digest, declared);
        match tokio::time::timeout(CONFIRM_WAIT, confirming).await {
            Ok(Ok(head)) => {
                self.source.slow().forget(registry);
                Confirmation::Answered(head, Box::new(question))
            }
            Ok(Err(error)) if declared.is_some() && self.holds(&error).await => Confirmation::Proved,
            Ok(Err(error)) => {
                let (repository, digest) = (self.repository(), self.digest);
                tracing::debug!(%repository, %digest, %error, "the registry does not confirm a blob for the shared tier");
                Confirmation::Denied
            }
            Err(_) => Confirmation::Late,
        }
    }

    /// Records the membership of a blob that the registry confirmed by its size, which only the tier knew.
    async fn record_confirmed(&self, confirmation: &Confirmation) {
        if let Confirmation::Answered(_, question) = confirmation {
            question.record_blob().await;
        }
    }

    /// Whether an object of `size` bytes may be used.
    fn usable(&self, confirmation: &Confirmation, size: u64) -> Usable {
        let declared = self.declared_size();
        match confirmation {
            Confirmation::Proved if declared == Some(size) => Usable::Yes,
            Confirmation::Answered(head, _) => is_usable(*head, declared, size),
            Confirmation::Proved | Confirmation::Late | Confirmation::Denied => Usable::No,
        }
    }

    /// Whether it may come from the shared tier although its registry cannot be asked, which failed with `error`.
    pub(crate) async fn may_come_from_tier_in_outage(&self, error: &Error) -> bool {
        self.tier().shares(self.repository().registry()) && self.holds(error).await
    }

    /// Whether the caller's right and the membership hold although the registry cannot be asked, which failed with
    /// `error`: they were proved before, or another node shared that everyone may read the blob.
    async fn holds(&self, error: &Error) -> bool {
        let (access, names) = (self.access(), self.source.names());
        let (context, repository, digest) = (self.context, self.repository(), self.digest);
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

    fn body_from_tier(&self, found: Found) -> SourceBody {
        self.source.body_from_tier(self.context, self.digest, found)
    }

    fn access(&self) -> &Access {
        self.source.access()
    }

    fn tier(&self) -> &Tier {
        self.source.tier()
    }

    fn repository(&self) -> &Repository {
        self.context.repository()
    }

    /// Its bytes, as a manifest says.
    fn declared_size(&self) -> Option<u64> {
        self.access().membership().declared_size(self.repository(), self.digest)
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
