//! What the event of a pod says when a pull fails, by version of containerd: with Larder as a mirror it is what it is
//! without Larder, or the reason in words. The table in docs/wiring.md.

use crate::support::fault::redirect;
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::runtime::{Containerd, Host, resolve};
use crate::support::world::Larder;

const PATH: &str = "/v2/team/app/manifests/v1";
const RIGHT: Option<(&str, &str)> = Some(("ada", "right"));
const WRONG: Option<(&str, &str)> = Some(("ada", "wrong"));
const STRICT: &[(&str, &str)] = &[("x-larder-mode", "strict")];

struct Scene {
    registry: FakeRegistry,
    larder: Larder,
    _directory: tempfile::TempDir,
}

/// Texts of the event without a mirror, with one, and with the mirror alone.
struct Events {
    without: Result<String, String>,
    mirror: Result<String, String>,
    strict: Result<String, String>,
}

impl Scene {
    async fn new() -> Self {
        let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        image::push(&registry, "team/app", "v1", 1_000);
        let accounts = Accounts::new(&[("ada", "right", &["team/app"]), ("eve", "right", &[])]);
        registry.know(Accounts { says_scope: true, ..accounts });
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
        Self { registry, larder, _directory: directory }
    }

    async fn events(&self, version: Containerd, path: &str, login: Option<(&str, &str)>) -> Events {
        let registry = || Host { address: self.registry.address, query: "", headers: &[] };
        let mirror = |headers| Host { address: self.larder.address, query: "?ns=reg.test", headers };
        Events {
            without: resolve(version, &[registry()], path, login).await,
            mirror: resolve(version, &[mirror(&[]), registry()], path, login).await,
            strict: resolve(version, &[mirror(STRICT)], path, login).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reads_as_it_does_without_a_mirror_on_every_version() {
    for version in Containerd::ALL {
        for (case, login) in [("no secret", None), ("a secret for another image", Some(("eve", "right")))] {
            let scene = Scene::new().await;
            let Events { without, mirror, strict } = scene.events(version, PATH, login).await;
            let without = without.unwrap_err();
            assert!(without.contains("server message: insufficient_scope"), "{without}");
            assert_eq!(mirror.unwrap_err(), without, "{version:?} {case}");
            let strict = strict.unwrap_err();
            assert!(strict.contains("refused access (401)"), "{version:?} {case}: {strict}");
        }
        let scene = Scene::new().await;
        let Events { without, mirror, strict } = scene.events(version, PATH, WRONG).await;
        assert!(without.unwrap_err().contains("failed to fetch oauth token"));
        let mirror = mirror.unwrap_err();
        assert!(mirror.contains("pull access denied"), "{version:?}: {mirror}");
        let strict = strict.unwrap_err();
        assert!(strict.contains("refused access (401)"), "{version:?}: {strict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_let_in_by_the_registry_gets_the_image_though_larder_is_refused() {
    for version in Containerd::ALL {
        let scene = Scene::new().await;
        // The registry refuses Larder's address, say.
        scene.registry.wrong(|seen| {
            let agent = seen.headers.get("user-agent").and_then(|agent| agent.to_str().ok());
            let is_larder = agent.is_some_and(|agent| agent.starts_with("larder"));
            is_larder.then(|| Fault::Status(403, vec![]))
        });
        let Events { without, mirror, strict } = scene.events(version, PATH, RIGHT).await;
        assert_eq!(mirror, without, "{version:?}");
        assert!(without.is_ok() && strict.unwrap_err().contains("refused access (403)"), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_does_not_have_is_not_found() {
    for version in Containerd::ALL {
        let scene = Scene::new().await;
        let path = "/v2/team/app/manifests/none";
        let Events { without, mirror, strict } = scene.events(version, path, RIGHT).await;
        assert_eq!(without, Err("not found".to_owned()));
        assert_eq!((&mirror, &strict), (&without, &without), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_429_or_500_is_shown_as_such_and_not_as_a_fault_of_larder() {
    for version in Containerd::ALL {
        for status in [429, 500, 503] {
            let scene = Scene::new().await;
            scene.registry.wrong_at("/manifests/", Fault::Status(status, vec![]));
            let Events { without, mirror, strict } = scene.events(version, PATH, RIGHT).await;
            let without = without.unwrap_err();
            assert!(without.contains(&status.to_string()), "{without}");
            assert_eq!(mirror.unwrap_err(), without, "{version:?} {status}");
            let strict = strict.unwrap_err();
            assert!(strict.contains(&format!("answered {status}")), "{version:?} {status}: {strict}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_registry_cannot_be_reached_can_be_read_on_every_version() {
    for version in Containerd::ALL {
        let scene = Scene::new().await;
        scene.registry.stop().await;
        let address = scene.registry.address;
        let registry = || Host { address, query: "", headers: &[] };
        let mirror = Host { address: scene.larder.address, query: "?ns=reg.test", headers: &[] };
        let without = resolve(version, &[registry()], PATH, RIGHT).await.unwrap_err();
        assert!(without.contains("Connection refused"), "{without}");
        let mirror = resolve(version, &[mirror, registry()], PATH, RIGHT).await.unwrap_err();
        assert!(mirror.contains("Connection refused") && mirror.contains(&address.to_string()), "{mirror}");
        assert!(!mirror.contains("503") && !mirror.contains("not found"), "{version:?}: {mirror}");
        if version == Containerd::V1 {
            assert_eq!(mirror, without);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_reason_can_be_read_in_strict_mode() {
    for version in Containerd::ALL {
        let scene = Scene::new().await;
        scene.registry.wrong_at("/manifests/", redirect("http://10.0.0.1/x".to_owned()));
        for (query, reason) in [("?ns=reg.test", "10.0.0.1"), ("?ns=10.0.0.9:5000", "[[registry]]")] {
            let host = Host { address: scene.larder.address, query, headers: STRICT };
            let strict = resolve(version, &[host], PATH, RIGHT).await.unwrap_err();
            assert!(strict.contains(reason), "{version:?}: {strict}");
        }
    }
}

/// Larder declines the registry, or cannot use what it sends; the runtime asks the registry itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_this_node_declines_or_cannot_use_hides_nothing_that_the_registry_says() {
    for version in Containerd::ALL {
        let (scene, registry) = (Scene::new().await, FakeRegistry::start().await);
        image::push(&registry, "team/app", "v1", 1_000);
        let page = Fault::Answer(200, vec![("content-type", "text/html".into())], "<html>".into());
        scene.registry.wrong_at("/manifests/", page);
        let address = registry.address;
        let (own, larder) = (|| Host { address, query: "", headers: &[] }, scene.larder.address);
        for (query, reason) in [("?ns=reg.test", "sent"), ("?ns=10.0.0.9:5000", "[[registry]]")] {
            let mirror = |headers| Host { address: larder, query, headers };
            for status in [None, Some(404), Some(429), Some(500)] {
                registry.behave();
                if let Some(status) = status {
                    registry.wrong_at("/manifests/", Fault::Status(status, vec![]));
                }
                let without = resolve(version, &[own()], PATH, RIGHT).await;
                let with = resolve(version, &[mirror(&[]), own()], PATH, RIGHT).await;
                assert_eq!(with, without, "{version:?} {query} {status:?}");
            }
            let strict = resolve(version, &[mirror(STRICT)], PATH, RIGHT).await.unwrap_err();
            assert!(strict.contains(reason), "{version:?} {query}: {strict}");
        }
        registry.stop().await;
        for (query, reason) in [("?ns=reg.test", "not found"), ("?ns=10.0.0.9:5000", "[[registry]]")] {
            let mirror = Host { address: larder, query, headers: &[] };
            let shown = resolve(version, &[mirror, own()], PATH, RIGHT).await.unwrap_err();
            let expected = if version == Containerd::V1 { "Connection refused" } else { reason };
            assert!(shown.contains(expected), "{version:?} {query}: {shown}");
        }
    }
}
