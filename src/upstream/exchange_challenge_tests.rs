//! Challenges that do not hold, and what a refusal costs, over a transport that answers what the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;

use super::*;
use crate::reference::Repository;
use crate::support::live::Live;
use crate::upstream::config::Config;
use crate::upstream::proved_right::ProvedRight;
use crate::upstream::request::AuthContext;
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, status};

const REGISTRY: &str = "reg.example.com:443";
const TOKENS: &str = "auth.reg.example.com:443";
const CHALLENGE: &str = r#"Bearer realm="https://auth.reg.example.com/token",service="reg""#;

fn challenged(challenge: &str) -> Outcome {
    respond(401, &[("www-authenticate", challenge)], "")
}

fn token() -> Outcome {
    respond(200, &[], r#"{"token": "t"}"#)
}

fn exchange(respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static) -> (Arc<Scripted>, Exchange) {
    let (transport, configured) = Scripted::new(Config::default(), respond);
    (transport, Exchange::for_test(Live::new(configured)))
}

async fn blob(exchange: &Exchange, path: &str, user: Option<(&str, &str)>) -> Result<ProvedRight, Error> {
    blob_by(exchange, Method::GET, path, user).await
}

async fn blob_by(
    exchange: &Exchange,
    method: Method,
    path: &str,
    user: Option<(&str, &str)>,
) -> Result<ProvedRight, Error> {
    let repository: Repository = format!("reg.example.com/{path}").parse().unwrap();
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let auth = AuthContext::for_test(user);
    let request = RegistryRequest::blob(method, &repository, digest, &auth);
    let endpoint = Endpoint::for_test("https://reg.example.com");
    exchange.send(&endpoint, &request).await.map(|response| response.proof).map_err(|failure| failure.error)
}

/// How many requests went to a host since there were `before`.
fn sent_to(transport: &Scripted, host: &str, before: usize) -> usize {
    transport.sent()[before..].iter().filter(|request| request.host == host).count()
}

#[tokio::test]
async fn a_public_repository_is_open_whatever_became_of_the_token_for_a_private_one() {
    type Answers = (&'static str, fn() -> Outcome, fn() -> Outcome);
    let cases: [Answers; 6] = [
        ("the token server is away", || Outcome::Unreachable, || status(500)),
        ("it fails", || status(503), || status(500)),
        ("the secret is outdated", || status(401), || status(500)),
        ("it is not there any more", || status(404), || status(500)),
        ("its token is for nothing", token, || challenged(CHALLENGE)),
        ("its token is refused", token, || status(403)),
    ];
    for (case, token_server, with_token) in cases {
        let changed = Arc::new(AtomicBool::new(false));
        let is_changed = Arc::clone(&changed);
        let (transport, exchange) = exchange(move |request| match request.host.as_str() {
            TOKENS if is_changed.load(Ordering::SeqCst) => token_server(),
            TOKENS => token(),
            _ if request.url.contains("/private/") && request.header("authorization").is_empty() => {
                challenged(CHALLENGE)
            }
            _ if request.url.contains("/private/") || request.header("authorization").is_empty() => {
                status(200)
            }
            _ => with_token(),
        });
        for user in [Some(("u", "p")), None] {
            changed.store(false, Ordering::SeqCst);
            let private = blob(&exchange, "private", user).await.unwrap();
            assert!(matches!(private, ProvedRight::Principal { .. }), "{case}");
            changed.store(true, Ordering::SeqCst);
            assert_eq!(blob(&exchange, "open", user).await, Ok(ProvedRight::Public), "{case}");
        }
        let before = transport.sent().len();
        assert_eq!(blob(&exchange, "open", None).await, Ok(ProvedRight::Public), "{case}");
        assert_eq!(transport.sent().len(), before + 1, "{case}: it is known to be open");
    }
}

#[tokio::test]
async fn a_public_repository_is_open_although_a_renewed_token_for_it_is_refused() {
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refusing = Arc::clone(&refuses);
    let (transport, exchange) = exchange(move |request| {
        let (bare, closed) = (request.header("authorization").is_empty(), request.url.contains("/private/"));
        match request.host.as_str() {
            TOKENS => token(),
            _ if bare && !closed => status(200),
            _ if bare || is_refusing.load(Ordering::SeqCst) => challenged(CHALLENGE),
            _ => status(200),
        }
    });
    let user = Some(("u", "p"));
    for path in ["private", "open"] {
        assert!(matches!(blob(&exchange, path, user).await, Ok(ProvedRight::Principal { .. })), "{path}");
    }
    refuses.store(true, Ordering::SeqCst);
    assert_eq!(
        blob(&exchange, "open", user).await,
        Ok(ProvedRight::Public),
        "the old token and the new one are refused"
    );
    // What is known to need a token is not asked without; of another one that is found out once.
    for (path, times) in [("private", 0), ("private/other", 1), ("private/other", 0)] {
        let before = transport.sent().len();
        assert!(blob(&exchange, path, user).await.unwrap_err().revokes_access());
        let sent = &transport.sent()[before..];
        let is_bare =
            |request: &&SentRequest| request.host == REGISTRY && request.header("authorization").is_empty();
        assert_eq!(sent.iter().filter(is_bare).count(), times, "{path}");
    }
}

#[tokio::test]
async fn a_public_image_whose_plain_head_is_refused_is_opened_by_a_plain_get_and_no_login_is_repeated() {
    for head in [401, 403, 404, 405] {
        for outdated in [|| status(401), || status(404)] {
            let (transport, exchange) = exchange(move |request| {
                let plain = request.header("authorization").is_empty();
                match (request.host.as_str(), &request.method) {
                    (TOKENS, _) if plain => token(),
                    (TOKENS, _) => outdated(),
                    _ if request.url.contains("/private/") && plain => challenged(CHALLENGE),
                    (_, &Method::HEAD) if plain => status(head),
                    _ => respond(206, &[("content-range", "bytes 0-0/5")], "1"),
                }
            });
            blob(&exchange, "private", None).await.unwrap();
            for (n, logins) in [(0, 1), (1, 0)] {
                let before = transport.sent().len();
                let proof = blob_by(&exchange, Method::HEAD, "open", Some(("u", "old"))).await;
                assert_eq!(proof, Ok(ProvedRight::Public), "{head} {n}");
                assert_eq!(sent_to(&transport, TOKENS, before), logins, "{head} {n}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_refused_without_a_challenge_says_nothing_of_a_credential_that_was_not_shown() {
    let unknown = r#"{"errors": [{"code": "NAME_UNKNOWN"}]}"#;
    for (code, body) in [(401, ""), (403, ""), (404, unknown)] {
        let (_, exchange) = exchange(move |_| respond(code, &[], body));
        let error = blob(&exchange, "a", None).await.unwrap_err();
        assert!(error.revokes_access() && error.is_public(), "{code}: {error}");
        let error = blob(&exchange, "a", Some(("u", "p"))).await.unwrap_err();
        assert!(!error.revokes_access() || error.is_public(), "{code}: {error}");
    }
    let (_, exchange) = exchange(|request| match request.header("authorization") {
        "" => challenged(r#"Basic realm="x""#),
        _ => status(403),
    });
    let error = blob(&exchange, "a", Some(("u", "p"))).await.unwrap_err();
    assert!(error.revokes_access() && !error.is_public(), "it was shown: {error}");
}

#[tokio::test]
async fn a_challenge_that_names_another_token_server_now_is_answered() {
    let moved = Arc::new(AtomicBool::new(false));
    let is_moved = Arc::clone(&moved);
    let (_, exchange) =
        exchange(move |request| match (request.host.as_str(), is_moved.load(Ordering::SeqCst)) {
            (TOKENS, false) | ("new.reg.example.com:443", true) => token(),
            (TOKENS, true) => Outcome::Unreachable,
            _ if !request.header("authorization").is_empty() => status(200),
            (_, false) => challenged(CHALLENGE),
            (_, true) => challenged(r#"Bearer realm="https://new.reg.example.com/token",service="reg""#),
        });
    blob(&exchange, "a", None).await.unwrap();
    moved.store(true, Ordering::SeqCst);
    assert!(matches!(blob(&exchange, "b", None).await, Ok(ProvedRight::Principal { .. })));
}

/// A registry that names a token server in another domain to who shows a token that it refuses, as nvcr.io does, and
/// its own to who shows none. `accepts` says by the number of the last token which token it takes.
fn names_another_realm_to_tokens(
    accepts: impl Fn(usize) -> String + Send + Sync + 'static,
    elsewhere: impl Fn() -> Outcome + Send + Sync + 'static,
) -> (Arc<Scripted>, Exchange, Arc<AtomicUsize>) {
    let issued = Arc::new(AtomicUsize::new(0));
    let last = Arc::clone(&issued);
    let (transport, exchange) = exchange(move |request| match request.host.as_str() {
        TOKENS => {
            let n = last.fetch_add(1, Ordering::SeqCst) + 1;
            respond(200, &[], &format!(r#"{{"token": "t{n}"}}"#))
        }
        ELSEWHERE => elsewhere(),
        _ => match request.header("authorization") {
            "" => challenged(CHALLENGE),
            shown if shown == accepts(last.load(Ordering::SeqCst)) => status(200),
            _ => challenged(r#"Bearer realm="https://tokens.example.net/token",service="reg""#),
        },
    });
    (transport, exchange, issued)
}

const ELSEWHERE: &str = "tokens.example.net:443";

#[tokio::test]
async fn a_token_that_expired_early_is_renewed_where_it_was_issued_whatever_realm_its_refusal_names() {
    for user in [Some(("u", "p")), None] {
        let expired = Arc::new(AtomicBool::new(false));
        let is_expired = Arc::clone(&expired);
        let accepts = move |last| match is_expired.load(Ordering::SeqCst) && last < 2 {
            true => "none".to_owned(),
            false => format!("Bearer t{last}"),
        };
        let (transport, exchange, _) = names_another_realm_to_tokens(accepts, || status(401));
        blob(&exchange, "a", user).await.unwrap();
        expired.store(true, Ordering::SeqCst);
        for times in ["the first is refused", "the second is kept"] {
            assert!(matches!(blob(&exchange, "a", user).await, Ok(ProvedRight::Principal { .. })), "{times}");
        }
        assert_eq!((sent_to(&transport, TOKENS, 0), sent_to(&transport, ELSEWHERE, 0)), (2, 0));
    }
}

#[tokio::test]
async fn a_registry_that_has_moved_to_another_token_server_is_followed_while_the_old_one_still_issues_tokens()
{
    let moved = Arc::new(AtomicBool::new(false));
    let is_moved = Arc::clone(&moved);
    let (transport, exchange, issued) = names_another_realm_to_tokens(
        move |last| {
            if is_moved.load(Ordering::SeqCst) { "Bearer new".into() } else { format!("Bearer t{last}") }
        },
        || respond(200, &[], r#"{"token": "new"}"#),
    );
    blob(&exchange, "a", None).await.unwrap();
    moved.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(matches!(blob(&exchange, "a", None).await, Ok(ProvedRight::Principal { .. })));
    }
    assert_eq!(issued.load(Ordering::SeqCst), 2, "the old one is asked once more, and not for ever");
    assert_eq!(sent_to(&transport, ELSEWHERE, 0), 1);
}

#[tokio::test]
async fn a_refusal_that_names_a_realm_in_another_domain_ends_a_right_if_the_new_token_is_refused_too() {
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refusing = Arc::clone(&refuses);
    let accepts = move |last| match is_refusing.load(Ordering::SeqCst) {
        true => "none".to_owned(),
        false => format!("Bearer t{last}"),
    };
    let (transport, exchange, _) = names_another_realm_to_tokens(accepts, || status(500));
    let user = Some(("u", "p"));
    blob(&exchange, "a", user).await.unwrap();
    refuses.store(true, Ordering::SeqCst);
    let before = transport.sent().len();
    let error = blob(&exchange, "a", user).await.unwrap_err();
    assert!(error.revokes_access() && !error.is_public(), "{error}");
    let asked = [REGISTRY, TOKENS, ELSEWHERE].map(|host| sent_to(&transport, host, before));
    assert_eq!(asked, [2, 1, 0], "no credential goes to the other domain, and nothing is asked for ever");
}

#[tokio::test]
async fn a_refused_pull_costs_what_it_costs_without_a_cache_and_no_login_is_repeated() {
    let (transport, exchange) = exchange(|request| match request.host.as_str() {
        TOKENS if request.header("authorization").is_empty() => token(),
        TOKENS => status(401),
        _ if request.header("authorization").is_empty() => challenged(CHALLENGE),
        _ => status(200),
    });
    let costs = |before| (sent_to(&transport, REGISTRY, before), sent_to(&transport, TOKENS, before));
    let error = blob(&exchange, "a", Some(("u", "wrong"))).await.unwrap_err();
    assert!(error.revokes_access(), "{error}");
    assert_eq!(costs(0), (1, 1), "the challenge, and one login");
    // The challenge is known from now on.
    blob(&exchange, "a", None).await.unwrap();
    let before = transport.sent().len();
    assert!(blob(&exchange, "other", Some(("u", "wrong"))).await.unwrap_err().revokes_access());
    assert_eq!(costs(before), (1, 1));
    let before = transport.sent().len();
    assert!(blob(&exchange, "other", Some(("u", "wrong"))).await.unwrap_err().revokes_access());
    assert_eq!(costs(before).1, 0, "the login was repeated at once");
    assert!(blob(&exchange, "other", Some(("u", "wrong2"))).await.is_err());
    assert_eq!(costs(before).1, 1, "another password is another login");
}

#[tokio::test]
async fn a_token_that_was_made_for_this_question_is_not_renewed() {
    for denial in [401, 403] {
        let (transport, exchange) = exchange(move |request| match request.host.as_str() {
            TOKENS => token(),
            _ if request.header("authorization").is_empty() => challenged(CHALLENGE),
            _ if request.url.contains("/closed/") => status(denial),
            _ => status(200),
        });
        let user = Some(("u", "p"));
        let refused = blob(&exchange, "closed", user).await.unwrap_err();
        assert!(refused.revokes_access() && refused.to_string().contains(&denial.to_string()), "{refused}");
        assert_eq!((sent_to(&transport, REGISTRY, 0), sent_to(&transport, TOKENS, 0)), (2, 1));
        blob(&exchange, "a", user).await.unwrap();
        let before = transport.sent().len();
        // The other repository made its challenge known: the token comes first, and is as new.
        let refused = blob(&exchange, "closed/b", user).await.unwrap_err();
        assert!(refused.revokes_access() && refused.to_string().contains(&denial.to_string()), "{refused}");
        assert_eq!((sent_to(&transport, REGISTRY, before), sent_to(&transport, TOKENS, before)), (2, 1));
    }
}

#[tokio::test]
async fn what_a_token_server_answers_ends_a_right_only_if_it_refuses_the_credential() {
    let not_followed = || respond(302, &[("location", "https://evil.example.com/")], "");
    type Answer = (&'static str, fn() -> Outcome, bool, bool);
    let answers: [Answer; 9] = [
        ("401", || status(401), true, true),
        ("403", || status(403), true, true),
        ("302", not_followed, true, false),
        ("400", || status(400), true, false),
        ("404", || status(404), true, false),
        ("405", || status(405), true, false),
        ("424", || status(424), false, false),
        ("500", || status(500), false, false),
        ("no token", || respond(200, &[], "<html>"), false, false),
    ];
    for (case, answer, denied, revokes) in answers {
        let (_, exchange) = exchange(move |request| match request.host.as_str() {
            TOKENS => answer(),
            _ => challenged(CHALLENGE),
        });
        let error = blob(&exchange, "a", Some(("u", "p"))).await.unwrap_err();
        assert_eq!((error.is_denied(), error.revokes_access()), (denied, revokes), "{case}: {error}");
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_answered_says_what_it_is_and_ends_no_right() {
    for (challenge, says) in [
        ("Negotiate abc==, NTLM", "Negotiate, NTLM"),
        ("Bearer service=x", "Bearer without a realm"),
        (r#"Bearer realm="registry""#, "not an absolute URL"),
        (r#"Bearer realm="https://evil.example.net/token""#, "trusted_realms"),
        ("\"\"\"", "without a challenge that can be read"),
    ] {
        let (transport, exchange) = exchange(move |_| challenged(challenge));
        let error = blob(&exchange, "a", Some(("u", "p"))).await.unwrap_err();
        assert!(error.to_string().contains(says), "{challenge}: {error}");
        assert!(error.is_denied() && !error.revokes_access(), "{challenge}: {error}");
        assert_eq!(transport.sent().len(), 1);
    }
}

#[tokio::test]
async fn where_a_realm_must_not_be_asked_the_registry_itself_is_shown_the_password() {
    let challenge = r#"Negotiate, Bearer realm="https://evil.example.net/token", Basic realm="x""#;
    let (transport, exchange) = exchange(move |request| match request.header("authorization") {
        "Basic dTpw" => status(200),
        _ => challenged(challenge),
    });
    blob(&exchange, "a", Some(("u", "p"))).await.unwrap();
    assert_eq!(sent_to(&transport, REGISTRY, 0), 2);
    assert_eq!(transport.sent().len(), 2, "the realm was asked");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_to_find_out_whether_a_limit_is_over_holds_up_no_other_when_it_is_redirected_nowhere()
 {
    let gets = AtomicUsize::new(0);
    let (transport, exchange) = exchange(move |request| {
        let plain = request.header("authorization").is_empty();
        match (request.host.as_str(), &request.method) {
            (TOKENS, _) if plain => token(),
            (TOKENS, _) => status(401),
            _ if request.url.contains("/private/") && plain => challenged(CHALLENGE),
            _ if request.url.contains("/private/") => status(200),
            (_, &Method::HEAD) => status(404),
            _ if gets.fetch_add(1, Ordering::Relaxed) == 0 => respond(429, &[("retry-after", "30")], ""),
            _ => respond(307, &[("location", "ftp://reg.example.com/x")], ""),
        }
    });
    blob(&exchange, "private", None).await.unwrap();
    let open = || blob_by(&exchange, Method::HEAD, "open", Some(("u", "old")));
    open().await.unwrap_err();
    tokio::time::advance(Duration::from_secs(60)).await;
    let (begun, before) = (tokio::time::Instant::now(), transport.sent().len());
    open().await.unwrap_err();
    assert!(sent_to(&transport, REGISTRY, before) > 1, "the limit was over");
    open().await.unwrap_err();
    assert_eq!(begun.elapsed(), Duration::ZERO, "one waited for an outcome that had come");
}
