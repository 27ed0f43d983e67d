//! What nodes share for an outage (`[tier] share_names`): what a tag of a public repository names, that the
//! repository is public, and which digests it has.
//!
//! Promises: only what this node's registry said is shared, and only of repositories that everyone may read; a private
//! right is never shared. A node whose registry refuses everyone replaces the record that a repository is public, and
//! writes a second one beside it, which only refusals write: it stays whatever another node shares meanwhile. A node
//! that had a tag which is gone replaces its record. What other nodes shared is used only in an outage of the registry;
//! a right that they shared is held in memory for that outage and is never fresh, so that the registry is asked again
//! as soon as it can be.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use tokio::sync::Semaphore;

use super::access::digest_answers::AnswerNumber;
use super::access::{Access, is_older};
use super::error::Error;
use crate::reference::{Digest, MediaType, Repository, Tag};
use crate::store::{Member, Records, TagRecord};
use crate::support::clock::Timestamp;
use crate::support::tasks::Tasks;
use crate::tier::{self, Dated, Tier};

/// Closed repositories at most whose records are replaced at the same time; the record of one more stays until the
/// registry refuses it again.
const CLOSING_MAX: usize = 4;
/// Closed repositories at most that are recorded on this node at the same time: a file each.
const MARKING_MAX: usize = 64;

/// Tags at most whose records are replaced at the same time because they are gone; the record of one more stays until
/// it is too old.
const FORGETTING_MAX: usize = 4;

/// What nodes share of names. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedNames {
    tier: Tier,
    access: Access,
    forgetting: Arc<Semaphore>,
}

/// What a tag names; nothing, if its registry does not have it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TagFact {
    digest: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
}

/// That everyone may read a repository, or that the registry refused everyone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PublicFact {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
}

const OPEN: PublicFact = PublicFact { closed: false };

/// That a repository has a digest: as a blob, or as a manifest of a type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberFact {
    manifest_type: Option<String>,
}

impl SharedNames {
    pub(crate) fn new(tier: Tier, access: Access) -> Self {
        Self { tier, access, forgetting: Arc::new(Semaphore::new(FORGETTING_MAX)) }
    }

    /// The tier through which nodes share it.
    pub(crate) fn tier(&self) -> &Tier {
        &self.tier
    }

    /// Shares that the registry said just now, or said at the last question, what a tag names.
    pub(crate) async fn share_tag(&self, repository: &Repository, tag: &Tag, digest: Digest) {
        if !self.tier.shares_names_of(repository.registry()) {
            return;
        }
        let Some(proved_at) = self.access.known().public_since(repository).await else { return };
        let Some(now) = self.tier.now() else { return };
        self.access.shared().begin_again(repository, tag);
        let fact = TagFact { digest: digest.to_string(), gone: false };
        self.tier.share_name(parts("tag", repository, &tag.to_string()), now, fact);
        self.tier.share_name(parts("public", repository, ""), proved_at, OPEN);
    }

    /// Shares that the registry confirmed or delivered a digest.
    pub(crate) async fn share_member(&self, repository: &Repository, digest: Digest, member: &Member) {
        if !self.tier.shares_names_of(repository.registry()) {
            return;
        }
        let Some(proved_at) = self.access.known().public_since(repository).await else { return };
        let manifest_type = match member {
            Member::Manifest(media_type) => Some(media_type.as_str().to_owned()),
            Member::Blob => None,
        };
        let fact = MemberFact { manifest_type };
        self.tier.share_name(parts("member", repository, &digest.to_string()), proved_at, fact);
        self.tier.share_name(parts("public", repository, ""), proved_at, OPEN);
    }

