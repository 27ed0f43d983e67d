//! A mirror that delivers anything under any name, and a tenant of another repository whom it helps: what the registry
//! gave to others is not given to that one.

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::tests::{downloads, pull, read, refuse_downloads};
use super::*;
use crate::pull::for_tests::{self, Asks, Before, MirrorBody, Parts};
use crate::reference::Repository;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];
static OTHER: [u8; 300_000] = [8; 300_000];
/// So large that a reader may be far ahead of its download.
static LARGE: [u8; 12_000_000] = [7; 12_000_000];

/// A private blob of one repository, and a mirror that claims to have it in another.
struct Scene {
    parts: Parts,
    /// Who reads the private blob.
    owner: PullContext,
    /// Who reads another repository.
    tenant: PullContext,
    digest: Digest,
}

impl Scene {
    /// Both have fresh rights, each to its own repository; the mirror has `mirrored` for the tenant.
    async fn new(layer: &'static [u8], mirrored: MirrorBody) -> Self {
        let parts = Parts::new();
        let [private, own]: [Repository; 2] =
            ["reg.test/private", "reg.test/own"].map(|name| name.parse().unwrap());
        let (owner, tenant) = (parts.pull_as("owner", &private), parts.pull_as("tenant", &own));
        let digest = parts.registry.push(&private, None, layer);
        for (repository, context, user) in [(&private, &owner, "owner"), (&own, &tenant, "tenant")] {
            let known = parts.registry.push(repository, None, b"known");
            parts.registry.allow(repository, &[user]);
            parts.access.ask_for_blob(context, known, None).await.unwrap();
            assert!(matches!(parts.access.purpose(context).await, Purpose::Deliver(_)), "a fresh right");
        }
        parts.registry.mirror(&own, digest, mirrored);
        parts.registry.asked();
        Self { parts, owner, tenant, digest }
    }

    /// The registry answers the tenant too, with `other` under the digest, and does not state the digest: only the
    /// whole content would prove a right.
    fn without_right(layer: &'static [u8], other: &'static [u8]) -> Self {
        let parts = Parts::new();
        let [private, own]: [Repository; 2] =
            ["reg.test/private", "reg.test/own"].map(|name| name.parse().unwrap());
        let (owner, tenant) = (parts.pull_as("owner", &private), parts.pull_as("tenant", &own));
        let digest = parts.registry.push(&private, None, layer);
        parts.registry.damage(&own, digest, other);
        Self { parts, owner, tenant, digest }
    }

    async fn part(&self, context: &PullContext, start: u64, end: u64) -> Result<Vec<u8>, Error> {
        let mut answer = self.parts.blobs.find(context, self.digest, BlobRange::Bytes { start, end }).await?;
        answer.body.narrow(start, end);
        read(answer).await
    }

