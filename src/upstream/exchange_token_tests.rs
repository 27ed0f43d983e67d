//! Tokens and token servers: when one is asked for a token, and what its answers mean.

use super::*;

#[tokio::test]
async fn only_the_first_repository_of_a_registry_pays_for_being_challenged() {
    let issued = AtomicUsize::new(0);
    let (transport, configured) =
        Scripted::new(Config::default(), move |request| match request.host.as_str() {
            "auth.reg.example.com:443" => token_server(&issued),
            _ if request.header("authorization").is_empty() => requires_token(request, "any"),
            _ => status(200),
        });
    let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
    for path in ["a", "b"] {
        blob(&exchange, &endpoint(), &repository(path), &auth).await.unwrap();
    }
    let registry = transport.sent().into_iter().filter(|request| request.host == "reg.example.com:443");
    let authorizations: Vec<_> = registry.map(|r| r.header("authorization").to_owned()).collect();
    assert_eq!(authorizations, ["", "Bearer t1", "Bearer t2"]);
}

#[tokio::test]
async fn an_expired_token_is_renewed_and_a_refused_one_is_not_renewed_for_ever() {
    let issued = AtomicUsize::new(0);
    let (transport, configured) =
        Scripted::new(Config::default(), move |request| match request.host.as_str() {
            "auth.reg.example.com:443" => token_server(&issued),
            _ if request.url.contains("/closed/") => requires_token(request, "never"),
            _ => requires_token(request, &format!("Bearer t{}", issued.load(Ordering::SeqCst))),
        });
    let (exchange, auth) =
        (Exchange::for_test(Live::new(configured)), AuthContext::for_test(Some(("u", "p"))));
    let (open, closed) = (repository("open"), repository("closed"));
    blob(&exchange, &endpoint(), &open, &auth).await.unwrap();
    let error = blob(&exchange, &endpoint(), &closed, &auth).await.map(|_| ()).unwrap_err();
    assert!(
        error.revokes_access() && error.to_string().contains("refuses the caller's credential"),
        "{error}"
    );
    // The token of the first repository is not the newest any more.
    blob(&exchange, &endpoint(), &open, &auth).await.unwrap();
    let tokens = transport.sent().iter().filter(|request| request.url.contains("/token")).count();
    assert!(tokens <= 4, "{tokens} tokens for three requests");
}

#[tokio::test]
async fn a_token_server_that_is_away_is_no_failure_of_the_registry_that_names_it() {
    // Without a token that it issued before, the registry challenges first; with one, that is expected.
    for tokens in [0, 1] {
        let issued = AtomicUsize::new(0);
        let (_, configured) = Scripted::new(Config::default(), move |request| match request.host.as_str() {
            "auth.reg.example.com:443" if issued.load(Ordering::SeqCst) < tokens => token_server(&issued),
            "auth.reg.example.com:443" => Outcome::Unreachable,
            _ => requires_token(request, "Bearer t1"),
        });
        let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
        if tokens > 0 {
            blob(&exchange, &endpoint(), &repository("a"), &auth).await.unwrap();
        }
        let (repository, tags) = (repository("b"), crate::upstream::Listing::Tags);
        let request = RegistryRequest::list(&repository, &tags, None, &auth);
        let failure = exchange.send(&endpoint(), &request).await.map(|_| ()).unwrap_err();
        assert_eq!(failure.party, Party::TokenServer, "{tokens}: {}", failure.error);
    }
}

#[tokio::test]
async fn a_head_is_not_repeated_as_get_because_its_token_server_answers_nonsense() {
    let (transport, configured) = Scripted::new(Config::default(), |request| match request.host.as_str() {
        "auth.reg.example.com:443" => respond(200, &[], "<html>"),
        _ => requires_token(request, "any"),
    });
    let (exchange, auth) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
    let (repository, digest) = (repository("a"), crate::reference::Digest::of(b"x"));
    let request = RegistryRequest::blob(Method::HEAD, &repository, digest, &auth);
    let failure = exchange.send(&endpoint(), &request).await.map(|_| ()).unwrap_err();
    let methods: Vec<_> = transport.sent().iter().map(|request| request.method.clone()).collect();
    assert_eq!(methods, [Method::HEAD, Method::GET], "the second asks for the token: {}", failure.error);
}

