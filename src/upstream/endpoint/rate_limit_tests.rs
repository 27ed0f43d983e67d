//! What is held back after a 429, for whom and for how long; and when a budget is low.

use futures_util::FutureExt;

use http::Method;

use super::super::limits::{ACCOUNTS_MAX, RECENT};
use super::super::too_many_requests::{PAUSE, TRIAL};
use super::*;
use crate::reference::PrincipalKind;
use crate::upstream::metrics::RequestKind;

fn limits() -> RateLimits {
    RateLimits::new(Recorder::for_test(), Clock::system())
}

fn account(registry: &Registry, kind: PrincipalKind) -> Account<'_> {
    let principal = Principal::new(kind, [7; 16]);
    Account { registry, endpoint: "https://registry-1.docker.io/v2", principal }
}

fn app() -> Repository {
    "docker.io/library/app".parse().unwrap()
}

fn repository(name: &str) -> Repository {
    format!("docker.io/library/{name}").parse().unwrap()
}

fn refused(seconds: Option<u64>) -> Result<(), Failure> {
    let retry_after = seconds.map(Duration::from_secs);
    let error = Error::RateLimited { host: String::new(), retry_after };
    Err(Failure::new(error, Party::Endpoint))
}

/// Registries that limit accounts say so with every answer.
fn state_a_limit(limits: &RateLimits, account: Account<'_>) {
    let mut headers = HeaderMap::new();
    headers.insert("ratelimit-remaining", "0;w=21600".parse().unwrap());
    limits.record_headers(account, &headers);
}

fn class(kind: RequestKind, method: Method) -> RequestClass {
    RequestClass { kind, method }
}