    /// The tenant's pull, under way.
    async fn is_led(&self) {
        while self.parts.blobs.downloads() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Once the owner follows, the registry says that it has nothing for the tenant.
    async fn registry_has_nothing_once_followed(&self) {
        let gate = self.parts.registry.fail_download(self.tenant.repository(), for_tests::not_found());
        let (membership, private) = (self.parts.access.membership(), self.owner.repository());
        while !membership.is_confirmed(private, self.digest).await {
            tokio::task::yield_now().await;
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
    }

    /// The tenant leads a download that the owner follows, and the registry has it for the tenant no more: how much
    /// the owner got first, and what came after that.
    async fn ends_for_its_leader_in_the_middle(&self) -> (usize, Result<Vec<u8>, Error>) {
        let (parts, own) = (&self.parts, self.tenant.repository());
        parts.registry.change_bodies(|asked, body| {
            let end = stream::iter([Err(for_tests::broken_off("reg.test"))]);
            if asked.is_whole() { Box::pin(body.take(100).chain(end)) } else { body }
        });
        let gate = parts.registry.hold_after(500_000);
        let follow = async {
            self.is_led().await;
            let mut answer = parts.blobs.find(&self.owner, self.digest, BlobRange::Whole).await.unwrap();
            assert_eq!(answer.source, AnswerSource::Join);
            let begins = answer.body.next().await.unwrap().unwrap().len();
            parts.registry.delete(own, self.digest);
            gate.add_permits(10_000);
            (begins, read(answer).await)
        };
        let (led, followed) = tokio::join!(pull(parts, &self.tenant, self.digest), follow);
        assert!(led.is_err(), "the leader got what the registry gave to another");
        followed
    }
}

fn mirrored(bytes: &[u8]) -> MirrorBody {
    MirrorBody::whole(Bytes::copy_from_slice(bytes))
}

#[tokio::test]
async fn a_mirrors_part_of_a_blob_opens_no_part_that_the_registry_gave_to_another_repository() {
    let scene = Scene::new(&LAYER, mirrored(&OTHER)).await;
    assert_eq!(scene.part(&scene.owner, 200_000, 204_096).await.unwrap(), LAYER[200_000..204_096]);
    assert_eq!(scene.part(&scene.tenant, 0, 1).await.unwrap(), OTHER[..1], "the mirror's own doing");
    // The registry has said meanwhile that it has nothing for this caller.
    let read = scene.part(&scene.tenant, 200_000, 204_096).await;
    assert!(
        read.ok().is_none_or(|read| read != LAYER[200_000..204_096]),
        "what the registry gave to another"
    );
    assert_eq!(scene.part(&scene.owner, 0, 1).await.unwrap(), LAYER[..1], "what the mirror gave to another");
}

#[tokio::test]
async fn a_part_that_proves_no_right_opens_no_part_of_another_and_is_kept_for_none() {
    for owner_is_first in [true, false] {
        let scene = Scene::without_right(&LAYER, &OTHER);
        let (repository, digest) = (scene.tenant.repository().clone(), scene.digest);
        scene.parts.registry.before_answers(move |question| match question.asks {
            Asks::IsBlobThere if (question.repository, question.digest) == (&repository, Some(digest)) => {
                Before::Failure(for_tests::not_found())
            }
            _ => Before::Nothing,
        });
        let owners = || async { scene.part(&scene.owner, 0, 4_096).await.unwrap() };
        if owner_is_first {
            assert_eq!(owners().await, LAYER[..4_096]);
        }
        let read = scene.part(&scene.tenant, 0, 4_096).await;
        assert!(read.ok().is_none_or(|read| read == OTHER[..4_096]), "what the registry gave to another");
        assert_eq!(owners().await, LAYER[..4_096], "what came to one without a right");
    }
}

#[tokio::test]
async fn what_a_mirror_delivers_of_a_blob_that_the_registry_confirms_is_kept_and_fetched_once() {
    let scene = Scene::new(&LAYER, mirrored(&LAYER)).await;
    scene.parts.registry.push(scene.tenant.repository(), None, &LAYER);
    scene.part(&scene.tenant, 200_000, 204_096).await.unwrap();
    assert_eq!(scene.parts.registry.asked(), ["download as tenant", "confirm blob as tenant"]);
    scene.part(&scene.tenant, 200_000, 204_096).await.unwrap();
    assert!(scene.parts.registry.asked().is_empty(), "it was kept");
    scene.part(&scene.tenant, 0, 4_096).await.unwrap();
    assert_eq!(scene.parts.registry.asked(), ["download as tenant"], "it was confirmed");
}

#[tokio::test]
async fn a_download_that_a_mirror_alone_began_does_not_go_on_with_the_credential_of_a_follower() {
    let broken = MirrorBody { breaks_at: Some(0), ..mirrored(&OTHER) };
    let scene = Scene::new(&LAYER, broken).await;
    let follow = async {
        scene.is_led().await;
        pull(&scene.parts, &scene.owner, scene.digest).await
    };
    let lead = async {
        let answer = scene.parts.blobs.find(&scene.tenant, scene.digest, BlobRange::Whole).await;
        answer.is_ok()
    };
    let (is_answered, followed, ()) = tokio::join!(lead, follow, scene.registry_has_nothing_once_followed());
    assert_eq!(followed.unwrap(), LAYER, "the follower is served");
    assert!(!is_answered, "the tenant got a private blob of another repository");
}

#[tokio::test]
async fn a_client_in_the_middle_of_a_download_that_ends_for_its_leader_gets_the_rest_by_itself() {
    let scene = Scene::without_right(&LARGE, &LARGE);
    let (begins, rest) = scene.ends_for_its_leader_in_the_middle().await;
    assert!(rest.unwrap() == LARGE[begins..]);
}

#[tokio::test]
async fn a_client_that_shares_what_the_store_does_not_take_gets_the_rest_by_itself_too() {
    let scene = Scene::without_right(&LARGE, &LARGE);
    refuse_downloads(&scene.parts);
    let (begins, rest) = scene.ends_for_its_leader_in_the_middle().await;
    assert!(rest.unwrap() == LARGE[begins..]);
}

#[tokio::test]
async fn what_goes_on_without_its_leader_is_complete_only_if_it_also_began_right() {
    for is_stored in [true, false] {
        let mut begins_wrong = LARGE.to_vec();
        begins_wrong[0] = 8;
        let scene = Scene::without_right(&LARGE, begins_wrong.leak());
        if !is_stored {
            refuse_downloads(&scene.parts);
        }
        assert!(scene.ends_for_its_leader_in_the_middle().await.1.is_err(), "stored: {is_stored}");
    }
}

#[tokio::test]
async fn a_download_that_a_mirror_alone_delivers_takes_no_parts_that_the_registry_gave_to_another_repository()
{
    let mut all_but_the_end = LAYER;
    all_but_the_end[250_000..].fill(8);
    let scene = Scene::new(&LAYER, mirrored(&all_but_the_end)).await;
    scene.part(&scene.owner, 250_000, 300_000).await.unwrap();
    assert!(pull(&scene.parts, &scene.tenant, scene.digest).await.is_err(), "the tenant got the end too");
    assert_eq!(pull(&scene.parts, &scene.owner, scene.digest).await.unwrap(), LAYER);
}

#[tokio::test]
async fn a_download_without_a_proved_right_takes_no_bytes_that_a_reader_further_ahead_was_given() {
    const AHEAD: std::ops::Range<usize> = 10_000_000..11_500_000;
    let mut all_but_some = LARGE.to_vec();
    all_but_some[AHEAD].fill(8);
    let scene = Scene::without_right(&LARGE, all_but_some.leak());
    let gate = scene.parts.registry.hold_after(500_000);
    let follow = async {
        scene.is_led().await;
        let read = scene.part(&scene.owner, AHEAD.start as u64, AHEAD.end as u64).await;
        gate.add_permits(10_000);
        read
    };
    let (led, followed) = tokio::join!(pull(&scene.parts, &scene.tenant, scene.digest), follow);
    assert!(followed.unwrap() == LARGE[AHEAD]);
    assert!(led.is_err(), "the leader got what the registry gave to another");
}

#[tokio::test]
async fn what_readers_further_ahead_fetch_as_the_leader_asks_is_not_fetched_twice() {
    const AHEAD: std::ops::Range<usize> = 10_000_000..11_500_000;
    let scene = Scene::without_right(&LARGE, &LARGE);
    let gate = scene.parts.registry.hold_after(500_000);
    let ahead = async {
        scene.is_led().await;
        let read = scene.part(&scene.tenant, AHEAD.start as u64, AHEAD.end as u64).await;
        gate.add_permits(10_000);
        read
    };
    let (led, read) = tokio::join!(pull(&scene.parts, &scene.tenant, scene.digest), ahead);
    assert!(led.unwrap() == LARGE && read.unwrap() == LARGE[AHEAD]);
    assert_eq!(downloads(&scene.parts.registry.asked()), 3, "the first body, the range, and what follows it");
}
