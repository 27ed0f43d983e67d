//! Which endpoints fail, and for what.

use super::*;
use crate::upstream::endpoint::failure_record::{BODY_PAUSE, PAUSE};
use crate::upstream::endpoint::tracked::{Availability, HUNG};
use crate::upstream::error::{ConnectStage, Failure, NodeLimit, Party};

fn health() -> Health {
    Health::new(Recorder::for_test())
}

fn endpoint() -> Endpoint {
    Endpoint::for_test("https://reg.test")
}

fn of(repository: &str, kind: RequestKind) -> RequestGroup {
    RequestGroup { repository: format!("reg.test/{repository}").parse().unwrap(), kind }
}

fn group() -> RequestGroup {
    of("a", RequestKind::Manifest)
}

fn failure(party: Party, stage: ConnectStage) -> Failure {
    let error = Error::Unreachable { host: "reg.test:443".into(), stage, why: String::new() };
    Failure::new(error, party)
}

fn refused() -> Failure {
    failure(Party::Endpoint, ConnectStage::Connect)
}

fn hangs() -> Failure {
    failure(Party::Endpoint, ConnectStage::Timeout)
}

fn unwell() -> Failure {
    let error = Error::ServerError { host: "reg.test:443".into(), status: 502, retry_after: None };
    Failure::new(error, Party::Endpoint)
}

async fn outcome(health: &Health, group: RequestGroup, result: Result<(), Failure>, after: Duration) {
    let mut request = health.track(&endpoint(), group);
    request.start();
    tokio::time::advance(after).await;
    request.finish(&result);
}

async fn fail(health: &Health, after: Duration) {
    outcome(health, group(), Err(refused()), after).await;
}

fn failing(health: &Health, group: &RequestGroup) -> Option<(Error, bool)> {
    match health.admit(&endpoint(), group) {
        Availability::Failing { error, skip } => Some((error, skip)),
        Availability::Healthy | Availability::RetryDue(_) => None,
    }
}