    /// What a tag named last, as another node shared it no longer than `age_max` ago.
    pub(crate) async fn shared_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        age_max: Duration,
    ) -> Option<TagRecord> {
        let shared: Dated<TagFact> = self.record("tag", repository, &tag.to_string()).await?;
        if shared.fact.gone || self.access.shared().is_gone(repository, tag, shared.at) {
            return None;
        }
        let digest = shared.fact.digest.parse().ok()?;
        let record = TagRecord { digest, confirmed_at: shared.at };
        (shared.at.age_at(self.tier.now()?) < age_max).then_some(record)
    }

    /// Has the record of a tag replaced that this node had, and that its registry does not have any more, or withholds.
    /// Here it is not used again in any case, until a restart.
    pub(crate) fn forget_tag(&self, repository: &Repository, tag: &Tag, tasks: &Tasks) {
        let Some(now) = self.tier.now().filter(|_| self.tier.shares_names_of(repository.registry())) else {
            return;
        };
        self.access.shared().forget(repository, tag, now);
        let Ok(place) = Arc::clone(&self.forgetting).try_acquire_owned() else { return };
        let (tier, parts) = (self.tier.clone(), parts("tag", repository, &tag.to_string()));
        tasks.spawn(async move {
            let gone = TagFact { digest: String::new(), gone: true };
            if let Err(error) = tier.replace_name((&borrowed(&parts), None), now, gone).await {
                tracing::debug!(%error, "the shared record of a tag that is gone is not replaced");
            }
            drop(place);
        });
    }

    /// What a digest is in a repository, as another node shared it within the last `outage_grace`.
    pub(crate) async fn shared_member(&self, repository: &Repository, digest: Digest) -> Option<Member> {
        let record: Dated<MemberFact> = self.record("member", repository, &digest.to_string()).await?;
        if record.at.age_at(self.tier.now()?) >= self.access.known().terms(repository).outage_grace {
            return None;
        }
        match record.fact.manifest_type {
            None => Some(Member::Blob),
            Some(text) => text.parse::<MediaType>().ok().map(Member::Manifest),
        }
    }

    /// Whether another node may have shared that a repository has a digest.
    pub(crate) async fn may_have_member(&self, repository: &Repository, digest: Digest) -> bool {
        let record = self.try_record::<MemberFact>("member", repository, &digest.to_string()).await;
        !matches!(record, Ok(None))
    }

    /// As [`Self::forget_tag`], for a tag that this node has no record of and that is withheld from it, by an answer to
    /// a question that was asked after `before`: with what another node shared that it names. A client may ask for any
    /// tag: only one is remembered that may have been shared.
    pub(crate) async fn withhold_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        before: AnswerNumber,
        tasks: &Tasks,
    ) {
        let record = self.try_record::<TagFact>("tag", repository, &tag.to_string()).await;
        if matches!(record, Ok(None)) {
            return;
        }
        self.forget_tag(repository, tag, tasks);
        if let Ok(Some(Dated { fact, .. })) = record
            && let Ok(digest) = fact.digest.parse()
        {
            self.access.membership().question_after(before, repository, digest).record_no().await;
        }
    }

    /// Holds everyone's right to a repository, if another node shared it, while the registry is in the outage that a
    /// request failed by with `error`. Returns whether it is held.
    pub(crate) async fn hold_right(&self, repository: &Repository, error: &Error) -> bool {
        let (access, registry) = (&self.access, repository.registry());
        // A credential that is not to be had, a rate limit and a slow answer are no outages: the registry can be asked.
        if access.outage_lasted(registry, error).await.is_none() {
            return false;
        }
        let record: Option<Dated<PublicFact>> = self.record("public", repository, "").await;
        let (Some(record), Some(now)) = (record, self.tier.now()) else { return false };
        // Another node may have shared an older proof after the repository was closed.
        let Ok(closed) = self.try_record::<PublicFact>("closed", repository, "").await else { return false };
        if closed.is_some_and(|closed| is_older(record.at, closed.at)) {
            return false;
        }
        // An old record may be a repetition of one from before the repository was closed.
        let is_young = record.at.age_at(now) < access.known().terms(repository).outage_grace;
        !record.fact.closed && is_young && access.shared().hold(repository, record.at).await
    }

    /// Has the record that a repository is public replaced once its registry refuses everyone.
    pub(crate) fn replace_when_closed(&self, records: &Records, tasks: &Tasks) {
        if !self.tier.shares_names() {
            return;
        }
        let (tier, records, tasks) = (self.tier.clone(), records.clone(), tasks.clone());
        let (places, marking) =
            (Arc::new(Semaphore::new(CLOSING_MAX)), Arc::new(Semaphore::new(MARKING_MAX)));
        self.access.shared().on_closed(move |repository, at| {
            let Ok(marks) = Arc::clone(&marking).try_acquire_owned() else { return };
            let (tier, records, repository) = (tier.clone(), records.clone(), repository.clone());
            let places = Arc::clone(&places);
            tasks.spawn(async move {
                // A client may ask for any name: only what this node or another one knows is recorded.
                let is_known = records.has_any(&repository).await;
                if is_known {
                    mark(&records, &repository, at).await;
                }
                drop(marks);
                if !tier.shares_names_of(repository.registry()) {
                    return;
                }
                let Ok(_place) = places.try_acquire_owned() else { return };
                if close(&tier, &repository, at).await && !is_known {
                    mark(&records, &repository, at).await;
                }
            });
        });
    }

    async fn record<T: serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        repository: &Repository,
        about: &str,
    ) -> Option<Dated<T>> {
        self.try_record(kind, repository, about).await.ok().flatten()
    }

    async fn try_record<T: serde::de::DeserializeOwned>(
        &self,
        kind: &str,
        repository: &Repository,
        about: &str,
    ) -> Result<Option<Dated<T>>, tier::Error> {
        if !self.tier.shares_names_of(repository.registry()) {
            return Ok(None);
        }
        self.tier.shared_name(&borrowed(&parts(kind, repository, about))).await
    }
}

