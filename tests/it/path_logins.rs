//! A login for the cache's own address is sent to the registries that the operator named, and to no other; and nothing of
//! a credential, not even its user name, is in an answer, a log or an error.

use std::fs;

use http::{Method, StatusCode};

use crate::support::client::{self, basic};
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

const ADA: (&str, &str) = ("ada", "secret-ada");

/// Two registries that know the same account: one whose section is as usual, and one that is sent no login by path.
async fn scene() -> (FakeRegistry, FakeRegistry, Larder, tempfile::TempDir) {
    let (own, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    for registry in [&own, &other] {
        image::push(registry, "team/app", "v1", 1_000);
        image::push(registry, "open/app", "v1", 1_000);
        let public = vec!["open/app".to_owned()];
        registry.know(Accounts { public, ..Accounts::new(&[(ADA.0, ADA.1, &["team/app"])]) });
    }
    let section = |host: &str, url: String, more: &str| {
        format!("[[registry]]\nhost = \"{host}\"\nendpoints = [\"{url}\"]\n{more}\n")
    };
    let sections =
        section("own.test", own.url(), "") + &section("other.test", other.url(), "path_logins = false");
    let larder = Larder::start(directory.path(), &[], &sections);
    (own, other, larder, directory)
}

fn shown(registry: &FakeRegistry) -> bool {
    let ada = basic(ADA.0, ADA.1);
    registry.seen().iter().any(|seen| seen.headers.get("authorization").is_some_and(|h| h == ada.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_for_the_cache_reaches_no_registry_that_is_not_to_have_it() {
    let (own, other, larder, _directory) = scene().await;
    let ada = basic(ADA.0, ADA.1);
    let token = client::send(
        larder.address,
        Method::GET,
        "/token?scope=repository:other.test/team/app:pull",
        &[("authorization", &ada)],
    )
    .await;
    let token = format!("Bearer {}", token.json()["token"].as_str().unwrap());
    for login in [ada.as_str(), &token] {
        let path = "/v2/other.test/team/app/manifests/v1";
        let reply = client::send(larder.address, Method::GET, path, &[("authorization", login)]).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{:?}", reply.body);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains("was not sent to other.test"), "the user learns why: {text}");
    }
    assert!(!shown(&other), "the login went to a registry that it is not for");
    let public = larder.get_as("/v2/other.test/open/app/manifests/v1", ADA).await;
    assert_eq!(public.status, StatusCode::OK, "what is public needs no login");
    assert!(!shown(&other));

    assert_eq!(larder.get_as("/v2/own.test/team/app/manifests/v1", ADA).await.status, StatusCode::OK);
    assert!(shown(&own));
    let mirrored = larder.get_as("/v2/team/app/manifests/v1?ns=other.test", ADA).await;
    assert_eq!(mirrored.status, StatusCode::OK, "a mirror client's credential is for the registry it names");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_reads_the_user_name_of_the_node_or_of_another_caller() {
    let directory = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start().await;
    image::push(&registry, "team/app", "v1", 1_000);
    registry.know(Accounts::new(&[]));
    let node = directory.path().join("config.json");
    let encoded = basic("ghp_marker-user", "x-oauth-basic").replace("Basic ", "");
    fs::write(&node, format!(r#"{{"auths": {{"reg.test": {{"auth": "{encoded}"}}}}}}"#)).unwrap();
    let more = format!("[credentials]\nnode = [{node:?}]");
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &more);
    for denial in [401, 403, 404] {
        // A token server that lets everyone in leaves the decision to the registry.
        registry.know(Accounts {
            denial,
            ..Accounts::new(&[("ghp_marker-user", "x-oauth-basic", &[]), ("marker-ada", "p", &[])])
        });
        for path in ["/v2/reg.test/team/app/manifests/v1", "/v2/team/app/manifests/v1?ns=reg.test"] {
            for reply in [larder.get_as(path, ("marker-ada", "p")).await, larder.get(path).await] {
                assert!(!reply.status.is_success());
                let text = format!("{:?} {}", reply.headers, String::from_utf8_lossy(&reply.body));
                assert!(!text.contains("marker"), "a user name is in an answer: {text}");
            }
        }
    }
    assert!(registry.seen().iter().all(|seen| !seen.query.contains("marker")), "a user name is in a URL");
}
