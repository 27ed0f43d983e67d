//! How clients authenticate: challenges, `/token` by GET and POST, tokens, Basic, the gate.

use http::{Method, StatusCode};

use crate::support::client::{self, basic, post_form};
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

const PATH: &str = "/v2/team/app/manifests/v1?ns=reg.test";

async fn scene(more: &str) -> (FakeRegistry, Larder, tempfile::TempDir) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    for repository in ["team/app", "team/other"] {
        image::push(&registry, repository, "v1", 1_000);
    }
    registry.know(Accounts::new(&[("ada", "p:w&d=", &["team/app", "team/other"])]));
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], more);
    (registry, larder, directory)
}

async fn with_token(larder: &Larder, path: &str, token: &str) -> client::Reply {
    let header = format!("Bearer {token}");
    client::send(larder.address, Method::GET, path, &[("authorization", header.as_str())]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_leads_to_a_token_that_opens_the_repository_by_get_and_post_and_after_a_restart() {
    let (registry, larder, directory) = scene("").await;
    let challenged = larder.get_unasked(PATH).await;
    assert_eq!(
        (challenged.status, challenged.error_code().as_str()),
        (StatusCode::UNAUTHORIZED, "UNAUTHORIZED")
    );
    let at = larder.address;
    assert_eq!(
        challenged.header("www-authenticate"),
        format!(
            "Bearer realm=\"http://{at}/token?ns=reg.test\",service=\"larder\",scope=\"repository:team/app:pull\""
        )
    );
    let form = "grant_type=password&username=ada&password=p%3Aw%26d%3D&service=larder&scope=repository%3Ateam%2Fapp%3Apull&client_id=containerd-client";
    let posted = post_form(at, "/token?ns=reg.test", form).await;
    let query = "/token?ns=reg.test&service=larder&scope=repository%3Ateam%2Fapp%3Apull&scope=repository%3Ateam%2Fapp%3Apull";
    let ada = basic("ada", "p:w&d=");
    let got = client::send(at, Method::GET, query, &[("authorization", ada.as_str())]).await;
    let mut tokens = Vec::new();
    for reply in [posted, got] {
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        assert_eq!(reply.header("cache-control"), "no-store");
        let answer = reply.json();
        assert!(answer["expires_in"].as_u64().unwrap() >= 3_600);
        assert_eq!(answer["token"], answer["access_token"]);
        let token = answer["token"].as_str().unwrap().to_owned();
        assert_eq!(with_token(&larder, PATH, &token).await.status, StatusCode::OK);
        tokens.push(token);
    }
    larder.stop().await;
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    for token in &tokens {
        assert_eq!(with_token(&larder, PATH, token).await.status, StatusCode::OK, "it outlives a restart");
        let elsewhere = with_token(&larder, "/v2/team/other/manifests/v1?ns=reg.test", token).await;
        assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
        assert!(elsewhere.header("www-authenticate").contains("error=\"insufficient_scope\""));
        let registry = with_token(&larder, "/v2/team/app/manifests/v1?ns=other.test", token).await;
        assert_eq!(registry.status, StatusCode::UNAUTHORIZED, "nor is it for another registry");
    }
    larder.clock.advance(std::time::Duration::from_secs(25 * 3_600));
    let expired = with_token(&larder, PATH, &tokens[0]).await;
    assert!(expired.header("www-authenticate").contains("error=\"invalid_token\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_token_opens_what_is_public() {
    let (registry, larder, _directory) = scene("").await;
    registry.change(false, |accounts| accounts.public = vec!["team/other".into()]);
    let token = |scope: &str| {
        let path = format!("/token?ns=reg.test&scope=repository:{scope}:pull");
        let at = larder.address;
        async move { client::get(at, &path).await.json()["token"].as_str().unwrap().to_owned() }
    };
    let other = "/v2/team/other/manifests/v1?ns=reg.test";
    assert_eq!(
        larder.get_unasked(other).await.status,
        StatusCode::OK,
        "a caller is challenged only where a credential may help"
    );
    assert_eq!(with_token(&larder, other, &token("team/other").await).await.status, StatusCode::OK);
    let closed = with_token(&larder, PATH, &token("team/app").await).await;
    assert_eq!(closed.status, StatusCode::UNAUTHORIZED, "a mirror client is sent on to ask for itself");
    assert!(closed.header("www-authenticate").contains("error=\"insufficient_scope\""));
    let by_path = "/v2/reg.test/team/app/manifests/v1";
    let reply = client::get(larder.address, "/token?scope=repository:reg.test/team/app:pull").await;
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    let direct = with_token(&larder, by_path, &token).await;
    assert_eq!(direct.status, StatusCode::UNAUTHORIZED, "and a direct client gets the status itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_how_to_authenticate_is_challenged_and_any_credential_is_accepted() {
    let (registry, larder, _directory) = scene("").await;
    let asked = larder.get_unasked("/v2/").await;
    assert_eq!((asked.status, asked.error_code().as_str()), (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"));
    assert_eq!(asked.header("docker-distribution-api-version"), "registry/2.0");
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"larder\"", larder.address);
    assert_eq!(asked.header("www-authenticate"), realm);
    let token = client::get(larder.address, "/token").await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(
        with_token(&larder, "/v2/", &token).await.status,
        StatusCode::OK,
        "a caller without a credential"
    );
    assert_eq!(larder.get_as("/v2/", ("ada", "x")).await.status, StatusCode::OK, "which proves no right");
    assert!(registry.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_is_refused_and_never_sent_upstream() {
    let (registry, larder, _directory) = scene("").await;
    for header in
        ["Bearer", "Bearer x", "Basic", "Basic !!", "Basic dQ==", "Digest x", "bearer  ", "Bearer a b"]
    {
        for path in [PATH, "/v2/"] {
            let reply = client::send(larder.address, Method::GET, path, &[("authorization", header)]).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{header} {path}");
            assert!(reply.header("www-authenticate").contains("error=\"invalid_token\""), "{header}");
        }
    }
    let twice = [("authorization", "Basic dTpw"), ("authorization", "Basic dTpx")];
    assert_eq!(
        client::send(larder.address, Method::GET, PATH, &twice).await.status,
        StatusCode::UNAUTHORIZED
    );
    let sent = registry.seen().into_iter().filter_map(|seen| seen.headers.get("authorization").cloned());
    let sent: Vec<_> = sent.filter(|sent| !sent.to_str().unwrap().starts_with("Bearer tok.")).collect();
    assert!(sent.is_empty(), "{sent:?}");
}

/// Homebrew sends `Bearer QQ==` with every request.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_larder_did_not_issue_counts_as_none_where_none_is_needed() {
    let (registry, larder, _directory) = scene("").await;
    registry.change(false, |accounts| accounts.public = vec!["team/other".into()]);
    for path in ["/v2/team/other/manifests/v1?ns=reg.test", "/v2/reg.test/team/other/manifests/v1"] {
        assert_eq!(with_token(&larder, path, "QQ==").await.status, StatusCode::OK, "{path}");
    }
    let closed = with_token(&larder, PATH, "QQ==").await;
    assert_eq!(closed.status, StatusCode::UNAUTHORIZED);
    assert!(closed.header("www-authenticate").contains("error=\"invalid_token\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_token_request_is_refused_with_the_reason() {
    let (_registry, larder, _directory) = scene("").await;
    let at = larder.address;
    for (path, form) in [
        ("/token", ""),
        ("/token", "grant_type=client_credentials"),
        ("/token?ns=a/b", "grant_type=password&username=u&password=p"),
        ("/token?ns=a&ns=b", "grant_type=password&username=u&password=p"),
        ("/token?ns=a.b", "grant_type=password&username=u&password=p&scope=repository:UPPER:pull"),
        ("/token?ns=a.b", "grant_type=password&username=u&password=p&scope=repository:../x:pull"),
    ] {
        let reply = post_form(at, path, form).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path} {form}: {:?}", reply.body);
        assert!(!reply.json()["errors"][0]["message"].as_str().unwrap().is_empty());
    }
    let long = format!("grant_type=password&username=u&password={}", "x".repeat(8_000));
    let reply = post_form(at, "/token", &long).await;
    assert!(reply.status == StatusCode::BAD_REQUEST && !String::from_utf8_lossy(&reply.body).contains("xxx"));
    let reply = post_form(at, "/token", &"x".repeat(100_000)).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let many: String = (0..9).map(|n| format!("&scope=repository:a/r{n}:pull")).collect();
    let reply = client::get(at, &format!("/token?ns=a.b{many}")).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let kinds = client::get(at, "/token?ns=a.b&scope=registry:catalog:*&scope=repository:a:pull").await;
    assert_eq!(kinds.status, StatusCode::OK, "scopes of another kind open nothing, and harm nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_sent_upstream_by_post_and_never_as_a_password() {
    let (registry, larder, _directory) = scene("").await;
    let form = "grant_type=refresh_token&refresh_token=marker-identity&scope=repository:team/app:pull";
    let token = post_form(larder.address, "/token?ns=reg.test", form).await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    with_token(&larder, PATH, &token).await;
    let asked = registry.seen();
    let asked: Vec<_> = asked.iter().filter(|s| s.path == "/token").collect();
    assert!(!asked.is_empty() && asked.iter().all(|s| s.method == Method::POST && s.query.is_empty()));
    assert!(asked.iter().all(|s| !s.headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_gate_a_request_without_the_secret_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate");
    crate::support::secret_file(&file, "0123456789abcdef\n");
    let more = format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = {file:?}");
    let (_registry, larder, _state) = scene(&more).await;
    let ada = basic("ada", "p:w&d=");
    let with = |key: Option<&'static str>| {
        let mut headers = vec![("authorization", ada.clone())];
        headers.extend(key.map(|key| ("x-node-key", key.to_owned())));
        headers
    };
    for (key, status) in [
        (None, StatusCode::FORBIDDEN),
        (Some("0123456789abcdeX"), StatusCode::FORBIDDEN),
        (Some("0123456789abcdef0"), StatusCode::FORBIDDEN),
        (Some(""), StatusCode::FORBIDDEN),
        (Some("0123456789abcdef"), StatusCode::OK),
    ] {
        for path in [PATH, "/v2/"] {
            let headers = with(key);
            let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
            let reply = client::send(larder.address, Method::GET, path, &headers).await;
            let expected = if path == "/v2/" && status == StatusCode::OK { StatusCode::OK } else { status };
            assert_eq!(reply.status, expected, "{key:?} {path}");
        }
    }
    let token = client::get(larder.address, "/token?ns=reg.test").await;
    assert_eq!(token.status, StatusCode::OK, "older containerd versions leave the header out there");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_users_may_connect() {
    let own = rustix::process::geteuid().as_raw();
    for (uids, status) in [(format!("[{own}]"), "401"), (format!("[{}]", own + 1), "403")] {
        let (_registry, larder, _directory) = scene(&format!("[server]\nallow_uids = {uids}")).await;
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", larder.address);
        let answer = client::raw(larder.address, request.as_bytes()).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{uids}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_client_that_names_its_registry_by_a_header_shows_its_login_to_no_other_registry() {
    let (hub, ghcr) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let directory = tempfile::tempdir().unwrap();
    let image = image::push(&ghcr, "org/app", "v1", 1_000);
    let accounts = || Accounts::new(&[("ada", "pw", &["org/app"])]);
    ghcr.know(accounts());
    hub.know(accounts());
    let registries = [("ghcr.test", ghcr.url()), ("docker.io", hub.url())];
    let larder = Larder::start(directory.path(), &registries, "");
    let (at, path) = (larder.address, format!("/v2/org/app/blobs/{}", image.platforms[0].layers[0]));
    let named = ("oci-namespace", "ghcr.test");
    let range = ("range", "bytes=0-1");
    let challenged = client::send(at, Method::GET, &path, &[named, range]).await;
    assert_eq!(challenged.status, StatusCode::UNAUTHORIZED, "{:?}", challenged.body);
    let challenge = challenged.header("www-authenticate");
    assert!(challenge.contains("/token?ns=ghcr.test\""), "{challenge}");
    // To the realm some clients send no header of theirs.
    let login = basic("ada", "pw");
    let query = "/token?ns=ghcr.test&service=larder&scope=repository%3Aorg%2Fapp%3Apull";
    let token = client::send(at, Method::GET, query, &[("authorization", login.as_str())]).await.json();
    let token = format!("Bearer {}", token["token"].as_str().unwrap());
    let shown = [named, range, ("authorization", token.as_str())];
    let reply = client::send(at, Method::GET, &path, &shown).await;
    assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{:?}", reply.body);
    let shows = |registry: &FakeRegistry| {
        registry
            .seen()
            .iter()
            .any(|seen| seen.headers.get("authorization").is_some_and(|value| value == &login))
    };
    assert!(shows(&ghcr), "the login is for it");
    assert_eq!(hub.seen().len(), 0, "the default registry was asked");

    // Who names two registries is not asked for a credential for either.
    for (path, header) in
        [(format!("{path}?ns=docker.io"), named), (query.to_owned(), ("oci-namespace", "docker.io"))]
    {
        let reply = client::send(at, Method::GET, &path, &[header, ("authorization", login.as_str())]).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}: {:?}", reply.body);
    }
    assert_eq!(hub.seen().len(), 0);
}
