//! Manifests against a registry of the tests' own.

use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::pull::for_tests::{self, Asks, Before, MANIFEST, Parts};
use crate::tier::for_tests::{FakeObjects, Op};
use crate::upstream::Error::NotFound;
use crate::upstream::Unknown;

/// Another image manifest.
const MOVED: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"annotations":{"v":"2"}}"#;

async fn pull(parts: &Parts, context: &PullContext) -> Result<ManifestAnswer, Error> {
    parts.manifests.find(context, &"v1".parse().unwrap(), ManifestUse::Pull).await
}

#[tokio::test]
async fn any_number_of_equal_requests_fetch_a_manifest_once() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, Some("v1"), MANIFEST);
    let context = for_tests::pull(&app);
    let answers = join_all((0..10).map(|_| pull(&parts, &context))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().bytes == MANIFEST));
    let asked = parts.registry.asked();
    assert_eq!(asked.iter().filter(|question| question.starts_with("manifest")).count(), 1, "{asked:?}");
    assert_eq!(pull(&parts, &context).await.unwrap().source, AnswerSource::Revalidated);
    assert_eq!(parts.registry.asked(), ["resolve v1 as -"]);
}

#[tokio::test]
async fn wrong_bytes_are_neither_served_nor_stored() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
    parts.registry.damage(&app, digest, MOVED);
    assert!(matches!(pull(&parts, &for_tests::pull(&app)).await, Err(Error::Mismatch { .. })));
    assert!(parts.store.blob(digest).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_a_mirror_sent_is_kept_once_the_registry_says_that_the_repository_has_it() {
    for (has_it, tag) in [(false, None), (true, None), (true, Some("v1"))] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
        let (digest, context) = (Digest::of(MANIFEST), for_tests::pull(&app));
        // A grant, with which a mirror may be asked.
        parts.access.record_grant(&app, parts.keychain.anonymous_principal()).await;
        let bytes = bytes::Bytes::from_static(MANIFEST);
        let body = for_tests::MirrorBody::whole(bytes);
        parts.registry.mirror(&app, digest, body);
        if has_it {
            parts.registry.push(&app, tag, MANIFEST);
        }
        let reference = match tag {
            Some(tag) => tag.parse().unwrap(),
            None => Reference::Digest(digest),
        };
        let answer = parts.manifests.find(&context, &reference, ManifestUse::Pull).await.unwrap();
        assert_eq!(answer.bytes, MANIFEST);
        if tag.is_none() {
            parts.registry.is_asked("confirm manifest").await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let kept = parts.manifests.stored.find(&app, digest).await.is_some();
        assert_eq!(kept, has_it, "{tag:?}");
        let asked = parts.registry.asked();
        let confirmed = asked.iter().filter(|question| question.starts_with("confirm")).count();
        assert_eq!(confirmed, usize::from(tag.is_none()), "what a tag names needs no question: {asked:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_said_to_be_gone_while_it_comes_is_answered_and_not_kept() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, MANIFEST);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let permits = Arc::clone(&gate);
    parts.registry.before_answers(move |question| match question.asks {
        Asks::Manifest => Before::Permit(Arc::clone(&permits)),
        _ => Before::Nothing,
    });
    let (context, reference) = (for_tests::pull(&app), Reference::Digest(digest));
    let pull = parts.manifests.find(&context, &reference, ManifestUse::Pull);
    let ends = async {
        parts.registry.is_asked("manifest").await;
        let membership = parts.access.membership();
        membership.question(&app, digest).record_no().await;
        gate.add_permits(1);
    };
    let (pulled, ()) = tokio::join!(pull, ends);
    assert_eq!(pulled.unwrap().bytes, MANIFEST);
    parts.store.flush().await;
    assert!(parts.manifests.stored.find(&app, digest).await.is_none(), "it is in memory");
    assert_eq!(parts.store.records().member(&app, digest).await, None);
}

#[tokio::test]
async fn in_an_outage_a_tag_is_served_as_it_was_to_those_who_could_read_it() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, Some("v1"), MANIFEST);
    parts.registry.allow(&app, &["alice"]);
    let [alice, bob] = ["alice", "bob"].map(|user| parts.pull_as(user, &app));
    pull(&parts, &alice).await.unwrap();
    parts.registry.fail(Some(for_tests::outage()));
    assert_eq!(pull(&parts, &alice).await.unwrap().source, AnswerSource::Stale);
    assert!(pull(&parts, &bob).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_tag_of_which_its_registry_says_that_it_is_gone_is_not_served_from_its_record() {
    // The last is the page of a gateway, which is no word of the registry.
    for (unknown, is_gone) in [(Unknown::Content, true), (Unknown::Other, true), (Unknown::Unsaid, false)] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        parts.registry.push(&app, Some("v1"), MANIFEST);
        let context = for_tests::pull(&app);
        pull(&parts, &context).await.unwrap();
        parts.registry.fail(Some(NotFound { host: "reg.test".to_owned(), unknown, public: true }));
        assert!(pull(&parts, &context).await.unwrap_err().is_not_found(), "{unknown:?}");
        let record = parts.store.records().tag(&app, &"v1".parse().unwrap()).await;
        assert_eq!(record.is_none(), is_gone, "{unknown:?}: what an outage is served from");
        parts.registry.fail(Some(for_tests::outage()));
        // Longer than the denial is remembered.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(pull(&parts, &context).await.is_err(), is_gone, "{unknown:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_moved_tag_whose_manifest_is_slow_is_served_as_it_was_before_the_client_gives_up() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let before = parts.registry.push(&app, Some("v1"), MANIFEST);
    let context = || for_tests::pull(&app).answered_within(Duration::from_secs(25));
    pull(&parts, &context()).await.unwrap();
    let after = parts.registry.push(&app, Some("v1"), MOVED);
    parts.registry.before_answers(|question| match question.asks {
        Asks::Manifest => Before::Pause(Duration::from_secs(60)),
        _ => Before::Nothing,
    });
    let stale = pull(&parts, &context()).await.unwrap();
    assert_eq!((stale.digest, stale.source), (before, AnswerSource::Stale));
    assert!(parts.access.outages().is_empty(), "a slow manifest passed for an outage");
    tokio::time::sleep(Duration::from_secs(60)).await;
    parts.registry.answer_at_once();
    assert_eq!(pull(&parts, &context()).await.unwrap().digest, after);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_too_long_is_served_as_it_was_to_those_who_could_read_it() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
    parts.registry.allow(&app, &["alice"]);
    let [alice, bob] = ["alice", "bob"].map(|user| parts.pull_as(user, &app));
    pull(&parts, &alice).await.unwrap();
    parts.clock.advance(Duration::from_secs(3_600));
    // Two principals that are asked one after the other take longer than each may.
    parts.registry.before_answers(|question| match question.asks {
        Asks::TagsDigest | Asks::IsManifestThere => Before::Pause(Duration::from_secs(40)),
        _ => Before::Nothing,
    });
    let within = |context: &PullContext| context.clone().answered_within(Duration::from_secs(25));
    for reference in ["v1".parse().unwrap(), digest.into()] {
        let begun = tokio::time::Instant::now();
        let stale = parts.manifests.find(&within(&alice), &reference, ManifestUse::Pull).await.unwrap();
        assert_eq!((stale.digest, stale.source), (digest, AnswerSource::Stale));
        assert!(begun.elapsed() < Duration::from_secs(25), "the client has given up");
        assert!(parts.manifests.find(&within(&bob), &reference, ManifestUse::Pull).await.is_err());
    }
    assert!(parts.access.outages().is_empty(), "a slow answer passed for an outage of the registry");
}

#[tokio::test]
async fn a_disk_that_takes_its_time_holds_up_no_cold_manifest_and_loses_none() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
    let context = for_tests::pull(&app);
    let held = parts.store.hold_writes().await;
    assert_eq!(pull(&parts, &context).await.unwrap().bytes, MANIFEST);
    assert!(parts.store.blob(digest).await.is_none(), "the disk has not written it");
    let again = parts.manifests.find(&context, &digest.into(), ManifestUse::Pull).await.unwrap();
    assert_eq!((again.source, &again.bytes[..]), (AnswerSource::Hit, MANIFEST));
    parts.registry.fail(Some(for_tests::outage()));
    assert!(pull(&parts, &context).await.unwrap().stale.is_some(), "the tag is known too");
    drop(held);
    parts.store.flush().await;
    assert!(parts.store.blob(digest).await.is_some());
    let tag = parts.store.records().tag(&app, &"v1".parse().unwrap()).await;
    assert_eq!(tag.map(|record| record.digest), Some(digest));
    assert_eq!(parts.store.records().grants(&app).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_manifest_in_memory_that_left_the_store_is_stored_again_when_it_is_used() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
    let context = for_tests::pull(&app);
    let file = for_tests::blob_file(&parts.directory, digest);
    let use_it = async || {
        pull(&parts, &context).await.unwrap();
        parts.store.flush().await;
        file.exists()
    };
    assert!(use_it().await && use_it().await);
    let blob = parts.store.blob(digest).await.unwrap();
    parts.store.quarantine(&blob, "found damaged".to_owned()).await;
    assert!(!file.exists());
    assert!(use_it().await, "it counts as on disk");
    let fetched = parts.registry.asked().iter().filter(|question| question.starts_with("manifest")).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_large_manifest_that_cannot_be_stored_is_fetched_once() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let ingest = parts.directory.path().join("store/ingest");
    std::fs::remove_dir_all(&ingest).unwrap();
    std::fs::write(ingest, "in the way").unwrap();
    let large = format!(
        "{},\"annotations\":{{\"v\":\"{}\"}}}}",
        std::str::from_utf8(&MANIFEST[..MANIFEST.len() - 1]).unwrap(),
        "x".repeat(200_000)
    );
    let digest = parts.registry.push(&app, Some("v1"), Box::leak(large.into_bytes().into_boxed_slice()));
    let context = for_tests::pull(&app);
    pull(&parts, &context).await.unwrap();
    for _ in 0..2 {
        parts.manifests.find(&context, &digest.into(), ManifestUse::Pull).await.unwrap();
    }
    let fetched = parts.registry.asked().iter().filter(|question| question.starts_with("manifest")).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_caller_that_the_registry_refuses_costs_no_request_to_the_tier() {
    let objects = FakeObjects::default();
    let (parts, app) = (Parts::with_tier(objects.tier()), "reg.test/app".parse::<Repository>().unwrap());
    let digest = parts.registry.push(&app, None, MANIFEST);
    parts.registry.allow(&app, &["alice"]);
    let find =
        async |context| parts.manifests.find(&context, &Reference::Digest(digest), ManifestUse::Pull).await;
    assert!(find(for_tests::pull(&app)).await.is_err());
    assert!(find(parts.pull_as("bob", &app)).await.is_err());
    assert_eq!(objects.requests(), 0);
    assert_eq!(find(parts.pull_as("alice", &app)).await.unwrap().bytes, MANIFEST);
    assert_eq!(objects.asked(Op::Get, "manifests"), 1);
}

#[tokio::test(start_paused = true)]
async fn who_pulls_after_a_revocation_shares_no_answer_to_a_question_from_before() {
    for (is_stored, by_digest, question) in [
        (false, false, "resolve v1"),
        (false, true, "manifest"),
        (true, false, "resolve v1"),
        (true, true, "confirm manifest"),
    ] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
        parts.registry.allow(&app, &["alice"]);
        let alice = parts.pull_as("alice", &app);
        if is_stored {
            pull(&parts, &alice).await.unwrap();
            parts.clock.advance(Duration::from_secs(3_600));
        }
        parts.registry.asked();
        parts.registry.before_answers(|_| Before::Pause(Duration::from_secs(10)));
        let reference: Reference = if by_digest { digest.into() } else { "v1".parse().unwrap() };
        let ask = || parts.manifests.find(&alice, &reference, ManifestUse::Pull);
        let after = async {
            parts.registry.is_asked(question).await;
            parts.access.revoke(Some(&app)).await.unwrap();
            parts.registry.allow(&app, &[]);
            ask().await
        };
        let (_, after) = tokio::join!(ask(), after);
        let error = after.expect_err("it was let in by an answer from before");
        assert!(error.is_denied(), "{is_stored} {by_digest}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_that_its_registry_has_again_is_no_deleted_one_any_more() {
    // Delivered, and named in the answer to the tag.
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    let digest = parts.registry.push(&app, Some("v1"), MANIFEST);
    let (context, membership) = (for_tests::pull(&app), parts.access.membership());
    for reference in ["v1".parse().unwrap(), Reference::from(digest)] {
        pull(&parts, &context).await.unwrap();
        membership.question(&app, digest).record_no().await;
        parts.manifests.forget(&app, None);
        parts.manifests.find(&context, &reference, ManifestUse::Pull).await.unwrap();
        parts.store.flush().await;
        assert!(!membership.has_ended(&app, digest), "{reference:?}");
        assert!(membership.is_confirmed(&app, digest).await, "{reference:?}");
    }
}
