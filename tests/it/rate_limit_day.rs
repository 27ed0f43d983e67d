//! One long history of a node: an outage, the recovery, a rate limit, tags that move. The test sets the clock.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::support::client::Reply;
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::Larder;

const HOUR: Duration = Duration::from_secs(3_600);
const ANN: (&str, &str) = ("ann", "ann-password");
const BOB: (&str, &str) = ("bob", "bob-password");
const RULES: &str = r#"
[access]
grant_ttl = "10m"
outage_grace = "8h"
[freshness]
stale_if_error = "12h"
[[freshness.rule]]
match = "reg.test/public/*:stable"
tag_ttl = "1h"
"#;

struct Day {
    registry: FakeRegistry,
    larder: Larder,
    _directory: tempfile::TempDir,
}

impl Day {
    /// Moves the clock.
    fn passes(&self, time: Duration) {
        self.larder.clock.advance(time);
        self.registry.forget_seen();
    }

    async fn pull(&self, image: &str, who: Option<(&str, &str)>) -> Reply {
        let (name, tag) = image.split_once(':').unwrap();
        let path = format!("/v2/{name}/manifests/{tag}?ns=reg.test");
        match who {
            Some(who) => self.larder.get_as(&path, who).await,
            None => self.larder.get(&path).await,
        }
    }

    async fn is(&self, image: &str, who: Option<(&str, &str)>, expected: &Image) {
        let reply = self.pull(image, who).await;
        assert_eq!(reply.body, expected.index_bytes, "{image} is another image: {:?}", reply.headers);
        assert!(reply.header("warning").is_empty(), "{image} is stale: {:?}", reply.headers);
    }

    /// The tag keeps its last digest, and the answer is marked as stale.
    async fn was(&self, image: &str, who: Option<(&str, &str)>, expected: &Image, age: Duration) {
        let reply = self.pull(image, who).await;
        assert_eq!(reply.body, expected.index_bytes, "{image} is another image: {:?}", reply.headers);
        assert!(reply.header("warning").starts_with("299 - \"stale"), "{image}: {:?}", reply.headers);
        assert_eq!(reply.header("age"), age.as_secs().to_string(), "{image}");
    }

    async fn is_away(&self, image: &str, who: Option<(&str, &str)>) {
        assert_eq!(self.pull(image, who).await.status, StatusCode::SERVICE_UNAVAILABLE, "{image}");
    }

    /// Waits until the node has found that the registry answers again.
    async fn recovers(&self, image: &str, who: Option<(&str, &str)>) {
        for _ in 0..1_000 {
            let reply = self.pull(image, who).await;
            if reply.status == StatusCode::OK && reply.header("warning").is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{image} never comes back");
    }

    async fn outage(&self) -> f64 {
        self.larder.metric(r#"larder_upstream_outage_start_timestamp_seconds{registry="reg.test"}"#).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_outages_rate_limits_and_moving_tags() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.know(Accounts {
        public: vec!["public/web".to_owned()],
        ..Accounts::new(&[("ann", "ann-password", &["private/app"]), ("bob", "bob-password", &[])])
    });
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], RULES);
    let day = Day { registry, larder, _directory: directory };
    let registry = &day.registry;

    // 00:00  Pods start. Nothing is stored yet, and Bob may not read what Ann may.
    let web = image::push(registry, "public/web", "v1", 1_000);
    image::push(registry, "public/web", "stable", 1_000);
    let app = image::push(registry, "private/app", "v1", 2_000);
    day.is("public/web:v1", None, &web).await;
    day.is("public/web:stable", None, &web).await;
    day.is("private/app:v1", Some(ANN), &app).await;
    assert_eq!(day.pull("private/app:v1", Some(BOB)).await.status, StatusCode::UNAUTHORIZED);

    // 00:30  A tag moves, and the next pod gets the new image. Upstream is not asked for the tag `stable`.
    day.passes(HOUR / 2);
    let web2 = image::push(registry, "public/web", "v1", 3_000);
    image::push(registry, "public/web", "stable", 3_000);
    day.is("public/web:v1", None, &web2).await;
    day.is("public/web:stable", None, &web).await;

    // 02:00  The registry answers 503. What was pulled is served stale to the callers that could read it.
    day.passes(HOUR * 3 / 2);
    registry.wrong_at("/v2/", Fault::Status(503, vec![]));
    day.was("public/web:v1", None, &web2, HOUR * 3 / 2).await;
    day.was("private/app:v1", Some(ANN), &app, HOUR * 2).await;
    assert_ne!(day.pull("private/app:v1", Some(BOB)).await.status, StatusCode::OK, "no right of his own");
    day.is_away("public/web:v9", None).await;
    assert_eq!(day.outage().await, day.larder.clock.now().0 as f64);

    // 09:00  The registry refuses connections. Ann's right was proved nine hours ago: longer than outage_grace.
    day.passes(HOUR * 7);
    registry.stop().await;
    day.was("public/web:v1", None, &web2, HOUR * 17 / 2).await;
    day.is_away("private/app:v1", Some(ANN)).await;

    // 10:00  The registry is back. A tag moved meanwhile; within moments every caller gets its new digest.
    day.passes(HOUR);
    registry.behave();
    registry.restart().await;
    let web3 = image::push(registry, "public/web", "v1", 4_000);
    day.recovers("public/web:v1", None).await;
    day.is("public/web:v1", None, &web3).await;
    day.is("private/app:v1", Some(ANN), &app).await;
    assert_eq!(day.outage().await, 0.0);

    // 12:00  The anonymous rate limit is used up: HEAD is free, GET is not. The old image is served instead of none.
    day.passes(HOUR * 2);
    let web4 = image::push(registry, "public/web", "v1", 5_000);
    registry.wrong(|seen| {
        let anonymous =
            seen.headers.get("authorization").is_some_and(|a| a.to_str().unwrap().contains("tok.."));
        let counted = seen.method == Method::GET && seen.path.contains("/manifests/");
        (anonymous && counted).then(|| Fault::Status(429, vec![]))
    });
    day.was("public/web:v1", None, &web3, HOUR * 2).await;
    day.is("private/app:v1", Some(ANN), &app).await;
    assert_eq!(day.outage().await, 0.0, "a rate limit is no outage");

    // 14:00  A new window of the rate limit has begun.
    day.passes(HOUR * 2);
    registry.behave();
    day.recovers("public/web:v1", None).await;
    day.is("public/web:v1", None, &web4).await;

    // 16:00  The image is withdrawn. The 404 is final: an outage at 17:00 does not bring the image back.
    day.passes(HOUR * 2);
    registry.remove_manifest("public/web", "v1");
    assert_eq!(day.pull("public/web:v1", None).await.status, StatusCode::NOT_FOUND);
    day.passes(HOUR);
    registry.stop().await;
    day.is_away("public/web:v1", None).await;
    // 18:00  The tag `stable` has not been pulled for a day, and is served within the first twelve hours only.
    day.passes(HOUR);
    assert_eq!(day.pull("public/web:stable", None).await.body, web.index_bytes);
    day.passes(HOUR * 12);
    day.is_away("public/web:stable", None).await;
}
