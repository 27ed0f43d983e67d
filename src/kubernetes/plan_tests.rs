//! Plans: which image is fetched before which.

use super::*;
use crate::kubernetes::pod::{RawImage, RawPod};

/// A pod; an image is written as `name`, or as `name!Policy`.
fn raw(uid: &str, images: &[&str]) -> RawPod {
    let container = |image: &&str| {
        let (name, policy) = image.split_once('!').unwrap_or((image, ""));
        RawImage { name: name.to_owned(), image: format!("reg.test/{name}:v1"), policy: policy.to_owned() }
    };
    RawPod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        containers: images.iter().map(container).collect(),
        ..RawPod::default()
    }
}

fn pod(uid: &str, images: &[&str]) -> Pod {
    Pod::new(raw(uid, images)).unwrap()
}

#[derive(Default)]
struct World {
    pods: Vec<Pod>,
    under_way: HashSet<Fetch>,
    settled: HashMap<String, HashSet<Fetch>>,
    failed: HashMap<Fetch, Instant>,
    unused: HashSet<Registry>,
}

impl World {
    fn plan(&self, ahead: usize, now: Instant) -> Plan {
        let known = Known {
            under_way: &self.under_way,
            settled: &self.settled,
            failed: &|fetch| self.failed.get(fetch).copied(),
            held_back: &|_, registry| self.unused.contains(registry),
        };
        plan(self.pods.iter(), known, ahead, now)
    }

    fn begins(&self, ahead: usize) -> Vec<String> {
        names(&self.plan(ahead, Instant::now()).begin)
    }
}

fn names(fetches: &[Fetch]) -> Vec<String> {
    fetches.iter().map(|fetch| fetch.image.repository.to_string().replace("reg.test/", "")).collect()
}

fn fetch(pod: &Pod, at: usize) -> Fetch {
    Fetch::of(pod, &pod.images[at]).unwrap()
}

#[test]
fn the_image_that_kubelet_wants_next_is_never_behind_a_later_one() {
    let mut world = World { pods: vec![pod("a", &["1", "2", "3", "4", "5"])], ..World::default() };
    assert_eq!(world.begins(3), ["1", "2", "3"]);
    assert_eq!(world.begins(1), ["1"]);
    let pod = world.pods[0].clone();
    world.under_way = [fetch(&pod, 0), fetch(&pod, 2)].into();
    assert_eq!(world.begins(3), ["2"]);
    world.settled.insert("a".to_owned(), [fetch(&pod, 0)].into());
    world.under_way = [fetch(&pod, 2)].into();
    assert_eq!(world.begins(3), ["2", "4"]);
}

