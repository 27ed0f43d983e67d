//! The state of pods and fetches, with the times that the test says.

use std::time::Duration;

use super::*;
use crate::kubernetes::FetchedAhead;
use crate::kubernetes::pod::{RawImage, RawPod};

fn pod(uid: &str, image: &str) -> Pod {
    let container = RawImage { name: "c".to_owned(), image: image.to_owned(), policy: "Always".to_owned() };
    let raw = RawPod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        containers: vec![container],
        ..RawPod::default()
    };
    Pod::new(raw).unwrap()
}

fn here() -> Outcome {
    Outcome::Here(FetchedAhead { fetched_bytes: 1, is_whole: true })
}

fn lost(why: &str) -> PodEvent {
    PodEvent::Lost(why.to_owned())
}

#[test]
fn a_source_that_fails_again_and_again_is_told_once() {
    let mut state = State::new(&["watch"], 3);
    let change = |state: &mut State, event| state.apply(0, event).source;
    let (why, none) = (|text: &str| text.to_owned(), SourceChange::None);
    assert_eq!(change(&mut state, lost("refused")), SourceChange::Lost(why("refused")));
    assert_eq!(change(&mut state, lost("refused")), SourceChange::StillLost(why("refused")));
    let other = SourceChange::StillLost(why("no answer"));
    assert_eq!(change(&mut state, lost("no answer")), other, "another reason is no other state");
    assert_eq!(change(&mut state, PodEvent::ListBegins), none);
    assert_eq!(change(&mut state, PodEvent::Applied(pod("a", "app"))), none);
    assert_eq!(change(&mut state, PodEvent::ListEnds), SourceChange::Seen);
    assert_eq!(change(&mut state, PodEvent::Applied(pod("a", "app"))), none);
    assert_eq!(change(&mut state, lost("cut off")), SourceChange::Lost(why("cut off")));
    assert_eq!(state.status().sources[0].problem.as_deref(), Some("cut off"));
    assert_eq!(state.counts().0, 1, "what was seen last stays");
}

#[test]
fn a_source_that_fails_with_the_words_of_one_that_has_told_nothing_is_told_once_too() {
    let mut state = State::new(&["watch"], 3);
    let nothing_yet = state.status().sources[0].problem.clone().unwrap();
    assert!(!state.status().sources[0].connected);
    let mut change = || state.apply(0, lost(&nothing_yet)).source;
    assert_eq!(change(), SourceChange::Lost(nothing_yet.clone()));
    assert_eq!(change(), SourceChange::StillLost(nothing_yet.clone()));
}

#[tokio::test]
async fn a_new_pod_with_the_policy_always_asks_anew_and_one_that_was_answered_does_not() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "app")));
    let begun = state.plan(HeldBack::default(), now).begin;
    assert_eq!((begun.len(), state.plan(HeldBack::default(), now)), (1, Plan::default()));
    let image = begun[0].image.clone();
    assert!(state.outlook(&image)[0].state.contains("being fetched"));
    state.ended(&begun[0], &here(), now);
    assert_eq!(state.plan(HeldBack::default(), now), Plan::default());
    assert!(state.outlook(&image)[0].state.contains("was fetched"));
    state.apply(0, PodEvent::Applied(pod("b", "app")));
    assert_eq!(state.plan(HeldBack::default(), now).begin, begun);
    state.apply(0, PodEvent::Deleted { uid: "b".to_owned() });
    assert_eq!(state.plan(HeldBack::default(), now).end, begun);
    state.apply(0, PodEvent::Deleted { uid: "a".to_owned() });
    assert!(state.settled.is_empty() && state.outlook(&image).is_empty() && state.running().is_empty());
}

#[tokio::test]
async fn a_pod_that_follows_a_refused_one_does_not_ask_again_at_once() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "app")));
    let begun = state.plan(HeldBack::default(), now).begin;
    state.ended(&begun[0], &Outcome::NotHere(NotFetched::Refused("denied".to_owned())), now);
    state.apply(0, PodEvent::Deleted { uid: "a".to_owned() });
    state.apply(0, PodEvent::Applied(pod("b", "app")));
    let plan = state.plan(HeldBack::default(), now);
    assert!(plan.begin.is_empty());
    assert!(state.outlook(&begun[0].image)[0].state.contains("denied"));
    assert_eq!(plan.look_again, Some(now + Duration::from_secs(20)));
    assert_eq!(state.plan(HeldBack::default(), plan.look_again.unwrap()).begin, begun);
    assert_eq!(state.status().failed.len(), 1);
    state.apply(0, PodEvent::Deleted { uid: "b".to_owned() });
    assert!(state.status().failed.is_empty(), "no pod wants it");
}

