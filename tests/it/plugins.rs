//! A credential plugin or helper that hangs or fails, credentials of one user with two passwords, and an outdated one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use http::StatusCode;

use super::access::{A, Scene, scene};
use crate::support::client::basic;
use crate::support::registry::Seen;

/// A plugin that answers with the account of the node's repository while the file `go` is there, and waits until it is.
fn plugin(directory: &std::path::Path) -> String {
    let at = directory.display();
    let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"0s","auth":{"reg.test":{"username":"node","password":"secret-node"}}}"#;
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\nwhile [ ! -e {at}/go ]; do sleep 0.05; done\necho x >> {at}/runs\ncat <<'E'\n{answer}\nE\n"
    );
    fs::write(directory.join("plugin"), script).unwrap();
    fs::set_permissions(directory.join("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.join("plugins.yaml");
    fs::write(
        &config,
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"reg.test/node\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
    )
    .unwrap();
    format!("[credentials]\nnode = []\nprovider_config = {config:?}\nprovider_bin_dir = {directory:?}")
}

async fn becomes_ok(scene: &Scene, path: &str) {
    for _ in 0..200 {
        if scene.larder.get(path).await.status == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} is refused though the plugin answers again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_refuses_no_image_for_good_and_what_is_cached_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let scene = scene(&plugin(directory.path())).await;
    let path = Scene::path("node/app", "manifests/v1");
    // It hangs before anything is cached: that is no answer of the registry.
    let waiting = scene.larder.get(&path).await;
    assert_eq!(waiting.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", waiting.body);
    let unasked = scene.larder.get_unasked(&path).await;
    assert_eq!(unasked.status, StatusCode::UNAUTHORIZED, "a pod may have a credential of its own");
    let other = scene.get("node/app", "manifests/v1", A).await;
    assert_eq!(
        other.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the credential that opens it was not asked with: {:?}",
        other.body
    );
    let public = scene.larder.get(&Scene::path("open/app", "manifests/v1")).await;
    assert_eq!(public.status, StatusCode::OK);
    fs::write(&go, "").unwrap();
    becomes_ok(&scene, &path).await;
    assert_eq!(scene.larder.get_unasked(&path).await.status, StatusCode::OK, "remembered as refused");
    // It hangs again: the right that it proved holds.
    fs::remove_file(&go).unwrap();
    scene.larder.clock.advance(Duration::from_secs(3_600));
    for _ in 0..2 {
        for cached in [scene.larder.get(&path).await, scene.get("node/app", "manifests/v1", A).await] {
            assert_eq!(cached.status, StatusCode::OK, "{:?}", cached.body);
            assert!(!cached.header("warning").is_empty(), "it is marked");
        }
    }
    fs::write(&go, "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_passwords_of_one_user_are_tried() {
    let directory = tempfile::tempdir().unwrap();
    let encoded = |password: &str| basic("node", password).replace("Basic ", "");
    let config = directory.path().join("config.json");
    let text = format!(
        r#"{{"auths": {{"https://reg.test": {{"auth": "{}"}}, "reg.test": {{"auth": "{}"}}}}}}"#,
        encoded("old"),
        encoded("secret-node"),
    );
    fs::write(&config, text).unwrap();
    let more = format!("[credentials]\nnode = [{config:?}]\n[freshness]\nnegative_ttl = \"3s\"");
    let scene = scene(&more).await;
    for what in ["manifests/v1", "manifests/v1"] {
        let reply = scene.larder.get(&Scene::path("node/app", what)).await;
        assert_eq!(reply.status, StatusCode::OK, "the second password was not tried: {:?}", reply.body);
    }
}

/// A docker config whose login for the registry comes from a helper, which fails, or hangs, as the files `fails` and `hangs`
/// say.
fn helper(directory: &std::path::Path) -> String {
    let at = directory.display();
    let answer = r#"{"ServerURL":"reg.test","Username":"node","Secret":"secret-node"}"#;
    let script = format!(
        "#!/bin/sh\nread s\n[ -e {at}/fails ] && exit 1\nwhile [ -e {at}/hangs ]; do sleep 0.05; done\necho '{answer}'\n"
    );
    let program = directory.join("docker-credential-x");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.join("config.json");
    fs::write(&config, r#"{"credHelpers": {"reg.test": "x"}}"#).unwrap();
    format!("[credentials]\nnode = [{config:?}]\nhelper_dir = {directory:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_fails_or_hangs_refuses_nobody_and_ends_no_right() {
    for trouble in ["fails", "hangs"] {
        let directory = tempfile::tempdir().unwrap();
        let trouble = directory.path().join(trouble);
        let scene = scene(&helper(directory.path())).await;
        let path = Scene::path("node/app", "manifests/v1");
        fs::write(&trouble, "").unwrap();
        let cold = scene.larder.get(&path).await;
        assert_eq!(cold.status, StatusCode::SERVICE_UNAVAILABLE, "{trouble:?}: {:?}", cold.body);
        let public = scene.larder.get(&Scene::path("open/app", "manifests/v1")).await;
        assert_eq!(public.status, StatusCode::OK, "{trouble:?}");
        fs::remove_file(&trouble).unwrap();
        becomes_ok(&scene, &path).await;
        fs::write(&trouble, "").unwrap();
        scene.larder.clock.advance(Duration::from_secs(3_600));
        let cached = scene.larder.get(&path).await;
        assert_eq!(cached.status, StatusCode::OK, "{trouble:?}: {:?}", cached.body);
        assert!(!cached.header("warning").is_empty(), "{trouble:?}: it is marked");
        fs::remove_file(&trouble).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outdated_login_of_the_node_refuses_no_public_image_and_is_tried_once() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let encoded = basic("node", "old").replace("Basic ", "");
    fs::write(&config, format!(r#"{{"auths": {{"reg.test": {{"auth": "{encoded}"}}}}}}"#)).unwrap();
    let scene = scene(&format!("[credentials]\nnode = [{config:?}]")).await;
    let public = scene.larder.get(&Scene::path("open/app", "manifests/v1")).await;
    assert_eq!(public.status, StatusCode::OK, "{:?}", public.body);
    let old = basic("node", "old");
    let is_login = |seen: &&Seen| seen.headers.get("authorization").is_some_and(|h| h == old.as_str());
    assert_eq!(
        scene.registry.seen().iter().filter(is_login).count(),
        1,
        "a registry that locks accounts locks this one"
    );
    let closed = scene.larder.get(&Scene::path("node/app", "manifests/v1")).await;
    assert!(!closed.status.is_success(), "{:?}", closed.body);
}
