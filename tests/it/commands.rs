//! docs/commands.md has every field that the commands print as JSON; the Kubernetes manifests can be read.

use larder::admin::control::{Collected, ImageRow, Removed, Revoked, Unpinned};
use larder::admin::{
    AccessOutlook, CachedOutlook, CredentialOutlook, DaemonStatus, EndpointOutlook, EndpointReport,
    Explanation, FreshnessOutlook, PlatformOutlook, RateLimitReport, RegistryReport, RightOutlook,
    ServedStatus, StatusReport, StoreStatus, TierOutlook,
};
use larder::kubernetes::{PodNumbers, PodOutlook, PodsStatus, SourceStatus};
use larder::prepull::{BlobState, Event, ListStatus, Summary};
use larder::serve::RecentRequest;
use larder::support::clock::Timestamp;
use larder::tier::{TierStatus, TierTrouble};
use serde_json::Value;

/// Every field name in a document, without the keys of maps whose keys are data.
fn fields(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.push(key.clone());
                if !matches!(key.as_str(), "requests" | "bytes_by_source") {
                    fields(value, found);
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

fn store() -> StoreStatus {
    StoreStatus {
        blobs: 1,
        bytes: 1,
        max_bytes: Some(1),
        free_bytes: Some(1),
        capacity_bytes: Some(1),
        lacks_inodes: false,
        caching: true,
        write_failure: None,
        disk_failing: false,
        disk_hanging: false,
        pins: 1,
    }
}

fn list_status(summary: Summary) -> ListStatus {
    let text = String::new;
    ListStatus {
        images: 1,
        running: false,
        finished_at: Some(Timestamp(1)),
        summary,
        failed: vec![(text(), text())],
        problem: Some(text()),
    }
}

fn pod_sources() -> PodsStatus {
    let text = String::new;
    PodsStatus {
        sources: vec![SourceStatus { name: text(), connected: false, problem: Some(text()) }],
        failed: vec![(text(), text())],
        unused: vec![text()],
        runtime_problem: Some(text()),
    }
}

fn explanation() -> Explanation {
    let text = String::new;
    let rate_limit = RateLimitReport {
        repository: None,
        principal: text(),
        limit: Some(1),
        remaining: Some(1),
        retry_after_seconds: Some(1),
    };
    let request = RecentRequest {
        at: Timestamp(1),
        request: 1,
        client: text(),
        user: Some(0),
        method: text(),
        reference: Some(text()),
        status: Some(200),
        ended: text(),
        source: Some(text()),
        upstream: vec![text()],
        download: Some(1),
        bytes: 1,
        duration_ms: 1,
        reason: Some(text()),
    };
    let right = RightOutlook {
        whose: text(),
        proved_at: Timestamp(1),
        fresh: true,
        holds_in_outage: true,
        usable: true,
    };
    Explanation {
        rate_limits: vec![rate_limit],
        endpoints: vec![EndpointOutlook::default()],
        credentials: vec![CredentialOutlook::default()],
        access: AccessOutlook { rights: vec![right], ..AccessOutlook::default() },
        cached: Some(CachedOutlook {
            platforms: vec![PlatformOutlook::default()],
            ..CachedOutlook::default()
        }),
        tier: Some(TierOutlook::default()),
        freshness: Some(FreshnessOutlook::default()),
        pods: vec![PodOutlook { pod: text(), pull_secrets: vec![text()], state: text() }],
        recent: vec![request],
        ..Explanation::default()
    }
}

fn tier() -> TierStatus {
    let trouble = || Some(TierTrouble { kind: String::new(), seconds: 1 });
    TierStatus {
        reads: true,
        writes: true,
        hits: 1,
        misses: 1,
        read_bytes: 1,
        written: 1,
        written_bytes: 1,
        bad_objects: 1,
        reading_fails: trouble(),
        writing_fails: trouble(),
    }
}

fn registry() -> RegistryReport {
    let text = String::new;
    let endpoint = EndpointReport {
        endpoint: text(),
        error: text(),
        failures: 1,
        failing_seconds: 1,
        last_request_seconds_ago: 1,
    };
    let (limit, remaining, retry_after_seconds) = (Some(1), Some(1), Some(1));
    RegistryReport {
        registry: text(),
        outage_since: Some(Timestamp(1)),
        endpoints: vec![endpoint],
        rate_limits: vec![RateLimitReport {
            principal: text(),
            repository: Some(text()),
            limit,
            remaining,
            retry_after_seconds,
        }],
        messages: vec![text()],
    }
}

fn samples() -> Vec<Value> {
    let text = String::new;
    let summary = Summary { pulled: 1, failed: 0, bytes: 1, shared_bytes: 0, fetched_bytes: 1 };
    let registry = registry();
    let numbers = DaemonStatus {
        version: text(),
        uptime_seconds: 1,
        ready: true,
        store: store(),
        served: ServedStatus::new(&[(larder::pull::AnswerSource::Hit, 1)], 0, 0),
        downloads: 0,
        requests: [("hit".to_owned(), 1)].into(),
        outages: 0,
        pods: Some(PodNumbers::default()),
        tier: Some(tier()),
    };
    let prepull = list_status(summary);
    let events = [
        Event::Resolved { image: text(), digest: text(), platforms: vec![], foreign_layers: 1 },
        Event::Blob {
            image: text(),
            digest: text(),
            done_bytes: 1,
            size_bytes: None,
            state: BlobState::Present,
        },
        Event::Pulled { image: text(), digest: text(), bytes: 1, fetched_bytes: 1, pinned: false },
        Event::Failed { image: text(), error: text() },
        Event::Summary(summary),
    ];
    let row = ImageRow {
        image: text(),
        digest: text(),
        confirmed_at: Some(Timestamp(1)),
        bytes: 1,
        platforms: vec![],
        pinned: true,
    };
    let mut all: Vec<Value> = events.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
    all.extend([
        serde_json::to_value(StatusReport {
            numbers,
            registries: vec![registry],
            never_answered: vec![text()],
            prepull,
            pod_sources: pod_sources(),
        })
        .unwrap(),
        serde_json::to_value(row).unwrap(),
        serde_json::to_value(Removed { tags: 1, pins: 1, blobs: 1, bytes: 1 }).unwrap(),
        serde_json::to_value(Unpinned { unpinned: 1 }).unwrap(),
        serde_json::to_value(Collected { freed_bytes: 1 }).unwrap(),
        serde_json::to_value(Revoked { revoked: 1 }).unwrap(),
    ]);
    all
}

#[test]
fn the_daemonset_is_what_kubernetes_reads_and_its_configuration_is_right() {
    let directory = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/kubernetes"));
    let (found, problems) = larder::prepull::read_each(directory);
    assert!(problems.is_empty(), "{problems:?}");
    let images: Vec<String> = found.iter().map(|found| found.image.to_string()).collect();
    // The init container, and the daemon.
    assert_eq!(images, ["docker.io/library/larder:latest"; 2]);
    let environment = larder::config::Environment { root: true, ..Default::default() };
    let settings = larder::config::resolve(include_str!("../../config/kubernetes/larder.toml"), &environment);
    assert_eq!(settings.unwrap().admin.metrics_listen, Some("0.0.0.0:5052".parse().unwrap()));
}

#[test]
fn every_field_of_every_command_is_described() {
    let page = include_str!("../../docs/commands.md");
    let described: Vec<&str> = page.split('`').collect();
    for sample in samples().into_iter().chain([serde_json::to_value(explanation()).unwrap()]) {
        let mut found = Vec::new();
        fields(&sample, &mut found);
        for field in found {
            assert!(described.contains(&field.as_str()), "{field} is not in docs/commands.md");
        }
        if let Some(event) = sample.get("event").and_then(Value::as_str) {
            assert!(described.contains(&event), "{event} is not in docs/commands.md");
        }
    }
}

#[test]
fn a_store_of_a_newer_format_ends_the_daemon_with_a_code_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("format"), "larder store 99\n").unwrap();
    let state = format!("[server]\nlisten = [\"127.0.0.1:0\"]\nstate = {:?}\n", directory.path());
    let config = directory.path().join("larder.toml");
    std::fs::write(&config, format!("{state}[admin]\nlisten = \"127.0.0.1:0\"\n")).unwrap();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_larder"))
        .args(["serve", "--config", config.to_str().unwrap()])
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(3), "the unit does not start it again for this code: {said}");
    assert_eq!(said.matches("larder store 99").count(), 1, "one message: {said}");
    assert!(is_final(3), "the unit would start it again");
}

