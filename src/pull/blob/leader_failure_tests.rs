//! Followers of a download that fails for a reason that is its leader's own.

use futures_util::future::join_all;

use super::flight::Role;
use super::into_store::InStore;
use super::tests::{downloads, pull};
use super::*;
use crate::pull::context::Priority;
use crate::pull::for_tests::{self, MirrorBody, Parts};
use crate::reference::Repository;
use crate::store::Owner;
use crate::upstream;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [7; 300_000];

struct Scene {
    parts: Parts,
    /// Where the leader asks.
    bad: Repository,
    good: Repository,
    digest: Digest,
}

fn scene() -> Scene {
    let parts = Parts::new();
    let [bad, good] = ["reg.test/bad", "reg.test/good"].map(|name| name.parse::<Repository>().unwrap());
    let digest = parts.registry.push(&bad, None, &LAYER);
    parts.registry.push(&good, None, &LAYER);
    Scene { parts, bad, good, digest }
}

fn failures() -> Vec<upstream::Error> {
    let host = || "reg.test".to_owned();
    vec![
        upstream::Error::ServerError { host: host(), status: 502, retry_after: None },
        upstream::Error::RateLimited { host: host(), retry_after: None },
        upstream::Error::NotFound { host: host(), unknown: upstream::Unknown::Repository, public: true },
        upstream::Error::Refused { host: host(), status: 401, why: "denied".to_owned(), public: false },
        upstream::Error::Invalid { host: host(), why: "nonsense".to_owned() },
    ]
}

impl Scene {
    /// Pulls in the repository whose download fails, until the others are over.
    async fn lead(&self) -> Result<Vec<u8>, Error> {
        pull(&self.parts, &for_tests::pull(&self.bad), self.digest).await
    }

    /// Pulls in the other repository, once the download is under way.
    async fn follow(&self) -> Result<Vec<u8>, Error> {
        while self.parts.blobs.downloads() == 0 {
            tokio::task::yield_now().await;
        }
        pull(&self.parts, &for_tests::pull(&self.good), self.digest).await
    }
}