#[test]
fn a_pod_of_many_images_keeps_no_other_from_its_first() {
    let many: Vec<String> = (0..30).map(|n| format!("many{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let old = Pod { created_at: 1, ..pod("b", &many) };
    let new = Pod { created_at: 2, ..pod("a", &["first", "second"]) };
    let urgent = Pod { created_at: 3, priority: 1_000, ..pod("c", &["urgent"]) };
    let world = World { pods: vec![new, old, urgent], ..World::default() };
    assert_eq!(world.begins(3), ["urgent", "many0", "first", "many1", "second", "many2"]);
    assert_eq!(world.begins(30).len(), FETCHES_MAX);
}

#[test]
fn what_two_pods_want_alike_is_fetched_once_and_what_they_may_read_differently_is_not_shared() {
    let secret = |uid: &str, namespace: &str| {
        let raw = RawPod {
            namespace: namespace.to_owned(),
            pull_secrets: vec!["corp".to_owned()],
            ..raw(uid, &["app"])
        };
        Pod::new(raw).unwrap()
    };
    let world = |pods: Vec<Pod>| World { pods, ..World::default() };
    assert_eq!(world(vec![pod("a", &["app"]), pod("b", &["app"])]).begins(3), ["app"]);
    assert_eq!(world(vec![secret("a", "shop"), secret("b", "shop")]).begins(3), ["app"]);
    assert_eq!(world(vec![secret("a", "shop"), secret("b", "bank")]).begins(3), ["app", "app"]);
    assert_eq!(world(vec![secret("a", "shop"), pod("b", &["app"])]).begins(3), ["app", "app"]);
}

#[test]
fn pods_of_one_account_ask_once_and_those_of_two_are_never_one_fetch() {
    let of = |uid: &str, namespace: &str, account: &str| {
        let (namespace, service_account) = (namespace.to_owned(), account.to_owned());
        let mut pod =
            Pod::new(RawPod { namespace, service_account, ..raw(uid, &["private", "public"]) }).unwrap();
        pod.images[0].needs_account = true;
        pod
    };
    let world = |pods: Vec<Pod>| World { pods, ..World::default() };
    assert_eq!(
        world(vec![of("a", "shop", "web"), of("b", "shop", "web")]).begins(3).len(),
        2,
        "one account, its tokens are bound to one of the pods"
    );
    for other in [("shop", "other"), ("bank", "web")] {
        let begun = world(vec![of("a", "shop", "web"), of("b", other.0, other.1)]).begins(3);
        assert_eq!(begun, ["private", "private", "public"], "{other:?}");
    }
}

#[test]
fn a_deleted_pod_ends_its_fetches_and_those_that_another_wants_go_on() {
    let (a, b) = (pod("a", &["own", "shared"]), pod("b", &["shared"]));
    let mut world = World { under_way: [fetch(&a, 0), fetch(&a, 1)].into(), ..World::default() };
    world.pods = vec![Pod { has_ended: true, ..a }, b];
    let plan = world.plan(3, Instant::now());
    assert_eq!((names(&plan.end), names(&plan.begin)), (vec!["own".to_owned()], vec![]));
}

#[test]
fn policies_keep_their_meaning_and_a_container_that_crashes_again_and_again_asks_nothing() {
    let mut world =
        World { pods: vec![pod("a", &["never!Never", "always!Always", "once"])], ..World::default() };
    let plan = world.plan(3, Instant::now());
    assert_eq!(names(&plan.begin), ["always", "once"]);
    assert_eq!(plan.begin.iter().map(|fetch| fetch.is_always).collect::<Vec<_>>(), [true, false]);
    let started = RawPod { started: vec!["always".to_owned()], ..raw("a", &["always!Always", "once"]) };
    world.pods = vec![Pod::new(started).unwrap()];
    assert_eq!(world.begins(3), ["once"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_asked_for_again_at_once_whatever_pods_come() {
    let now = Instant::now();
    let mut world = World { pods: vec![pod("a", &["secret", "public"])], ..World::default() };
    let refused = fetch(&world.pods[0], 0);
    let failed = Failed::after(None, REFUSED, now, "refused".to_owned());
    world.failed.insert(refused.clone(), failed.until);
    world.pods = vec![pod("b", &["secret", "public"]), pod("c", &["secret"])];
    let plan = world.plan(3, now);
    assert_eq!((names(&plan.begin), plan.look_again), (vec!["public".to_owned()], Some(failed.until)));
    assert_eq!(names(&world.plan(3, failed.until).begin), ["secret", "public"]);
    let mut waits = Vec::new();
    let mut failed = failed;
    for _ in 0..7 {
        waits.push((failed.until - now).as_secs());
        failed = Failed::after(Some(&failed), REFUSED, now, String::new());
    }
    assert_eq!(waits, [20, 40, 80, 160, 300, 300, 300]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_last_week_does_not_hold_up_the_one_of_today_and_none_for_minutes() {
    let mut now = Instant::now();
    let next = |before: &mut Option<Failed>, now: Instant| {
        let failed = Failed::after(before.as_ref(), FAILED, now, String::new());
        let wait = (failed.until - now).as_secs();
        *before = Some(failed);
        wait
    };
    let mut failed = None;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let wait = next(&mut failed, now);
        now += Duration::from_secs(wait);
        waits.push(wait);
    }
    assert_eq!(waits, [2, 4, 8, 16, 30, 30], "something was in the way, and may be over");
    assert_eq!(next(&mut failed, now + Duration::from_secs(590)), 30);
    assert_eq!(next(&mut failed, now + Duration::from_secs(24 * 3600)), 2);
}

#[test]
fn a_tenant_whose_registry_is_slow_does_not_hold_the_places_of_others() {
    let of = |namespace: &str, priority: i32, n: usize| {
        let uid = format!("{namespace}{n}");
        let mut pod = Pod::new(RawPod { namespace: namespace.to_owned(), ..raw(&uid, &[&uid]) }).unwrap();
        (pod.created_at, pod.priority) = (i64::try_from(n).unwrap(), priority);
        pod
    };
    let mut world = World { pods: (0..20).map(|n| of("slow", 0, n)).collect(), ..World::default() };
    let settle = |world: &mut World| {
        let plan = world.plan(3, Instant::now());
        assert!(world.under_way.len() + plan.begin.len() <= FETCHES_MAX + plan.end.len());
        world.under_way.retain(|fetch| !plan.end.contains(fetch));
        world.under_way.extend(plan.begin.iter().cloned());
        let again = world.plan(3, Instant::now());
        assert!(again.begin.is_empty() && again.end.is_empty(), "it goes back and forth: {again:?}");
        (plan.begin.len(), names(&plan.end))
    };
    assert_eq!(settle(&mut world), (FETCHES_MAX, vec![]));
    // The last that began makes way.
    world.pods.push(of("shop", 0, 50));
    assert_eq!(settle(&mut world), (1, vec!["slow11".to_owned()]));
    world.pods.extend((51..70).map(|n| of("shop", 0, n)));
    assert_eq!(settle(&mut world).0, FETCHES_MAX / 2 - 1);
    // One more tenant, and a pod that goes before all others.
    world.pods.push(of("bank", 0, 80));
    assert_eq!(settle(&mut world).0, 1);
    world.pods.extend([of("slow", 9, 90), of("slow", -5, 91)]);
    assert_eq!(settle(&mut world).0, 1, "the urgent one, and not the one that may wait");
    // Nor do two namespaces, begun together, get other shares.
    world.under_way.clear();
    assert_eq!(settle(&mut world).0, FETCHES_MAX);
    let held = |name: &str| {
        names(&world.under_way.iter().cloned().collect::<Vec<_>>())
            .iter()
            .filter(|held| held.starts_with(name))
            .count()
    };
    assert_eq!((held("bank"), held("shop")), (1, 5), "{}", held("slow"));
}

#[test]
fn nothing_is_fetched_from_a_registry_that_no_runtime_asks_for() {
    let world = World { pods: vec![pod("a", &["one", "two"])], ..World::default() };
    assert_eq!(world.begins(3), ["one", "two"]);
    let world = World { unused: ["reg.test".parse().unwrap()].into(), ..world };
    assert!(world.begins(3).is_empty());
}
