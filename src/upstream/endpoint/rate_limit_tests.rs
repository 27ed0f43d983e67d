//! What is held back after a 429, for whom and for how long; and when a budget is low.

use futures_util::FutureExt;

use super::super::too_many_requests::{PAUSE, TRIAL};
use super::*;
use crate::reference::PrincipalKind;

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

fn get() -> RequestClass {
    (RequestKind::Manifest, Method::GET)
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
        limits.is_low(&hub, anonymous.principal)
    };
    assert!(!record(Some("76;w=21600")));
    assert!(record(Some("9;w=21600")));
    assert!(record(None), "an answer that says nothing changes nothing");
    assert!(!limits.is_low(&hub, node.principal), "the budget of another principal");
    assert!(!limits.is_low(&"quay.io".parse().unwrap(), anonymous.principal));
    assert!(!record(Some("99")));
    assert!(record(Some("0")));
    let status = limits.statuses();
    assert_eq!(
        (status[0].limit, status[0].remaining, status[0].principal),
        (Some(100), Some(0), "anonymous")
    );
    tokio::time::advance(RECENT).await;
    assert!(!limits.is_low(&hub, anonymous.principal));
    assert_eq!(limits.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn after_a_429_requests_are_held_back_and_then_one_finds_out() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    for (named, least) in
        [(None, 1), (None, 2), (None, 4), (None, 8), (None, 15), (Some(0), 1), (Some(86_400), 300)]
    {
        let wait = limits.record_refusal(anonymous, get(), named.map(Duration::from_secs));
        let least = Duration::from_secs(least);
        assert!(wait >= least && wait <= least.mul_f64(1.1), "{named:?} {wait:?}");
        assert_eq!(limits.held_back_for(anonymous, &app(), &get()), Some(wait));
        assert_eq!(
            limits.held_back_for(anonymous, &app(), &(RequestKind::Manifest, Method::HEAD)),
            None,
            "another kind of request"
        );
        assert_eq!(
            limits.held_back_for(account(&hub, PrincipalKind::Node), &app(), &get()),
            None,
            "another principal"
        );
        assert!(limits.is_low(&hub, anonymous.principal));
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
    assert!(!limits.is_low(&hub, anonymous.principal));
    let wait = limits.record_refusal(anonymous, get(), None);
    assert!(wait < 2 * PAUSE, "it begins anew: {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn while_one_finds_out_the_others_are_neither_refused_nor_sent_before_its_outcome() {
    let (limits, hub, app, get) = (limits(), Registry::docker_hub(), app(), get());
    let anonymous = account(&hub, PrincipalKind::Anonymous);
    let ask = || limits.wait_until_held_back_for(anonymous, &app, &get);
    let refused = || {
        let error = Error::RateLimited { host: String::new(), retry_after: None };
        Err::<(), _>(Failure::new(error, Party::Endpoint))
    };
    assert_eq!(ask().now_or_never(), Some(None), "nothing is known of a limit");
    for outcome in [refused(), Ok(())] {
        let wait = limits.record_refusal(anonymous, get.clone(), None);
        assert_eq!(ask().now_or_never(), Some(Some(wait)));
        tokio::time::advance(wait).await;
        assert_eq!(ask().now_or_never(), Some(None), "one finds out");
        let mut other = Box::pin(ask());
        assert!(other.as_mut().now_or_never().is_none());
        let is_over = limits.record_result(anonymous, &app, &get, outcome).is_ok();
        assert_eq!(other.now_or_never().map(|held| held.is_none()), Some(is_over));
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
    assert!(!limits.is_low(&hub, anonymous.principal), "callers are challenged for a limit of another host");
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
        limits.record_refusal(anonymous, (kind, Method::GET), minutes);
    }
    limits.record_refusal(anonymous, (RequestKind::Manifest, Method::HEAD), minutes);
    assert!(!limits.is_low(&hub, anonymous.principal), "moved tags are served as they were");
    limits.record_refusal(anonymous, (RequestKind::Blob, Method::GET), minutes);
    assert!(limits.is_low(&hub, anonymous.principal));
}

#[tokio::test(start_paused = true)]
async fn ever_new_accounts_do_not_grow_it() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    for n in 0..3 * ACCOUNTS_MAX as u64 {
        let mut fingerprint = [0; 16];
        fingerprint[..8].copy_from_slice(&n.to_be_bytes());
        let principal = Principal::new(PrincipalKind::Caller, fingerprint);
        let caller = Account { principal, ..account(&hub, PrincipalKind::Caller) };
        limits.record_refusal(caller, get(), None);
    }
    assert!(limits.budgets.lock().len() <= ACCOUNTS_MAX);
}

#[tokio::test(start_paused = true)]
async fn invented_accounts_do_not_make_a_held_back_one_be_asked_before_its_time() {
    let (limits, hub) = (limits(), Registry::docker_hub());
    let node = account(&hub, PrincipalKind::Node);
    limits.record_refusal(node, get(), Some(Duration::from_secs(60)));
    for n in 0..2 * ACCOUNTS_MAX as u64 {
        let mut fingerprint = [0; 16];
        fingerprint[..8].copy_from_slice(&n.to_be_bytes());
        let principal = Principal::new(PrincipalKind::Caller, fingerprint);
        let caller = Account { principal, ..account(&hub, PrincipalKind::Caller) };
        limits.with_budget(caller, |budget| budget.remaining = Some(50));
    }
    assert!(
        limits
            .budgets
            .lock()
            .peek(&node.key())
            .is_some_and(|budget| { budget.held_back_for(Instant::now()).is_some() })
    );
}
