//! Who leads, who follows, and how a flight ends.

use super::*;
use crate::pull::context::Priority;
use crate::pull::for_tests;
use crate::store::Owner;

fn flights() -> Flights {
    Flights::new(IntGauge::new("flights", "x").unwrap())
}

fn ask(flights: &Flights, repository: &str) -> Role {
    let context = PullContext::new(repository.parse().unwrap(), None, Caller::Anonymous);
    flights.join_or_lead(&context, Digest::of(b"x"), Sharing::All, Default::default())
}

#[test]
fn one_leads_all_others_follow_and_registries_never_share() {
    let flights = flights();
    let Role::Lead(leader) = ask(&flights, "a.test/r") else { panic!() };
    assert!(matches!(ask(&flights, "a.test/other"), Role::Follow(_)));
    assert!(matches!(ask(&flights, "b.test/r"), Role::Lead(_)));
    drop(leader);
    assert!(matches!(ask(&flights, "a.test/r"), Role::Lead(_)));
}

#[test]
fn a_request_after_a_failure_does_not_join_the_failed_flight() {
    let flights = flights();
    let Role::Lead(first) = ask(&flights, "a.test/r") else { panic!() };
    let following = first.flight().follow();
    first.fail(Error::NotStored(None));
    assert!(matches!(&*following.borrow(), Progress::Failed(Error::NotStored(_))));
    let Role::Lead(second) = ask(&flights, "a.test/r") else { panic!("joined one that has failed") };
    drop(first);
    assert!(matches!(ask(&flights, "a.test/r"), Role::Follow(_)), "the first took the second along");
    assert!(matches!(&*following.borrow(), Progress::Failed(Error::NotStored(_))));
    assert_eq!((flights.count(), flights.ended()), (1, 1));
    drop(second);
    assert_eq!((flights.count(), flights.ended(), flights.0.gauge.get()), (0, 2, 0));
}

#[test]
fn a_leader_that_vanishes_is_a_failure_and_never_a_normal_end() {
    let flights = flights();
    let Role::Lead(leader) = ask(&flights, "a.test/r") else { panic!() };
    let following = leader.flight().follow();
    drop(leader);
    assert!(matches!(&*following.borrow(), Progress::Failed(Error::LeaderGone)));
    assert_eq!(flights.count(), 0);
}

#[test]
fn a_background_download_that_a_runtime_joins_is_foreground_from_then_on() {
    let flights = flights();
    let context = PullContext::new("a.test/r".parse().unwrap(), None, Caller::Anonymous);
    let digest = Digest::of(b"x");
    let Role::Lead(leader) = flights.join_or_lead(
        &context.clone().with_priority(Priority::Background),
        digest,
        Sharing::All,
        Default::default(),
    ) else {
        panic!()
    };
    assert!(!leader.flight().is_foreground());
    drop(flights.join_or_lead(&context, digest, Sharing::All, Default::default()));
    assert!(leader.flight().is_foreground());
    // A pod's image that is fetched ahead joins later, and takes nothing back.
    drop(flights.join_or_lead(
        &context.with_priority(Priority::Ahead),
        digest,
        Sharing::All,
        Default::default(),
    ));
    assert!(leader.flight().is_foreground() && !leader.flight().is_ahead());
}

#[tokio::test]
async fn what_a_mirror_has_delivered_and_is_withheld_is_not_taken_for_a_slow_download() {
    let ((store, _clock, _directory), flights) = (for_tests::store(), flights());
    let Role::Lead(leader) = ask(&flights, "a.test/r") else { panic!() };
    let owner = Owner::unlimited(&"a.test".parse().unwrap());
    let mut ingest = store.begin(Digest::of(b"x"), Some(10_000_000), owner).await.unwrap();
    leader.publish_filling(ingest.growing(), Some(10_000_000), true, None);
    leader.flight().set_from_tier(true);
    assert!(leader.flight().waits_for_tier());
    ingest.write(&bytes::Bytes::from_static(&[7; 1_000])).unwrap();
    assert_eq!(leader.flight().received(), 1_000);
    assert!(!leader.flight().waits_for_tier());
}
