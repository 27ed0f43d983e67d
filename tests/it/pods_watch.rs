//! The API server's watch under faults: what a source tells while a list, a watch or a credential program fails, and what a
//! daemon's gauge says. The source is run by itself where its limits of time have to be short.

use std::path::Path;
use std::time::Duration;

use larder::kubernetes::{ApiServer as Watching, AskError, Identity, PodEvent, PodSource, Waits};
use larder::support::shutdown::{self, Trigger};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::pods_world::{NODE, Node, WATCHING};
use crate::program::Program;
use crate::support::api_server::objects::Pod;
use crate::support::api_server::{ApiFault, ApiServer, Interjection};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
const SHORT: Waits =
    Waits { answer: Duration::from_millis(500), watch: Duration::from_secs(1), list_every: HOUR };
/// For answers that end, or not, by their size and not by a time.
const LONG: Waits =
    Waits { answer: Duration::from_secs(60), watch: Duration::from_secs(60), list_every: HOUR };
/// After this a test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A source, and what it tells.
pub(crate) struct Source {
    events: mpsc::Receiver<PodEvent>,
    task: JoinHandle<()>,
    _running: Trigger,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    fn new(kubeconfig: &Path, waits: Waits) -> Self {
        let source = Watching::new(Identity::Kubeconfig(kubeconfig.to_owned()), "n1".to_owned());
        let source = source.with_waits(waits);
        let (sender, events) = mpsc::channel(64);
        let (running, shutdown) = shutdown::channel();
        let task = tokio::spawn(async move { source.run(sender, shutdown).await });
        Self { events, task, _running: running }
    }

    pub(crate) async fn next(&mut self) -> PodEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("it tells something").unwrap()
    }

    /// Why it is lost; nothing but a list's beginning and pods comes before.
    pub(crate) async fn lost(&mut self) -> String {
        loop {
            match self.next().await {
                PodEvent::Lost(why) => return why,
                PodEvent::ListEnds | PodEvent::Resumed => panic!("it counts as connected"),
                _ => {}
            }
        }
    }

    /// Waits until it is connected; returns whether it was lost before.
    pub(crate) async fn connected(&mut self) -> bool {
        let mut was_lost = false;
        loop {
            match self.next().await {
                PodEvent::Lost(_) => was_lost = true,
                PodEvent::ListEnds | PodEvent::Resumed => return was_lost,
                _ => {}
            }
        }
    }
}

