//! One party's trouble is its own: what fails for one question, one repository or one host besides the registry makes no
//! other answer stale and opens no right that has ended; and a break of the registry is overcome.

use std::time::Duration;

use http::{Method, StatusCode};
use larder::reference::MediaType;

use super::access::{A, Scene, scene};
use crate::support::client;
use crate::support::fault::redirect;
use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

const HOUR: Duration = Duration::from_secs(3_600);
const QUICK: &str = "[upstream]\nheader_timeout = \"1200ms\"\n";

/// Every kind of trouble that is not that of `a/app`'s content.
async fn neighbours_trouble(scene: &Scene, name: &str) {
    let (fault, path) = match name {
        "a slow tag list" => (Fault::Hang, "open/app/tags/list"),
        "its own slow tag list" => (Fault::Hang, "a/app/tags/list"),
        "a repository that answers 502" => (Fault::Status(502, vec![]), "b/app/"),
        "a repository that hangs" => (Fault::Hang, "b/app/"),
        "slow referrers" => (Fault::Hang, "a/app/referrers"),
        _ => panic!("{name}"),
    };
    scene.registry.wrong_at(path, fault);
    let digest = scene.image.index;
    for (repository, what) in [
        ("open/app", "tags/list".to_owned()),
        ("a/app", "tags/list".to_owned()),
        ("a/app", format!("referrers/{digest}")),
        ("b/app", "manifests/v1".to_owned()),
        ("b/app", "manifests/v2".to_owned()),
    ] {
        let user = if repository == "b/app" { ("tenant-b", "secret-b") } else { A };
        let _ = scene.get(repository, &what, user).await;
    }
}

