//! Metrics, probes and `/v1/status`, and the documents and rules that name metrics.

use http::StatusCode;

use crate::support::client;
use crate::support::image;
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_numbers_are_there_and_name_no_repository() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/hidden", "v1", 1_000);
    let layer = image.platforms[0].layers[0];
    for _ in 0..2 {
        larder.get(&format!("/v2/team/hidden/blobs/{layer}?ns=reg.test")).await;
        larder.settled().await;
    }
    larder.metric_becomes("larder_store_blobs", 1.0).await;
    registry.stop().await;
    for path in ["/livez", "/readyz"] {
        let reply = client::get(larder.admin, path).await;
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"ok\n"[..]), "whatever upstream does");
    }
    let status = client::get(larder.admin, "/v1/status").await;
    assert_eq!(status.json()["requests"]["hit"], 1);
    assert_eq!(status.json()["requests"]["fill"], 1);
    assert_eq!(status.json()["store"]["blobs"], 1);
    assert_eq!(status.json()["ready"], true);
    let metrics = client::get(larder.admin, "/metrics").await;
    for page in [status.body, metrics.body] {
        assert!(!String::from_utf8_lossy(&page).contains("hidden"));
    }
    assert_eq!(client::get(larder.admin, "/nope").await.status, StatusCode::NOT_FOUND);
    let rebound = [("host", "evil.com")];
    let reply = client::send(larder.admin, http::Method::GET, "/metrics", &rebound).await;
    assert_eq!(reply.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_does_not_grow_with_what_clients_ask_for() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let lines =
        || async { client::get(larder.admin, "/metrics").await.body.iter().filter(|b| **b == b'\n').count() };
    larder.get("/v2/a/manifests/v1?ns=r.invalid").await;
    let before = lines().await;
    for n in 0..50 {
        larder.get(&format!("/v2/a{n}/manifests/v{n}?ns=10.0.0.{n}")).await;
        larder.get(&format!("/v2/a{n}/manifests/v{n}?ns=host{n}")).await;
    }
    assert!(lines().await <= before + 4, "{} after {before}", lines().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_metrics_are_the_real_ones() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let documented: Vec<String> = include_str!("../../docs/metrics.md")
        .lines()
        .filter(|line| line.starts_with("| `larder_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            format!("{} {} {}", cells[1].trim_matches('`'), cells[2], cells[3].replace('`', ""))
        })
        .collect();
    let real: Vec<String> =
        larder.described.iter().map(|m| format!("{} {} {}", m.name, m.kind, m.labels.join(", "))).collect();
    assert_eq!(documented, real, "docs/metrics.md has one row a metric, sorted by name");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_are_about_metrics_that_exist() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let mut known: Vec<String> = larder.described.iter().map(|metric| metric.name.clone()).collect();
    // Of `larder doctor --metrics`, whose own test compares it with the alert.
    known.push("larder_runtime_leads_here".to_owned());
    for text in [include_str!("../../config/alerts.yaml"), include_str!("../../config/grafana/larder.json")] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("larder_")).collect();
        assert!(named.len() > 5);
        for name in named {
            let base =
                ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(known.iter().any(|known| known == base), "{name} is no metric of ours");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _larder = Larder::start(directory.path(), &[], "");
    let environment = larder::config::Environment {
        state_home: Some(directory.path().into()),
        ..larder::config::Environment::default()
    };
    let text = "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"";
    let settings = larder::config::resolve(text, &environment).unwrap();
    let second = larder::app::App::build(settings, larder::support::clock::Clock::system(), Vec::new());
    let error = second.err().unwrap().to_string();
    assert!(error.contains("in use by another larder"), "{error}");
}