/// Tells the other nodes that the registry refused everyone, if the repository was shared; returns whether it was.
async fn close(tier: &Tier, repository: &Repository, at: Timestamp) -> bool {
    let [open, closed] = ["public", "closed"].map(|kind| parts(kind, repository, ""));
    let places = (&borrowed(&open)[..], Some(&borrowed(&closed)[..]));
    let replaced = tier.replace_name(places, at, PublicFact { closed: true }).await;
    if let Err(error) = &replaced {
        tracing::debug!(%repository, %error, "the shared record of a repository that was closed is not replaced");
    }
    replaced.unwrap_or(false)
}

/// Records on this node that the registry refused everyone.
async fn mark(records: &Records, repository: &Repository, at: Timestamp) {
    if let Err(error) = records.set_closed(Some(repository), at).await {
        tracing::error!(%repository, %error, "that a repository was closed could not be recorded");
    }
}

fn borrowed(parts: &[String]) -> Vec<&str> {
    parts.iter().map(String::as_str).collect()
}

fn parts(kind: &str, repository: &Repository, about: &str) -> Vec<String> {
    vec![kind.to_owned(), repository.to_string(), about.to_owned()]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::pull::for_tests::{self, Before, MANIFEST, Parts, outage};
    use crate::pull::manifest::ManifestUse;
    use crate::reference::Reference;
    use crate::tier::for_tests::FakeObjects;
    use crate::upstream;

    async fn share(tier: &Tier, app: &Repository, at: u64) {
        tier.share_name(parts("public", app, ""), Timestamp(at), OPEN);
        tier.finish(Duration::from_secs(5)).await;
    }

    #[tokio::test]
    async fn a_repository_that_was_closed_is_not_opened_by_a_word_that_another_node_wrote_late() {
        let (objects, app) = (FakeObjects::default(), "reg.test/app".parse::<Repository>().unwrap());
        let is_held = async || {
            let tier = objects.sharing_tier();
            let node = Parts::with_tier(tier.clone());
            node.registry.fail(Some(outage()));
            SharedNames::new(tier, node.access.clone()).hold_right(&app, &outage().into()).await
        };
        share(&objects.sharing_tier(), &app, 500).await;
        let key = objects.keys("names").remove(0);
        let open = objects.content(&key).unwrap();
        assert!(is_held().await);
        // By a clock that is behind.
        assert!(close(&objects.sharing_tier(), &app, Timestamp(400)).await);
        assert!(!is_held().await);
        objects.replace(&key, open);
        assert!(!is_held().await, "the closed record is one of its own");
        objects.remove(&key);
        share(&objects.sharing_tier(), &app, 900).await;
        assert!(is_held().await, "the registry gave it to everyone after that");
    }

    /// A node over a tier in which another node shared an image of `app`. It has a right to `app`, whose registry
    /// withholds every manifest from now on.
    async fn node_beside_one_that_shared(app: &Repository, digest: Digest) -> Parts {
        let objects = FakeObjects::default();
        let tier = objects.sharing_tier();
        let manifest_type = Some(MediaType::OCI_MANIFEST.to_owned());
        tier.share_name(
            parts("member", app, &digest.to_string()),
            Timestamp(900),
            MemberFact { manifest_type },
        );
        let named = TagFact { digest: digest.to_string(), gone: false };
        tier.share_name(parts("tag", app, "v1"), Timestamp(900), named);
        tier.write_manifest(app.registry(), digest, Bytes::from_static(MANIFEST));
        share(&tier, app, 900).await;
        let node = Parts::with_tier(objects.sharing_tier());
        node.registry.push(app, Some("v1"), MANIFEST);
        let layer = node.registry.push(app, None, b"layer");
        node.access.ask_for_blob(&for_tests::pull(app), layer, None).await.unwrap();
        node.registry.before_answers(|_| {
            let (host, why) = ("reg.test".to_owned(), "412".to_owned());
            Before::Failure(upstream::Error::Withheld { host, why, public: true })
        });
        node
    }

    #[tokio::test]
    async fn what_is_withheld_from_a_node_that_never_had_it_comes_from_no_other_node_in_an_outage() {
        let (app, digest) = ("reg.test/app".parse::<Repository>().unwrap(), Digest::of(MANIFEST));
        let context = for_tests::pull(&app);
        let (by_digest, by_tag) = (Reference::Digest(digest), "v1".parse::<Reference>().unwrap());
        let unasked = vec![];
        for (told, withheld, brought) in [
            (unasked, vec![], vec![&by_tag, &by_digest]),
            (vec![&by_digest], vec![&by_digest], vec![]),
            (vec![&by_tag], vec![&by_tag, &by_digest], vec![]),
        ] {
            let node = node_beside_one_that_shared(&app, digest).await;
            for reference in &told {
                let found = node.manifests.find(&context, reference, ManifestUse::Pull).await;
                assert!(found.unwrap_err().is_withheld(), "{reference:?}");
            }
            // As whom no denial of a moment ago is remembered.
            let alice = node.pull_as("alice", &app);
            let find = |reference| node.manifests.find(&alice, reference, ManifestUse::Pull);
            node.registry.fail(Some(outage()));
            for reference in withheld {
                assert!(find(reference).await.is_err(), "told {told:?}: {reference:?}");
            }
            for reference in brought {
                assert!(find(reference).await.unwrap().stale.is_some(), "{reference:?}");
            }
        }
    }

    #[tokio::test]
    async fn digests_and_tags_that_a_client_invents_push_out_none_of_those_that_are_withheld() {
        let (app, digest) = ("reg.test/app".parse::<Repository>().unwrap(), Digest::of(MANIFEST));
        let (invented, tag) = (Digest::of(b"invented"), "invented".parse::<Tag>().unwrap());
        let node = node_beside_one_that_shared(&app, digest).await;
        for reference in [Reference::Digest(digest), Reference::Digest(invented), tag.clone().into()] {
            let found = node.manifests.find(&for_tests::pull(&app), &reference, ManifestUse::Pull).await;
            assert!(found.unwrap_err().is_withheld());
        }
        assert!(node.access.membership().has_ended(&app, digest));
        assert!(!node.access.membership().has_ended(&app, invented));
        assert!(!node.access.shared().is_gone(&app, &tag, Timestamp(0)));
    }
}
