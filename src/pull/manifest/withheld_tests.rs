//! Manifests that a registry withholds, or has deleted, while other answers are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::*;
use crate::pull::for_tests::{self, Asks, Before, MANIFEST, MirrorBody, Parts};
use crate::upstream;

/// A policy's 412.
fn withheld() -> upstream::Error {
    let (host, why) = ("reg.test".to_owned(), "412".to_owned());
    upstream::Error::Withheld { host, why, public: false }
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_is_told_is_withheld_is_not_served_because_another_login_is_not_answered_in_time() {
    let app: Repository = "reg.test/app".parse().unwrap();
    for by_digest in [true, false] {
        let parts = Parts::with_node_logins(&["node"]);
        let (digest, tag) = (parts.registry.push(&app, Some("v1"), MANIFEST), "v1".parse().unwrap());
        let layer = parts.registry.push(&app, None, b"layer");
        parts.registry.allow(&app, &["alice", "node"]);
        let alice = parts.pull_as("alice", &app).answered_within(Duration::from_secs(25));
        parts.manifests.by_tag(&alice, &tag).await.unwrap();
        // The right is fresh then, and the manifest is to be asked for.
        parts.clock.advance(Duration::from_secs(3_600));
        parts.access.ask_for_blob(&alice, layer, None).await.unwrap();
        let asked = AtomicUsize::new(0);
        parts.registry.before_answers(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Before::Failure(withheld()),
            _ => Before::Pause(Duration::from_secs(3_600)),
        });
        parts.registry.asked();
        let reference = if by_digest { digest.into() } else { Reference::Tag(tag) };
        let error = parts.manifests.find(&alice, &reference, ManifestUse::Pull).await.unwrap_err();
        assert!(parts.registry.asked().iter().any(|question| question.ends_with("as node")));
        assert!(error.is_withheld(), "{by_digest}: {error}");
        assert!(parts.access.membership().has_ended(&app, digest), "{by_digest}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_moved_tag_names_stays_withheld_where_another_login_is_not_answered_in_time() {
    let (parts, app) =
        (Parts::with_node_logins(&["one", "two"]), "reg.test/app".parse::<Repository>().unwrap());
    parts.registry.push(&app, Some("v1"), MANIFEST);
    parts.registry.allow(&app, &["one", "two"]);
    let anyone = for_tests::pull(&app).as_anonymous().answered_within(Duration::from_secs(25));
    let tag = "v1".parse().unwrap();
    parts.manifests.by_tag(&anyone, &tag).await.unwrap();
    let moved = parts.registry.push(&app, Some("v1"), br#"{"schemaVersion":2,"layers":[]}"#);
    let asked = AtomicUsize::new(0);
    parts.registry.before_answers(move |question| match question.asks {
        Asks::Manifest if asked.fetch_add(1, Ordering::Relaxed) == 0 => Before::Failure(withheld()),
        Asks::Manifest => Before::Pause(Duration::from_secs(3_600)),
        _ => Before::Nothing,
    });
    parts.registry.asked();
    let anyone = for_tests::pull(&app).as_anonymous().answered_within(Duration::from_secs(25));
    let answered = parts.manifests.by_tag(&anyone, &tag).await;
    let asked = parts.registry.asked();
    assert!(asked.iter().any(|question| question.ends_with("as two")), "{asked:?}");
    let error = answered.map(|answer| answer.digest).unwrap_err();
    assert!(error.is_withheld(), "{error}");
    assert!(parts.access.membership().has_ended(&app, moved));
}

#[tokio::test]
async fn a_manifest_that_is_confirmed_while_its_removal_waits_for_the_disk_is_a_member_after_it() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let (digest, tag) = (parts.registry.push(&app, Some("v1"), MANIFEST), "v1".parse().unwrap());
    let (context, membership) = (for_tests::pull(&app), parts.access.membership());
    parts.manifests.by_tag(&context, &tag).await.unwrap();
    parts.store.flush().await;
    parts.clock.advance(Duration::from_secs(3_600));
    let held = parts.store.hold_writes().await;
    let gone = membership.question(&app, digest);
    let there_again = async {
        parts.manifests.find(&context, &digest.into(), ManifestUse::Pull).await.unwrap();
        drop(held);
    };
    tokio::join!(gone.record_no(), there_again);
    parts.store.flush().await;
    assert!(matches!(membership.of(&app, digest).await, Some(Member::Manifest(_))));
}

#[tokio::test]
async fn what_a_mirror_sent_is_not_kept_by_a_yes_from_before_its_registry_deleted_it() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, MANIFEST);
    let layer = parts.registry.push(&app, None, b"layer");
    let (context, membership) = (for_tests::pull(&app), parts.access.membership());
    parts.access.ask_for_blob(&context, layer, None).await.unwrap();
    parts.registry.mirror(&app, digest, MirrorBody::whole(Bytes::from_static(MANIFEST)));
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    parts.registry.before_answers(move |question| match question.asks {
        Asks::IsManifestThere => Before::Permit(Arc::clone(&permits)),
        _ => Before::Nothing,
    });
    parts.manifests.find(&context, &digest.into(), ManifestUse::Pull).await.unwrap();
    parts.registry.is_asked("confirm manifest").await;
    membership.question(&app, digest).record_no().await;
    gate.add_permits(1);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    parts.store.flush().await;
    assert_eq!(parts.manifests.kept_type(&app, digest), None);
    assert_eq!(parts.store.records().member(&app, digest).await, None);
}