/// Whether the unit does not start the daemon again after this exit code.
fn is_final(code: i32) -> bool {
    let unit = include_str!("../../systemd/larder.service");
    let codes = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
    codes.is_some_and(|codes| codes.split(' ').any(|one| one == code.to_string()))
}

#[test]
fn a_mistake_in_the_configuration_ends_the_daemon_for_good_and_what_may_pass_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("larder.toml");
    let serve = |text: &str, more: &str| {
        std::fs::write(
            &config,
            format!("{text}[server]\nlisten = [\"127.0.0.1:0\"]\nstate = {:?}\n{more}", directory.path()),
        )
        .unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["serve", "--config", config.to_str().unwrap()]).env_clear();
        let done = command.output().unwrap();
        (done.status.code().unwrap(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said) = serve("[upstreams]\n", "");
    assert!(code == 2 && is_final(code), "{code}: {said}");
    let (code, said) = serve("", "gate_header = \"X-K\"\ngate_file = \"/absent/gate\"\n");
    assert!(code == 2 && said.contains("/absent/gate"), "{code}: {said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, said) = serve(&format!("[admin]\nlisten = \"{}\"\n", taken.local_addr().unwrap()), "");
    assert!(code == 1 && !is_final(code), "{code}: {said}");
}

#[test]
fn a_command_whose_output_is_not_read_ends_quietly_and_has_done_what_it_was_to_do() {
    let root = tempfile::tempdir().unwrap();
    let at = root.path().to_str().unwrap();
    let config = root.path().join("larder.toml");
    std::fs::write(&config, "[server]\nlisten = [\"127.0.0.1:505\"]\n").unwrap();
    let run = |words: &[&str], out: std::process::Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["--config", config.to_str().unwrap()]).args(words).env_clear().stdout(out);
        let done = command.output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let closed = || std::io::pipe().unwrap().1.into();
    for words in [
        &["config", "print", "--from-files"][..],
        &["config", "check", "--json"],
        &["doctor", "--root", at],
        &["doctor", "--root", at, "--metrics"],
        &["setup", "containerd", "--root", at],
    ] {
        assert_eq!(run(words, closed()), (Some(1), String::new()), "{words:?}");
    }
    assert!(root.path().join("etc/containerd/certs.d/_default/hosts.toml").exists());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (code, said) = run(&["config", "print", "--from-files"], full.into());
    assert_eq!(code, Some(1));
    assert!(said.starts_with("larder: cannot write the output: No space left"), "{said}");
    // Both outputs of `2>&1 | head -1`.
    let mut both = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
    let (_, gone) = std::io::pipe().unwrap();
    both.args(["rm", "a:v1"]).env_clear().stdout(gone.try_clone().unwrap()).stderr(gone);
    assert_eq!(both.status().unwrap().code(), Some(1), "no daemon runs, and it is no panic");
}
