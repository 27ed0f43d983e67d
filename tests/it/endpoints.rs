//! Several endpoints, and endpoints that fail: no request waits for an endpoint that is known not to answer.

use std::time::Duration;

use http::Method;

use crate::support::image::{self, Image};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

/// A failure that takes a second or more counts as a hang.
const LIMITS: &str = "[upstream]\nheader_timeout = \"1200ms\"\n";

struct Scene {
    first: FakeRegistry,
    second: FakeRegistry,
    image: Image,
    larder: Larder,
    _directory: tempfile::TempDir,
}

/// Two registries with the same image, both endpoints of `reg.test`.
async fn scene() -> Scene {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = image::push(&first, "team/app", "v1", 1_000);
    image::push(&second, "team/app", "v1", 1_000);
    let directory = tempfile::tempdir().unwrap();
    let mark = |url: String| format!("{{ url = \"{url}\", credentials = \"caller\", authoritative = true }}");
    let (one, other) = (mark(first.url()), mark(second.url()));
    let more = format!("{LIMITS}[[registry]]\nhost = \"reg.test\"\nendpoints = [{one}, {other}]");
    let larder = Larder::start(directory.path(), &[], &more);
    Scene { first, second, image, larder, _directory: directory }
}

impl Scene {
    async fn resolve(&self) {
        let reply = self.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(reply.body, self.image.index_bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_endpoint_that_hangs_is_waited_for_once_and_used_again_when_it_is_back() {
    let scene = scene().await;
    scene.first.wrong_at("/v2/", Fault::Hang);
    scene.resolve().await;
    assert_eq!(scene.first.count(Method::HEAD, "/manifests/"), 1);
    for _ in 0..20 {
        scene.resolve().await;
    }
    assert_eq!(scene.first.count(Method::HEAD, "/manifests/"), 1, "no other request waits for it");
    scene.first.behave();
    // The endpoint is tried in the background, and asked first again once it answers.
    for _ in 0..200 {
        scene.resolve().await;
        if scene.first.count(Method::HEAD, "/manifests/") > 1 {
            scene.second.forget_seen();
            scene.resolve().await;
            assert!(scene.second.seen().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the first endpoint is never asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_endpoint_that_hangs_is_waited_for_by_one_request_at_a_time() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], LIMITS);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.get(path).await.body, image.index_bytes);
    registry.wrong_at("/v2/", Fault::Hang);
    registry.forget_seen();
    for _ in 0..5 {
        let stale = larder.get(path).await;
        assert_eq!((stale.status.as_u16(), &stale.body), (200, &image.index_bytes));
        assert!(stale.header("warning").contains("299"));
    }
    assert!(registry.seen().len() <= 2, "{} questions to who does not answer", registry.seen().len());
    let unknown = larder.get("/v2/team/app/manifests/v2?ns=reg.test").await;
    assert_eq!(unknown.status, 503);
    registry.behave();
    for _ in 0..200 {
        let reply = larder.get(path).await;
        if reply.header("warning").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it is never asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_of_the_registry_is_not_overridden_by_an_endpoint_that_is_away() {
    let scene = scene().await;
    scene.resolve().await;
    scene.first.remove_manifest("team/app", "v1");
    scene.second.stop().await;
    for _ in 0..3 {
        let gone = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(gone.status, 404, "what a tag that is gone last meant");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_gets_a_bounded_number_of_requests() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    registry.wrong_at("/v2/", Fault::Status(503, vec![]));
    let begun = std::time::Instant::now();
    let path = |n: usize| format!("/v2/team/app/manifests/v{n}?ns=reg.test");
    for n in 0..300 {
        assert_eq!(larder.get(&path(n)).await.status, http::StatusCode::SERVICE_UNAVAILABLE);
    }
    let seconds = begun.elapsed().as_secs() as usize + 1;
    // The first request is retried twice; then ten requests a second, and one probe.
    assert!(registry.seen().len() <= 3 + 12 * seconds, "{} in {seconds} s", registry.seen().len());
}