fn get() -> RequestClass {
    class(RequestKind::Manifest, Method::GET)
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_low_when_the_registry_says_so_and_only_for_that_long() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let (anonymous, node) = (account(&hub, PrincipalKind::Anonymous), account(&hub, PrincipalKind::Node));
    let record = |left: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        if let Some(left) = left {
            headers.insert("ratelimit-remaining", left.parse().unwrap());
        }
        limits.record_headers(anonymous, &headers);
        limits.is_low(&app(), anonymous.principal)
    };
    assert!(!record(Some("76;w=21600")));
    assert!(record(Some("9;w=21600")));
    assert!(record(None), "an answer that says nothing changes nothing");
    assert!(!limits.is_low(&app(), node.principal), "the budget of another principal");
    assert!(!limits.is_low(&"quay.io/app".parse().unwrap(), anonymous.principal));
    assert!(!record(Some("99")));
    assert!(record(Some("0")));
    let status = limits.statuses();
    assert_eq!(
        (status[0].limit, status[0].remaining, status[0].principal),
        (Some(100), Some(0), "anonymous")
    );
    tokio::time::advance(RECENT).await;
    assert!(!limits.is_low(&app(), anonymous.principal));
    assert_eq!(limits.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn after_a_429_requests_are_held_back_and_then_one_finds_out() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    for (named, least) in
        [(None, 1), (None, 2), (None, 4), (None, 8), (None, 15), (Some(0), 1), (Some(86_400), 300)]
    {
        let wait = limits.record_refusal(anonymous, &app(), &get(), named.map(Duration::from_secs));
        let least = Duration::from_secs(least);
        assert!(wait >= least && wait <= least.mul_f64(1.1), "{named:?} {wait:?}");
        assert_eq!(limits.held_back_for(anonymous, &app(), &get()), Some(wait));
        assert_eq!(
            limits.held_back_for(anonymous, &app(), &class(RequestKind::Manifest, Method::HEAD)),
            None,
            "another kind of request"
        );
        assert_eq!(
            limits.held_back_for(account(&hub, PrincipalKind::Node), &app(), &get()),
            None,
            "another principal"
        );
        assert!(limits.is_low(&app(), anonymous.principal));
        tokio::time::advance(wait).await;
        assert_eq!(limits.held_back_for(anonymous, &app(), &get()), None, "one finds out");
        assert_eq!(
            limits.held_back_for(anonymous, &app(), &get()),
            Some(TRIAL),
            "and the others wait for it"
        );
    }
    limits.record_response(anonymous, &app(), &get());
    assert_eq!(limits.held_back_for(anonymous, &app(), &get()), None);
    assert!(!limits.is_low(&app(), anonymous.principal));
    let wait = limits.record_refusal(anonymous, &app(), &get(), None);
    assert!(wait < 2 * PAUSE, "it begins anew: {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn while_one_finds_out_the_others_are_neither_refused_nor_sent_before_its_outcome() {
    let (limits, hub, app, get) = (limits(), Registry::docker_hub(), app(), get());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let ask = || limits.admit_in_time(anonymous, &app, &get);
    assert_eq!(ask().now_or_never(), Some(Ok(())), "nothing is known of a limit");
    for outcome in [refused(None), Ok(())] {
        let wait = limits.record_refusal(anonymous, &app, &get, None);
        assert_eq!(ask().now_or_never(), Some(Err(wait)));
        tokio::time::advance(wait).await;
        assert_eq!(ask().now_or_never(), Some(Ok(())), "one finds out");
        let mut other = Box::pin(ask());
        assert!(other.as_mut().now_or_never().is_none());
        let is_over = limits.record_result(anonymous, &app, &get, outcome).is_ok();
        assert_eq!(other.now_or_never().map(|admitted| admitted.is_ok()), Some(is_over));
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_of_a_redirect_target_or_token_server_holds_back_that_question_alone() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let other: Repository = "docker.io/library/other".parse().unwrap();
    let wait = limits.record_refusal_elsewhere(anonymous, &app(), &get(), None);
    assert_eq!(limits.held_back_for(anonymous, &app(), &get()), Some(wait));
    assert_eq!(limits.held_back_for(anonymous, &other, &get()), None);
    assert!(
        !limits.is_low(&app(), anonymous.principal),
        "callers are challenged for a limit of another host"
    );
    tokio::time::advance(wait).await;
    assert_eq!(limits.held_back_for(anonymous, &app(), &get()), None, "one finds out");
    assert_eq!(limits.held_back_for(anonymous, &app(), &get()), Some(TRIAL));
    limits.record_response(anonymous, &app(), &get());
    assert_eq!(limits.held_back_for(anonymous, &app(), &get()), None);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_limits_lists_has_no_low_budget_for_images() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let minutes = Some(Duration::from_secs(300));
    for kind in [RequestKind::Tags, RequestKind::Referrers] {
        limits.record_refusal(anonymous, &app(), &class(kind, Method::GET), minutes);
    }
    limits.record_refusal(anonymous, &app(), &class(RequestKind::Manifest, Method::HEAD), minutes);
    assert!(!limits.is_low(&app(), anonymous.principal), "moved tags are served as they were");
    limits.record_refusal(anonymous, &app(), &class(RequestKind::Blob, Method::GET), minutes);
    assert!(limits.is_low(&app(), anonymous.principal));
}

#[tokio::test(start_paused = true)]
async fn ever_new_accounts_do_not_grow_it() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    for n in 0..ACCOUNTS_MAX as u64 + 100 {
        let mut fingerprint = [0; 16];
        fingerprint[..8].copy_from_slice(&n.to_be_bytes());
        let principal = Principal::new(PrincipalKind::Caller, fingerprint);
        let caller = Account { principal, ..account(&hub, PrincipalKind::Caller) };
        limits.record_refusal(caller, &app(), &get(), None);
    }
    assert!(limits.known.lock().budgets.len() <= ACCOUNTS_MAX);
}

#[tokio::test(start_paused = true)]
async fn invented_accounts_do_not_make_a_held_back_one_be_asked_before_its_time() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let node = account(&hub, PrincipalKind::Node);
    state_a_limit(&limits, node);
    limits.record_refusal(node, &app(), &get(), Some(Duration::from_secs(60)));
    for n in 0..2 * ACCOUNTS_MAX as u64 {
        let mut fingerprint = [0; 16];
        fingerprint[..8].copy_from_slice(&n.to_be_bytes());
        let principal = Principal::new(PrincipalKind::Caller, fingerprint);
        let caller = Account { principal, ..account(&hub, PrincipalKind::Caller) };
        limits.known.lock().budget(caller).remaining = Some(50);
    }
    let known = limits.known.lock();
    let budget = known.budgets.peek(&node.key());
    assert!(budget.is_some_and(|budget| budget.held_back_for(Instant::now()).is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_429_of_one_repository_holds_back_no_neighbour_until_it_is_the_accounts() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(repository);
    let held = |of: &Repository| limits.held_back_for(anonymous, of, &get());
    let record = |of: &Repository, result| limits.record_result(anonymous, of, &get(), result).is_ok();
    for _ in 0..3 {
        record(&a, refused(Some(3_600)));
        assert!(held(&a).is_some_and(|wait| wait >= Duration::from_secs(300)));
        assert_eq!(held(&b), None, "it was never answered 429");
        assert!(limits.is_low(&a, anonymous.principal) && !limits.is_low(&b, anonymous.principal));
        tokio::time::advance(Duration::from_secs(400)).await;
    }
    record(&a, refused(Some(3_600)));
    record(&b, Ok(()));
    record(&c, refused(Some(3_600)));
    assert_eq!(held(&d), None, "one was answered in between");
    record(&a, refused(Some(3_600)));
    assert!(held(&d).is_some(), "two in a row");
    assert!(!limits.is_low(&d, anonymous.principal), "its moved tags are not served as they were");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_what_is_left_for_the_account_gets_no_request_more_after_a_429() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    state_a_limit(&limits, anonymous);
    tokio::time::advance(2 * RECENT).await;
    limits.record_refusal(anonymous, &repository("a"), &get(), Some(Duration::from_secs(300)));
    let held = limits.held_back_for(anonymous, &repository("b"), &get());
    assert!(held.is_some_and(|wait| wait >= Duration::from_secs(300)));
    assert!(limits.is_low(&repository("b"), anonymous.principal));
}

#[tokio::test(start_paused = true)]
async fn repositories_that_are_limited_by_themselves_delay_a_neighbour_for_a_moment_and_refuse_it_nothing() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let [a, b, quiet] = ["a", "b", "quiet"].map(repository);
    let (class, since) = (get(), Instant::now());
    for of in [&a, &b, &a, &b] {
        let _ = limits.record_result(anonymous, of, &class, refused(Some(3_600)));
    }
    assert_eq!(limits.admit_in_time(anonymous, &quiet, &class).await, Ok(()));
    assert!(since.elapsed() < 2 * PAUSE, "{:?}", since.elapsed());
    assert!(limits.record_result(anonymous, &quiet, &class, Ok(())).is_ok());
    assert_eq!(limits.held_back_for(anonymous, &repository("other"), &class), None, "it is no limit of all");
    assert!(limits.held_back_for(anonymous, &a, &class).is_some(), "what it said of itself counts");
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_was_answered_429_takes_no_turn_of_one_that_was_not() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let [a, b, quiet] = ["a", "b", "quiet"].map(repository);
    for of in [&a, &b] {
        let _ = limits.record_result(anonymous, of, &get(), refused(None));
    }
    tokio::time::advance(2 * PAUSE).await;
    assert_eq!(limits.held_back_for(anonymous, &a, &get()), None, "it finds out");
    let _ = limits.record_result(anonymous, &a, &get(), refused(None));
    assert_eq!(limits.held_back_for(anonymous, &quiet, &get()), None);
}

#[tokio::test(start_paused = true)]
async fn many_repositories_of_an_account_that_is_limited_are_not_asked_for_one_by_one() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let all: Vec<_> = (0..200).map(|n| repository(&n.to_string())).collect();
    for named in [None, Some(3_600)] {
        let mut sent = 0;
        for _ in 0..600 {
            for of in &all {
                if limits.held_back_for(anonymous, of, &get()).is_none() {
                    sent += 1;
                    let _ = limits.record_result(anonymous, of, &get(), refused(named));
                }
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!((3..=20).contains(&sent), "{sent} requests within a minute");
        tokio::time::advance(Duration::from_secs(400)).await;
        assert!(limits.record_result(anonymous, &all[0], &get(), Ok(())).is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_sees_which_repository_is_limited() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    limits.record_refusal(anonymous, &app(), &get(), Some(Duration::from_secs(60)));
    let statuses = limits.statuses();
    let of: Vec<_> = statuses.iter().map(|status| status.repository.clone()).collect();
    assert_eq!(of, [Some(app())], "{statuses:?}");
}
