//! Tokens that a registry takes no more, and how some say so, over a transport that answers what the test says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::Method;

use super::*;
use crate::reference::Repository;
use crate::support::live::Live;
use crate::upstream::config::Config;
use crate::upstream::request::AuthContext;
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, status};

const TOKENS: &str = "auth.reg.example.com:443";
const CHALLENGE: &str = r#"Bearer realm="https://auth.reg.example.com/token",service="reg""#;

/// What becomes of a question for another token.
#[derive(Clone, Copy)]
enum Another {
    Taken,
    Refused,
    /// The token server answers so from now on.
    NotToBeHad(fn() -> Outcome),
}

/// A registry that has taken the first token, and answers `refusal` to it.
async fn refused_once_taken(
    refusal: fn() -> Outcome,
    another: Another,
    user: Option<(&str, &str)>,
) -> (Result<(), Error>, Arc<Scripted>) {
    refused_once_taken_by(Method::GET, refusal, another, user).await
}

/// As [`refused_once_taken`], to a request by `method`.
async fn refused_once_taken_by(
    method: Method,
    refusal: fn() -> Outcome,
    another: Another,
    user: Option<(&str, &str)>,
) -> (Result<(), Error>, Arc<Scripted>) {
    let (refuses, tokens) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let is_refusing = Arc::clone(&refuses);
    let answer = move |request: &SentRequest| match (request.host.as_str(), request.header("authorization")) {
        (TOKENS, _) => match (another, tokens.fetch_add(1, Ordering::SeqCst) + 1) {
            (Another::NotToBeHad(answer), 2..) => answer(),
            (_, n) => respond(200, &[], &format!(r#"{{"token": "t{n}"}}"#)),
        },
        (_, "") => respond(401, &[("www-authenticate", CHALLENGE)], ""),
        (_, token)
            if is_refusing.load(Ordering::SeqCst)
                && (matches!(another, Another::Refused) || token == "Bearer t1") =>
        {
            refusal()
        }
        _ => status(200),
    };
    let (transport, configured) = Scripted::new(Config::default(), answer);
    let exchange = Exchange::for_test(Live::new(configured));
    let repository: Repository = "reg.example.com/app".parse().unwrap();
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let auth = AuthContext::for_test(user);
    let endpoint = Endpoint::for_test("https://reg.example.com");
    let request = || RegistryRequest::blob(method.clone(), &repository, digest, &auth);
    exchange.send(&endpoint, &request()).await.unwrap();
    refuses.store(true, Ordering::SeqCst);
    let answered = exchange.send(&endpoint, &request()).await;
    (answered.map(|_| ()).map_err(|failure| failure.error), transport)
}

fn tokens_of(transport: &Scripted) -> usize {
    transport.sent().iter().filter(|request| request.host == TOKENS).count()
}

/// A registry's refusal.
type Refusal = fn() -> Outcome;

/// How registries refuse a token that they took before.
fn refusals() -> [(&'static str, Refusal); 3] {
    [
        ("Harbor", || respond(401, &[("www-authenticate", r#"Basic realm="harbor""#)], "")),
        ("OpenShift", || {
            let challenge = r#"Basic realm=openshift,error="access denied""#;
            respond(401, &[("www-authenticate", challenge)], "")
        }),
        ("IBM", || {
            let challenge = format!(r#"{CHALLENGE},error="insufficient_scope""#);
            respond(403, &[("www-authenticate", &challenge)], "")
        }),
    ]
}

#[tokio::test]
async fn a_token_that_is_refused_by_a_challenge_for_a_password_or_by_403_is_renewed() {
    for (registry, refusal) in refusals() {
        for user in [Some(("u", "p")), None] {
            let (answered, transport) = refused_once_taken(refusal, Another::Taken, user).await;
            assert_eq!(answered, Ok(()), "{registry}");
            assert_eq!(tokens_of(&transport), 2, "{registry}");
        }
    }
}

#[tokio::test]
async fn where_the_new_token_is_refused_so_too_the_right_ends_and_nothing_is_asked_for_ever() {
    for (registry, refusal) in refusals() {
        let (answered, transport) = refused_once_taken(refusal, Another::Refused, Some(("u", "p"))).await;
        let error = answered.unwrap_err();
        assert!(error.revokes_access() && !error.is_public(), "{registry}: {error}");
        assert_eq!((tokens_of(&transport), transport.sent().len()), (2, 6), "{registry}");
    }
}

#[tokio::test]
async fn a_403_that_names_no_token_server_is_final() {
    for refusal in
        [|| status(403), || respond(403, &[("www-authenticate", "Bearer error=insufficient_scope")], "")]
    {
        let (answered, transport) = refused_once_taken(refusal, Another::Taken, Some(("u", "p"))).await;
        assert!(answered.unwrap_err().revokes_access());
        assert_eq!(tokens_of(&transport), 1);
    }
}

#[tokio::test]
async fn a_token_server_that_gives_no_other_token_is_not_asked_again_to_confirm_a_403_to_head() {
    let refusal = refusals()[2].1;
    let another = Another::NotToBeHad(|| status(503));
    let (answered, transport) = refused_once_taken_by(Method::HEAD, refusal, another, Some(("u", "p"))).await;
    assert!(answered.unwrap_err().revokes_access());
    // The token that was taken, and the one that could not be had: a server that hangs costs its wait once.
    assert_eq!(tokens_of(&transport), 2);
}

#[tokio::test]
async fn a_403_stands_where_no_other_token_can_be_had_and_a_token_that_is_too_old_ends_nothing() {
    let answers: [fn() -> Outcome; 4] =
        [|| status(503), || status(404), || status(429), || Outcome::Unreachable];
    for answer in answers {
        for (registry, refusal) in refusals() {
            let (answered, _) =
                refused_once_taken(refusal, Another::NotToBeHad(answer), Some(("u", "p"))).await;
            let error = answered.unwrap_err();
            assert_eq!(error.revokes_access(), registry == "IBM", "{registry}: {error}");
        }
    }
}
