//! Pre-pull: images are fetched before their pods need them, and only callers with a right read them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use larder::admin::control::{self, CollectGarbage, ListImages, Pull, PullImage, PullSecret, Remove, Unpin};
use larder::prepull::{Event, Summary};
use larder::reference::{Digest, MediaType};
use tokio::sync::Semaphore;

use crate::support::image::{self, Image, noise};
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::{Larder, files_under};

const APP: &str = "reg.test/team/app:v1";

struct Scene {
    registry: FakeRegistry,
    image: Image,
    larder: Larder,
    directory: tempfile::TempDir,
}

async fn scene(more: &str) -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 10_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    Scene { registry, image, larder, directory }
}

fn order(images: &[&str]) -> Pull {
    let images =
        images.iter().map(|image| PullImage { image: (*image).to_owned(), secrets: Vec::new() }).collect();
    Pull {
        images,
        secrets: Vec::new(),
        platforms: vec!["linux/amd64".to_owned()],
        all_platforms: false,
        pin: false,
    }
}

impl Scene {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("larder/larder.sock")
    }

    async fn pull(&self, order: &Pull) -> (Vec<Event>, Summary) {
        let mut events = Vec::new();
        control::pull(&self.socket(), order, |event| events.push(event)).await.unwrap();
        let Some(Event::Summary(summary)) = events.pop() else { panic!("{events:?}") };
        (events, summary)
    }

    async fn failure(&self, order: &Pull) -> String {
        let (events, summary) = self.pull(order).await;
        assert_eq!(summary.failed, 1, "{events:?}");
        let failed = events.into_iter().find_map(|event| match event {
            Event::Failed { error, .. } => Some(error),
            _ => None,
        });
        failed.unwrap()
    }

    /// Pulls all of amd64 with upstream switched off.
    async fn is_here(&self) {
        let amd = &self.image.platforms[0];
        let mut paths: Vec<String> =
            [self.image.index, amd.manifest].iter().map(|d| format!("manifests/{d}")).collect();
        paths.extend(amd.layers.iter().chain([&amd.config]).map(|d| format!("blobs/{d}")));
        self.registry.stop().await;
        for path in paths {
            let reply = self.larder.get(&format!("/v2/team/app/{path}?ns=reg.test")).await;
            assert!(path.ends_with(&reply.digest().to_string()), "{path}: {:?}", reply.body);
        }
        self.registry.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_there_for_the_nodes_platform_before_a_pod_asks() {
    let scene = scene("").await;
    let (events, summary) = scene.pull(&order(&[APP])).await;
    assert_eq!((summary.pulled, summary.failed), (1, 0), "{events:?}");
    assert!(summary.fetched_bytes == summary.bytes && summary.bytes > 20_000, "{summary:?}");
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Resolved { platforms, .. } if platforms == &["linux/amd64"]))
    );
    let other = scene.image.platforms[1].layers[1];
    assert_eq!(scene.registry.count(Method::GET, &other.to_string()), 0, "not for other platforms");
    scene.is_here().await;

    let (_, again) = scene.pull(&order(&[APP])).await;
    assert_eq!((again.pulled, again.fetched_bytes), (1, 0), "a second time costs nothing");
    let all = Pull { all_platforms: true, ..order(&[APP]) };
    let (events, summary) = scene.pull(&all).await;
    assert!(summary.fetched_bytes > 0, "{events:?}");
    assert_eq!(scene.registry.count(Method::GET, &other.to_string()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_that_fails_stops_no_other_and_every_failure_has_a_reason() {
    let scene = scene("").await;
    let names = [APP, "reg.test/team/missing:v1", "10.0.0.1:5000/private:v1"];
    let (events, summary) = scene.pull(&order(&names)).await;
    assert_eq!((summary.pulled, summary.failed), (1, 2), "{events:?}");
    let nowhere = Pull { platforms: vec!["linux/s390x".into()], ..order(&[APP]) };
    assert!(scene.failure(&nowhere).await.contains("only for linux/amd64, linux/arm64"));
    let malformed =
        Pull { images: vec![PullImage { image: "some/X".into(), secrets: vec![] }], ..order(&[]) };
    let refused = control::pull(&scene.socket(), &malformed, |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("some/X"), "{refused}");
    scene.registry.wrong_at("/blobs/", Fault::Corrupt);
    scene.registry.forget_seen();
    let other = Pull { platforms: vec!["linux/arm64".into()], ..order(&[APP]) };
    assert!(scene.failure(&other).await.contains("digest"), "what is wrong is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_with_a_secret_is_served_only_to_callers_that_have_it() {
    let scene = scene("").await;
    scene
        .registry
        .know(Accounts::new(&[("ann", "ann-password", &["team/app"]), ("bob", "bob-password", &[])]));
    assert!(scene.failure(&order(&[APP])).await.contains("refuse"), "anonymous access is refused");
    let config = r#"{"auths":{"reg.test":{"username":"ann","password":"ann-password"}}}"#;
    let secrets = vec![
        PullSecret { file: "/x/wrong.json".into(), content: config.replace("ann-", "old-") },
        PullSecret { file: "/x/config.json".into(), content: config.into() },
    ];
    let images = vec![PullImage { image: APP.into(), secrets: vec![0, 1] }];
    let (events, summary) = scene.pull(&Pull { secrets, images, ..order(&[]) }).await;
    assert_eq!(summary.pulled, 1, "the second credential is tried after the first: {events:?}");
    let amd = &scene.image.platforms[0];
    let path = format!("/v2/team/app/blobs/{}?ns=reg.test", amd.layers[0]);
    scene.registry.forget_seen();
    assert_eq!(scene.larder.get_as(&path, ("ann", "ann-password")).await.digest(), amd.layers[0]);
    assert_eq!(scene.registry.seen().len(), 0, "her right is proved, and it is here");
    for who in [("bob", "bob-password"), ("ann", "guessed")] {
        assert_eq!(scene.larder.get_as(&path, who).await.status, StatusCode::UNAUTHORIZED, "{who:?}");
    }
    assert_eq!(scene.larder.get_unasked(&path).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn malicious_indexes_cost_a_bounded_number_of_requests() {
    let scene = scene("").await;
    let put = |bytes: String, tag: Option<&str>| {
        scene.registry.put_manifest("team/app", tag, MediaType::OCI_INDEX, bytes)
    };
    let entry = |digest: Digest, size: usize| {
        format!(r#"{{"mediaType":"{}","digest":"{digest}","size":{size}}}"#, MediaType::OCI_INDEX)
    };
    // Four levels of a hundred entries each, all different: a hundred million manifests.
    let mut below: Vec<String> = Vec::new();
    for level in 0..4 {
        let mut row = Vec::new();
        for n in 0..100 {
            let list = if below.is_empty() {
                format!(r#"[{}]"#, entry(Digest::of(b"x"), 5))
            } else {
                format!("[{}]", below.join(","))
            };
            let index = format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","manifests":{list},"annotations":{{"n":"{level}.{n}"}}}}"#,
                MediaType::OCI_INDEX
            );
            let size = index.len();
            row.push(entry(put(index, (level == 3 && n == 0).then_some("bomb")), size));
        }
        below = row;
    }
    scene.registry.forget_seen();
    let bomb = Pull { all_platforms: true, ..order(&["reg.test/team/app:bomb"]) };
    let error = scene.failure(&bomb).await;
    assert!(error.contains("more than 256 manifests"), "{error}");
    assert!(scene.registry.seen().len() < 600, "{}", scene.registry.seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_of_pods_have_priority() {
    let scene = scene("").await;
    let bytes = noise(300_000, 9);
    let waited_for = scene.registry.put_blob("team/pod", bytes);
    let gate = Arc::new(Semaphore::new(0));
    let (held, slow) = (Arc::clone(&gate), waited_for.to_string());
    scene
        .registry
        .wrong(move |seen| seen.path.contains(&slow).then(|| Fault::HoldAfter(1_000, Arc::clone(&held))));
    let (larder, path) = (&scene.larder, format!("/v2/team/pod/blobs/{waited_for}?ns=reg.test"));
    let (ordered, one) = (order(&[APP]), scene.image.platforms[0].layers[0].to_string());
    let pod = async { larder.get(&path).await.digest() };
    let look = async {
        while scene.registry.count(Method::GET, &waited_for.to_string()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let fetched = scene.pull(&ordered);
        let release = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(scene.registry.count(Method::GET, &one), 0, "while a pod waits, nothing is begun");
            gate.add_permits(1_000);
        };
        tokio::join!(fetched, release).0
    };
    let (digest, (_, summary)) = tokio::join!(pod, look);
    assert_eq!((digest, summary.pulled), (waited_for, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_being_fetched_yields_too_unless_a_pod_waits_for_it() {
    let scene = scene("").await;
    let big = image::push_layers(&scene.registry, "team/big", "v1", &[noise(4_000_000, 21)]).remove(0);
    let parts = [big, scene.registry.put_blob("team/pod", noise(4_000_000, 22))];
    // The download for the pod does not end by itself; the other download takes more than a second.
    let gate = Arc::new(Semaphore::new(0));
    let (held, pod, big) = (Arc::clone(&gate), parts[1].to_string(), parts[0].to_string());
    scene.registry.wrong(move |seen| match &seen.path {
        path if path.contains(&pod) => Some(Fault::HoldAfter(1_000, Arc::clone(&held))),
        path if path.contains(&big) => Some(Fault::Slow(30_000)),
        _ => None,
    });
    let ordered = order(&["reg.test/team/big:v1"]);
    let events = std::sync::Mutex::new(Vec::new());
    let done = || {
        let events = events.lock().unwrap();
        events.iter().rev().find_map(|event| match event {
            Event::Blob { digest, done_bytes, .. } if *digest == parts[0].to_string() => Some(*done_bytes),
            _ => None,
        })
    };
    let socket = scene.socket();
    let pulled = control::pull(&socket, &ordered, |event| events.lock().unwrap().push(event));
    let (larder, path) = (&scene.larder, format!("/v2/team/pod/blobs/{}?ns=reg.test", parts[1]));
    let pods = async {
        while done().is_none_or(|done| done == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let waiting = larder.get(&path);
        let look = async {
            while scene.registry.count(Method::GET, &parts[1].to_string()) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let before = done().unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            // One chunk in two seconds is read, so that the registry keeps the connection. Without the pod it would be complete.
            let more = done().unwrap_or(0) - before;
            assert!(more < 2_500_000, "{more} bytes while a pod waits");
            // Another pod asks for the same blob: the download becomes a foreground one.
            let wanted = larder.get(&format!("/v2/team/big/blobs/{}?ns=reg.test", parts[0])).await;
            assert_eq!(wanted.digest(), parts[0]);
            gate.add_permits(1_000);
        };
        tokio::join!(waiting, look).0.digest()
    };
    let (pulled, digest) = tokio::join!(pulled, pods);
    pulled.unwrap();
    assert_eq!(digest, parts[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_rate_limit_is_left_to_pods() {
    let scene = scene("").await;
    let left = vec![("ratelimit-limit", "100;w=21600".into()), ("ratelimit-remaining", "3;w=21600".into())];
    scene.registry.wrong_once("/manifests/", Fault::Status(404, left));
    scene.larder.get("/v2/team/app/manifests/none?ns=reg.test").await;
    assert!(scene.failure(&order(&[APP])).await.contains("rate limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_fit_into_the_store_is_not_reported_as_present() {
    let scene = scene("[store]\nmax_bytes = \"100KiB\"").await;
    // More layers than are fetched at a time: the first ones would be evicted for the last ones.
    let layers: Vec<_> = (0..8).map(|n| noise(20_000, 70 + n)).collect();
    image::push_layers(&scene.registry, "team/big", "v1", &layers);
    let why = scene.failure(&order(&["reg.test/team/big:v1"])).await;
    assert!(why.contains("no room for all of them") || why.contains("could not be stored"), "{why}");
    // An image with a layer that does not fit by itself.
    image::push(&scene.registry, "team/huge", "v1", 200_000);
    assert!(scene.failure(&order(&["reg.test/team/huge:v1"])).await.contains("could not be stored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_not_evicted_and_what_is_unpinned_is() {
    let scene = scene("[store]\nmax_bytes = \"400KiB\"").await;
    let (_, summary) = scene.pull(&Pull { pin: true, ..order(&[APP]) }).await;
    assert_eq!(summary.pulled, 1);
    scene.larder.clock.advance(Duration::from_secs(86_400));
    let fill = async |seed: u64| {
        for n in 0..8 {
            let digest = scene.registry.put_blob("team/much", noise(100_000, seed + n));
            scene.larder.get(&format!("/v2/team/much/blobs/{digest}?ns=reg.test")).await;
            // A blob that is being committed is not evicted.
            scene.larder.settled().await;
        }
    };
    fill(100).await;
    assert!(scene.larder.metric("larder_store_evicted_total").await > 2.0);
    scene.is_here().await;
    let rows = control::send(&scene.socket(), &ListImages {}).await.unwrap();
    let row = rows.iter().find(|row| row.image == APP).unwrap();
    assert!(row.pinned && row.platforms == ["linux/amd64"] && row.bytes > 20_000, "{row:?}");

    let unpinned = control::send(&scene.socket(), &Unpin { image: APP.into() }).await.unwrap();
    assert_eq!(unpinned.unpinned, 1);
    scene.larder.clock.advance(Duration::from_secs(86_400));
    fill(200).await;
    let rows = control::send(&scene.socket(), &ListImages {}).await.unwrap();
    assert!(rows.iter().all(|row| row.platforms.is_empty()), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_by_its_digest_is_listed_with_its_complete_platforms() {
    let scene = scene("").await;
    let name = format!("reg.test/team/app@{}", scene.image.index);
    let (_, summary) = scene.pull(&Pull { pin: true, ..order(&[&name]) }).await;
    assert_eq!(summary.pulled, 1);
    let rows = control::send(&scene.socket(), &ListImages {}).await.unwrap();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&row.image, row.confirmed_at, row.pinned), (&name, None, true));
    assert!(row.platforms == ["linux/amd64"] && row.bytes > 20_000, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_removed_with_what_nothing_else_needs() {
    let scene = scene("").await;
    let again = image::push(&scene.registry, "team/app", "v2", 10_000);
    assert_eq!(again.index, scene.image.index, "two names of one image");
    let other = image::push(&scene.registry, "team/other", "v1", 20_000);
    scene.pull(&order(&[APP, "reg.test/team/app:v2", "reg.test/team/other:v1"])).await;
    let blobs = || files_under(&scene.directory.path().join("larder/store/blobs")).len();
    let before = blobs();
    let removed = control::send(&scene.socket(), &Remove { image: APP.into() }).await.unwrap();
    assert_eq!((removed.tags, removed.blobs), (1, 0), "its other name needs all of it");
    let removed =
        control::send(&scene.socket(), &Remove { image: "reg.test/team/app:v2".into() }).await.unwrap();
    assert!(removed.blobs >= 4 && removed.bytes > 20_000, "{removed:?}");
    assert_eq!(blobs(), before - removed.blobs);
    scene.larder.metric_becomes("larder_store_blobs", blobs() as f64).await;
    let layer = other.platforms[0].layers[1];
    scene.registry.forget_seen();
    assert_eq!(scene.larder.get(&format!("/v2/team/other/blobs/{layer}?ns=reg.test")).await.digest(), layer);
    assert!(scene.registry.seen().is_empty(), "what others need is still here");
    let none =
        control::send(&scene.socket(), &Remove { image: "reg.test/team/none:v1".into() }).await.unwrap();
    assert_eq!((none.tags, none.blobs), (0, 0));
    assert_eq!(control::send(&scene.socket(), &CollectGarbage {}).await.unwrap().freed_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_layers_that_its_registry_does_not_have_is_fetched_without_them() {
    let scene = scene("").await;
    let config = scene.registry.put_blob("team/windows", noise(100, 31));
    let layer = scene.registry.put_blob("team/windows", noise(1_000, 32));
    let foreign = Digest::of(b"what no registry has");
    let document = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json",
        "digest":"{config}","size":100}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest":"{foreign}","size":7,"urls":["https://elsewhere.example/layer"]}},
        {{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{layer}","size":1000}}]}}"#,
        MediaType::DOCKER_MANIFEST
    );
    scene.registry.put_manifest("team/windows", Some("v1"), MediaType::DOCKER_MANIFEST, document);
    let (events, summary) = scene.pull(&Pull { pin: true, ..order(&["reg.test/team/windows:v1"]) }).await;
    assert_eq!((summary.pulled, summary.failed), (1, 0), "{events:?}");
    assert!(
        events.iter().any(|event| matches!(event, Event::Resolved { foreign_layers: 1, .. })),
        "{events:?}"
    );
    assert_eq!(scene.registry.count(Method::GET, &foreign.to_string()), 0, "it is not asked for");
    let rows = control::send(&scene.socket(), &ListImages {}).await.unwrap();
    let row = rows.iter().find(|row| row.image.contains("windows")).unwrap();
    assert!(row.pinned && !row.platforms.is_empty(), "it is complete without them: {row:?}");
}
