//! The node's credential: what it opens, to whom, and beside those of callers.

use std::time::Duration;

use http::StatusCode;

use super::access::{B, NODE, Scene, scene};
use crate::support::client;

#[tokio::test(flavor = "multi_thread")]
async fn the_node_credential_opens_its_repository_to_every_pod_and_no_other_repository() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let encoded = client::basic(NODE.0, NODE.1).replace("Basic ", "");
    std::fs::write(
        &config,
        format!(
            r#"{{"auths": {{"reg.test": {{"auth": "{encoded}"}}}}, "HttpHeaders": {{"X-Meta": "mark"}}}}"#
        ),
    )
    .unwrap();
    let scene = scene(&format!("[credentials]\nnode = [{config:?}]")).await;
    for reply in [
        scene.larder.get_unasked(&Scene::path("node/app", "manifests/v1")).await,
        scene.get("node/app", "manifests/v1", ("", "")).await,
        scene.get("node/app", "manifests/v1", B).await,
    ] {
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    }
    scene.is_refused_to_others("with a node credential").await;
    let with_extra = |part: &str| {
        scene
            .registry
            .seen()
            .iter()
            .filter(|s| s.path.contains(part) && s.headers.contains_key("x-meta"))
            .count()
    };
    assert!(with_extra("/node/app/") > 0, "HttpHeaders go to the registries of their file");
    assert_eq!(with_extra("/token"), 0, "and never to a realm");
    scene.registry.stop().await;
    let in_outage = scene.larder.get_unasked(&Scene::path("node/app", "manifests/v1")).await;
    assert_eq!(in_outage.status, StatusCode::OK, "every pod's right holds in an outage");
    assert!(in_outage.header("warning").contains("stale"), "{:?}", in_outage.headers);
    // A credential that was removed from the docker config gives no access any more.
    std::fs::write(&config, r#"{"auths": {}}"#).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let gone = scene.larder.get(&Scene::path("node/app", "manifests/v1")).await;
    assert_eq!(gone.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_tried_in_kubelets_order_and_never_mixed() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.json");
    let auth = |user: (&str, &str)| client::basic(user.0, user.1).replace("Basic ", "");
    let entries = format!(
        r#"{{"auths": {{"reg.test/node": {{"auth": "{}"}}, "reg.test": {{"auth": "{}"}}}}}}"#,
        auth(("wrong", "wrong")),
        auth(NODE)
    );
    std::fs::write(&config, entries).unwrap();
    let scene = scene(&format!("[credentials]\nnode = [{config:?}]")).await;
    assert_eq!(scene.get("node/app", "manifests/v1", B).await.status, StatusCode::OK);
    let shown: Vec<String> = scene
        .registry
        .seen()
        .iter()
        .filter(|s| s.path == "/token")
        .map(|s| s.headers.get("authorization").map_or("-".to_owned(), |h| h.to_str().unwrap().to_owned()))
        .collect();
    let mut order = shown.clone();
    order.dedup();
    let expected = [client::basic(B.0, B.1), client::basic("wrong", "wrong"), client::basic(NODE.0, NODE.1)];
    assert_eq!(order[..3], expected, "the caller's, then the node's by the longest key: {order:?}");
    assert!(!shown.contains(&"-".to_owned()), "and no anonymous attempt where something matched");
}
