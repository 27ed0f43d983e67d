//! One request to one endpoint, over a transport that answers what the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue, LOCATION};
use url::Url;

use super::*;
use crate::credentials::{Credential, CredentialSource, PresentedCredential};
use crate::reference::{Principal, PrincipalKind, Repository};
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::upstream::asked::AskedEndpoints;
use crate::upstream::auth::authenticator::Authenticator;
use crate::upstream::auth::tokens::Tokens;
use crate::upstream::config::{Config, CredentialUse, EndpointConfig, RegistryConfig};
use crate::upstream::endpoint::select;
use crate::upstream::metrics::Recorder;
use crate::upstream::proved_right::ProvedRight;
use crate::upstream::redirect::REDIRECTS_MAX;
use crate::upstream::request::{AuthContext, Need, Patience};
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, status};

#[path = "exchange_token_tests.rs"]
mod tokens;

const TOKEN_CHALLENGE: &str = r#"Bearer realm="https://auth.reg.example.com/token",service="reg""#;

impl Exchange {
    /// An exchange over the transport of `configured`.
    pub(in crate::upstream) fn for_test(configured: Live<Configured>) -> Self {
        Self::for_test_with_tokens(configured).0
    }

    /// The same, and the tokens that it has.
    fn for_test_with_tokens(configured: Live<Configured>) -> (Self, Tokens) {
        let (recorder, clock) = (Recorder::for_test(), Clock::system());
        let http = HttpClient::new(configured.clone(), recorder.clone());
        let tokens = Tokens::new(http.clone(), configured.clone(), clock.clone(), Tasks::default());
        let rate_limits = Arc::new(RateLimits::new(recorder, clock.clone()));
        let requests = AuthenticatedRequests {
            http: http.clone(),
            authenticator: Authenticator::new(tokens.clone()),
            rate_limits: Arc::clone(&rate_limits),
            configured,
            anonymous: AuthContext::for_test(None).presented,
        };
        (Self { requests, http, rate_limits, heads: HeadSupport::default(), clock }, tokens)
    }
}

impl AuthContext {
    /// A caller with this user name and password, or an anonymous one.
    pub(in crate::upstream) fn for_test(credential: Option<(&str, &str)>) -> Self {
        let (kind, credential) = match credential {
            None => (PrincipalKind::Anonymous, None),
            Some((username, password)) => (PrincipalKind::Caller, Credential::password(username, password)),
        };
        let fingerprint = credential.as_ref().map_or(0, |credential| credential.username().len() as u8);
        let principal = Principal::new(kind, [fingerprint; 16]);
        let presented = PresentedCredential {
            principal,
            credential,
            headers: Arc::default(),
            source: CredentialSource::Caller,
        };
        Self { presented, need: Need::Delivery, patience: Patience::None, asked: AskedEndpoints::default() }
    }
}

fn repository(path: &str) -> Repository {
    format!("reg.example.com/{path}").parse().unwrap()
}

async fn blob(
    exchange: &Exchange,
    endpoint: &Endpoint,
    repository: &Repository,
    auth: &AuthContext,
) -> Result<Answer, Error> {
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let request = RegistryRequest::blob(Method::GET, repository, digest, auth);
    exchange.send(endpoint, &request).await.map_err(|failure| failure.error)
}

fn endpoint() -> Endpoint {
    Endpoint::for_test("https://reg.example.com")
}

