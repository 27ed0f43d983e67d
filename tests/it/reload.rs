//! SIGHUP: settings that a running daemon applies, and settings that it names because they need a restart.

use std::path::Path;

use http::Method;

use super::program::Program;
use super::transport::{Authority, front};
use crate::support::client::{self, Reply};
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::secret_file;

const TAKEN: &str = "the configuration was read again";
const KEPT: &str = "the configuration is not read again";

/// `reg.test` at `url`, with more lines about it.
fn registry(url: &str, more: &str) -> String {
    format!(
        "[freshness]\nnegative_ttl = \"0s\"\n[[registry]]\nhost = \"reg.test\"\nendpoints = [{url:?}]\n{more}\n"
    )
}

impl Program {
    async fn pull(&self, repository: &str) -> Reply {
        let path = format!("/v2/{repository}/manifests/v1?ns=reg.test");
        client::send(self.address, Method::GET, &path, &[client::ANONYMOUS]).await
    }

    async fn ping(&self, key: &str) -> u16 {
        let headers = [("X-Node-Key", key), client::ANONYMOUS];
        client::send(self.address, Method::GET, "/v2/", &headers).await.status.as_u16()
    }
}

async fn registry_with(repository: &str) -> (FakeRegistry, Image) {
    let registry = FakeRegistry::start().await;
    let image = image::push(&registry, repository, "v1", 1_000);
    (registry, image)
}

