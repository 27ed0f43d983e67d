//! What doctor says of runtimes where every request must carry a header.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::finding::{Finding, Level};
use super::super::metrics;
use super::*;
use crate::support::clock::Timestamp;

const CONFIG: &str = "/etc/containerd/config.toml";
const DEFAULT: &str = "/etc/containerd/certs.d/_default/hosts.toml";
const VALUE: &str = "0123456789abcdef";

/// `hosts.toml` with this cache as its host, and these lines behind its keys.
fn hosts_with(header: &str) -> String {
    format!(
        "[host.\"http://127.0.0.1:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n{header}\n"
    )
}

/// What is found behind a gate whose value is [`VALUE`], or cannot be read.
fn found(files: &[(&str, &str)], is_read: bool) -> Findings {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
    for (path, text) in files {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), text).unwrap();
    }
    if is_read {
        fs::write(at("gate"), VALUE).unwrap();
        fs::set_permissions(at("gate"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = {:?}", at("gate"));
    let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
    let settings = crate::config::resolve(&text, &environment).unwrap();
    let asked = InEffect { settings, daemon: Err("none".into()), from: String::new(), mistakes: None };
    let mut findings = Findings::default();
    check(&Machine::under(directory.path()), &asked, &mut findings);
    assert!(findings.0.iter().all(|f| !f.what.contains(VALUE) && !f.remedy.contains(VALUE)));
    findings
}

/// The metric of a runtime, if there is one.
fn leads_here(findings: &Findings, runtime: &str) -> Option<String> {
    let text = metrics::text(&Findings::default(), findings, Timestamp(1));
    let start = format!("larder_runtime_leads_here{{runtime=\"{runtime}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

fn with(findings: &Findings, level: Level, part: &str) -> Finding {
    let found = findings.0.iter().find(|f| f.level == level && f.what.contains(part));
    found.unwrap_or_else(|| panic!("{level:?} {part}: {:#?}", findings.0)).clone()
}

#[test]
fn a_gate_that_turns_every_pull_of_containerd_away_is_not_taken_for_a_working_cache() {
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    let own = "[host.\"http://127.0.0.1:5050\".header]\n";
    let strict = format!("{own}X-Larder-Mode = \"strict\"\n");
    for (header, part, remedy) in [
        (String::new(), "does not send x-node-key", "larder setup containerd"),
        (format!("{own}X-Other = \"{VALUE}\""), "does not send x-node-key", "larder setup containerd"),
        (format!("{own}x-node-key = \"fedcba9876543210\""), "another value", "larder setup containerd"),
        (format!("{own}x-node-key = [\"{VALUE}\", \"{VALUE}\"]"), "another value", "larder setup containerd"),
        (
            format!("{own}x-node-key = \"{VALUE}\"\nX-Node-Key = \"the-one-from-before\""),
            "another value",
            "larder setup containerd",
        ),
        (strict, "no image can be pulled", "larder setup containerd --strict"),
    ] {
        let findings = found(&[(CONFIG, config), (DEFAULT, &hosts_with(&header))], true);
        let problem = with(&findings, Level::Problem, part);
        assert_eq!(problem.remedy, remedy, "{header}");
        assert_eq!(leads_here(&findings, "containerd").as_deref(), Some("0"), "no alert fires: {header}");
    }
    for header in [
        format!("{own}x-node-key = \"{VALUE}\""),
        format!("{own}X-Node-Key = [\"{VALUE}\"]"),
        format!("header = {{ X-NODE-KEY = \"{VALUE}\" }}"),
    ] {
        let findings = found(&[(CONFIG, config), (DEFAULT, &hosts_with(&header))], true);
        with(&findings, Level::Ok, "_default leads here and sends the header");
        assert_eq!(leads_here(&findings, "containerd").as_deref(), Some("1"), "{header}");
        let findings = found(&[(CONFIG, config), (DEFAULT, &hosts_with(&header))], false);
        assert_eq!(with(&findings, Level::Warning, "is not known").about, "containerd");
        assert!(findings.0.iter().all(|f| !f.what.contains("and sends the header")), "it is not known");
    }
    // One registry whose directory has no header, beside `_default` that has one.
    let (good, bad) = (hosts_with(&format!("{own}x-node-key = \"{VALUE}\"")), hosts_with(""));
    let quay = "/etc/containerd/certs.d/quay.io/hosts.toml";
    let findings = found(&[(CONFIG, config), (DEFAULT, &good), (quay, &bad)], true);
    let problem = with(&findings, Level::Problem, "quay.io/hosts.toml: it does not send");
    assert_eq!(problem.remedy, "larder setup containerd --registry quay.io");
    assert!(findings.0.iter().all(|f| !f.what.contains("and sends the header")), "not all do");
}

#[test]
fn each_runtime_that_leads_here_is_said_to_pass_the_gate_or_not() {
    let without = hosts_with("");
    let with_header =
        hosts_with(&format!("[host.\"http://127.0.0.1:5050\".header]\nx-node-key = \"{VALUE}\""));
    let microk8s = "/var/snap/microk8s/current/args/certs.d/_default/hosts.toml";
    let k0s = ["/etc/k0s/containerd.d/larder.toml", "/etc/k0s/containerd.d/certs.d/_default/hosts.toml"];
    let k0s_config = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/k0s/containerd.d/certs.d\"\n";
    let managed = ("/etc/k0s/containerd.toml", "# k0s_managed=true\nversion = 3\n");
    for (name, hosts) in [("microk8s", microk8s), ("k0s", k0s[1])] {
        for (text, expected) in [(&without, "0"), (&with_header, "1")] {
            let mut files = vec![(hosts, text.as_str())];
            if name == "k0s" {
                files.extend([managed, (k0s[0], k0s_config)]);
            }
            let findings = found(&files, true);
            assert_eq!(leads_here(&findings, name).as_deref(), Some(expected), "{:#?}", findings.0);
        }
    }
    let yaml = "mirrors:\n  '*':\n    endpoint: [http://127.0.0.1:5050]\n";
    let conf =
        "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/quay.io\"\n";
    let json = "{\"registry-mirrors\":[\"http://127.0.0.1:5050\"]}";
    for (name, file, text) in [
        ("k3s", "/etc/rancher/k3s/registries.yaml", yaml),
        ("rke2", "/etc/rancher/rke2/registries.yaml", yaml),
        ("podman/crio", OURS, conf),
        ("docker", "/etc/docker/daemon.json", json),
    ] {
        let findings = found(&[(file, text)], true);
        assert_eq!(with(&findings, Level::Problem, "send").about, name);
        assert_eq!(leads_here(&findings, name).as_deref(), Some("0"));
    }
    // setup refuses these: the remedy must not be it alone.
    for (file, text) in
        [("/etc/rancher/k3s/registries.yaml", ""), ("/usr/bin/podman", ""), ("/etc/crio/crio.conf", "")]
    {
        let findings = found(&[(file, text)], true);
        let [Finding { remedy, .. }] = &findings.0[..] else { panic!("{file}: {:#?}", findings.0) };
        assert!(remedy.starts_with("allow_uids in place of [server] gate_header"), "{file}: {remedy}");
    }
}

#[test]
fn a_docker_that_is_set_up_behind_a_gate_raises_no_alarm_for_ever() {
    let hub = "/etc/docker/certs.d/docker.io/hosts.toml";
    let quay = "/etc/docker/certs.d/quay.io/hosts.toml";
    let sends = hosts_with(&format!("[host.\"http://127.0.0.1:5050\".header]\nx-node-key = \"{VALUE}\""));
    let none = hosts_with("");
    let json = |text| ("/etc/docker/daemon.json", text);
    let off = json("{\"features\":{\"containerd-snapshotter\":false}}");
    for (files, level, part, remedy, metric) in [
        (vec![json("{}"), (hub, sends.as_str())], Level::Ok, "sends the header", "", "1"),
        (vec![json("{}"), (hub, &none)], Level::Problem, "does not send", "larder setup docker", "0"),
        (
            vec![json("{}"), (hub, &sends), (quay, &none)],
            Level::Problem,
            "quay.io/hosts.toml: it does not send",
            "larder setup docker --registry quay.io",
            "0",
        ),
        (vec![json("{}")], Level::Problem, "nothing leads", "larder setup docker; without that store", "0"),
        (vec![off, (hub, &sends)], Level::Problem, "is off", "turn it on", "0"),
    ] {
        let findings = found(&files, true);
        let hit = with(&findings, level, part);
        assert!(hit.about == DOCKER && hit.remedy.starts_with(remedy), "{hit:?}");
        assert_eq!(leads_here(&findings, DOCKER).as_deref(), Some(metric), "{:#?}", findings.0);
    }
}