/// A token server that issues the tokens `t1`, `t2` and so on.
fn token_server(issued: &AtomicUsize) -> Outcome {
    let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
    respond(200, &[], &format!(r#"{{"token": "t{n}"}}"#))
}

fn requires_token(request: &SentRequest, accepted: &str) -> Outcome {
    if request.header("authorization") == accepted {
        status(200)
    } else {
        respond(401, &[("www-authenticate", TOKEN_CHALLENGE)], "")
    }
}

#[tokio::test]
async fn no_credential_and_no_token_follows_a_redirect_to_another_origin() {
    let issued = AtomicUsize::new(0);
    let (transport, configured) =
        Scripted::new(Config::default(), move |request| match request.host.as_str() {
            "auth.reg.example.com:443" => token_server(&issued),
            "cdn.example.net:443" => status(200),
            _ if request.header("authorization").is_empty() => {
                respond(401, &[("www-authenticate", TOKEN_CHALLENGE)], "")
            }
            _ => respond(307, &[("location", "https://cdn.example.net/blob?signature=x")], ""),
        });
    let mut auth = AuthContext::for_test(Some(("u", "p")));
    let extra = (HeaderName::from_static("x-meta"), HeaderValue::from_static("secret"));
    auth.presented.headers = Arc::new(vec![extra]);
    let exchange = Exchange::for_test(Live::new(configured));
    let response = blob(&exchange, &endpoint(), &repository("a"), &auth).await.unwrap();
    assert_eq!(
        (response.host.as_str(), response.proof == ProvedRight::Public),
        ("cdn.example.net:443", false)
    );

    let sent = transport.sent();
    let hosts: Vec<_> = sent.iter().map(|request| request.host.as_str()).collect();
    let (registry, auth, cdn) = ("reg.example.com:443", "auth.reg.example.com:443", "cdn.example.net:443");
    assert_eq!(hosts, [registry, auth, registry, cdn]);
    let authorizations: Vec<_> = sent.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(authorizations, ["", "Basic dTpw", "Bearer t1", ""]);
    let extra: Vec<_> = sent.iter().map(|request| request.header("x-meta")).collect();
    assert_eq!(extra, ["secret", "", "secret", ""]);
    let trust: Vec<_> = sent.iter().map(|request| request.trust).collect();
    let (configured, untrusted) = (HostTrust::Configured, HostTrust::Untrusted);
    assert_eq!(trust, [configured, untrusted, configured, untrusted], "a redirect into the node's network");
}

#[tokio::test]
async fn who_is_redirected_to_a_private_registry_is_told_to_name_it_as_an_endpoint() {
    let basic = r#"Basic realm="https://private.example.net/",service="ecr""#;
    let foreign = r#"Bearer realm="http://tokens.example.org/token""#;
    for challenge in [basic, foreign] {
        let (transport, configured) =
            Scripted::new(Config::default(), move |request| match request.host.as_str() {
                "private.example.net:443" => respond(401, &[("www-authenticate", challenge)], ""),
                _ => respond(307, &[("location", "https://private.example.net/v2/a/blobs/x")], ""),
            });
        let exchange = Exchange::for_test(Live::new(configured));
        let auth = AuthContext::for_test(Some(("u", "p")));
        let error = blob(&exchange, &endpoint(), &repository("a"), &auth).await.map(|_| ()).unwrap_err();
        let says = error.to_string();
        for part in ["private.example.net:443", "a redirect of reg.example.com:443", "`endpoints`"] {
            assert!(says.contains(part), "{challenge}: {says}");
        }
        assert!(transport.sent().iter().all(|request| request.header("authorization").is_empty()));
    }
    let (_, configured) =
        Scripted::new(Config::default(), move |_| respond(401, &[("www-authenticate", basic)], ""));
    let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
    let error = blob(&exchange, &endpoint(), &repository("a"), &auth).await.map(|_| ()).unwrap_err();
    assert!(!error.to_string().contains("redirect"), "{error}");
}

#[tokio::test]
async fn what_the_headers_of_a_docker_config_may_have_opened_is_not_open_to_everyone() {
    for (headers, is_public) in [(vec![], true), (vec!["x-key"], false)] {
        let (_, configured) = Scripted::new(Config::default(), |_| status(200));
        let (exchange, mut auth) =
            (Exchange::for_test(Live::new(configured)), AuthContext::for_test(Some(("u", "p"))));
        let named = |name| (HeaderName::from_static(name), HeaderValue::from_static("secret"));
        auth.presented.headers = Arc::new(headers.into_iter().map(named).collect());
        let response = blob(&exchange, &endpoint(), &repository("a"), &auth).await.unwrap();
        assert_eq!(response.proof == ProvedRight::Public, is_public);
    }
}

#[tokio::test]
async fn a_mirror_gets_no_callers_credential_and_its_answer_counts_as_anonymous() {
    let (transport, configured) = Scripted::new(Config::default(), |_| status(200));
    let mut mirror = EndpointConfig::from("https://mirror.example.net".parse::<Url>().unwrap());
    mirror.credentials = Some(CredentialUse::None);
    let entry = RegistryConfig { endpoints: vec![mirror], ..RegistryConfig::default() };
    let registries = [("reg.example.com".parse().unwrap(), entry)].into();
    let config = Config { registries, ..Config::default() };
    let repository = repository("a");
    let endpoints = select::endpoints(&config, repository.registry()).unwrap();

    let (exchange, auth) =
        (Exchange::for_test(Live::new(configured)), AuthContext::for_test(Some(("u", "p"))));
    let request = RegistryRequest::list(&repository, &crate::upstream::Listing::Tags, None, &auth);
    assert_eq!(exchange.requests.principal(&endpoints[0], &request).kind, PrincipalKind::Anonymous);
    assert_eq!(exchange.send(&endpoints[0], &request).await.unwrap().proof, ProvedRight::Public);
    assert_eq!(transport.sent()[0].header("authorization"), "");
}

#[tokio::test]
async fn a_redirect_loop_ends_and_a_redirect_out_of_tls_is_not_followed() {
    for (location, sent) in [("/again", 1 + REDIRECTS_MAX), ("http://reg.example.com/", 1)] {
        let (transport, configured) =
            Scripted::new(Config::default(), move |_| respond(302, &[("location", location)], ""));
        let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
        let error = blob(&exchange, &endpoint(), &repository("a"), &auth).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(transport.sent().len(), sent, "{location}");
    }
}

#[tokio::test]
async fn a_probe_tells_a_failing_endpoint_from_one_that_requires_a_credential() {
    for (code, answers) in [(200, true), (401, true), (404, true), (503, false)] {
        let (_, configured) = Scripted::new(Config::default(), move |_| status(code));
        let exchange = Exchange::for_test(Live::new(configured));
        let result = exchange.probe(repository("a").registry(), &endpoint()).await;
        assert_eq!(result.is_ok(), answers, "{code}");
    }
}

#[tokio::test]
async fn blobs_and_nothing_else_are_fetched_over_plain_http_where_the_operator_lists_the_server() {
    // As some stores write it: a name of a file as it is.
    let location = HeaderValue::from_bytes("http://minio.corp:9000/x?name=Größe".as_bytes()).unwrap();
    for (listed, is_blob, followed) in [
        ("http://minio.corp:9000", true, true),
        ("http://minio.corp:9000", false, false),
        ("minio.corp:9000", true, false),
        ("http://other.corp:9000", true, false),
    ] {
        let trusted_redirects = [listed.to_owned()].into();
        let own = RegistryConfig { trusted_redirects, ..RegistryConfig::default() };
        let registries = [(repository("a").registry().clone(), own)].into();
        let location = location.clone();
        let (transport, configured) =
            Scripted::new(Config { registries, ..Config::default() }, move |request| {
                let mut response = http::Response::new(String::new());
                if request.host != "minio.corp:9000" {
                    *response.status_mut() = http::StatusCode::TEMPORARY_REDIRECT;
                    response.headers_mut().insert(LOCATION, location.clone());
                }
                Outcome::Response(response)
            });
        let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
        let repository = repository("a");
        let digest: crate::reference::Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let reference = digest.into();
        let request = match is_blob {
            true => RegistryRequest::blob(Method::GET, &repository, digest, &auth),
            false => RegistryRequest::manifest(Method::GET, &repository, &reference, &auth),
        };
        let result = exchange.send(&endpoint(), &request).await.map(|_| ()).map_err(|failure| failure.error);
        assert_eq!(result.is_ok(), followed, "{listed} {is_blob}: {result:?}");
        assert!(followed || result.unwrap_err().to_string().contains("trusted_redirects"));
        assert_eq!(transport.sent().len(), 1 + usize::from(followed));
    }
}
