//! Metrics, probes and `/v1/status`, and the documents and rules that name metrics.

use std::path::Path;
use std::time::Duration;

use http::StatusCode;
use larder::admin::control;
use larder::reference::Digest;

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

/// The numbers of `/v1/status` about what was served.
async fn served(larder: &Larder) -> [u64; 5] {
    let status = client::get(larder.admin, "/v1/status").await.json();
    ["bytes", "from_upstream_bytes", "saved_bytes", "received_bytes", "unserved_bytes"]
        .map(|name| status["served"][name].as_u64().unwrap())
}

/// Waits until every blob of an image was asked of its registry and has arrived.
async fn fetched(larder: &Larder, registry: &FakeRegistry, image: &image::PlatformImage) {
    let asked = |blob: &Digest| registry.count(http::Method::GET, &blob.to_string()) > 0;
    for _ in 0..1_000 {
        if image.blobs().all(asked) {
            return larder.settled().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not everything was fetched ahead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_pull_saves_nothing_although_its_layers_were_fetched_ahead_of_the_runtime() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    let image = image::push(&registry, "team/app", "v1", 100_000);
    let platform = &image.platforms[0];
    let pull = async || {
        larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        larder.get(&format!("/v2/team/app/manifests/{}?ns=reg.test", platform.manifest)).await;
        for layer in platform.blobs() {
            assert!(larder.get(&format!("/v2/team/app/blobs/{layer}?ns=reg.test")).await.is_well());
            // What is fetched ahead is here before the client asks for it.
            fetched(&larder, &registry, platform).await;
        }
    };
    pull().await;
    let [bytes, from_upstream, saved, received, unserved] = served(&larder).await;
    assert!(
        larder.metric(r#"larder_served_bytes_total{source="hit"}"#).await > 0.0,
        "nothing was fetched ahead"
    );
    assert_eq!((saved, from_upstream), (0, bytes));
    assert_eq!((received, unserved), (bytes, 0));
    pull().await;
    let [again, from_upstream, saved, received, unserved] = served(&larder).await;
    assert_eq!((again, from_upstream, saved), (2 * bytes, bytes, bytes));
    // What is fetched ahead and never asked for was fetched in vain.
    let other = image::push(&registry, "team/other", "v1", 50_000);
    let first = &other.platforms[1];
    larder.get(&format!("/v2/team/other/manifests/{}?ns=reg.test", first.manifest)).await;
    larder.get(&format!("/v2/team/other/blobs/{}?ns=reg.test", first.layers[1])).await;
    fetched(&larder, &registry, first).await;
    let [all, now_from_upstream, now_saved, now_received, now_unserved] = served(&larder).await;
    assert_eq!((all, now_received), (now_from_upstream + now_saved, now_from_upstream + now_unserved));
    assert!(now_unserved > unserved && now_received > received && now_from_upstream > from_upstream);
    for (metric, value) in [
        ("larder_served_from_upstream_bytes_total", now_from_upstream),
        ("larder_saved_bytes_total", now_saved),
        ("larder_upstream_received_bytes_total{registry=\"reg.test\"}", now_received),
        ("larder_upstream_unserved_bytes", now_unserved),
    ] {
        assert_eq!(larder.metric(metric).await, value as f64, "{metric}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_draws_the_last_hour_and_day_and_loads_and_runs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let page = client::get(larder.admin, "/").await;
    let policy = page.header("content-security-policy").to_owned();
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert_eq!(html.matches("<svg ").count(), 6, "{html}");
    assert!(html.contains("The last hour") && html.contains("The last day"));
    for outside in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}: {html}");
    }
    assert!(policy.contains("default-src 'none'") && !policy.contains("script-src"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_a_client_mistyped_is_not_away_and_one_that_answered_before_is() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let url = format!("http://{}", registry.address);
    let larder = Larder::start(directory.path(), &[("reg.test", url)], "");
    image::push(&registry, "team/app", "v1", 1_000);
    larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    larder.get("/v2/team/app/manifests/v1?ns=mistyped.invalid").await;
    let away = async || {
        let status = client::get(larder.admin, "/v1/status").await.json();
        let page = client::get(larder.admin, "/metrics").await;
        let page = String::from_utf8(page.body.to_vec()).unwrap();
        let shown = page.lines().filter(|line| line.starts_with("larder_upstream_outage")).count();
        (status["outages"].as_u64().unwrap(), shown)
    };
    assert_eq!(away().await, (0, 0));
    registry.stop().await;
    larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!(away().await, (1, 1));
    let socket = directory.path().join("larder/larder.sock");
    let report = control::send(&socket, &control::GetReport {}).await.unwrap();
    assert_eq!(report.never_answered, ["mistyped.invalid"]);
    let named: Vec<&str> = report.registries.iter().map(|one| one.registry.as_str()).collect();
    assert_eq!(named, ["reg.test"], "a name that a client invented is no registry in trouble");
    registry.restart().await;
    larder.get("/v2/team/app/manifests/v1?ns=mistyped.invalid").await;
    assert!(larder.metric("larder_upstream_outage_start_timestamp_seconds{registry=\"other\"}").await == 0.0);
    for _ in 0..200 {
        larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
        if away().await == (0, 0) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("an outage that is over is shown for ever");
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
        .filter(|line| line.starts_with("| `larder_") || line.starts_with("| `process_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            format!("{} {} {}", cells[1].trim_matches('`'), cells[2], cells[3].replace('`', ""))
        })
        .collect();
    let real: Vec<String> =
        larder.described.iter().map(|m| format!("{} {} {}", m.name, m.kind, m.labels.join(", "))).collect();
    assert_eq!(documented, real, "docs/metrics.md has one row a metric, sorted by name");
}

/// Values come from enums: the next test finds those.
#[test]
fn no_value_of_a_label_is_written_where_it_is_counted() {
    let (mut directories, mut counted) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")], 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("with_label_values(&[").skip(1) {
                counted += 1;
                let values = rest.split(']').next().unwrap();
                assert!(!values.contains('"'), "{}: {values} is in no list of values", path.display());
            }
        }
    }
    assert!(counted > 5, "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_label_is_shown_that_an_operator_finds_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let row_of = |name: &str| {
        let begin = format!("| `{name}` |");
        include_str!("../../docs/metrics.md")
            .lines()
            .find(|line| line.starts_with(&begin))
            .unwrap_or_default()
    };
    let of_enums = larder.described.iter().filter(|metric| !metric.values.is_empty());
    let missing: Vec<String> = of_enums
        .clone()
        .flat_map(|metric| metric.values.iter().map(move |value| (&metric.name, value)))
        .filter(|(name, value)| !row_of(name).contains(&format!("`{value}`")))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    assert!(missing.is_empty(), "not in their rows of docs/metrics.md: {missing:?}");
    assert!(of_enums.count() > 5, "few metrics say which values they have");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_are_about_metrics_that_exist() {
    let directory = tempfile::tempdir().unwrap();
    let larder = Larder::start(directory.path(), &[], "");
    let mut known: Vec<String> = larder.described.iter().map(|metric| metric.name.clone()).collect();
    // Of `larder doctor --metrics`, whose own test compares them with the alerts.
    known.extend(["larder_runtime_leads_here", "larder_doctor_timestamp_seconds"].map(str::to_owned));
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