#[tokio::test]
async fn no_right_is_proved_with_a_token_that_is_too_old_for_that() {
    let issued = Arc::new(AtomicUsize::new(0));
    let issuing = Arc::clone(&issued);
    let (_, configured) = Scripted::new(Config::default(), move |request| match request.host.as_str() {
        "auth.reg.example.com:443" => token_server(&issuing),
        _ if request.header("authorization").is_empty() => requires_token(request, "any"),
        _ => status(200),
    });
    let (exchange, anonymous) = (Exchange::for_test(Live::new(configured)), AuthContext::for_test(None));
    let proof = Need::Proof { token_age_max: Duration::ZERO };
    for (need, tokens) in [(Need::Delivery, 1), (proof, 2), (Need::Delivery, 2)] {
        let auth = AuthContext { need, ..anonymous.clone() };
        blob(&exchange, &endpoint(), &repository("a"), &auth).await.unwrap();
        assert_eq!(issued.load(Ordering::SeqCst), tokens, "{need:?}");
    }
}

/// A mistyped secret, while the registry is away and its token server is not.
#[tokio::test]
async fn a_registry_in_trouble_is_told_from_a_login_that_its_token_server_refuses() {
    for trouble in [408, 500, 503] {
        let is_in_trouble = Arc::new(AtomicBool::new(false));
        let now = Arc::clone(&is_in_trouble);
        let (transport, configured) = Scripted::new(Config::default(), move |request| {
            let is_login = !request.header("authorization").is_empty();
            match (request.host.as_str(), is_login, now.load(Ordering::Relaxed)) {
                ("auth.reg.example.com:443", true, _) => status(401),
                ("auth.reg.example.com:443", false, _) => respond(200, &[], r#"{"token": "t"}"#),
                (_, _, true) => status(trouble),
                (_, true, false) => status(200),
                (_, false, false) => respond(401, &[("www-authenticate", TOKEN_CHALLENGE)], ""),
            }
        });
        let exchange = Exchange::for_test(Live::new(configured));
        let repository: Repository = "reg.example.com/a".parse().unwrap();
        let endpoint = Endpoint::for_test("https://reg.example.com");
        let ask = async |user| {
            let (auth, digest) =
                (AuthContext::for_test(user), format!("sha256:{}", "0".repeat(64)).parse().unwrap());
            let request = RegistryRequest::blob(Method::GET, &repository, digest, &auth);
            exchange.send(&endpoint, &request).await.map(|response| response.proof)
        };
        // From now on the registry's challenge is known, and a login comes first.
        ask(None).await.unwrap();
        is_in_trouble.store(true, Ordering::Relaxed);
        let error = ask(Some(("u", "mistyped"))).await.unwrap_err().error;
        assert!(error.is_outage(), "{trouble}: {error}");
        assert!(transport.sent().len() > 3);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_tokens_were_forgotten_is_given_no_token_that_was_requested_before() {
    let asked = AtomicUsize::new(0);
    let (transport, configured) =
        Scripted::new(Config::default(), move |request| match request.host.as_str() {
            "auth.reg.example.com:443" if asked.fetch_add(1, Ordering::SeqCst) == 0 => Outcome::Hang,
            "auth.reg.example.com:443" => respond(200, &[], r#"{"token": "new"}"#),
            _ => requires_token(request, "Bearer new"),
        });
    let (exchange, tokens) = Exchange::for_test_with_tokens(Live::new(configured));
    let auth = AuthContext::for_test(Some(("u", "p")));
    let (endpoint, app) = (endpoint(), repository("a"));
    let ask = || blob(&exchange, &endpoint, &app, &auth);
    let after = async {
        while !transport.sent().iter().any(|request| request.url.contains("/token")) {
            tokio::task::yield_now().await;
        }
        tokens.forget(Some(&app));
        ask().await
    };
    let (before, after) = tokio::join!(ask(), after);
    assert!(before.is_err(), "its token never came");
    assert!(after.is_ok(), "it waited for the token from before");
}
