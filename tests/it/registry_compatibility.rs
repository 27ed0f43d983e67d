//! Public registries, each with the behaviour in which it differs from the specification. Tested elsewhere: identity
//! tokens by POST (ACR) in `client_auth`, realms of the same owner (GitLab) in `upstream::auth::realm`, and that
//! `docker.io` is `registry-1.docker.io` in `upstream::endpoint`.

use std::os::unix::fs::PermissionsExt;

use http::{Method, StatusCode};
use larder::reference::MediaType;

use crate::support::image::{self, Image};
use crate::support::registry::{FakeRegistry, Fault, Seen};
use crate::support::world::Larder;

const TAG: &str = "/v2/team/app/manifests/v1?ns=reg.test";

struct Scene {
    registry: FakeRegistry,
    image: Image,
    larder: Larder,
    _directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    Scene { registry, image, larder, _directory: directory }
}

fn authorization(seen: &Seen) -> Option<&str> {
    seen.headers.get("authorization").map(|value| value.to_str().unwrap())
}

/// A challenge for a bearer token of `realm`, unless the request carries `token`.
fn challenge(seen: &Seen, token: &str, realm: &str, parameters: &str) -> Option<Fault> {
    let shown = authorization(seen) == Some(&format!("Bearer {token}"));
    let value = format!(r#"Bearer realm="{realm}"{parameters}"#);
    (!shown).then(|| Fault::Status(401, vec![("www-authenticate", value)]))
}

fn json(text: String) -> Fault {
    Fault::Answer(200, vec![("content-type", "application/json".into())], text.into())
}

impl Scene {
    async fn is_pulled(&self) {
        let head = self.larder.head(TAG).await;
        assert_eq!(head.header("docker-content-digest"), self.image.index.to_string());
        assert_eq!(head.header("content-length"), self.image.index_bytes.len().to_string());
        assert_eq!(head.header("content-type"), MediaType::OCI_INDEX);
        assert_eq!(self.larder.get(TAG).await.body, self.image.index_bytes);
        let layer = self.image.platforms[0].layers[0];
        assert_eq!(self.larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.digest(), layer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_sends_schema_1_to_clients_that_do_not_accept_all_types() {
    let scene = scene().await;
    scene.registry.wrong(|seen| {
        let accept = seen.headers["accept"].to_str().unwrap();
        let names = [
            MediaType::OCI_INDEX,
            MediaType::DOCKER_LIST,
            MediaType::OCI_MANIFEST,
            MediaType::DOCKER_MANIFEST,
        ];
        let all = names.iter().all(|name| accept.contains(name));
        let old =
            vec![("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned())];
        (seen.path.contains("/manifests/") && !all).then(|| Fault::Answer(200, old, "{}".into()))
    });
    // The client's Accept makes no difference.
    scene.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_answers_401_for_a_repository_that_does_not_exist() {
    let scene = scene().await;
    let at = scene.registry.url();
    scene.registry.wrong(move |seen| match seen.path.as_str() {
        "/token" => Some(json(r#"{"token":"t"}"#.into())),
        _ => challenge(seen, "never", &format!("{at}/token"), r#",service="s",error="insufficient_scope""#),
    });
    let missing = "/v2/team/missing/manifests/v1";
    // As the registry says: no credential may see it, and a runtime's own request reads the same.
    for path in [&format!("{missing}?ns=reg.test"), "/v2/reg.test/team/missing/manifests/v1"] {
        assert_eq!(scene.larder.get(path).await.status, StatusCode::UNAUTHORIZED);
    }
    assert!(scene.registry.seen().len() <= 10, "no loop: {}", scene.registry.seen().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn quay_has_its_token_server_under_v2() {
    let scene = scene().await;
    let at = scene.registry.url();
    scene.registry.wrong(move |seen| match seen.path.as_str() {
        "/v2/auth" => Some(json(r#"{"token":"quay"}"#.into())),
        _ => challenge(
            seen,
            "quay",
            &format!("{at}/v2/auth"),
            r#",service="quay.io",scope="repository:team/app:pull""#,
        ),
    });
    scene.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ghcr_challenges_for_a_placeholder_scope_and_gcr_for_none() {
    for parameters in [r#",service="ghcr.io",scope="repository:user/image:pull""#, ""] {
        let scene = scene().await;
        let at = scene.registry.url();
        scene.registry.wrong(move |seen| match seen.path.as_str() {
            "/token" => {
                let own = seen.query.contains("scope=repository%3Ateam%2Fapp%3Apull");
                Some(json(format!(r#"{{"token":"{}"}}"#, if own { "right" } else { "useless" })))
            }
            _ => challenge(seen, "right", &format!("{at}/token"), parameters),
        });
        scene.is_pulled().await;
    }
}

/// The repository that a path names.
fn named(path: &str) -> &str {
    let (name, _) = path.split_once("/manifests/").or(path.split_once("/blobs/")).unwrap();
    name.strip_prefix("/v2/").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ghcr_and_google_refuse_a_token_request_that_names_a_repository_that_is_not_theirs() {
    // By a path prefix of the endpoint, or of the registry behind a proxy: where the image is at the registry, what the
    // endpoint's URL has after its host, what the challenge puts before the name in that URL, and whether it has a scope.
    for (prefix, base, behind, has_scope) in [
        ("hub/", "/v2/hub", "", true),
        ("hub/", "/v2/hub", "", false),
        ("", "", "project/hub/", true),
        ("", "", "", true),
    ] {
        let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let image = image::push(&registry, &format!("{prefix}team/app"), "v1", 1_000);
        image::push(&registry, &format!("{prefix}team/two"), "v1", 1_000);
        let at = registry.url();
        registry.wrong(move |seen| match seen.path.as_str() {
            "/token" => {
                let own =
                    format!("scope=repository%3A{}", format!("{prefix}{behind}team/").replace('/', "%2F"));
                let is_own = seen.query.matches("scope=").count() == seen.query.matches(&own).count();
                let status = (!is_own).then(|| Fault::Status(403, vec![]));
                Some(status.unwrap_or_else(|| json(r#"{"token":"right"}"#.into())))
            }
            path => {
                let scope = format!(r#",scope="repository:{behind}{}:pull""#, named(path));
                let parameters = format!(r#",service="s"{}"#, if has_scope { &scope } else { "" });
                challenge(seen, "right", &format!("{at}/token"), &parameters)
            }
        });
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url() + base)], "");
        let scene = Scene { registry, image, larder, _directory: directory };
        scene.is_pulled().await;
        scene.registry.forget_seen();
        let [one, other] = [0, 1].map(|n| format!("manifests/{}", scene.image.platforms[n].manifest));
        for path in [format!("team/app/{one}"), format!("team/app/{other}"), "team/two/manifests/v1".into()] {
            let reply = scene.larder.get(&format!("/v2/{path}?ns=reg.test")).await;
            assert_eq!(reply.status, StatusCode::OK, "{path}: {:?}", reply.body);
        }
        let seen = scene.registry.seen();
        assert_eq!(scene.registry.count(Method::GET, "/token"), 1, "for the new repository");
        let is_at_once = |seen: &Seen| seen.path == "/token" || authorization(seen).is_some();
        assert!(seen.iter().all(is_at_once), "nothing is sent without the token first: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn artifactory_calls_its_token_access_token_and_sends_no_digest() {
    let scene = scene().await;
    let at = scene.registry.url();
    let bytes = scene.image.index_bytes.clone();
    scene.registry.wrong(move |seen| match seen.path.as_str() {
        "/token" if seen.method == Method::POST => Some(Fault::Status(401, vec![])),
        "/token" => Some(json(r#"{"access_token":"jf"}"#.into())),
        "/v2/team/app/manifests/v1" => challenge(seen, "jf", &format!("{at}/token"), r#",service="jf""#)
            .or_else(|| {
                Some(Fault::Answer(200, vec![("content-type", MediaType::OCI_INDEX.into())], bytes.clone()))
            }),
        _ => challenge(seen, "jf", &format!("{at}/token"), r#",service="jf""#),
    });
    scene.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn red_hat_sends_no_content_type_and_the_document_names_it() {
    let scene = scene().await;
    let bytes = scene.image.index_bytes.clone();
    for headers in [vec![], vec![("content-type", "text/plain; charset=utf-8".to_owned())]] {
        let bytes = bytes.clone();
        scene.registry.wrong(move |seen| {
            seen.path.contains("/manifests/").then(|| Fault::Answer(200, headers.clone(), bytes.clone()))
        });
        scene.is_pulled().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_k8s_io_redirects_manifests_too() {
    let (front, back) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let image = image::push(&back, "k8s-artifacts-prod/team/app", "v1", 1_000);
    let to = back.url();
    front.wrong(move |seen| {
        let rest = seen.path.trim_start_matches("/v2/");
        Some(Fault::Status(307, vec![("location", format!("{to}/v2/k8s-artifacts-prod/{rest}"))]))
    });
    let more = format!("[upstream]\ntrusted_redirects = [\"{}\"]", back.address);
    let larder = Larder::start(directory.path(), &[("reg.test", front.url())], &more);
    let scene = Scene { registry: front, image, larder, _directory: directory };
    scene.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_refuses_two_authentications_and_its_urls_expire() {
    let scene = scene().await;
    let storage = FakeRegistry::start().await;
    let layer = scene.image.platforms[0].layers[0];
    let content = scene.larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.body;
    scene.larder.stop().await;
    storage.put_blob("bucket", content);
    scene.registry.require_token(None, "");
    let (to, issued) = (storage.url(), std::sync::atomic::AtomicU32::new(0));
    scene.registry.wrong(move |seen| {
        let goes = seen.path.contains("/blobs/") && authorization(seen).is_some();
        let n = issued.load(std::sync::atomic::Ordering::Relaxed) + u32::from(goes);
        issued.store(n, std::sync::atomic::Ordering::Relaxed);
        let at = format!("{to}/v2/bucket/blobs/{layer}?X-Amz-Signature={n}");
        goes.then(|| Fault::Status(307, vec![("location", at)]))
    });
    storage.wrong(|seen| {
        if authorization(seen).is_some() {
            return Some(Fault::Status(400, vec![]));
        }
        // The first URL has expired by the time it is used; a new one is requested.
        (seen.query == "X-Amz-Signature=1").then(|| Fault::Status(403, vec![]))
    });
    let directory = tempfile::tempdir().unwrap();
    let more = format!("[upstream]\ntrusted_redirects = [\"{}\"]", storage.address);
    let larder = Larder::start(directory.path(), &[("reg.test", scene.registry.url())], &more);
    let reply = larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await;
    assert_eq!(reply.digest(), layer, "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn ecr_public_answers_400_to_a_token_that_has_expired() {
    let scene = scene().await;
    let at = scene.registry.url();
    let issued = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(1));
    let now = std::sync::Arc::clone(&issued);
    scene.registry.wrong(move |seen| {
        let n = now.load(std::sync::atomic::Ordering::Relaxed);
        match (seen.path.as_str(), authorization(seen)) {
            ("/token/", _) => Some(json(format!(r#"{{"token":"aws{n}"}}"#))),
            (_, None) => {
                challenge(seen, "", &format!("{at}/token/"), r#",service="public.ecr.aws",scope="aws""#)
            }
            (_, Some(token)) if token == format!("Bearer aws{n}") => None,
            (_, Some(_)) => Some(Fault::Status(400, vec![])),
        }
    });
    scene.is_pulled().await;
    issued.store(2, std::sync::atomic::Ordering::Relaxed);
    scene.registry.forget_seen();
    let reply = scene.larder.get(TAG).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?} {:?}", reply.body, scene.registry.seen());
    assert_eq!(scene.larder.get(TAG).await.status, StatusCode::OK, "a new one is asked for, once");
    assert_eq!(scene.registry.count(Method::GET, "/token/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn harbor_answers_a_token_that_it_refuses_with_basic() {
    let scene = scene().await;
    let at = scene.registry.url();
    let key = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(1));
    let now = std::sync::Arc::clone(&key);
    scene.registry.wrong(move |seen| {
        let n = now.load(std::sync::atomic::Ordering::Relaxed);
        match (seen.path.as_str(), authorization(seen)) {
            ("/service/token", _) => Some(json(format!(r#"{{"token":"key{n}","expires_in":1800}}"#))),
            (_, None) => challenge(seen, "", &format!("{at}/service/token"), r#",service="harbor-registry""#),
            (_, Some(token)) if token == format!("Bearer key{n}") => None,
            (_, Some(_)) => {
                let basic = r#"Basic realm="harbor""#.to_owned();
                Some(Fault::Status(401, vec![("www-authenticate", basic)]))
            }
        }
    });
    scene.is_pulled().await;
    // The key that signs its tokens is another one.
    key.store(2, std::sync::atomic::Ordering::Relaxed);
    scene.registry.forget_seen();
    scene.is_pulled().await;
    assert_eq!(scene.registry.count(Method::GET, "/service/token"), 1, "a new one is asked for, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn ecr_answers_403_to_a_password_that_has_expired_and_the_plugin_is_run_again() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let image = image::push(&registry, "team/app", "v1", 1_000);
    let password = directory.path().join("password");
    std::fs::write(&password, "old").unwrap();
    let plugin = directory.path().join("ecr");
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\nprintf '%s' '{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\"cacheDuration\":\"12h\",\"auth\":{{\"reg.test\":{{\"username\":\"AWS\",\"password\":\"'\ncat {}\nprintf '%s' '\"}}}}}}'\n",
        password.display()
    );
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("providers.yaml");
    std::fs::write(
        &config,
        "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- name: ecr\n  matchImages: [\"reg.test\"]\n  defaultCacheDuration: 12h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
    )
    .unwrap();
    let valid = password.clone();
    registry.wrong(move |seen| {
        use base64::Engine;
        let right = std::fs::read_to_string(&valid).unwrap();
        let right = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{right}"));
        match authorization(seen) {
            None => Some(Fault::Status(401, vec![("www-authenticate", "Basic realm=\"ecr\"".into())])),
            Some(given) if given == format!("Basic {right}") => None,
            Some(_) => Some(Fault::Status(403, vec![])),
        }
    });
    let more = format!(
        "[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"{}\"",
        config.display(),
        directory.path().display()
    );
    let larder = Larder::start(&directory.path().join("state"), &[("reg.test", registry.url())], &more);
    assert_eq!(larder.get(TAG).await.body, image.index_bytes);
    std::fs::write(&password, "new").unwrap();
    assert_eq!(larder.get(TAG).await.body, image.index_bytes, "no pull fails for it");
    assert!(larder.head(TAG).await.header("warning").is_empty());
}
