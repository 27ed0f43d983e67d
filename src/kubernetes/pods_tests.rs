//! The watch as a whole, with sources that say what the test says.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::*;
use crate::credentials::PullSecrets;
use crate::kubernetes::NotFetched;
use crate::kubernetes::plan::FETCHES_MAX;
use crate::kubernetes::pod::{Pod, PodName, RawImage, RawPod};
use crate::kubernetes::source::{Secret, SecretError};
use crate::pull::for_tests;
use crate::support::metrics::Registry;
use crate::support::shutdown;

/// A source whose events come from the test.
struct Scripted(Mutex<Option<mpsc::Receiver<PodEvent>>>);

impl PodSource for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn run(&self, events: mpsc::Sender<PodEvent>, mut shutdown: Shutdown) -> BoxFuture<'_, ()> {
        let told = self.0.lock().take();
        async move {
            let mut told = told.unwrap();
            while let Some(event) = told.recv().await {
                events.send(event).await.unwrap();
            }
            shutdown.requested().await;
        }
        .boxed()
    }
}

/// Fetches that take until the test lets them.
#[derive(Default)]
struct Slow {
    begun: Mutex<Vec<String>>,
    ended: Arc<Mutex<usize>>,
    go_on: Notify,
}

struct CountsItsEnd(Arc<Mutex<usize>>);

impl Drop for CountsItsEnd {
    fn drop(&mut self) {
        *self.0.lock() += 1;
    }
}

impl FetchAhead for Slow {
    fn fetch<'a>(
        &'a self,
        image: &'a Image,
        _: PullSecrets,
        arrived: &'a AtomicU64,
    ) -> BoxFuture<'a, Result<FetchedAhead, NotFetched>> {
        self.begun.lock().push(image.repository.to_string());
        let end = CountsItsEnd(Arc::clone(&self.ended));
        async move {
            let _end = end;
            arrived.fetch_add(3, Ordering::Relaxed);
            self.go_on.notified().await;
            arrived.fetch_add(2, Ordering::Relaxed);
            assert!(!image.repository.to_string().contains("panics"), "on purpose");
            Ok(FetchedAhead { fetched_bytes: 5, is_whole: true })
        }
        .boxed()
    }
}

fn pod(uid: &str, images: &[&str]) -> PodEvent {
    let container = |image: &&str| RawImage {
        name: (*image).to_owned(),
        image: format!("reg.test/{image}:v1"),
        ..RawImage::default()
    };
    let raw = RawPod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        containers: images.iter().map(container).collect(),
        ..RawPod::default()
    };
    PodEvent::Applied(Pod::new(raw).unwrap())
}

/// A watch of what the test tells, whose images take until the test lets them.
fn parts(told: mpsc::Receiver<PodEvent>, images: Arc<Slow>, store: Store) -> Parts {
    Parts {
        sources: vec![Arc::new(Scripted(Mutex::new(Some(told))))],
        secrets: None,
        accounts: None,
        presence: Vec::new(),
        images,
        store,
        ahead: 2,
    }
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), wait).await.expect("it comes to that");
}