#[tokio::test]
async fn nothing_is_begun_from_a_registry_that_no_runtime_asks_for() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "reg.test/app:v1")));
    state.apply(0, PodEvent::Applied(pod("b", "other.test/app:v1")));
    let registries: HashSet<Registry> = ["reg.test".parse().unwrap()].into();
    let begun = state.plan(HeldBack { registries, ..HeldBack::default() }, now).begin;
    assert_eq!(begun.iter().map(|fetch| fetch.image.to_string()).collect::<Vec<_>>(), ["other.test/app:v1"]);
    assert_eq!(state.status().unused, ["reg.test"]);
    assert!(state.outlook(&"reg.test/app:v1".parse().unwrap())[0].state.contains("no runtime asked"));
    assert_eq!(state.plan(HeldBack::default(), now).begin.len(), 1);
}

#[tokio::test]
async fn a_pod_that_never_starts_or_pulls_protects_nothing() {
    let mut state = State::new(&["watch"], 3);
    let mut pod_of = |uid: &str, policy: &str, started: &[&str]| {
        let container = |name: &str| RawImage {
            name: name.to_owned(),
            image: format!("{uid}-{name}:v1"),
            policy: policy.to_owned(),
        };
        let raw = RawPod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: uid.to_owned(),
            containers: vec![container("a"), container("b")],
            started: started.iter().map(|name| (*name).to_owned()).collect(),
            ..RawPod::default()
        };
        state.apply(0, PodEvent::Applied(Pod::new(raw).unwrap()));
    };
    pod_of("waits", "Always", &[]);
    pod_of("never", "Never", &["a"]);
    pod_of("runs", "IfNotPresent", &["a"]);
    let expected: HashSet<Image> = ["runs-a:v1".parse().unwrap()].into();
    assert_eq!(state.running(), [("shop".to_owned(), expected)].into());
}

#[tokio::test]
async fn a_tenant_whose_images_no_runtime_asks_for_gets_no_more_and_others_do() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "app:v1")));
    let mut other = pod("b", "other:v1");
    other.namespace = "bank".to_owned();
    state.apply(0, PodEvent::Applied(other));
    let full = HeldBack { namespaces: ["shop".to_owned()].into(), ..HeldBack::default() };
    let begun = state.plan(full, now).begin;
    assert_eq!(begun.len(), 1);
    assert_eq!(state.pod_of(&begun[0]).namespace, "bank");
    assert!(state.outlook(&"app:v1".parse().unwrap())[0].state.contains("no runtime has asked"));
    assert_eq!(state.plan(HeldBack::default(), now).begin.len(), 1);
}

#[tokio::test]
async fn a_static_pod_and_its_mirror_are_one_fetch_that_goes_on_for_as_long_as_one_source_tells_of_it() {
    let (now, mut state) = (Instant::now(), State::new(&["pods_api", "api_server"], 3));
    state.apply(0, PodEvent::Applied(pod("static", "app")));
    state.apply(1, PodEvent::Applied(pod("mirror", "app")));
    let begun = state.plan(HeldBack::default(), now).begin;
    assert_eq!(begun.len(), 1);
    state.apply(1, PodEvent::Deleted { uid: "mirror".to_owned() });
    assert_eq!(state.plan(HeldBack::default(), now), Plan::default());
    state.apply(0, PodEvent::Deleted { uid: "static".to_owned() });
    assert_eq!(state.plan(HeldBack::default(), now).end, begun);
}

#[tokio::test]
async fn what_the_store_does_not_take_is_asked_for_once_a_pod_and_not_by_the_pods_that_follow_at_once() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "app")));
    let begun = state.plan(HeldBack::default(), now).begin;
    state.ended(&begun[0], &Outcome::NotHere(NotFetched::NotStored("no room".to_owned())), now);
    let much_later = now + Duration::from_secs(10_000);
    assert_eq!(state.plan(HeldBack::default(), much_later), Plan::default());
    assert!(state.outlook(&begun[0].image)[0].state.contains("no room"));
    state.apply(0, PodEvent::Applied(pod("b", "app")));
    let plan = state.plan(HeldBack::default(), now);
    assert_eq!((plan.begin.len(), plan.look_again), (0, Some(now + Duration::from_secs(20))));
    assert_eq!(state.plan(HeldBack::default(), much_later).begin, begun);
}

#[tokio::test]
async fn an_api_server_that_is_away_for_a_moment_costs_a_pod_no_more_than_that() {
    let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
    state.apply(0, PodEvent::Applied(pod("a", "app")));
    let begun = state.plan(HeldBack::default(), now).begin;
    state.ended(&begun[0], &Outcome::NotHere(NotFetched::Failed("no answer".to_owned())), now);
    assert_eq!(
        state.plan(HeldBack::default(), now),
        Plan { look_again: Some(now + Duration::from_secs(2)), ..Plan::default() }
    );
    assert_eq!(state.plan(HeldBack::default(), now + Duration::from_secs(2)).begin, begun);
    state.ended(&begun[0], &here(), now);
    assert_eq!(state.plan(HeldBack::default(), now + Duration::from_secs(4)), Plan::default());
}