fn is_healthy(health: &Health, group: &RequestGroup) -> bool {
    matches!(health.admit(&endpoint(), group), Availability::Healthy)
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_left_alone_longer_each_time_and_retried_by_one_request() {
    let health = health();
    assert!(is_healthy(&health, &group()));
    for seconds in [1, 2, 4, 8, 8] {
        fail(&health, Duration::ZERO).await;
        tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
        assert_eq!(failing(&health, &group()), Some((refused().error, false)), "{seconds}");
        tokio::time::advance(Duration::from_millis(1)).await;
        let Availability::RetryDue(_held) = health.admit(&endpoint(), &group()) else { panic!("it is time") };
        assert_eq!(failing(&health, &group()), Some((refused().error, false)), "one tries");
    }
    let error = Error::MethodNotAllowed { host: String::new() };
    let answer = Failure::new(error, Party::Endpoint);
    health.track(&endpoint(), group()).finish(&Err::<(), _>(answer));
    assert!(is_healthy(&health, &group()), "an answer is an answer");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_refuses_connections_fails_for_all_and_a_request_for_its_group() {
    let (health, none) = (health(), Duration::ZERO);
    let (mine, other) = (group(), of("b", RequestKind::Manifest));
    let other_kind = of("a", RequestKind::Tags);
    for of_group in [unwell(), hangs(), failure(Party::RedirectTarget, ConnectStage::Connect)] {
        outcome(&health, mine.clone(), Err(of_group.clone()), Duration::from_secs(15)).await;
        assert_eq!(failing(&health, &mine), Some((of_group.error, true)));
        assert!(is_healthy(&health, &other) && is_healthy(&health, &other_kind), "a neighbour's trouble");
        outcome(&health, mine.clone(), Ok(()), none).await;
        assert!(is_healthy(&health, &mine));
    }
    for of_all in [ConnectStage::Dns, ConnectStage::Connect, ConnectStage::Tls] {
        outcome(&health, mine.clone(), Err(failure(Party::Endpoint, of_all)), none).await;
        assert!(failing(&health, &mine).is_some() && failing(&health, &other_kind).is_some(), "{of_all:?}");
        outcome(&health, other.clone(), Ok(()), none).await;
        assert!(is_healthy(&health, &mine), "{of_all:?}: it can be reached");
    }
    outcome(&health, mine.clone(), Err(failure(Party::TokenServer, ConnectStage::Connect)), none).await;
    assert!(is_healthy(&health, &mine), "what a token server does concerns one credential");
}

#[tokio::test(start_paused = true)]
async fn where_a_second_group_hangs_others_of_its_kind_are_asked_elsewhere_first_and_never_refused() {
    let (health, slowly) = (health(), Duration::from_secs(15));
    let blob = |repository| of(repository, RequestKind::Blob);
    outcome(&health, blob("a"), Err(hangs()), slowly).await;
    outcome(&health, of("a", RequestKind::Manifest), Ok(()), Duration::ZERO).await;
    assert!(is_healthy(&health, &blob("c")), "after one");
    outcome(&health, blob("b"), Err(hangs()), slowly).await;
    assert_eq!(failing(&health, &blob("c")), Some((hangs().error, false)), "one more waits for it");
    assert_eq!(failing(&health, &blob("b")), Some((hangs().error, true)));
    assert!(is_healthy(&health, &of("c", RequestKind::Manifest)), "another kind");

    let mut probe = health.track(&endpoint(), blob("a"));
    probe.start();
    probe.finish_probe(&Ok::<(), _>(()));
    assert!(!is_healthy(&health, &blob("c")), "/v2/ answered, which no blob did");
    outcome(&health, blob("c"), Ok(()), Duration::ZERO).await;
    assert!(is_healthy(&health, &blob("d")) && !is_healthy(&health, &blob("b")));
}

#[tokio::test(start_paused = true)]
async fn one_repository_makes_no_outage_and_none_outlives_an_answer() {
    let (health, second) = (health(), Duration::from_secs(1));
    let down = || health.is_in_outage(&endpoint());
    for kind in [RequestKind::Manifest, RequestKind::Blob] {
        outcome(&health, of("a", kind), Err(unwell()), second).await;
        assert!(!down(), "one repository's trouble");
    }
    outcome(&health, of("b", RequestKind::Manifest), Err(unwell()), second).await;
    assert!(down(), "nothing is answered");
    outcome(&health, of("c", RequestKind::Manifest), Ok(()), second).await;
    assert!(!down(), "a healthy repository");
    outcome(&health, of("b", RequestKind::Manifest), Err(unwell()), second).await;
    assert!(!down(), "what failed before the answer");
    fail(&health, second).await;
    assert!(down());
}

#[tokio::test(start_paused = true)]
async fn where_nothing_fails_answers_are_not_remembered_and_hide_no_later_outage() {
    let (health, second) = (health(), Duration::from_secs(1));
    let answered = || health.0.failing.lock().answered.len();
    let fails = async |repository| {
        outcome(&health, of(repository, RequestKind::Manifest), Err(unwell()), second).await;
    };
    outcome(&health, group(), Ok(()), second).await;
    assert_eq!(answered(), 0, "each answer of a healthy registry costs an entry");
    fails("a").await;
    outcome(&health, of("c", RequestKind::Manifest), Ok(()), second).await;
    assert_eq!(answered(), 1);
    fails("b").await;
    assert!(!health.is_in_outage(&endpoint()), "one of them failed before the answer");
    fails("a").await;
    assert!(health.is_in_outage(&endpoint()), "an earlier answer hides it");
}

#[tokio::test(start_paused = true)]
async fn no_caller_is_refused_for_a_slow_failure_of_minutes_ago() {
    let health = health();
    fail(&health, Duration::from_secs(15)).await;
    tokio::time::advance(Duration::from_secs(120)).await;
    let Availability::RetryDue(_held) = health.admit(&endpoint(), &group()) else { panic!("it is time") };
    assert_eq!(failing(&health, &group()), Some((refused().error, false)), "the second caller");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_never_sent_or_cancelled_does_not_block_the_next_one() {
    let health = health();
    fail(&health, Duration::from_secs(15)).await;
    assert_eq!(failing(&health, &group()), Some((refused().error, true)), "the failure was slow");
    tokio::time::advance(PAUSE).await;
    let Availability::RetryDue(never_sent) = health.admit(&endpoint(), &group()) else {
        panic!("it is time")
    };
    tokio::time::advance(2 * HUNG).await;
    drop(never_sent);
    assert_eq!(failing(&health, &group()), Some((refused().error, true)), "nothing new is known");
    tokio::time::advance(PAUSE).await;
    let Availability::RetryDue(mut retry) = health.admit(&endpoint(), &group()) else { panic!("it is time") };
    retry.tracked.start();
    tokio::time::advance(Duration::from_secs(20)).await;
    drop(retry);
    assert!(failing(&health, &group()).is_some(), "whether it had a connection is not known");
    tokio::time::advance(2 * PAUSE).await;
    assert!(matches!(health.admit(&endpoint(), &group()), Availability::RetryDue(_)));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_cancelled_after_long_hung() {
    let health = health();
    let mut hung = health.track(&endpoint(), group());
    hung.start();
    tokio::time::advance(2 * HUNG).await;
    drop(hung);
    let Some((error, true)) = failing(&health, &group()) else { panic!("it hung") };
    assert!(error.to_string().contains("no answer within 20"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_after_a_failed_connection_makes_no_outage_of_the_host() {
    let (slowly, other) = (Duration::from_secs(15), of("b", RequestKind::Blob));
    for stage in [ConnectStage::Timeout, ConnectStage::Head] {
        let health = health();
        fail(&health, Duration::ZERO).await;
        outcome(&health, group(), Err(failure(Party::Endpoint, stage)), slowly).await;
        assert!(!health.is_in_outage(&endpoint()), "{stage:?}: it had a connection");
        assert!(is_healthy(&health, &other) && failing(&health, &group()).is_some(), "{stage:?}");
    }
    let health = health();
    fail(&health, Duration::ZERO).await;
    let mut cancelled = health.track(&endpoint(), group());
    cancelled.start();
    tokio::time::advance(slowly).await;
    drop(cancelled);
    assert_eq!(
        failing(&health, &other),
        Some((refused().error, false)),
        "one caller's hang keeps others away"
    );
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_a_store_lacks_refuses_no_other_blob_of_its_repository() {
    let health = health();
    let blob = || of("a", RequestKind::Blob);
    let answer = |status| {
        let error = Error::ServerError { host: "cdn.test:443".into(), status, retry_after: None };
        Failure::new(error, Party::RedirectTarget)
    };
    for status in [400, 401, 403, 404, 410] {
        fail(&health, Duration::ZERO).await;
        outcome(&health, blob(), Err(answer(status)), Duration::from_secs(2)).await;
        assert!(is_healthy(&health, &blob()), "{status}");
    }
    for status in [408, 503] {
        outcome(&health, blob(), Err(answer(status)), Duration::from_secs(2)).await;
        assert!(failing(&health, &blob()).is_some(), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn pauses_between_repetitions_make_no_failure_slow() {
    let health = health();
    let mut request = health.track(&endpoint(), group());
    request.start();
    tokio::time::advance(2 * SLOW_FAILURE).await;
    request.repeat();
    request.finish(&Err::<(), _>(unwell()));
    assert_eq!(failing(&health, &group()), Some((unwell().error, false)));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_this_node_is_no_failure_of_an_endpoint() {
    let health = health();
    let not_asked =
        || Error::Overloaded { limit: NodeLimit::Names, host: "reg.test:443".into(), why: String::new() };
    let failure = Failure::new(not_asked(), Party::Endpoint);
    outcome(&health, group(), Err(failure), Duration::from_secs(2)).await;
    assert!(is_healthy(&health, &group()));
    fail(&health, Duration::ZERO).await;
    health.track(&endpoint(), group()).finish_probe(&Err::<(), _>(not_asked()));
    assert!(health.is_in_outage(&endpoint()), "no connection was opened either");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_gets_no_requests_is_not_reported_as_failing_for_ever() {
    let health = health();
    outcome(&health, of("b", RequestKind::Blob), Err(unwell()), Duration::ZERO).await;
    let [status] = &health.failing_endpoints()[..] else { panic!("once") };
    assert_eq!(status.repository.as_ref().map(ToString::to_string).as_deref(), Some("reg.test/b"));
    fail(&health, Duration::ZERO).await;
    tokio::time::advance(FORGOTTEN_AFTER / 2).await;
    fail(&health, Duration::ZERO).await;
    tokio::time::advance(FORGOTTEN_AFTER - PAUSE).await;
    let [status] = &health.failing_endpoints()[..] else { panic!("an hour has not passed") };
    assert_eq!(
        (status.last_request_ago, status.failing_for, &status.repository),
        (FORGOTTEN_AFTER - PAUSE, FORGOTTEN_AFTER + FORGOTTEN_AFTER / 2 - PAUSE, &None)
    );
    tokio::time::advance(PAUSE).await;
    assert!(health.failing_endpoints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn ever_new_failing_repositories_neither_grow_it_nor_hide_a_failing_host() {
    let health = health();
    let away = Endpoint::for_test("https://away.test");
    health.track(&away, group()).finish(&Err::<(), _>(refused()));
    for n in 0..2 * GROUPS_MAX {
        outcome(&health, of(&format!("r{n}"), RequestKind::Manifest), Err(unwell()), Duration::ZERO).await;
    }
    assert!(health.0.failing.lock().groups.len() <= GROUPS_MAX);
    assert!(health.failing_for(&away, &group()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_head_is_no_sign_that_the_body_comes_now_and_bodies_make_no_outage() {
    let (health, mine, other) = (health(), group(), of("b", RequestKind::Manifest));
    let body_of = |group: &RequestGroup| health.track(&endpoint(), group.clone()).body();
    body_of(&mine).stalled(&hangs().error);
    assert_eq!(failing(&health, &mine), Some((hangs().error, false)), "asked last, and never refused");
    assert!(is_healthy(&health, &other), "a neighbour");
    for _ in 0..3 {
        outcome(&health, mine.clone(), Ok(()), Duration::from_secs(1)).await;
        assert!(failing(&health, &mine).is_some(), "a head ends it");
    }
    body_of(&other).stalled(&hangs().error);
    assert!(failing(&health, &of("c", RequestKind::Manifest)).is_some(), "after the second");
    assert!(!health.is_in_outage(&endpoint()), "its heads come");

    tokio::time::advance(BODY_PAUSE).await;
    let Availability::RetryDue(retry) = health.admit(&endpoint(), &mine) else { panic!("it is time") };
    retry.tracked.finish(&Ok::<_, Failure>(()));
    assert!(failing(&health, &mine).is_some(), "a head that is not followed by a body");
    body_of(&mine).came();
    assert!(is_healthy(&health, &mine) && is_healthy(&health, &of("c", RequestKind::Manifest)));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_asks_to_be_left_alone_is_for_a_minute_at_most() {
    for (asked, is_over_after) in [(30, 34), (86_400, 67)] {
        let health = Health::new(Recorder::for_test());
        let retry_after = Some(Duration::from_secs(asked));
        let error = Error::ServerError { host: "reg.test:443".into(), status: 503, retry_after };
        assert!(!error.is_worth_a_retry());
        outcome(&health, group(), Err(Failure::new(error, Party::Endpoint)), Duration::ZERO).await;
        tokio::time::advance(Duration::from_secs(asked.min(60) - 1)).await;
        assert!(failing(&health, &group()).is_some_and(|(_, skip)| skip), "{asked}: it is asked meanwhile");
        tokio::time::advance(Duration::from_secs(is_over_after - (asked.min(60) - 1))).await;
        assert!(failing(&health, &group()).is_none(), "{asked}: one request finds out");
    }
}
