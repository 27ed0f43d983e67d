//! All pods are listed again although the watch goes on: what that repairs, and that it harms nothing where it fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder::kubernetes::{PodEvent, Waits};

use crate::pods_watch::{HOUR, PATIENCE, scene};
use crate::support::api_server::objects::Pod;
use crate::support::api_server::{ApiFault, ApiServer, Asked, Interjection};

/// For a watch that ends where the test says, and all pods listed before each one.
const LIST_EACH_TIME: Waits =
    Waits { answer: Duration::from_millis(500), watch: Duration::from_secs(60), list_every: Duration::ZERO };

fn pod(name: &str) -> Pod {
    Pod::new("shop", name, "n1").image("reg.test/team/app:v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_which_the_watch_never_tells_is_found_by_the_next_list_of_all_pods() {
    for (list_every, is_found) in [(Duration::ZERO, true), (HOUR, false)] {
        let (server, _directory, mut source) = scene(Waits { list_every, ..LIST_EACH_TIME }, |_| {}).await;
        source.connected().await;
        server.watched(1).await;
        server.put_pod_untold(pod("lost"));
        server.interject(Interjection::End);
        server.put_pod(pod("told"));
        let mut names = Vec::new();
        while names.last().is_none_or(|last| last != "told") {
            if let PodEvent::Applied(pod) = source.next().await {
                names.push(pod.name);
            }
        }
        assert_eq!(names.contains(&"lost".to_owned()), is_found, "{list_every:?}: {names:?}");
        if is_found {
            assert!(!source.connected().await, "the list counts");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_while_the_watch_works_loses_no_source_and_no_pod() {
    for trouble in
        [ApiFault::Status(500, "InternalError"), ApiFault::Status(403, "Forbidden"), ApiFault::Hang]
    {
        let (server, _directory, mut source) = scene(LIST_EACH_TIME, |_| {}).await;
        source.connected().await;
        server.watched(1).await;
        server.wrong(move |asked| asked.is_list_of_pods().then(|| trouble.clone()));
        server.interject(Interjection::End);
        let again = async {
            while server.count(|asked| asked.is_list_of_pods()) == 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("all pods are listed again");
        server.put_pod(pod("new"));
        loop {
            match source.next().await {
                PodEvent::Applied(pod) => break assert_eq!(pod.name, "new"),
                PodEvent::ListBegins => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_is_not_taken_for_one_without_pods() {
    let (lists, watches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // The first watch after a list does not begin, and no list comes after that.
    let wrong = move |asked: &Asked| {
        let is_wrong = match (asked.is_watch(), asked.is_list_of_pods()) {
            (true, _) => watches.fetch_add(1, Ordering::SeqCst) == 0,
            (_, true) => lists.fetch_add(1, Ordering::SeqCst) > 0,
            _ => false,
        };
        is_wrong.then_some(ApiFault::Status(500, "InternalError"))
    };
    let before = move |server: &ApiServer| {
        server.put_pod(pod("web"));
        server.wrong(wrong);
    };
    let (_server, _directory, mut source) = scene(LIST_EACH_TIME, before).await;
    source.lost().await;
    loop {
        match source.next().await {
            PodEvent::Resumed => return,
            PodEvent::ListEnds => panic!("the end of a list that failed: every pod would be gone"),
            _ => {}
        }
    }
}
