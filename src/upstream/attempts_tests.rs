//! Endpoints in order, retries and the time limit, over a transport that answers what the test says.

use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;
use tokio::time::Instant;

use super::*;
use crate::support::live::Live;
use crate::upstream::config::{Config, EndpointConfig, RegistryConfig};
use crate::upstream::one_endpoint::HEAD_ALONE;
use crate::upstream::request::{AuthContext, Need};
use crate::upstream::transport::scripted::{Outcome, Scripted, SentRequest, respond, status};

const PROOF: Need = Need::Proof { token_age_max: Duration::ZERO };

/// A mirror, and then the registry itself.
fn config() -> Config {
    let urls = ["https://mirror.example.net", "https://reg.example.com"];
    let endpoints = urls.iter().map(|url| EndpointConfig::from(url.parse::<url::Url>().unwrap())).collect();
    let entry = RegistryConfig { endpoints, ..RegistryConfig::default() };
    Config { registries: [("reg.example.com".parse().unwrap(), entry)].into(), ..Config::default() }
}

struct World {
    transport: Arc<Scripted>,
    attempts: Attempts,
}

impl World {
    fn new(respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static) -> Self {
        Self::of(config(), respond)
    }

    fn of(config: Config, respond: impl Fn(&SentRequest) -> Outcome + Send + Sync + 'static) -> Self {
        let (transport, configured) = Scripted::new(config, respond);
        let configured = Live::new(configured);
        let recorder = Recorder::for_test();
        let attempts = Attempts {
            exchange: Arc::new(Exchange::for_test(configured.clone())),
            health: Health::new(recorder.clone()),
            avoided: AvoidedEndpoints::new(recorder.clone()),
            endpoints: Endpoints::new(configured),
            recorder,
            tasks: Tasks::default(),
        };
        Self { transport, attempts }
    }

    /// Requests a tag; returns the host that answered.
    async fn request(&self, need: Need) -> Result<String, Error> {
        self.request_as(AuthContext { need, ..AuthContext::for_test(None) }, "a").await
    }

    /// The same for a client that cannot ask the registry itself.
    async fn patient_request(&self) -> Result<String, Error> {
        self.request_as(AuthContext { patience: Patience::Wait, ..AuthContext::for_test(None) }, "a").await
    }

    async fn request_as(&self, auth: AuthContext, repository: &str) -> Result<String, Error> {
        let repository = format!("reg.example.com/{repository}").parse().unwrap();
        let tag: crate::reference::Tag = "latest".parse().unwrap();
        let request = RegistryRequest::manifest(Method::GET, &repository, &tag.into(), &auth);
        let host = |response: RegistryResponse| std::future::ready(Ok(response.answer.host));
        self.attempts.send_and_read(&request, host).await.map(|allowed| allowed.value)
    }

    /// How often each endpoint got a request: the mirror, and the registry.
    fn counts(&self) -> (usize, usize) {
        let sent = self.transport.sent();
        let of = |host: &str| sent.iter().filter(|request| request.host == host).count();
        (of("mirror.example.net:443"), of("reg.example.com:443"))
    }
}

fn is_mirror(request: &SentRequest) -> bool {
    request.host == "mirror.example.net:443"
}

#[tokio::test(start_paused = true)]
async fn the_next_endpoint_answers_and_a_failing_one_is_probed_before_it_is_used_again() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let world = World::new(move |request| {
        if is_mirror(request) && is_down.load(Ordering::SeqCst) { Outcome::Unreachable } else { status(200) }
    });
    assert_eq!(world.patient_request().await.unwrap(), "reg.example.com:443");
    assert_eq!(world.counts(), (1 + RETRIES_MAX as usize, 1), "the mirror may only have had bad luck");
    assert_eq!(world.patient_request().await.unwrap(), "reg.example.com:443");
    assert_eq!(
        world.counts(),
        (1 + RETRIES_MAX as usize, 2),
        "every request finds out that the mirror is down"
    );

    down.store(false, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        world.patient_request().await.unwrap(),
        "reg.example.com:443",
        "a request waits for the probe"
    );
    assert_eq!(world.attempts.tasks.finish(Duration::from_secs(1)).await, 0);
    assert_eq!(world.patient_request().await.unwrap(), "mirror.example.net:443");
}