pub(crate) async fn scene(
    waits: Waits,
    before: impl FnOnce(&ApiServer),
) -> (ApiServer, tempfile::TempDir, Source) {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    before(&server);
    let source = Source::new(&identity.kubeconfig, waits);
    (server, directory, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_never_answered_is_told_and_asked_for_again() {
    let hang = |server: &ApiServer| server.wrong(|asked| asked.is_list_of_pods().then_some(ApiFault::Hang));
    let (server, _directory, mut source) = scene(SHORT, hang).await;
    assert!(source.lost().await.contains("no answer in time"));
    server.heal();
    source.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_never_begins_does_not_count_as_connected() {
    let hang = |server: &ApiServer| server.wrong(|asked| asked.is_watch().then_some(ApiFault::Hang));
    let (server, _directory, mut source) = scene(SHORT, hang).await;
    assert!(source.lost().await.contains("no answer in time"));
    server.heal();
    source.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_waited_for() {
    let late = |server: &ApiServer| server.wrong(|_| Some(ApiFault::Late(Duration::from_millis(600))));
    let waits = Waits { answer: Duration::from_secs(20), ..SHORT };
    let (_server, _directory, mut source) = scene(waits, late).await;
    assert!(!source.connected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_costs_no_more_than_its_bound_and_the_watch_goes_on_after_it() {
    for (code, is_watch) in [(200, false), (403, false), (500, true)] {
        let endless = move |server: &ApiServer| {
            server.wrong(move |asked| (asked.is_watch() == is_watch).then_some(ApiFault::Endless(code)));
        };
        let (server, _directory, mut source) = scene(LONG, endless).await;
        let why = source.lost().await;
        let bound = if code == 200 { "32768 KiB" } else { "64 KiB" };
        assert!(why.contains(&format!("is larger than {bound}")), "{code}: {why}");
        server.heal();
        source.connected().await;
    }
    let (server, _directory, mut source) = scene(LONG, |_| {}).await;
    source.connected().await;
    server.watched(1).await;
    assert!(server.interject(Interjection::Raw("x".repeat(5 << 20))));
    let why = source.lost().await;
    assert!(why.contains("is larger than"), "{why}");
    assert!(!source.connected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_without_end_is_as_one_that_cannot_be_read() {
    let node = Node::new().await.watching().await;
    node.server.wrong(|asked| asked.path.contains("/secrets/").then_some(ApiFault::Endless(200)));
    node.server.put_pod(Pod::new("shop", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("failed", 1).await;
    assert!(node.registry.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_is_given_up_and_told() {
    let page = |name: &str| {
        let pod = serde_json::Value::from(Pod::new("shop", name, "n1").image("reg.test/team/app:v1"));
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1000", "continue": "again"},
            "items": [pod]})
        .to_string()
    };
    let again = move |server: &ApiServer| {
        server.wrong(move |asked| asked.is_list_of_pods().then(|| ApiFault::Body(page("web"))));
    };
    let (server, _directory, mut source) = scene(LONG, again).await;
    assert!(source.lost().await.contains("more than 500 pages"));
    assert!(server.count(|asked| asked.is_list_of_pods()) >= 500);
    server.heal();
    source.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_dies_unseen_is_asked_for_again_and_misses_no_pod() {
    let (server, _directory, mut source) = scene(SHORT, |_| {}).await;
    source.connected().await;
    server.watched(1).await;
    assert!(server.interject(Interjection::Stall));
    server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/app:v1"));
    match source.next().await {
        PodEvent::Applied(pod) => assert_eq!(pod.full_name(), "shop/web"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.count(|asked| asked.is_list_of_pods()), 1, "it goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_in_trouble_is_not_asked_by_every_node_for_all_pods_out_of_etcd() {
    let (server, _directory, mut source) = scene(SHORT, |_| {}).await;
    source.connected().await;
    let troubles = [
        ApiFault::Status(500, "InternalError"),
        ApiFault::Status(429, "TooManyRequests"),
        ApiFault::Status(503, "ServiceUnavailable"),
        ApiFault::Status(401, "Unauthorized"),
        ApiFault::Hang,
    ];
    for (n, trouble) in troubles.into_iter().enumerate() {
        server.wrong(move |asked| asked.is_watch().then(|| trouble.clone()));
        server.interject(Interjection::End);
        source.lost().await;
        let name = format!("web{n}");
        server.put_pod(Pod::new("shop", &name, "n1").image("reg.test/team/app:v1"));
        server.heal();
        source.connected().await;
        loop {
            if matches!(source.next().await, PodEvent::Applied(pod) if pod.name == name) {
                break;
            }
        }
    }
    let lists: Vec<_> = server.asked().into_iter().filter(|asked| asked.is_list_of_pods()).collect();
    assert_eq!(lists.len(), 1, "the watch goes on from the version that it has seen: {lists:#?}");
    // As the API server's own memory answers it, by node.
    assert_eq!(lists[0].query.get("resourceVersion").map(String::as_str), Some("0"));
    assert!(!lists[0].query.contains_key("limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_busy_is_asked_once_and_says_when_again() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    for code in [429, 503] {
        server.wrong(move |_| Some(ApiFault::Status(code, "Busy")));
        let before = server.asked().len();
        let asking = Watching::new(Identity::Kubeconfig(identity.kubeconfig.clone()), "n1".to_owned());
        let error = asking.access(&[]).await.unwrap_err();
        assert_eq!(error == AskError::Busy(Duration::from_secs(2)), code == 429, "{error:?}");
        assert_eq!(server.asked().len() - before, 1, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_end_as_soon_as_they_begin_do_not_count_as_connected() {
    let (server, _directory, mut source) = scene(SHORT, |server| {
        server.wrong(|asked| asked.is_watch().then(|| ApiFault::Body(String::new())));
    })
    .await;
    assert!(!source.connected().await, "one may end");
    assert!(source.lost().await.contains("as soon as"));
    let watches = server.count(|asked| asked.is_watch());
    while server.count(|asked| asked.is_watch()) == watches {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(source.events.try_recv().is_err(), "it goes on to end at once");
    server.heal();
    assert!(!source.connected().await, "it was told that it is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_to_the_registries_is_not_the_way_to_the_api_server() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    let lines = format!("[kubernetes]\nkubeconfig = {:?}\nnode = \"n1\"\n", identity.kubeconfig);
    let proxy = [("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "10.0.0.0/8")];
    let program = Program::start_in(directory.path(), &lines, &proxy);
    program.wait_for("this node's pods are seen").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_comes_back_counts_before_the_next_pod_changes() {
    let node = Node::new().await.watching().await;
    node.server.watched(1).await;
    node.server.stop().await;
    node.larder.metric_becomes(WATCHING, 0.0).await;
    node.server.restart().await;
    node.larder.metric_becomes(WATCHING, 1.0).await;
    // A cut that is mended at once is no loss, and asks for no list.
    node.server.watched(1).await;
    let lists = node.server.count(|asked| asked.is_list_of_pods());
    let watches = node.server.count(|asked| asked.is_watch());
    assert!(node.server.interject(Interjection::CutInEvent));
    while node.server.count(|asked| asked.is_watch()) == watches {
        assert_eq!(node.larder.metric(WATCHING).await, 1.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(node.server.count(|asked| asked.is_list_of_pods()), lists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_program_gives_the_identity_and_its_secrets_are_in_no_text() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    server.know_token("marker-token", NODE);
    let kubeconfig = |script: &str| {
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", script],
            "env": [{"name": "TOKEN", "value": "marker-token"}], "interactiveMode": "IfAvailable"});
        server.authorities.with_program(directory.path(), &server.url(), &exec.to_string())
    };
    for script in ["echo \"$TOKEN\"; exit 1", "echo \"{\\\"status\\\": $TOKEN}\""] {
        let mut source = Source::new(&kubeconfig(script), SHORT);
        let why = source.lost().await;
        assert!(why.contains("credential program") && !why.contains("marker"), "{why}");
    }
    let file = kubeconfig("printf '{\"status\":{\"token\":\"%s\"}}' \"$TOKEN\"");
    assert!(!Source::new(&file, SHORT).connected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_asked_for_without_a_secret_that_may_not_be_read() {
    for (code, reason) in [(403, "Forbidden"), (401, "Unauthorized")] {
        let node = Node::new().await.watching().await;
        crate::support::image::push(&node.registry, "team/app", "v1", 1_000);
        node.server
            .wrong(move |asked| asked.path.contains("/secrets/").then_some(ApiFault::Status(code, reason)));
        node.server.put_pod(Pod::new("shop", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
        node.ended("failed", 1).await;
        assert!(node.registry.seen().is_empty(), "{code}: {:#?}", node.registry.seen());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_a_proxy_holds_up_is_found_by_a_check_although_the_rights_are_there() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    server.put_pod(Pod::new("shop", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    let asking = Watching::new(Identity::Kubeconfig(identity.kubeconfig), "n1".to_owned()).with_waits(SHORT);
    let access = asking.access(&[]).await.unwrap();
    assert_eq!((access.pods, access.no_watch), (Ok(1), None));
    assert_eq!((access.secret, access.account), (Some(("shop/pull".to_owned(), true)), None));
    server.wrong(|asked| asked.is_watch().then_some(ApiFault::Hang));
    let access = asking.access(&[]).await.unwrap();
    assert!(access.no_watch.unwrap().contains("no answer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_node_may_not_request_are_found_by_a_check() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/app:v1"));
    server.allow_audience("granted");
    let audiences = ["granted".to_owned(), "other".to_owned()];
    let asking = Watching::new(Identity::Kubeconfig(identity.kubeconfig), "n1".to_owned());
    let account = asking.access(&audiences).await.unwrap().account.unwrap();
    assert_eq!(
        (account.account.as_str(), account.may_read, account.may_request),
        ("shop/default", true, true)
    );
    assert_eq!(account.not_granted, ["other"]);
    // A service account that may watch pods and no more.
    let token = directory.path().join("token");
    std::fs::write(&token, "sa-token").unwrap();
    server.know_token("sa-token", "larder");
    for (verb, resource) in [("list", "pods"), ("watch", "pods")] {
        server.allow("larder", verb, resource);
    }
    let kubeconfig = server.authorities.with_token_file(directory.path(), &server.url(), &token);
    let asking = Watching::new(Identity::Kubeconfig(kubeconfig), "n1".to_owned());
    let account = asking.access(&audiences).await.unwrap().account.unwrap();
    assert!(!account.may_read && !account.may_request);
}