#[tokio::test]
async fn who_joins_a_download_that_fails_for_its_leader_gets_one_of_its_own() {
    for failure in failures() {
        let scene = scene();
        let gate = scene.parts.registry.fail_download(&scene.bad, failure.clone());
        let let_it_fail = async {
            scene.parts.registry.is_asked("confirm blob").await;
            gate.add_permits(1);
        };
        let (led, followed, ()) = tokio::join!(scene.lead(), scene.follow(), let_it_fail);
        assert!(led.is_err(), "{failure}");
        assert_eq!(followed.unwrap(), LAYER, "{failure}");
        assert_eq!(downloads(&scene.parts.registry.asked()), 2, "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_download_whose_leader_hangs_does_not_hang_with_it() {
    let scene = scene();
    let _never_opened = scene.parts.registry.fail_download(&scene.bad, failures().swap_remove(0));
    tokio::select! {
        biased;
        _ = scene.lead() => panic!("the leader hangs"),
        followed = scene.follow() => assert_eq!(followed.unwrap(), LAYER),
    }
}

#[tokio::test]
async fn the_followers_of_a_failed_download_share_the_next_one() {
    let scene = scene();
    let gate = scene.parts.registry.fail_download(&scene.bad, failures().swap_remove(0));
    let let_it_fail = async {
        scene.parts.registry.is_asked("confirm blob").await;
        gate.add_permits(1);
    };
    let all = join_all((0..20).map(|_| scene.follow()));
    let (led, followed, ()) = tokio::join!(scene.lead(), all, let_it_fail);
    assert!(led.is_err());
    assert!(followed.into_iter().all(|content| content.unwrap() == LAYER));
    assert_eq!(downloads(&scene.parts.registry.asked()), 2);
}

#[test]
fn who_asks_the_same_as_the_leader_gets_the_leaders_answer() {
    for (failure, is_answer) in failures().into_iter().zip([true, true, false, false, true]) {
        let error = Error::from(failure);
        assert_eq!(LedBy::SameQuestion.concerns_leader_only(&error), !is_answer, "{error}");
        assert!(LedBy::AnotherQuestion.concerns_leader_only(&error), "{error}");
        assert!(!LedBy::Itself.concerns_leader_only(&error), "{error}: it is the answer to the leader");
    }
    assert!(LedBy::SameQuestion.concerns_leader_only(&Error::LeaderGone));
    assert!(!LedBy::AnotherQuestion.concerns_leader_only(&Error::NotStored(None)));
}

#[tokio::test]
async fn many_leaders_that_fail_do_not_use_up_the_tries_of_a_caller_that_is_answered() {
    let scene = scene();
    let bad: Vec<Repository> = (0..10).map(|n| format!("reg.test/bad{n}").parse().unwrap()).collect();
    for repository in bad.iter().chain([&scene.bad]) {
        scene.parts.registry.push(repository, None, &LAYER);
        scene.parts.registry.fail_download(repository, failures().swap_remove(0)).add_permits(100);
    }
    let contexts: Vec<_> = bad.iter().map(for_tests::pull).collect();
    let leading = join_all(contexts.iter().map(|context| pull(&scene.parts, context, scene.digest)));
    let (_, _, followed) = tokio::join!(scene.lead(), leading, scene.follow());
    assert_eq!(followed.unwrap(), LAYER);
}

#[tokio::test]
async fn a_download_that_its_leader_cannot_go_on_with_goes_on_in_a_followers_repository() {
    let scene = scene();
    // The mirror breaks off, and the leader's repository fails from then on.
    let whole = MirrorBody::whole(bytes::Bytes::from_static(&LAYER));
    let broken = MirrorBody { breaks_at: Some(100_000), ..whole };
    scene.parts.registry.mirror(&scene.bad, scene.digest, broken);
    let refused = upstream::Error::Refused {
        host: "reg.test".to_owned(),
        status: 403,
        why: String::new(),
        public: false,
    };
    let gate = scene.parts.registry.fail_download(&scene.bad, refused);
    let let_it_fail = async {
        // The follower's own question was answered yes.
        while !scene.parts.access.membership().is_confirmed(&scene.good, scene.digest).await {
            tokio::task::yield_now().await;
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(100);
    };
    let (led, followed, ()) = tokio::join!(scene.lead(), scene.follow(), let_it_fail);
    assert_eq!((led.unwrap(), followed.unwrap()), (LAYER.to_vec(), LAYER.to_vec()));
}

#[tokio::test]
async fn a_pre_pull_that_joins_a_download_does_not_fail_with_its_leader() {
    for failure in failures() {
        let scene = scene();
        let gate = scene.parts.registry.fail_download(&scene.bad, failure.clone());
        let let_it_fail = async {
            scene.parts.registry.is_asked("confirm blob").await;
            gate.add_permits(1);
        };
        let fetch = async {
            while scene.parts.blobs.downloads() == 0 {
                tokio::task::yield_now().await;
            }
            let context = for_tests::pull(&scene.good).with_priority(Priority::Background);
            scene.parts.blobs.fetch_into_store(&context, scene.digest, |_, _| {}).await
        };
        let (led, fetched, ()) = tokio::join!(scene.lead(), fetch, let_it_fail);
        assert!(led.is_err(), "{failure}");
        let expected = InStore { size: LAYER.len() as u64, was_downloaded: true };
        assert_eq!(fetched.unwrap(), expected, "{failure}");
    }
}

#[tokio::test]
async fn who_joins_a_download_as_it_ends_because_no_client_waits_gets_the_whole_blob() {
    // Before its first byte, and after some.
    for received in [0, 150_000] {
        let Scene { parts, good, digest, .. } = scene();
        let context = for_tests::pull(&good);
        let role = parts.blobs.0.flights.join_or_lead(
            &context.clone().with_priority(Priority::Background),
            digest,
            Sharing::All,
            Default::default(),
        );
        let Role::Lead(leader) = role else { panic!("there is a download") };
        let owner = Owner::named(good.registry());
        let mut ingest = parts.store.begin(digest, Some(300_000), owner).await.unwrap();
        if received > 0 {
            let sent = bytes::Bytes::from_static(&LAYER[..received]);
            leader.publish_filling(ingest.growing(), Some(300_000), false, None);
            leader.publish_readable(ingest.write(&sent).unwrap());
        }
        let end = async {
            while leader.flight().followers() == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            leader.fail(Error::NoClient);
        };
        let (content, ()) = tokio::join!(pull(&parts, &context, digest), end);
        assert!(content.unwrap() == LAYER, "{received}");
        assert_eq!(downloads(&parts.registry.asked()), 1, "{received}");
    }
}
