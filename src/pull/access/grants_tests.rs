//! Grants: what ends one, what brings none back, and a disk that does not say what it has.

use futures_util::FutureExt;

use super::*;
use crate::pull::for_tests;
use crate::reference::PrincipalKind;
use crate::support::time_for_tests::{as_time_passes, threads_rest};

async fn record(grants: &Grants, repository: &Repository, principal: Principal) {
    grants.record(repository, principal, Duration::ZERO, grants.revocations()).await;
}

#[tokio::test]
async fn a_proof_is_as_old_as_its_token_and_replaces_no_younger_one() {
    let (store, clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let alice = Principal::new(PrincipalKind::Caller, [1; 16]);
    let (grants, minute) = (Grants::new(store.records().clone()), Duration::from_secs(60));
    grants.record(&app, alice, 4 * minute, 0).await;
    store.flush().await;
    for grants in [&grants, &Grants::new(store.records().clone())] {
        assert_eq!(grants.of(&app).await[0].age.as_secs(), 240);
    }
    clock.advance(minute);
    grants.record(&app, alice, minute / 2, 0).await;
    assert_eq!(grants.of(&app).await[0].age.as_secs(), 30);
    grants.record(&app, alice, 5 * minute, 0).await;
    assert_eq!(grants.of(&app).await[0].age.as_secs(), 30, "an older proof made it old");
}

#[tokio::test]
async fn an_answer_to_a_question_from_before_a_revocation_brings_no_right_back() {
    let (store, _clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let alice = Principal::new(PrincipalKind::Caller, [1; 16]);
    let grants = Grants::new(store.records().clone());
    let before = grants.revocations();
    grants.revoke(Some(&app)).await.unwrap();
    grants.record(&app, alice, Duration::ZERO, before).await;
    assert!(grants.of(&app).await.is_empty());
    record(&grants, &app, alice).await;
    assert_eq!(grants.of(&app).await.len(), 1);
}

#[tokio::test]
async fn a_grant_outlives_a_restart_and_a_revoked_one_does_not() {
    let (store, clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let [one, two] = [1, 2].map(|n| Principal::new(PrincipalKind::Caller, [n; 16]));
    // What the grants open: they are on the disk beside it.
    for_tests::remember_blob(&store, "reg.test/app", b"x").await;
    let grants = Grants::new(store.records().clone());
    record(&grants, &app, one).await;
    record(&grants, &app, two).await;
    store.flush().await;
    clock.advance(Duration::from_secs(60));
    let ages: Vec<_> =
        Grants::new(store.records().clone()).of(&app).await.iter().map(|grant| grant.age).collect();
    assert_eq!(ages, [Duration::from_secs(60); 2]);

    assert!(grants.end(&app, one).await);
    assert!(!grants.end(&app, one).await, "ended twice");
    for grants in [&grants, &Grants::new(store.records().clone())] {
        let left: Vec<_> = grants.of(&app).await.iter().map(|grant| grant.principal).collect();
        assert_eq!(left, [two]);
    }
    assert_eq!(grants.revoke(Some(&app)).await.unwrap(), 1);
    assert!(
        grants.of(&app).await.is_empty() && Grants::new(store.records().clone()).of(&app).await.is_empty()
    );
}

#[tokio::test]
async fn a_request_that_gives_up_while_too_much_waits_to_be_written_loses_and_keeps_no_grant() {
    let (store, _clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let [alice, bob] = [1, 2].map(|n| Principal::new(PrincipalKind::Caller, [n; 16]));
    // With content the grants are on the disk.
    for_tests::remember_blob(&store, "reg.test/app", b"x").await;
    let grants = Grants::new(store.records().clone());
    record(&grants, &app, bob).await;
    store.flush().await;
    let full = store.fill_writes();
    assert!(record(&grants, &app, alice).now_or_never().is_none());
    assert!(grants.end(&app, bob).now_or_never().is_none());
    drop(full);
    record(&grants, &app, alice).await;
    store.flush().await;
    let on_disk = store.records().grants(&app).await.unwrap();
    assert_eq!(on_disk.iter().map(|(principal, _)| *principal).collect::<Vec<_>>(), [alice]);
}

#[tokio::test]
async fn what_the_operator_revoked_opens_nothing_while_the_disk_does_not_take_it() {
    let (store, _clock, _directory) = for_tests::store();
    let [app, other]: [Repository; 2] = ["reg.test/app", "reg.test/b"].map(|name| name.parse().unwrap());
    let alice = Principal::new(PrincipalKind::Caller, [1; 16]);
    let grants = Grants::new(store.records().clone());
    for repository in [&app, &other] {
        record(&grants, repository, alice).await;
    }
    store.flush().await;
    let held = store.hold_writes().await;
    // The command gives up.
    assert!(grants.revoke(Some(&app)).now_or_never().is_none());
    assert!(grants.of(&app).await.is_empty(), "it was read from its file");
    assert_eq!(grants.of(&other).await.len(), 1);
    drop(held);
    store.flush().await;
    assert!(grants.of(&app).await.is_empty());
    record(&grants, &app, alice).await;
    assert_eq!(grants.of(&app).await.len(), 1, "it is given anew");
}

#[tokio::test(start_paused = true)]
async fn what_a_disk_that_hangs_does_not_say_is_asked_again_and_ends_there_too() {
    let (store, _clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let [alice, bob] = [1, 2].map(|n| Principal::new(PrincipalKind::Caller, [n; 16]));
    let before = Grants::new(store.records().clone());
    for principal in [alice, bob] {
        record(&before, &app, principal).await;
    }
    store.flush().await;
    let grants = Grants::new(store.records().clone());
    let hangs = store.hang_reads();
    let waits = async {
        let empty = grants.of(&app).await.is_empty();
        (empty, grants.end(&app, bob).await)
    };
    assert_eq!(as_time_passes(waits).await, (true, false), "nothing is known of them");
    drop(hangs);
    threads_rest().await;
    assert!(!store.is_disk_hanging());
    let left: Vec<_> = grants.of(&app).await.iter().map(|grant| grant.principal).collect();
    assert_eq!(left, [alice], "the right that ended is on disk");
}

#[tokio::test]
async fn invented_principals_push_out_the_oldest_grant_and_grow_nothing() {
    let (store, _clock, _directory) = for_tests::store();
    let app: Repository = "reg.test/app".parse().unwrap();
    let grants = Grants::new(store.records().clone());
    for n in 0..=PRINCIPALS_MAX {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_le_bytes());
        record(&grants, &app, Principal::new(PrincipalKind::Caller, key)).await;
    }
    assert_eq!(grants.of(&app).await.len(), PRINCIPALS_MAX);
}
