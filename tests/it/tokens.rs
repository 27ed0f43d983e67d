//! Bearer challenges of upstream, answered anonymously.

use http::StatusCode;

use crate::support::image;
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;
use crate::transport::{Authority, front};

fn tokens_asked(registry: &FakeRegistry) -> Vec<String> {
    registry.seen().iter().filter(|s| s.path == "/token").map(|s| s.query.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_answered_once_and_with_the_pull_scope_only() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 1_000);
    registry.require_token(None, r#",scope="repository:team/app:pull,push""#);
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(reply.body, image.index_bytes);
    for layer in &image.platforms[0].layers {
        assert_eq!(
            larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.status,
            StatusCode::OK
        );
    }
    assert_eq!(tokens_asked(&registry), ["service=fake&scope=repository%3Ateam%2Fapp%3Apull"]);

    // For the next repository the challenge is already known.
    image::push(&registry, "team/two", "v1", 1_000);
    registry.forget_seen();
    assert_eq!(larder.get("/v2/team/two/manifests/v1?ns=reg.test").await.status, StatusCode::OK);
    assert_eq!(tokens_asked(&registry), ["service=fake&scope=repository%3Ateam%2Ftwo%3Apull"]);
    assert!(registry.seen().iter().all(|s| s.path == "/token" || s.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_renewed_once_and_a_refused_one_is_no_loop() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 1_000);
    registry.require_token(None, "");
    assert_eq!(larder.get("/v2/team/app/manifests/v1?ns=reg.test").await.status, StatusCode::OK);
    registry.expire_tokens();
    registry.forget_seen();
    let layer = image.platforms[0].layers[0];
    assert_eq!(larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.status, StatusCode::OK);
    assert_eq!(tokens_asked(&registry).len(), 1);

    registry.wrong(|seen| {
        let challenge = format!(r#"Bearer realm="http://{}/token""#, seen.headers["host"].to_str().unwrap());
        seen.path.starts_with("/v2/").then(|| Fault::Status(401, vec![("www-authenticate", challenge)]))
    });
    registry.forget_seen();
    assert_eq!(larder.get("/v2/reg.test/team/app/manifests/v2").await.status, StatusCode::UNAUTHORIZED);
    assert!(registry.seen().len() <= 4, "{}", registry.seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_fails_is_not_a_denial() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    image::push(&registry, "team/app", "v1", 1_000);
    registry.require_token(None, "");
    for (fault, status) in [
        (Fault::Status(503, vec![]), 503),
        (Fault::Status(401, vec![]), 401),
        (Fault::Status(307, vec![("location", "http://evil.test/".into())]), 401),
        (Fault::Answer(200, vec![], "<html>".into()), 502),
        (Fault::Answer(200, vec![], "{}".into()), 502),
        (Fault::Answer(200, vec![], r#"{"token":"a\nb"}"#.into()), 502),
        (Fault::Answer(200, vec![], vec![b' '; 2 * 1024 * 1024].into()), 502),
    ] {
        registry.behave();
        registry.wrong_at("/token", fault);
        let reply = larder.get("/v2/reg.test/team/app/manifests/v1").await;
        assert_eq!(reply.status.as_u16(), status, "{:?}", reply.body);
    }
    registry.behave();
    assert_eq!(larder.get("/v2/reg.test/team/app/manifests/v1").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_inside_the_nodes_network_is_asked_only_if_the_operator_listed_it() {
    let (registry, realm) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    image::push(&registry, "team/app", "v1", 1_000);
    realm.require_token(None, "");
    registry.require_token(Some(format!("{}/token", realm.url())), "");
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let reply = larder.get("/v2/reg.test/team/app/manifests/v1").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(String::from_utf8_lossy(&reply.body).contains("trusted_realms"), "{:?}", reply.body);
    assert!(realm.seen().is_empty());
    larder.stop().await;

    let section = |host: &str, more: &str| {
        format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"{}\"]\n{more}\n", registry.url())
    };
    let listed = format!("trusted_realms = [\"{}\"]", realm.address);
    let sections = section("reg.test", &listed) + &section("stranger.test", "");
    let larder = Larder::start(directory.path(), &[], &sections);
    assert_eq!(larder.get("/v2/reg.test/team/app/manifests/v1").await.status, StatusCode::OK);
    realm.forget_seen();
    let stranger = larder.get("/v2/stranger.test/team/app/manifests/v1").await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED, "it is trusted for the other registry alone");
    assert!(realm.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_behind_tls_that_names_its_realm_by_plain_http_gives_its_tokens_over_tls() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let (authority, ca) = (Authority::new(), directory.path().join("ca.pem"));
    std::fs::write(&ca, authority.pem()).unwrap();
    // Nothing but TLS is spoken at this port.
    let port = front(registry.address, authority.server("localhost", None)).await.port();
    let section = |host: &str| {
        let ca = ca.display();
        format!(
            "[[registry]]\nhost = \"{host}\"\nendpoints = [\"https://localhost:{port}\"]\nca = \"{ca}\"\n"
        )
    };
    let realms = [
        ("own.test", format!("http://localhost:{port}/token")),
        ("plain.test", "http://localhost/token".into()),
    ];
    let sections: String = realms.iter().map(|(host, _)| section(host)).collect();
    let larder = Larder::start(directory.path(), &[], &sections);
    for (host, realm) in realms {
        registry.require_token(Some(realm.clone()), "");
        registry.forget_seen();
        let reply = larder.get(&format!("/v2/team/app/manifests/v1?ns={host}")).await;
        assert_eq!(reply.body, image.index_bytes, "{realm}");
        assert_eq!(tokens_asked(&registry).len(), 1, "{realm}");
    }
}
