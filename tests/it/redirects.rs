//! Redirects of registries: followed without credentials, a few times, and to no private address that the operator did not
//! list.

use http::StatusCode;

use crate::support::fault::redirect;
use crate::support::registry::FakeRegistry;
use crate::support::scene::Scene;
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_without_the_token_and_not_for_ever() {
    let (scene, cdn) = (Scene::with("").await, FakeRegistry::start().await);
    scene.registry.require_token(None, "");
    let (bytes, path) = scene.blob_of(100_000);
    cdn.put_blob("cdn", bytes.clone());
    let target = format!("{}/v2/cdn/blobs/{}?sig=secret", cdn.url(), path.rsplit('/').next().unwrap());
    scene.registry.wrong(move |seen| {
        (seen.path.contains("/blobs/") && seen.headers.contains_key("authorization"))
            .then(|| redirect(target.clone()))
    });
    let refused = scene.larder.get(&format!("{path}?ns=reg.test")).await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a private address that the operator did not list"
    );
    assert!(!String::from_utf8_lossy(&refused.body).contains("secret"), "{:?}", refused.body);
    assert!(cdn.seen().is_empty(), "not even a connection");
    scene.larder.stop().await;

    let trusted = format!("[upstream]\ntrusted_redirects = [\"{}\"]", cdn.address);
    let larder = Larder::start(scene.directory.path(), &[("reg.test", scene.registry.url())], &trusted);
    let reply = larder.get(&format!("{path}?ns=reg.test")).await;
    assert_eq!(reply.body, bytes);
    let asked = cdn.seen();
    assert_eq!(asked[0].query, "sig=secret");
    assert!(!asked[0].headers.contains_key("authorization"), "{:?}", asked[0].headers);

    scene.registry.behave();
    scene.registry.wrong(|seen| seen.path.contains("/blobs/").then(|| redirect(seen.path.clone())));
    let other = scene.registry.put_blob("team/app", &b"loop"[..]);
    scene.registry.forget_seen();
    let looped = larder.get(&format!("/v2/reg.test/team/app/blobs/{other}")).await;
    assert_eq!(looped.status, StatusCode::BAD_GATEWAY);
    assert!(scene.registry.seen().len() <= 8, "{}", scene.registry.seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_may_redirect_to_is_trusted_for_no_other_registry() {
    let (scene, store) = (Scene::with("").await, FakeRegistry::start().await);
    let (bytes, path) = scene.blob_of(100_000);
    store.put_blob("s3", bytes.clone());
    let target = format!("{}/v2/s3/blobs/{}", store.url(), path.rsplit('/').next().unwrap());
    scene.registry.wrong(move |seen| seen.path.contains("/blobs/").then(|| redirect(target.clone())));
    scene.larder.stop().await;
    let url = scene.registry.url();
    let listed = format!(
        "[[registry]]\nhost = \"reg.test\"\nendpoints = [\"{url}\"]\ntrusted_redirects = [\"{}\"]",
        store.address
    );
    let larder = Larder::start(scene.directory.path(), &[("other.test", url)], &listed);
    let refused = larder.get(&format!("{path}?ns=other.test")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", refused.body);
    assert!(store.seen().is_empty(), "not even a connection");
    assert_eq!(larder.get(&format!("{path}?ns=reg.test")).await.body, bytes);
}