const TROUBLES: [&str; 5] = [
    "a slow tag list",
    "its own slow tag list",
    "a repository that answers 502",
    "a repository that hangs",
    "slow referrers",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_trouble_makes_no_healthy_repository_stale() {
    for name in TROUBLES {
        let scene = scene(QUICK).await;
        scene.pull_as_a().await;
        neighbours_trouble(&scene, name).await;
        let moved = image::push(&scene.registry, "a/app", "v1", 2_000);
        let reply = scene.get("a/app", "manifests/v1", A).await;
        assert_eq!((reply.header("warning"), &reply.body), ("", &moved.index_bytes), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbours_trouble_opens_no_right_that_was_revoked() {
    for name in TROUBLES {
        let scene = scene(QUICK).await;
        scene.pull_as_a().await;
        scene.registry.change(true, |accounts| drop(accounts.users.remove(A.0)));
        scene.larder.clock.advance(Duration::from_secs(400));
        neighbours_trouble(&scene, name).await;
        for what in scene.everything().iter().rev() {
            let status = scene.get("a/app", what, A).await.status;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_network_that_limits_requests_of_one_repository_limits_no_other() {
    let store = FakeRegistry::start().await;
    let scene = scene(&format!("[upstream]\ntrusted_redirects = [\"{}\"]", store.address)).await;
    store.wrong_at("/", Fault::Status(429, vec![("retry-after", "300".into())]));
    let url = store.url();
    scene.registry.wrong(move |seen| seen.path.contains("open/app/blobs/").then(|| redirect(url.clone())));
    let blob = scene.registry.put_blob("open/app", "limited");
    let limited = scene.get("open/app", &format!("blobs/{blob}"), A).await;
    assert_eq!(limited.status, StatusCode::SERVICE_UNAVAILABLE);
    scene.pull_as_a().await;
    let other = scene.registry.put_blob("b/app", "free");
    let reply = scene.get("b/app", &format!("blobs/{other}"), ("tenant-b", "secret-b")).await;
    assert_eq!(reply.status, StatusCode::OK);
}

/// A registry of one public repository, with freshness rules, and the tag `v1` and a signature in it.
async fn limited(more: &str) -> (FakeRegistry, Larder, String, tempfile::TempDir) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let signature = format!("sha256-{}.sig", image.index.to_string().trim_start_matches("sha256:"));
    image::push(&registry, "team/app", &signature, 500);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    for tag in ["v1", &signature] {
        assert_eq!(larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await.status, 200);
    }
    (registry, larder, signature, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_serves_a_tag_no_longer_than_stale_if_error_and_a_signature_for_an_hour() {
    for fault in [Fault::Status(429, vec![]), Fault::Status(503, vec![])] {
        let more = "[access]\ngrant_ttl = \"30d\"\n[freshness]\nstale_if_error = \"1d\"";
        let (registry, larder, signature, _directory) = limited(more).await;
        larder.clock.advance(100 * HOUR);
        registry.wrong_at("/v2/", fault);
        let get = async |tag: &str| {
            let reply = larder.get(&format!("/v2/team/app/manifests/{tag}?ns=reg.test")).await;
            reply.status.as_u16()
        };
        // The trouble begins: what is older than the limit is served all the same.
        assert_eq!((get("v1").await, get(&signature).await), (200, 200));
        larder.clock.advance(2 * HOUR);
        assert_eq!((get("v1").await, get(&signature).await), (200, 503), "a signature may be withdrawn");
        larder.clock.advance(23 * HOUR);
        assert_eq!(get("v1").await, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_word_for_a_tag_is_not_taken() {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    image::push(&mirror, "team/app", "v1", 1_000);
    let new = image::push(&registry, "team/app", "v1", 2_000);
    // The registry does not serve the document under the digest that it announces, and its HEAD says no digest.
    registry.wrong(|seen| {
        let by_digest = seen.path.contains("/manifests/sha256:");
        by_digest.then(|| Fault::Status(404, vec![]))
    });
    let endpoint =
        |url: String, authoritative| format!("{{ url = \"{url}\", authoritative = {authoritative} }}");
    let endpoints = [endpoint(mirror.url(), false), endpoint(registry.url(), true)].join(", ");
    let more = format!("[[registry]]\nhost = \"reg.test\"\nendpoints = [{endpoints}]");
    let larder = Larder::start(directory.path(), &[], &more);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(larder.get(path).await.body, new.index_bytes, "the mirror is behind");
    registry.wrong(|seen| {
        let headers = || vec![("content-type", MediaType::OCI_INDEX.to_owned())];
        (seen.method == Method::HEAD).then(|| Fault::Status(200, headers()))
    });
    let newer = image::push(&registry, "team/app", "v1", 3_000);
    assert_eq!(larder.get(path).await.body, newer.index_bytes);
    registry.stop().await;
    assert_eq!(larder.get(path).await.body, newer.index_bytes, "a mirror's word was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_for_a_moment_fails_no_pull_of_a_client_that_has_no_other_way() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    registry.stop().await;
    let mirror = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(mirror.status, StatusCode::SERVICE_UNAVAILABLE, "a mirror client is sent to the registry");
    let strict = [("x-larder-mode", "strict"), client::ANONYMOUS];
    let ns = "/v2/team/app/manifests/v1?ns=reg.test";
    let blob = format!("/v2/reg.test/team/app/blobs/{}", image.platforms[0].layers[0]);
    let (by_path, strict, blob, ()) = tokio::join!(
        larder.get("/v2/reg.test/team/app/manifests/v1"),
        client::send(larder.address, Method::GET, ns, &strict),
        larder.get(&blob),
        async {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            registry.restart().await;
        }
    );
    assert_eq!((&by_path.body, &strict.body), (&image.index_bytes, &image.index_bytes));
    assert!(blob.is_well(), "{}", blob.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_at_once_while_the_registry_refuses_connections() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let blob = format!("blobs/{}", image.platforms[0].layers[0]);
    let manifest = format!("manifests/{}", image.index);
    let all = ["manifests/v1", &manifest, &blob];
    for what in all {
        assert_eq!(larder.get(&format!("/v2/reg.test/team/app/{what}")).await.status, StatusCode::OK);
    }
    larder.settled().await;
    registry.stop().await;
    larder.clock.advance(HOUR);
    for what in all {
        let path = format!("/v2/reg.test/team/app/{what}");
        let reply = tokio::time::timeout(Duration::from_secs(15), larder.get(&path)).await;
        assert_eq!(reply.expect("it waits for a registry that is away").status, StatusCode::OK, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_hangs_on_content_is_not_waited_for_by_every_pull() {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    mirror.wrong(|seen| (seen.path != "/v2/").then_some(Fault::Hang));
    let endpoint =
        |url: String, authoritative| format!("{{ url = \"{url}\", authoritative = {authoritative} }}");
    let endpoints = [endpoint(mirror.url(), false), endpoint(registry.url(), true)].join(", ");
    let more = format!("{QUICK}[[registry]]\nhost = \"reg.test\"\nendpoints = [{endpoints}]");
    let larder = Larder::start(directory.path(), &[], &more);
    // The right to each repository is there: a mirror is asked to deliver only.
    let mut waits = Vec::new();
    for repository in ["one/app", "one/app", "two/app", "three/app", "four/app"] {
        let bytes = image::noise(1_000, waits.len() as u64 + 1);
        let first = registry.put_blob(repository, bytes.clone());
        let second = registry.put_blob(repository, [bytes, vec![1]].concat());
        let path = |digest| format!("/v2/{repository}/blobs/{digest}?ns=reg.test");
        assert_eq!(larder.get(&path(first)).await.status, StatusCode::OK);
        mirror.forget_seen();
        // Its retries are due, and it answers them.
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(larder.get(&path(second)).await.status, StatusCode::OK);
        waits.push(begun.elapsed() >= Duration::from_millis(1_200));
    }
    assert_eq!(waits[..2], [true, false], "the same repository waits for it again");
    // A retry in the background may have been the second time already.
    assert_eq!(waits[3..], [false, false], "each repository waits for it");
}
