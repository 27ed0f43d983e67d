//! Access against a registry of the tests' own.

use super::*;
use crate::pull::for_tests::{self, Before, Parts};
use crate::reference::{Digest, PrincipalKind};

async fn confirm(parts: &Parts, context: &PullContext) -> Result<(), Error> {
    parts.access.ask_for_blob(context, Digest::of(b"layer"), None).await.map(|head| assert!(head.has_digest))
}

#[tokio::test]
async fn one_tenants_right_is_no_other_tenants_and_its_denial_ends_no_other_right() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    let [alice, bob] = ["alice", "bob"].map(|user| parts.pull_as(user, &app));
    confirm(&parts, &alice).await.unwrap();
    assert!(confirm(&parts, &bob).await.unwrap_err().is_denied());
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_some());
    assert!(parts.access.known().fresh(&bob, Use::Read).await.is_none());

    parts.registry.allow(&app, &[]);
    assert!(confirm(&parts, &alice).await.unwrap_err().is_denied());
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_none(), "a right outlived its denial");
}

#[tokio::test]
async fn a_refusal_ends_the_right_of_what_was_shown_and_everyones_where_nothing_was() {
    for public in [true, false] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        parts.registry.push(&app, None, b"layer");
        let (alice, anonymous) = (parts.pull_as("alice", &app), for_tests::pull(&app));
        confirm(&parts, &anonymous).await.unwrap();
        parts.registry.allow(&app, &["alice"]);
        confirm(&parts, &alice).await.unwrap();
        let (host, why) = ("reg.test".to_owned(), String::new());
        let refused = upstream::Error::Refused { host, status: 403, why, public };
        parts.registry.fail(Some(refused));
        confirm(&parts, &alice).await.unwrap_err();
        let grants = parts.access.known().credible_principals(&app).await;
        let kinds: Vec<_> = grants.iter().map(|principal| principal.kind).collect();
        let left = if public { PrincipalKind::Caller } else { PrincipalKind::Anonymous };
        assert_eq!(kinds, [left], "{public}");
    }
}

#[tokio::test]
async fn a_client_without_a_credential_is_challenged_and_then_at_once() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    for asked in [vec!["confirm blob as -"], vec![]] {
        let error = confirm(&parts, &for_tests::pull(&app)).await.unwrap_err();
        let Error::AuthenticationRequired { why, .. } = error else { panic!("{error}") };
        assert_eq!((why, parts.registry.asked()), (ChallengeReason::Refused, to_strings(&asked)));
    }
}

#[tokio::test]
async fn a_denied_client_that_repeats_its_request_costs_upstream_nothing() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.allow(&app, &["alice"]);
    let bob = parts.pull_as("bob", &app);
    for asked in [vec!["confirm blob as bob"], vec![], vec![]] {
        assert!(confirm(&parts, &bob).await.unwrap_err().is_denied());
        assert_eq!(parts.registry.asked(), to_strings(&asked));
    }
}

#[tokio::test]
async fn what_upstream_gives_without_a_credential_is_every_callers_right() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    confirm(&parts, &parts.pull_as("alice", &app)).await.unwrap();
    assert!(parts.access.known().fresh(&for_tests::pull(&app), Use::Read).await.is_some());
}

#[tokio::test]
async fn a_right_is_no_younger_than_the_token_that_proved_it() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    parts.registry.accept_tokens_of(Duration::from_secs(240));
    let alice = parts.pull_as("alice", &app);
    confirm(&parts, &alice).await.unwrap();
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_some());
    parts.clock.advance(Duration::from_secs(61));
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_none(), "it lasts twice grant_ttl");
}

#[tokio::test]
async fn what_is_said_about_a_list_changes_no_right() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    let alice = parts.pull_as("alice", &app);
    let list = |context: PullContext| {
        let (access, client) = (parts.access.clone(), Arc::clone(&parts.registry));
        async move {
            let repository = context.repository().clone();
            let request = |auth: AuthContext| {
                let (client, repository) = (Arc::clone(&client), repository.clone());
                async move { Ok(client.list(&repository, &upstream::Listing::Tags, None, &auth).await?) }
            };
            access.ask(&context, &Subject::List, Purpose::Prove, request).await.map(|_| ())
        }
    };
    list(alice.clone()).await.unwrap();
    assert!(
        parts.access.known().fresh(&alice, Use::Read).await.is_none(),
        "a list proved a right to content"
    );
    confirm(&parts, &alice).await.unwrap();
    parts.registry.allow(&app, &[]);
    assert!(list(alice.clone()).await.is_err());
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_some(), "a list ended a right to content");
    assert!(list(for_tests::pull(&app)).await.is_err());
    parts.registry.allow(&app, &["-"]);
    confirm(&parts, &for_tests::pull(&app)).await.unwrap();
}

#[tokio::test]
async fn a_right_holds_in_an_outage_for_its_own_caller_only() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    let [alice, bob] = ["alice", "bob"].map(|user| parts.pull_as(user, &app));
    confirm(&parts, &alice).await.unwrap();
    parts.registry.fail(Some(for_tests::outage()));
    parts.clock.advance(Duration::from_secs(3_600));
    let error = confirm(&parts, &alice).await.unwrap_err();
    assert!(parts.access.known().held_since(&alice, &error).await.is_some());
    assert!(parts.access.known().held_since(&bob, &error).await.is_none());
    assert_eq!(parts.access.outages().len(), 1);
    let error = confirm(&parts, &for_tests::pull(&app)).await.unwrap_err();
    assert!(matches!(error, Error::AuthenticationRequired { why: ChallengeReason::Unreachable, .. }));
}

/// Anyone on the node can make a registry refuse a credential.
#[tokio::test]
async fn a_refused_credential_ends_no_right_that_everyone_has_from_another_node() {
    let (host, why) = ("reg.test".to_owned(), String::new());
    let refused =
        |public| upstream::Error::Refused { host: host.clone(), status: 401, why: why.clone(), public };
    for (error, is_held) in [(refused(false), true), (refused(true), false)] {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        parts.registry.push(&app, None, b"layer");
        let shared = parts.access.shared();
        parts.registry.fail(Some(error));
        confirm(&parts, &parts.pull_as("mistyped", &app)).await.unwrap_err();
        assert_eq!(shared.hold(&app, parts.clock.now()).await, is_held);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_a_revocation_shares_no_answer_to_a_question_from_before() {
    let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
    parts.registry.push(&app, None, b"layer");
    parts.registry.allow(&app, &["alice"]);
    let alice = parts.pull_as("alice", &app);
    parts.registry.before_answers(|_| Before::Pause(Duration::from_secs(10)));
    let after = async {
        parts.registry.is_asked("confirm blob").await;
        parts.access.revoke(Some(&app)).await.unwrap();
        parts.registry.allow(&app, &[]);
        confirm(&parts, &alice).await
    };
    let (before, after) = tokio::join!(confirm(&parts, &alice), after);
    before.unwrap();
    assert!(after.unwrap_err().is_denied(), "it was let in by an answer from before");
    assert!(parts.access.known().fresh(&alice, Use::Read).await.is_none(), "the right is proved again");
}

fn to_strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
