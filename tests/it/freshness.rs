//! How long a tag is served without asking upstream: the operator's `[freshness]` rules.

use std::time::Duration;

use http::Method;
use larder::reference::MediaType;

use crate::support::client::{self, basic};
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::Larder;

const MINUTE: Duration = Duration::from_secs(60);
/// Every caller has a right in these tests.
const RULES: &str = r#"
[access]
grant_ttl = "30d"
[freshness]
tag_ttl = "10m"
[[freshness.rule]]
match = "reg.test/team/*:release-[0-9]*"
tag_ttl = "immutable"
[[freshness.rule]]
match = "reg.test/**/*:latest"
tag_ttl = "0s"
"#;

const REVALIDATING: &str = r#"
[access]
grant_ttl = "30d"
[freshness]
tag_ttl = "10m"
stale_while_revalidate = "1h"
"#;

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    directory: tempfile::TempDir,
}

async fn scene(rules: &str) -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], rules);
    Scene { registry, larder, directory }
}

impl Scene {
    fn push(&self, tag: &str, size: usize) -> Image {
        image::push(&self.registry, "team/app", tag, size)
    }

    /// Pulls a tag and returns the number of requests to upstream.
    async fn pull(&self, tag: &str, expected: &Image) -> usize {
        self.registry.forget_seen();
        let reply = self.larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await;
        assert!(reply.body == expected.index_bytes, "{tag} is another image: {}", reply.status);
        self.registry.seen().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_again_after_tag_ttl_and_an_immutable_one_never() {
    let scene = scene(RULES).await;
    let old = ["v1", "release-1", "latest"].map(|tag| scene.push(tag, 1_000));
    for (tag, image) in ["v1", "release-1", "latest"].into_iter().zip(&old) {
        assert!(scene.pull(tag, image).await > 0);
    }
    let new = ["v1", "release-1", "latest"].map(|tag| scene.push(tag, 2_000));
    assert_eq!(scene.pull("v1", &old[0]).await, 0);
    assert_eq!(scene.pull("release-1", &old[1]).await, 0);
    assert!(scene.pull("latest", &new[2]).await > 0, "a rule may make it stricter too");
    scene.larder.clock.advance(11 * MINUTE);
    assert!(scene.pull("v1", &new[0]).await > 0);
    assert_eq!(
        scene.pull("v1", &new[0]).await,
        0,
        "its time begins anew, though the record on disk is not renewed"
    );
    scene.larder.clock.advance(1_000 * MINUTE);
    assert_eq!(scene.pull("release-1", &old[1]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_tag_outlives_a_restart() {
    let scene = scene(RULES).await;
    let image = scene.push("release-1", 1_000);
    scene.pull("release-1", &image).await;
    let Scene { registry, larder, directory } = scene;
    larder.stop().await;
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], RULES);
    let scene = Scene { registry, larder, directory };
    scene.registry.stop().await;
    assert_eq!(scene.pull("release-1", &image).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_asked_for_every_time() {
    let scene = scene("[freshness]\ntag_ttl = \"immutable\"").await;
    let tag = format!("sha256-{}.sig", "a".repeat(64));
    let old = scene.push(&tag, 1_000);
    scene.pull(&tag, &old).await;
    let new = scene.push(&tag, 2_000);
    assert!(scene.pull(&tag, &new).await > 0);
    scene.registry.stop().await;
    let stale = scene.larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await;
    assert!(stale.status == 200 && stale.header("warning").contains("299"));
    scene.larder.clock.advance(61 * MINUTE);
    let late = scene.larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await;
    assert_eq!(late.status, 503, "an old signature may have been withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_tag_is_served_only_to_callers_that_may_read_it() {
    let scene = scene("[freshness]\ntag_ttl = \"immutable\"").await;
    let image = scene.push("v1", 1_000);
    scene.registry.know(Accounts::new(&[("ann", "secret", &["team/app"])]));
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let ann = basic("ann", "secret");
    let with = |header: String| async move {
        client::send(scene.larder.address, Method::GET, path, &[("authorization", &header)]).await
    };
    assert_eq!(with(ann.clone()).await.body, image.index_bytes);
    for other in [basic("bob", "wrong"), basic("ann", "wrong"), client::ANONYMOUS.1.to_owned()] {
        let reply = with(other).await;
        assert!(reply.status == 401 || reply.status == 404, "{}", reply.status);
    }
    let before = scene.registry.seen().len();
    assert_eq!(with(ann).await.body, image.index_bytes);
    assert_eq!(scene.registry.seen().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn within_stale_while_revalidate_a_tag_is_served_at_once_and_asked_for_once_in_the_background() {
    let scene = scene(REVALIDATING).await;
    let old = scene.push("v1", 1_000);
    assert!(scene.pull("v1", &old).await > 0);
    scene.push("v1", 2_000);
    scene.larder.clock.advance(11 * MINUTE);
    // No client waits, not even for an upstream that never answers; upstream gets one request.
    scene.registry.wrong_at("/manifests/", Fault::Hang);
    scene.registry.forget_seen();
    for _ in 0..20 {
        let reply = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        assert_eq!(reply.body, old.index_bytes);
    }
    assert!(scene.registry.seen().len() <= 1, "{:?}", scene.registry.seen().len());
    let counted = r#"larder_requests_total{outcome="refreshing",registry="reg.test",route="manifest"}"#;
    assert_eq!(scene.larder.metric(counted).await, 20.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_background_request_finds_is_served_from_then_on() {
    let scene = scene(REVALIDATING).await;
    let old = scene.push("v1", 1_000);
    assert!(scene.pull("v1", &old).await > 0);
    let new = scene.push("v1", 2_000);
    let larder = &scene.larder;
    larder.clock.advance(11 * MINUTE);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.get(path).await.body, old.index_bytes, "the first one is served what it was");
    for _ in 0..500 {
        if larder.get(path).await.body == new.index_bytes {
            larder.clock.advance(71 * MINUTE);
            let newer = scene.registry.put_manifest(
                "team/app",
                Some("v1"),
                MediaType::OCI_INDEX,
                old.index_bytes.clone(),
            );
            let reply = larder.get(path).await;
            assert_eq!(reply.digest(), newer, "after both times upstream comes first");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the tag that was refreshed in the background is never served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_have_a_tag_ttl_of_its_own_and_stale_if_error_bounds_an_outage() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let more = format!(
        "[access]\ngrant_ttl = \"30d\"\n[[registry]]\nhost = \"own.test\"\nendpoints = [\"{}\"]\ntag_ttl = \"1h\"\nstale_if_error = \"0s\"",
        registry.url()
    );
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &more);
    let pull = async |host: &str| larder.get(&format!("/v2/team/app/manifests/v1?ns={host}")).await;
    for host in ["own.test", "reg.test"] {
        assert_eq!(pull(host).await.body, image.index_bytes);
    }
    registry.forget_seen();
    assert_eq!(pull("own.test").await.body, image.index_bytes);
    assert!(registry.seen().is_empty());
    pull("reg.test").await;
    assert_eq!(registry.seen().len(), 1, "the other one has none");
    registry.stop().await;
    larder.clock.advance(61 * MINUTE);
    assert_eq!(pull("reg.test").await.body, image.index_bytes, "an outage, and thirty days are not over");
    assert_eq!(pull("own.test").await.status, http::StatusCode::SERVICE_UNAVAILABLE, "this one wants none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_an_outage_survives_restarts() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let more = "[freshness]\nstale_if_error = \"2h\"";
    let start = || Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let larder = start();
    assert_eq!(larder.get(path).await.body, image.index_bytes);
    registry.stop().await;
    assert_eq!(larder.get(path).await.body, image.index_bytes);
    larder.stop().await;
    for (hours, status) in [(1, 200), (3, 503)] {
        let larder = start();
        larder.clock.advance(MINUTE * 60 * hours);
        assert_eq!(larder.get(path).await.status.as_u16(), status, "after {hours} hours");
        larder.stop().await;
    }
    // The registry answered between two pulls; the next outage is a new one.
    registry.restart().await;
    let larder = start();
    larder.clock.advance(MINUTE * 60 * 4);
    assert_eq!(larder.get(path).await.body, image.index_bytes);
    registry.stop().await;
    assert_eq!(larder.get(path).await.body, image.index_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_in_mid_pull_never_mixes_two_images() {
    let scene = scene("").await;
    let old = scene.push("v1", 1_000);
    let resolved = scene.larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(resolved.header("docker-content-digest"), old.index.to_string());
    let new = scene.push("v1", 2_000);
    // A second pod resolves the new digest while the first continues with the old one.
    let second = scene.larder.head("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(second.header("docker-content-digest"), new.index.to_string());
    for image in [&old, &new] {
        let index = scene.larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", image.index)).await;
        assert_eq!(index.body, image.index_bytes);
        for platform in &image.platforms {
            let manifest = format!("/v2/team/app/manifests/{}?ns=reg.test", platform.manifest);
            assert_eq!(scene.larder.get(&manifest).await.digest(), platform.manifest);
            for blob in platform.layers.iter().chain([&platform.config]) {
                let reply = scene.larder.get(&format!("/v2/team/app/blobs/{blob}?ns=reg.test")).await;
                assert_eq!(reply.digest(), *blob);
            }
        }
    }
    // A GET by tag has digest and content in one answer.
    let whole = scene.larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(whole.header("docker-content-digest"), whole.digest().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_place_of_a_tag_takes_the_image_away_from_no_caller_with_a_right() {
    let scene = scene("[access]\ngrant_ttl = \"5m\"").await;
    let image = scene.push("v1", 1_000);
    assert!(scene.pull("v1", &image).await > 0);
    let page = Fault::Answer(200, vec![("content-type", "text/html".into())], "<html>later</html>".into());
    scene.registry.wrong_at("/manifests/", page);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let stale = scene.larder.get(path).await;
    assert!(stale.body == image.index_bytes && stale.header("warning").contains("299"), "{}", stale.status);
    scene.larder.clock.advance(6 * MINUTE);
    assert!(!scene.larder.get(path).await.status.is_success(), "a right that was not proved for longer");
}
