//! No credential reaches another host, a log, an error, a metric or a file.

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, StatusCode};
use larder::reference::MediaType;

use crate::support::client::{self, basic, post_form};
use crate::support::fault::redirect;
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry, Fault};
use crate::support::world::{Larder, files_under};

const ADA: (&str, &str) = ("ada", "marker-secret-ada");
const PATH: &str = "/v2/team/app/manifests/v1?ns=reg.test";

struct Scene {
    registry: FakeRegistry,
    canary: FakeRegistry,
    larder: Larder,
    directory: tempfile::TempDir,
    image: image::Image,
}

/// A registry with the account `ada`, and another registry that must never receive its credential.
async fn scene(more: &str) -> Scene {
    let (registry, canary) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let image = image::push(&registry, "team/app", "v1", 100_000);
    registry.know(Accounts::new(&[(ADA.0, ADA.1, &["team/app"])]));
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    Scene { registry, canary, larder, directory, image }
}

impl Scene {
    fn canary_knows_nothing(&self) {
        for seen in self.canary.seen() {
            let shown = seen.headers.get("authorization").map(|h| h.to_str().unwrap());
            // An anonymous token is not a secret.
            assert!(shown.is_none_or(|h| h.starts_with("Bearer tok..")), "{seen:?}");
            assert!(!seen.query.contains("account") && !seen.query.contains("marker"), "{seen:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_of_another_host_is_shown_no_credential() {
    let scene = scene("").await;
    for realm in [
        format!("{}/token", scene.canary.url()),
        format!("http://127.0.0.1:{}@{}/token", scene.registry.address.port(), scene.canary.address),
        format!("http://localhost:{}/token", scene.canary.address.port()),
        format!("http://{}/token/../token", scene.canary.address),
        "https://auth.evil-docker.io/token".to_owned(),
        "ftp://reg.test/token".to_owned(),
    ] {
        scene.registry.change(false, |accounts| accounts.realm = Some(realm.clone()));
        let reply = scene
            .larder
            .get_as(&PATH.replace("?ns=reg.test", "").replacen("/v2/", "/v2/reg.test/", 1), ADA)
            .await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{realm}: {:?}", reply.body);
        assert!(String::from_utf8_lossy(&reply.body).contains("realm"), "{realm}: {:?}", reply.body);
        assert!(scene.canary.seen().is_empty(), "{realm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_that_redirects_or_breaks_is_followed_nowhere() {
    let scene = scene("").await;
    for (fault, status) in [
        (redirect(format!("{}/token", scene.canary.url())), 401),
        (Fault::Status(401, vec![]), 401),
        (Fault::Status(403, vec![]), 401),
        (Fault::Status(500, vec![]), 503),
        (Fault::Answer(200, vec![], "<html>".into()), 502),
    ] {
        scene.registry.behave();
        scene.registry.wrong_at("/token", fault);
        scene.registry.forget_seen();
        let reply = scene.larder.get_as("/v2/reg.test/team/app/manifests/v1", ADA).await;
        assert_eq!(reply.status.as_u16(), status, "{:?}", reply.body);
        assert!(!String::from_utf8_lossy(&reply.body).contains("marker"));
        assert!(scene.registry.count(Method::GET, "/token") <= 6, "no loop");
        assert!(scene.canary.seen().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_no_credential_along_and_one_that_asks_for_it_gets_none() {
    let listed = |port: u16| format!("[upstream]\ntrusted_redirects = [\"127.0.0.1:{port}\"]");
    let scene = scene("").await;
    let (port, bytes) = (scene.canary.address.port(), Bytes::from(image::noise(200_000, 5)));
    let Scene { registry, canary, larder, directory, image } = scene;
    larder.stop().await;
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &listed(port));
    let scene = Scene { registry, canary, larder, directory, image };
    for basic in [false, true] {
        let digest = scene.registry.put_blob("team/app", bytes.slice(usize::from(basic)..));
        scene.canary.put_blob("team/app", bytes.slice(usize::from(basic)..));
        scene.registry.change(true, |accounts| accounts.basic = basic);
        let to = format!("{}/v2/team/app/blobs/{digest}", scene.canary.url());
        scene.registry.behave();
        scene.registry.wrong(move |seen| {
            (seen.path.contains("/blobs/") && seen.headers.contains_key("authorization"))
                .then(|| redirect(to.clone()))
        });
        let path = format!("/v2/team/app/blobs/{digest}?ns=reg.test");
        let reply = scene.larder.get_as(&path, ADA).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 200_000 - usize::from(basic)));
        assert_eq!(scene.canary.count(Method::GET, "/blobs/"), 1 + usize::from(basic));
        scene.canary_knows_nothing();
    }
    // The storage challenges too: its token is requested anonymously, and from the storage's own realm.
    let digest = scene.registry.put_blob("team/app", bytes.slice(7..));
    scene.canary.know(Accounts::new(&[]));
    let to = format!("{}/v2/team/app/blobs/{digest}", scene.canary.url());
    scene.registry.behave();
    scene.registry.wrong(move |seen| {
        (seen.path.contains("/blobs/") && seen.headers.contains_key("authorization"))
            .then(|| redirect(to.clone()))
    });
    let reply = scene.larder.get_as(&format!("/v2/team/app/blobs/{digest}?ns=reg.test"), ADA).await;
    assert!(!reply.status.is_success());
    scene.canary_knows_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn urls_in_a_descriptor_are_never_followed() {
    let scene = scene("").await;
    let layer = larder::reference::Digest::of(b"foreign");
    let (url, config) = (format!("{}/layer", scene.canary.url()), scene.image.platforms[0].config);
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 5},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "size": 7,
                    "digest": layer.to_string(), "urls": [url]}]});
    scene.registry.put_manifest("team/app", Some("foreign"), MediaType::OCI_MANIFEST, manifest.to_string());
    let reply = scene.larder.get_as("/v2/team/app/manifests/foreign?ns=reg.test", ADA).await;
    assert_eq!(reply.status, StatusCode::OK);
    let blob = scene.larder.get_as(&format!("/v2/team/app/blobs/{layer}?ns=reg.test"), ADA).await;
    assert_eq!(blob.status, StatusCode::NOT_FOUND);
    assert!(scene.canary.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_registries_never_see_each_others_credentials() {
    let scene = scene("").await;
    let other = FakeRegistry::start().await;
    image::push(&other, "team/app", "v1", 10_000);
    other.know(Accounts::new(&[("bob", "marker-secret-bob", &["team/app"])]));
    let registries = [("reg.test", scene.registry.url()), ("other.test", other.url())];
    let Scene { registry, larder, directory, .. } = scene;
    larder.stop().await;
    let larder = Larder::start(directory.path(), &registries, "");
    for _ in 0..3 {
        let own = larder.get_as(PATH, ADA).await;
        let others =
            larder.get_as("/v2/team/app/manifests/v1?ns=other.test", ("bob", "marker-secret-bob")).await;
        assert_eq!((own.status, others.status), (StatusCode::OK, StatusCode::OK));
    }
    let shown = |registry: &FakeRegistry, to: (&str, &str)| {
        let theirs = basic(to.0, to.1);
        registry
            .seen()
            .iter()
            .filter_map(|s| s.headers.get("authorization").cloned())
            .any(|h| h == theirs.as_str())
    };
    assert!(shown(&registry, ADA) && !shown(&registry, ("bob", "marker-secret-bob")));
    assert!(!shown(&other, ADA) && shown(&other, ("bob", "marker-secret-bob")));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_a_log_at_trace_an_error_a_metric_or_a_file() {
    let log = Log::default();
    let writer = log.clone();
    let lines =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    // Under nextest each test has its own process; otherwise another test may have set the subscriber first.
    let mine = lines.with_ansi(false).try_init().is_ok();
    let keys = tempfile::tempdir().unwrap();
    let node = keys.path().join("config.json");
    let encoded = basic("node", "marker-secret-node").replace("Basic ", "");
    std::fs::write(&node, format!(r#"{{"auths": {{"reg.test": {{"auth": "{encoded}"}}}}, "HttpHeaders": {{"X-Key": "marker-secret-field"}}}}"#)).unwrap();
    let scene = scene(&format!("[credentials]\nnode = [{node:?}]")).await;
    let at = scene.larder.address;
    let mut bodies = Vec::new();
    let form =
        format!("grant_type=password&username={}&password={}&scope=repository:team/app:pull", ADA.0, ADA.1);
    let token = post_form(at, "/token?ns=reg.test", &form).await.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    for path in [PATH, "/v2/team/nope/manifests/v1?ns=reg.test", "/v2/reg.test/team/app/manifests/v9", "/v2/"]
    {
        for header in [
            bearer.as_str(),
            &basic(ADA.0, ADA.1),
            &basic(ADA.0, "marker-secret-wrong"),
            "Bearer marker-secret-token",
        ] {
            bodies.push(client::send(at, Method::GET, path, &[("authorization", header)]).await.body);
        }
    }
    for (fault, part) in [
        (Fault::Answer(200, vec![], r#"{"token":"marker-secret-upstream\n"}"#.into()), "/token"),
        (
            Fault::Answer(401, vec![], r#"{"errors":[{"message":"marker-secret-ada is wrong"}]}"#.into()),
            "/manifests/",
        ),
        (redirect("http://evil.test/x?sig=marker-secret-signature".into()), "/manifests/"),
        (Fault::Status(500, vec![]), "/manifests/"),
    ] {
        scene.registry.wrong_at(part, fault);
        scene.registry.change(true, |_| {});
        bodies.push(scene.larder.get_as("/v2/reg.test/team/app/manifests/v1", ADA).await.body);
        scene.registry.behave();
    }
    bodies.push(
        post_form(at, "/token", "grant_type=marker-secret-grant&password=marker-secret-ada").await.body,
    );
    bodies.push(client::get(scene.larder.admin, "/metrics").await.body);
    bodies.push(client::get(scene.larder.admin, "/v1/status").await.body);
    scene.larder.stop().await;
    let clean = |what: &str, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        for marker in ["marker-secret", &encoded, &token, "tok.ada", "bWFya2VyLXNlY3Jl"] {
            assert!(!text.contains(marker), "{marker} is in {what}: {text}");
        }
    };
    for body in &bodies {
        clean("an answer", body);
    }
    for file in files_under(scene.directory.path()) {
        clean(&file.display().to_string(), &std::fs::read(scene.directory.path().join(&file)).unwrap());
    }
    let log = log.0.lock().unwrap().clone();
    clean("the log", &log);
    assert!(
        !mine || String::from_utf8_lossy(&log).contains("sent a request upstream"),
        "the log is a talkative one"
    );
}