/// As after a cut of the node's network.
#[tokio::test(start_paused = true)]
async fn a_registry_behind_a_mirror_that_is_back_is_probed_although_the_mirror_answers() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let world =
        World::new(move |_| if is_down.load(Ordering::SeqCst) { Outcome::Unreachable } else { status(200) });
    world.request(Need::Delivery).await.unwrap_err();
    down.store(false, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(world.request(Need::Delivery).await.unwrap(), "mirror.example.net:443");
    assert_eq!(world.attempts.tasks.finish(Duration::from_secs(1)).await, 0);
    assert_eq!(world.counts(), (2, 2), "the registry is put off once more");
}

#[tokio::test(start_paused = true)]
async fn a_mirror_proves_nothing() {
    let world = World::new(|_| status(200));
    assert_eq!(world.request(Need::Delivery).await.unwrap(), "mirror.example.net:443");
    assert_eq!(
        world.request(Need::Proof { token_age_max: Duration::from_secs(60) }).await.unwrap(),
        "reg.example.com:443"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_mirror_does_not_undo_the_registrys_denial() {
    let down = AtomicBool::new(false);
    let world = World::new(move |request| match is_mirror(request) {
        true if !down.swap(true, Ordering::SeqCst) => status(503),
        true => Outcome::Unreachable,
        false => status(403),
    });
    for _ in 0..2 {
        let error = world.request(Need::Delivery).await.unwrap_err();
        assert!(error.revokes_access(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_lacks_it_makes_no_denial_of_the_registrys_outage() {
    for order in [[0, 1], [1, 0]] {
        let mut config = config();
        let entry = config.registries.values_mut().next().unwrap();
        entry.endpoints = order.map(|n| entry.endpoints[n].clone()).to_vec();
        let world = World::of(config, |request| if is_mirror(request) { status(404) } else { status(503) });
        for _ in 0..2 {
            let error = world.request(Need::Delivery).await.unwrap_err();
            assert!(matches!(error, Error::ServerError { .. }), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_429_the_registry_gets_no_request_before_its_time() {
    let world =
        World::new(
            |request| {
                if is_mirror(request) { status(404) } else { respond(429, &[("retry-after", "30")], "") }
            },
        );
    for _ in 0..3 {
        let error = world.request(Need::Delivery).await.unwrap_err();
        let Error::RateLimited { retry_after: Some(wait), .. } = &error else { panic!("{error}") };
        assert!((30..=33).contains(&wait.as_secs()), "{wait:?}");
    }
    assert_eq!(world.counts(), (3, 1));
    tokio::time::advance(Duration::from_secs(34)).await;
    world.request(Need::Delivery).await.unwrap_err();
    assert_eq!(world.counts(), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_does_not_hold_a_caller_longer_than_its_runtime_waits() {
    let world = World::new(|_| Outcome::Hang);
    let start = Instant::now();
    let error = world.request(Need::Delivery).await.unwrap_err();
    assert!(error.is_outage() && start.elapsed() == RESPONSE_WAIT, "{error} after {:?}", start.elapsed());
    let failing = world.attempts.health.failing_endpoints();
    assert_eq!(failing.len(), 1, "a request that ran out of time says nothing of its endpoint");
}

#[tokio::test(start_paused = true)]
async fn a_failing_registry_gets_few_requests_and_none_is_repeated() {
    let world = World::new(|_| Outcome::Unreachable);
    for _ in 0..100 {
        world.request(Need::Delivery).await.unwrap_err();
    }
    let (mirror, registry) = world.counts();
    assert!(mirror < 20 && registry < 20, "{mirror} and {registry} requests in a moment");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_gone_for_a_moment_fails_no_pull_that_cannot_go_elsewhere() {
    let back_at = Instant::now() + Duration::from_millis(1_500);
    let respond = move |_: &SentRequest| {
        if Instant::now() < back_at { Outcome::Unreachable } else { status(200) }
    };
    let world = World::new(respond);
    let error = world.request(Need::Delivery).await.unwrap_err();
    assert!(error.is_refused_connection() && Instant::now() < back_at - Duration::from_secs(1), "{error}");
    assert_eq!(world.counts(), (1, 1), "a client that asks the registry itself is sent there at once");
    world.patient_request().await.unwrap();
    assert!(Instant::now() < back_at + Duration::from_secs(5));
}

/// How a registry is gone that is not only not there.
const GONE: [fn() -> Outcome; 5] = [
    || Outcome::Fails(ConnectStage::Head, "reset"),
    || Outcome::Fails(ConnectStage::Dns, "Temporary failure in name resolution"),
    || status(502),
    || status(503),
    || status(504),
];

#[tokio::test(start_paused = true)]
async fn however_a_registry_is_gone_for_a_moment_no_pull_fails_and_it_gets_few_requests() {
    for (n, gone) in GONE.into_iter().enumerate() {
        let begun = Instant::now();
        let back_at = begun + Duration::from_millis(1_500);
        let world = World::new(move |_| if Instant::now() < back_at { gone() } else { status(200) });
        world.request(Need::Delivery).await.unwrap_err();
        assert!(
            Instant::now() < back_at,
            "{n}: a client that asks the registry itself is sent there at once"
        );
        world.patient_request().await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "{n}: {:?}", begun.elapsed());

        let world = World::new(move |_| gone());
        let begun = Instant::now();
        world.patient_request().await.unwrap_err();
        assert!(begun.elapsed() < RESPONSE_WAIT, "{n}: {:?}", begun.elapsed());
        assert!(world.counts().1 <= 8, "{n}: {:?}", world.counts());
        while begun.elapsed() < RESPONSE_WAIT + Duration::from_secs(2) {
            world.patient_request().await.unwrap_err();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let begun = Instant::now();
        world.patient_request().await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(1), "{n}: every request of an outage is waited with");
    }
}

#[tokio::test(start_paused = true)]
async fn a_moment_without_descriptors_fails_no_pull_and_a_longer_one_is_no_outage() {
    let begun = Instant::now();
    let world = World::new(move |_| {
        if begun.elapsed() < Duration::from_millis(1_500) { Outcome::NodeIsShort } else { status(200) }
    });
    let error = world.request(Need::Delivery).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "a client that can wait for it itself is told at once");
    assert!(error.is_overloaded() && !error.is_outage(), "{error}");
    world.patient_request().await.unwrap();

    let world = World::new(|_| Outcome::NodeIsShort);
    let error = world.patient_request().await.unwrap_err();
    assert!(error.is_overloaded() && !error.is_outage(), "{error}");
    assert!(world.counts().1 <= 8, "{:?}", world.counts());
}

#[tokio::test(start_paused = true)]
async fn what_a_registry_answers_is_not_asked_again_and_again() {
    let unknown_name = || Outcome::Fails(ConnectStage::Dns, "Name or service not known");
    for code in [0, 400, 403, 404, 500, 501] {
        let world = World::new(move |_| if code == 0 { unknown_name() } else { status(code) });
        let begun = Instant::now();
        world.patient_request().await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(2), "{code}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_stays_away_is_waited_for_once_and_with_few_requests() {
    let world = World::new(|_| Outcome::Unreachable);
    let begun = Instant::now();
    let error = world.patient_request().await.unwrap_err();
    assert!(error.is_refused_connection(), "{error}");
    let waited = begun.elapsed();
    assert!(waited > RESPONSE_WAIT / 2 && waited < RESPONSE_WAIT, "{waited:?}");
    assert!(world.counts().1 < 20, "{:?}", world.counts());
    tokio::time::advance(RESPONSE_WAIT).await;
    let begun = Instant::now();
    world.patient_request().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "every request of an outage is waited with");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_failed_long_ago_is_waited_for_when_it_is_gone_for_a_moment() {
    let begun = Instant::now();
    let back_after = Duration::from_millis(3_601_500);
    let world =
        World::new(move |_| if begun.elapsed() < back_after { Outcome::Unreachable } else { status(200) });
    world.request(Need::Delivery).await.unwrap_err();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let (first, second) = tokio::join!(world.patient_request(), world.patient_request());
    assert!(first.is_ok() && second.is_ok(), "{first:?} and {second:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_whose_head_hangs_does_not_fail_every_other_question_for_ever() {
    let world = World::new(|request| match request.method {
        Method::HEAD => Outcome::TimedOut,
        _ => status(200),
    });
    let (repository, auth) = ("reg.example.com/a".parse().unwrap(), AuthContext::for_test(None));
    let tag: crate::reference::Tag = "latest".parse().unwrap();
    let request = RegistryRequest::manifest(Method::HEAD, &repository, &tag.into(), &auth);
    for _ in 0..10 {
        // Every retry is due.
        tokio::time::advance(Duration::from_secs(9)).await;
        let host = |response: RegistryResponse| std::future::ready(Ok(response.answer.host));
        let _either = world.attempts.send_and_read(&request, host).await;
        world.attempts.tasks.finish(Duration::ZERO).await;
    }
    let heads = world.transport.sent().iter().filter(|sent| sent.method == Method::HEAD).count();
    assert_eq!(heads, 4, "two for each endpoint, and then an hour of GETs");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_hangs_is_followed_by_get_while_the_client_still_waits_and_is_then_left_out() {
    let world = World::of(Config::default(), |request| match request.method {
        Method::HEAD => Outcome::Hang,
        _ => status(200),
    });
    let (repository, auth) = ("reg.example.com/a".parse().unwrap(), AuthContext::for_test(None));
    let tag: crate::reference::Tag = "latest".parse().unwrap();
    let request = RegistryRequest::manifest(Method::HEAD, &repository, &tag.into(), &auth);
    for waited in [HEAD_ALONE, Duration::ZERO] {
        let begun = Instant::now();
        let host = |response: RegistryResponse| std::future::ready(Ok(response.answer.host));
        world.attempts.send_and_read(&request, host).await.unwrap();
        assert_eq!(begun.elapsed(), waited);
    }
    let heads = world.transport.sent().iter().filter(|sent| sent.method == Method::HEAD).count();
    assert_eq!(heads, 1);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_hangs_on_content_is_waited_for_once_by_a_repository_and_twice_by_all() {
    let world = World::new(|request| {
        let is_content = !request.url.ends_with("/v2/");
        if is_mirror(request) && is_content { Outcome::Hang } else { status(200) }
    });
    for (repository, waits) in
        [("a", true), ("a", false), ("b", true), ("a", false), ("b", false), ("c", false)]
    {
        // The mirror answers the version check, and every retry is due.
        tokio::time::advance(Duration::from_secs(9)).await;
        let begun = Instant::now();
        let request = world.request_as(AuthContext::for_test(None), repository);
        let answer = tokio::time::timeout(Duration::from_secs(15), request).await;
        assert_eq!(answer.is_err(), waits, "{repository} after {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_target_that_limits_requests_holds_back_no_other_repository() {
    let world = World::new(|request| match request.host.as_str() {
        "cdn.example.net:443" => respond(429, &[("retry-after", "60")], ""),
        _ if request.url.contains("/a/") => respond(307, &[("location", "https://cdn.example.net/x")], ""),
        _ => status(200),
    });
    for _ in 0..2 {
        let error = world.request(PROOF).await.unwrap_err();
        assert!(matches!(error, Error::RateLimited { .. }), "{error}");
    }
    assert_eq!(world.counts(), (0, 1), "the question itself is held back");
    let auth = AuthContext { need: PROOF, ..AuthContext::for_test(None) };
    world.request_as(auth, "b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_a_host_of_250_kib_leaves_no_such_text_in_an_error_or_in_what_is_known_of_endpoints() {
    let location = format!("https://{}.example/x", "a".repeat(250_000));
    let world = World::new(move |request| match request.host.as_str() {
        "mirror.example.net:443" | "reg.example.com:443" => respond(302, &[("location", &location)], ""),
        _ => Outcome::Unreachable,
    });
    let error = world.request(Need::Delivery).await.unwrap_err();
    assert!(format!("{error:?}").len() < 1_000, "{} bytes", format!("{error:?}").len());
    let kept = format!("{:?}", world.attempts.health.failing_endpoints());
    assert!(kept.len() < 4_000, "{} bytes are kept", kept.len());
    assert!(world.transport.sent().iter().all(|sent| sent.host.len() < 100), "such a host was asked");
}