#[tokio::test(start_paused = true)]
async fn images_that_come_a_byte_at_a_time_hold_no_place_from_others_for_an_hour() {
    let (store, _clock, _directory) = for_tests::store();
    let (tell, told) = mpsc::channel(32);
    let images = Arc::new(Slow::default());
    let parts = parts(told, Arc::clone(&images), store);
    let pods = Pods::new(parts, Metrics::register(&Registry::new()).unwrap());
    let (_trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(pods.run(shutdown));
    tell.send(PodEvent::ListBegins).await.unwrap();
    tell.send(PodEvent::ListEnds).await.unwrap();
    for at in 0..FETCHES_MAX {
        tell.send(pod(&at.to_string(), &[&format!("slow{at}")])).await.unwrap();
    }
    until(|| images.begun.lock().len() == FETCHES_MAX).await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(*images.ended.lock(), 0, "no other waits");
    tell.send(pod("another", &["another"])).await.unwrap();
    until(|| images.begun.lock().contains(&"reg.test/another".to_owned())).await;
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_ends_its_fetch_and_a_fetch_that_panics_ends_nothing_else() {
    let (store, _clock, _directory) = for_tests::store();
    let (tell, told) = mpsc::channel(8);
    let (images, registry) = (Arc::new(Slow::default()), Registry::new());
    let parts = parts(told, Arc::clone(&images), store);
    let pods = Pods::new(parts, Metrics::register(&registry).unwrap());
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(pods.clone().run(shutdown));
    tell.send(PodEvent::ListBegins).await.unwrap();
    tell.send(PodEvent::ListEnds).await.unwrap();
    tell.send(pod("a", &["one", "two", "three"])).await.unwrap();
    until(|| images.begun.lock().len() == 2).await;
    assert_eq!(*images.begun.lock(), ["reg.test/one", "reg.test/two"], "two at a time");
    tell.send(PodEvent::Deleted { uid: "a".to_owned() }).await.unwrap();
    until(|| *images.ended.lock() == 2).await;
    tell.send(pod("b", &["panics", "good"])).await.unwrap();
    until(|| images.begun.lock().len() == 4).await;
    images.go_on.notify_waiters();
    until(|| pods.numbers().unwrap().fetching == 0).await;
    let outlook = |name: &str| pods.outlook(&format!("reg.test/{name}:v1").parse().unwrap()).remove(0).state;
    assert!(outlook("good").contains("was fetched"), "{}", outlook("good"));
    assert!(outlook("panics").contains("could not be fetched"), "{}", outlook("panics"));
    pods.asked(&"reg.test/good".parse().unwrap(), &"v1".parse().unwrap());
    let numbers = pods.numbers().unwrap();
    assert_eq!((numbers.known, numbers.found_all, numbers.found_part), (1, 1, 0));
    let text = String::from_utf8(registry.render().unwrap()).unwrap();
    for line in [
        "larder_kubernetes_fetches_total{result=\"ended\"} 2",
        "larder_kubernetes_fetches_total{result=\"failed\"} 1",
        "larder_kubernetes_fetches_total{result=\"fetched\"} 1",
        "larder_kubernetes_fetched_bytes_total 16",
        "larder_kubernetes_pulls_total{found=\"all\"} 1",
        "larder_kubernetes_source_connected{source=\"scripted\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    trigger.fire();
    running.await.unwrap();
}

/// Has every secret, empty.
struct Secrets;

impl SecretSource for Secrets {
    fn secret<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>> {
        let manifest = br#"{"kind":"Secret","type":"Opaque"}"#.to_vec().into();
        async move { Ok(Secret { manifest }) }.boxed()
    }
}

/// A watch that its test runs, and the other end of its source.
fn watch(store: Store) -> (Pods, mpsc::Sender<PodEvent>) {
    let (tell, told) = mpsc::channel(8);
    let parts = Parts { secrets: Some(Arc::new(Secrets)), ..parts(told, Arc::default(), store) };
    (Pods::new(parts, Metrics::register(&Registry::new()).unwrap()), tell)
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_was_read_for_a_pod_is_not_in_memory_minutes_later() {
    let (store, _clock, _directory) = for_tests::store();
    let (pods, tell) = watch(store);
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(pods.clone().run(shutdown));
    let PodEvent::Applied(mut pod) = pod("a", &["one"]) else { panic!() };
    pod.pull_secrets = ["pull".to_owned()].into();
    tell.send(PodEvent::Applied(pod)).await.unwrap();
    let in_memory = || pods.0.fetcher.secrets.as_ref().unwrap().in_memory();
    until(|| in_memory() == 1).await;
    until(|| in_memory() == 0).await;
    trigger.fire();
    running.await.unwrap();
}

#[tokio::test]
async fn a_namespace_whose_images_no_runtime_asks_for_has_a_tenth_of_the_store() {
    let (store, _clock, _directory) = for_tests::store();
    let max_bytes = store.limits().await.unwrap().max_bytes;
    let (pods, _tell) = watch(store);
    assert_eq!(pods.unasked_max().await, max_bytes / 10);
    let image: Image = "reg.test/app:v1".parse().unwrap();
    pods.0.head_start.begun(&image, PodName { namespace: "shop".to_owned(), name: "web".to_owned() });
    pods.0.head_start.fetched(&image, 5);
    let held_back = |unasked_max: u64| pods.held_back(&Fetches { unasked_max, ..Fetches::default() });
    assert_eq!((held_back(4), held_back(5)), (["shop".to_owned()].into(), HashSet::new()));
    pods.asked(&image.repository, &image.reference);
    assert!(held_back(4).is_empty());
}