fn gate(file: &Path) -> String {
    format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = {file:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_gate_secret_locks_out_clients_with_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate");
    secret_file(&file, "the-first-value-of-it\n");
    let program = Program::start(directory.path(), &gate(&file));
    assert_eq!(program.ping("the-first-value-of-it").await, 200);
    secret_file(&file, "the-second-value-of-it\n");
    let said = program.reload(TAKEN).await;
    assert!(
        said.contains("WARN") && said.contains("larder setup"),
        "runtimes are refused without a word: {said}"
    );
    assert_eq!(program.ping("the-second-value-of-it").await, 200);
    assert_eq!(program.ping("the-first-value-of-it").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_moved_is_asked_where_it_is_now() {
    let (old, new) = (registry_with("team/app").await, registry_with("team/new").await);
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), &registry(&old.0.url(), ""));
    assert_eq!(program.pull("team/new").await.status, 404);
    program.write(&registry(&new.0.url(), ""));
    program.reload(TAKEN).await;
    assert_eq!(program.pull("team/new").await.body, new.1.index_bytes);
    old.0.forget_seen();
    assert_eq!(program.pull("team/other").await.status, 404);
    assert!(old.0.seen().is_empty(), "the old place is asked nothing any more");
    let metrics = client::get(program.admin, "/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let is_shown = |registry: &FakeRegistry| {
        metrics.lines().any(|line| {
            line.starts_with("larder_upstream_endpoint_up") && line.contains(&registry.address.to_string())
        })
    };
    assert_eq!((is_shown(&old.0), is_shown(&new.0)), (false, true), "no alert about a place that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_authority_in_the_same_file_is_trusted_and_the_old_one_is_not() {
    let (behind, image) = registry_with("team/app").await;
    let (old, new) = (Authority::new(), Authority::new());
    let front = front(behind.address, new.server("localhost", None)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, old.pem()).unwrap();
    let url = format!("https://localhost:{}", front.port());
    let program = Program::start(directory.path(), &registry(&url, &format!("ca = {file:?}")));
    assert_eq!(program.pull("team/app").await.status, 503);
    std::fs::write(&file, new.pem()).unwrap();
    program.reload(TAKEN).await;
    // The endpoint failed, and is not asked for a moment.
    let mut reply = program.pull("team/app").await;
    for _ in 0..100 {
        if reply.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        reply = program.pull("team/app").await;
    }
    assert_eq!(reply.body, image.index_bytes, "{:?}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_nodes_credentials_is_used_from_the_next_pull() {
    let (upstream, image) = registry_with("node/app").await;
    upstream.know(Accounts::new(&[("node", "secret-node", &["node/app"])]));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let basic = client::basic("node", "secret-node");
    let entry =
        format!(r#"{{"auths": {{"reg.test": {{"auth": "{}"}}}}}}"#, basic.trim_start_matches("Basic "));
    std::fs::write(&file, entry).unwrap();
    let lines = registry(&upstream.url(), "");
    let program = Program::start(directory.path(), &format!("[credentials]\nnode = []\n{lines}"));
    assert_ne!(program.pull("node/app").await.status, 200);
    program.write(&format!("[credentials]\nnode = [{file:?}]\n{lines}"));
    program.reload(TAKEN).await;
    assert_eq!(program.pull("node/app").await.body, image.index_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_not_valid_changes_nothing() {
    let ((old, image), directory) = (registry_with("team/app").await, tempfile::tempdir().unwrap());
    let file = directory.path().join("gate");
    secret_file(&file, "the-first-value-of-it\n");
    let good = |url: &str, more: &str| format!("{}{}", gate(&file), registry(url, more));
    let program = Program::start(directory.path(), &good(&old.url(), ""));
    secret_file(&file, "the-second-value-of-it\n");
    let elsewhere = "http://127.0.0.1:1";
    for (broken, named) in [
        (format!("{}nonsense = [", good(elsewhere, "")), "line "),
        (good(elsewhere, "nonsense = 1"), "nonsense"),
        (good(elsewhere, "ca = \"/nonexistent/ca.pem\""), "/nonexistent/ca.pem"),
        (
            format!(
                "[credentials]\nprovider_config = \"/nonexistent/p.yaml\"\nprovider_bin_dir = \"/\"\n{}",
                good(elsewhere, "")
            ),
            "/nonexistent/p.yaml",
        ),
    ] {
        program.write(&broken);
        let said = program.reload(KEPT).await;
        assert!(said.contains(named), "{named} is not in {said}");
        let headers = [("X-Node-Key", "the-first-value-of-it"), client::ANONYMOUS];
        let path = "/v2/team/app/manifests/v1?ns=reg.test";
        old.forget_seen();
        let reply = client::send(program.address, Method::GET, path, &headers).await;
        assert_eq!(reply.body, image.index_bytes, "after {named}");
        // What is cached would be served in an outage of the wrong place too.
        assert_eq!(old.count(Method::HEAD, "/manifests/v1"), 1, "the old place is asked after {named}");
    }
    secret_file(&file, "short");
    program.write(&good(&old.url(), ""));
    assert!(program.reload(KEPT).await.contains("gate_file"));
    assert_eq!(program.ping("the-first-value-of-it").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freshness_rule_that_was_added_or_removed_counts_from_the_next_pull() {
    let (upstream, image) = registry_with("team/app").await;
    let directory = tempfile::tempdir().unwrap();
    let rule = "[[freshness.rule]]\nmatch = \"reg.test/**/*:v1\"\ntag_ttl = \"immutable\"\n";
    let lines = registry(&upstream.url(), "");
    let program = Program::start(directory.path(), &lines);
    let mut questions = Vec::new();
    for lines in [&lines, &format!("{lines}{rule}"), &lines] {
        program.write(lines);
        program.reload(TAKEN).await;
        // The first pull may still ask upstream.
        assert_eq!(program.pull("team/app").await.body, image.index_bytes);
        upstream.forget_seen();
        assert_eq!(program.pull("team/app").await.body, image.index_bytes);
        questions.push(upstream.count(Method::HEAD, "/manifests/v1"));
    }
    assert_eq!(questions, [1, 0, 1], "upstream is asked at every pull, but not for a tag that never moves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_needs_a_restart_is_named_each_time_until_it_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), "[log]\nlevel = \"info\"\n");
    let others = "[server]\nhosts = [\"cache.test\"]\n[log]\nlevel = \"debug\"\n";
    program.write(others);
    let said = program.reload(TAKEN).await;
    assert!(said.contains("[server] hosts") && said.contains("counts from the next start"), "{said}");
    assert!(said.contains("[log] level"), "what was applied is named too: {said}");
    assert!(!said.contains("[server] listen"), "what is as before is not named: {said}");
    // The level counts at once.
    program.pull("team/app").await;
    program.wait_for(" DEBUG ").await;
    let said = program.reload(TAKEN).await;
    assert!(said.contains("[server] hosts") && !said.contains("[log] level"), "{said}");
    program.write("[log]\nlevel = \"info\"\n");
    let said = program.reload(TAKEN).await;
    assert!(!said.contains("hosts"), "{said}");
    assert_eq!(program.ping("").await, 200, "it goes on where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_changed_is_named_and_the_old_one_stays_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), "");
    program.write("[server]\nlisten = [\"127.0.0.1:1\"]\n");
    let said = program.reload(TAKEN).await;
    assert!(said.contains("[server] listen") && said.contains("counts from the next start"), "{said}");
    assert_eq!(program.ping("").await, 200);
}
