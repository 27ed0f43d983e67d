//! How long a tag needs no new word of upstream: the operator's rules.

use std::time::Duration;

use http::Method;

use crate::support::client::{self, basic};
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

const MINUTE: Duration = Duration::from_secs(60);
/// Rights are not what these tests are about.
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

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    folder: tempfile::TempDir,
}

async fn scene(rules: &str) -> Scene {
    let (registry, folder) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(folder.path(), &[("reg.test", registry.url())], rules);
    Scene { registry, larder, folder }
}

impl Scene {
    fn push(&self, tag: &str, size: usize) -> Image {
        image::push(&self.registry, "team/app", tag, size)
    }

    /// Pulls a tag and says how many questions that cost.
    async fn pull(&self, tag: &str, expected: &Image) -> usize {
        self.registry.forget_seen();
        let reply = self.larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await;
        assert!(reply.body == expected.index_bytes, "{tag} is another image: {}", reply.status);
        self.registry.seen().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_again_after_its_time_and_an_immutable_one_never() {
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
    let Scene { registry, larder, folder } = scene;
    larder.stop().await;
    let larder = Larder::start(folder.path(), &[("reg.test", registry.url())], RULES);
    let scene = Scene { registry, larder, folder };
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
async fn a_tag_that_needs_no_new_word_is_still_only_for_those_who_may_read_it() {
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
