//! Who joins a download that was begun before: by a right that holds now, or by an answer of its own.

use super::tests::downloads;
use super::*;
use crate::pull::access::rights::Use;
use crate::pull::for_tests::{self, Asks, Before, Parts};
use crate::reference::Repository;

/// Larger than the tail that is withheld.
static LAYER: [u8; 300_000] = [5; 300_000];

struct Scene {
    parts: Parts,
    app: Repository,
    digest: Digest,
    alice: PullContext,
    /// The answer to whom leads.
    _led: BlobAnswer,
    gate: Arc<tokio::sync::Semaphore>,
}

/// Alice may read the repository, and the download that she leads has begun to come: it was asked for with a right, or
/// its content is to prove one.
async fn scene(has_right: bool) -> Scene {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    let other = parts.registry.push(&app, None, b"other");
    parts.registry.allow(&app, &["alice"]);
    let alice = parts.pull_as("alice", &app);
    if has_right {
        parts.access.ask_for_blob(&alice, other, None).await.unwrap();
    }
    let gate = parts.registry.hold_after(100_000);
    let _led = parts.blobs.find(&alice, digest, BlobRange::Whole).await.unwrap();
    parts.registry.asked();
    Scene { parts, app, digest, alice, _led, gate }
}

impl Scene {
    /// A new request of Alice.
    async fn asks_again(&self) -> Result<BlobAnswer, Error> {
        self.parts.blobs.find(&self.parts.pull_as("alice", &self.app), self.digest, BlobRange::Whole).await
    }

    async fn is_fresh(&self) -> bool {
        self.parts.access.known().fresh(&self.alice, Use::Read).await.is_some()
    }
}

#[tokio::test]
async fn whose_right_has_ended_joins_no_download_that_was_begun_with_it() {
    let ends = ["by hand", "by its registry", "by its time"];
    for (end, has_right) in ends.into_iter().flat_map(|end| [(end, true), (end, false)]) {
        let scene = scene(has_right).await;
        let parts = &scene.parts;
        parts.registry.allow(&scene.app, &[]);
        match end {
            "by hand" => {
                parts.access.revoke(Some(&scene.app)).await.unwrap();
            }
            "by its registry" => {
                let denied = parts.access.ask_for_blob(&scene.alice, Digest::of(b"other"), None).await;
                assert!(denied.unwrap_err().is_denied());
            }
            _ => parts.clock.advance(Duration::from_secs(301)),
        }
        let error = scene.asks_again().await.expect_err(end);
        assert!(error.is_denied(), "{end}: {error}");
    }
}

#[tokio::test]
async fn who_may_still_read_it_joins_and_costs_one_question_and_no_second_download() {
    let unproved = scene(false).await;
    assert_eq!(unproved.asks_again().await.unwrap().source, AnswerSource::Join);
    assert!(unproved.parts.registry.asked().is_empty(), "it was asked a moment ago");
    unproved.parts.clock.advance(Duration::from_secs(61));
    assert_eq!(unproved.asks_again().await.unwrap().source, AnswerSource::Join);
    assert_eq!(unproved.parts.registry.asked(), ["confirm blob as alice"]);
    let scene = scene(true).await;
    assert_eq!(scene.asks_again().await.unwrap().source, AnswerSource::Join);
    assert!(scene.parts.registry.asked().is_empty(), "the right is fresh");
    scene.parts.clock.advance(Duration::from_secs(301));
    for asked in [vec!["confirm blob as alice".to_owned()], vec![]] {
        assert_eq!(scene.asks_again().await.unwrap().source, AnswerSource::Join);
        assert_eq!(scene.parts.registry.asked(), asked);
    }
    assert!(scene.is_fresh().await);
}

#[tokio::test]
async fn while_the_registry_is_away_who_could_read_it_joins_and_nobody_else() {
    let scene = scene(true).await;
    scene.parts.clock.advance(Duration::from_secs(301));
    scene.parts.registry.fail(Some(for_tests::outage()));
    assert_eq!(scene.asks_again().await.unwrap().source, AnswerSource::Join);
    let bob = scene.parts.pull_as("bob", &scene.app);
    assert!(scene.parts.blobs.find(&bob, scene.digest, BlobRange::Whole).await.is_err());
    scene.parts.access.revoke(None).await.unwrap();
    assert!(scene.asks_again().await.is_err(), "a right that was revoked holds");
}

#[tokio::test]
async fn a_registry_whose_yes_shows_no_blob_is_asked_for_the_blob_itself() {
    let scene = scene(true).await;
    scene.parts.clock.advance(Duration::from_secs(301));
    scene.parts.registry.show_nothing_by_head();
    // One download of its own, and not the one that others had from before; it ends.
    for expected in [1, 1] {
        assert!(scene.asks_again().await.is_ok());
        assert_eq!(downloads(&scene.parts.registry.asked()), expected);
        scene.parts.clock.advance(Duration::from_secs(301));
    }
    scene.gate.add_permits(1_000);
}

#[tokio::test(start_paused = true)]
async fn who_joins_after_a_revocation_shares_no_answer_that_was_asked_for_before() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, &LAYER);
    parts.registry.allow(&app, &["alice"]);
    let alice = parts.pull_as("alice", &app);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let permits = Arc::clone(&gate);
    parts.registry.before_answers(move |question| match question.asks {
        Asks::Blob => Before::Permit(Arc::clone(&permits)),
        _ => Before::Nothing,
    });
    let ask = || parts.blobs.find(&alice, digest, BlobRange::Whole);
    let after = async {
        parts.registry.is_asked("download").await;
        parts.access.revoke(Some(&app)).await.unwrap();
        parts.registry.allow(&app, &[]);
        let after = tokio::time::timeout(Duration::from_secs(60), ask()).await;
        gate.add_permits(1);
        after.expect("it waits for an answer from before")
    };
    let (before, after) = tokio::join!(ask(), after);
    assert!(before.is_ok());
    assert!(after.expect_err("it was let in").is_denied());
}
