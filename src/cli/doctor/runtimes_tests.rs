use std::fs;

use super::super::finding::Finding;
use super::*;

/// What `containerd config dump` printed.
const DUMPS: [(&str, &str); 6] = [
    ("1.6.20", include_str!("../../../tests/containerd-config/v1.6.20-default.toml")),
    ("1.7.34", include_str!("../../../tests/containerd-config/v1.7.34-dump.toml")),
    ("2.1.9", include_str!("../../../tests/containerd-config/v2.1.9-dump.toml")),
    ("2.2.7", include_str!("../../../tests/containerd-config/v2.2.7-dump.toml")),
    ("2.3.4", include_str!("../../../tests/containerd-config/v2.3.4-dump.toml")),
    ("2.4.0-beta.0", include_str!("../../../tests/containerd-config/v2.4.0-beta.0-dump.toml")),
];

pub(super) fn found(files: &[(&str, &str)]) -> Vec<Finding> {
    found_with("", files)
}

pub(super) fn found_with(config: &str, files: &[(&str, &str)]) -> Vec<Finding> {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    found_under(directory.path(), config)
}

fn found_under(root: &std::path::Path, config: &str) -> Vec<Finding> {
    let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
    let settings = crate::config::resolve(config, &environment).unwrap();
    let mut findings = Findings::default();
    let asked = InEffect { settings, daemon: Err("none".into()), from: String::new(), mistakes: None };
    check(&Machine::under(root), &asked, &mut findings);
    findings.0
}

#[test]
fn each_trap_is_named_with_its_remedy() {
    const CONFIG: &str = "/etc/containerd/config.toml";
    const DEFAULT: &str = "/etc/containerd/certs.d/_default/hosts.toml";
    let v2 = |path: &str| {
        format!("version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{path}\"\n")
    };
    let good =
        "[host.\"http://127.0.0.1:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n";
    let one = v2("/etc/containerd/certs.d");
    let list = v2("/etc/containerd/certs.d:/etc/docker/certs.d");
    let none = v2("");
    let list3 = list.replace("version = 2", "version = 3").replace("grpc.v1.cri", "cri.v1.images");
    let local = format!("{list3}[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n");
    let table = "[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = ";
    let v9 = format!("version = 9\n{table}\"/etc/containerd/certs.d\"\n");
    let v3 = format!("version = 3\n{table}\"/elsewhere\"\n");
    let imports = format!("imports = [\"config.d/*.toml\"]\n{one}");
    let near = good.replace("127.0.0.1", "10.0.0.5");
    let (referrers, tls, slow) = (
        good.replace("\"resolve\"", "\"resolve\", \"referrers\""),
        format!("{good}skip_verify = true\n"),
        good.replace("dial_timeout = \"1s\"\n", ""),
    );
    let login = format!(
        "{one}[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r.corp\".auth]\nusername = \"u\"\n"
    );
    let migrated =
        DUMPS[4].1.replace("disabled_plugins = []", "disabled_plugins = ['io.containerd.grpc.v1.cri']");
    assert_ne!(migrated, DUMPS[4].1);
    for (files, level, part) in [
        (vec![(CONFIG, one.as_str()), (DEFAULT, good)], Level::Ok, "_default leads here"),
        (vec![(CONFIG, list.as_str()), (DEFAULT, good)], Level::Warning, "which 1.x reads"),
        (vec![(CONFIG, list3.as_str()), (DEFAULT, good)], Level::Problem, "is a list"),
        (vec![(CONFIG, local.as_str()), (DEFAULT, good)], Level::Note, "which it reads"),
        (vec![(CONFIG, "version = 2\n"), (DEFAULT, good)], Level::Problem, "no config_path"),
        (vec![(CONFIG, none.as_str()), (DEFAULT, good)], Level::Problem, "no config_path"),
        (vec![(CONFIG, one.as_str())], Level::Problem, "nothing in"),
        (vec![(CONFIG, one.as_str()), (DEFAULT, referrers.as_str())], Level::Problem, "referrers"),
        (vec![(CONFIG, one.as_str()), (DEFAULT, tls.as_str())], Level::Problem, "tries TLS first"),
        (vec![(CONFIG, one.as_str()), (DEFAULT, slow.as_str())], Level::Warning, "dial_timeout"),
        (vec![(CONFIG, one.as_str()), (DEFAULT, near.as_str())], Level::Problem, "HTTP_PROXY"),
        (vec![(CONFIG, one.as_str()), (DEFAULT, "[host")], Level::Problem, "malformed"),
        (
            vec![(CONFIG, one.as_str()), (DEFAULT, good), ("/etc/containerd/certs.d/quay.io/hosts.toml", "")],
            Level::Warning,
            "hides _default",
        ),
        (
            vec![(
                CONFIG,
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"x\"]\nendpoint = [\"y\"]\n",
            )],
            Level::Problem,
            "in the old form",
        ),
        (
            vec![(CONFIG, one.trim_start_matches("version = 2\n")), (DEFAULT, good)],
            Level::Problem,
            "has the table io.containerd.grpc.v1.cri and no version",
        ),
        (vec![(CONFIG, login.as_str()), (DEFAULT, good)], Level::Note, "has logins for registries"),
        (vec![(CONFIG, login.as_str()), (DEFAULT, good)], Level::Ok, "_default leads here"),
        (vec![("/etc/docker/daemon.json", "{}")], Level::Problem, "registry-mirrors"),
        (
            vec![(CONFIG, one.as_str()), (DEFAULT, good), ("/etc/docker/daemon.json", "{}")],
            Level::Warning,
            "registry-mirrors",
        ),
        (vec![(CONFIG, "disabled_plugins = [\"cri\"]\n")], Level::Note, "its CRI is off"),
        // What containerd 2.x makes of it.
        (vec![(CONFIG, migrated.as_str())], Level::Note, "its CRI is off"),
        (
            vec![("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050/\"]}")],
            Level::Ok,
            "Docker Hub",
        ),
        (
            vec![("/usr/bin/podman", ""), ("/etc/containers/registries.conf.d/x.conf", "")],
            Level::Warning,
            "registries.conf.d",
        ),
        (
            vec![
                ("/etc/crio/crio.conf", ""),
                ("/etc/containers/registries.conf", "[[registry]]\nlocation = \"quay.io\"\nblocked = true\n"),
                (
                    OURS,
                    "[[registry]]\nprefix = \"quay.io\"\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/quay.io\"\n",
                ),
            ],
            Level::Problem,
            "overrides what /etc/containers/registries.conf says of quay.io",
        ),
        (
            vec![(
                OURS,
                "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/quay.io\"\n",
            )],
            Level::Warning,
            "pulled without this cache: docker.io, gcr.io",
        ),
        (
            vec![("/usr/bin/podman", ""), ("/etc/containers/registries.conf", "[[")],
            Level::Problem,
            "malformed",
        ),
        (vec![("/etc/rancher/k3s/x", "")], Level::Problem, "registries.yaml"),
        (
            vec![(
                "/etc/rancher/rke2/registries.yaml",
                "mirrors:\n  '*':\n    endpoint: [http://127.0.0.1:5050/v2]\n",
            )],
            Level::Ok,
            "registries.yaml leads here",
        ),
        (
            vec![(
                "/etc/rancher/k3s/registries.yaml",
                "# http://127.0.0.1:5050\nmirrors:\n  quay.io:\n    endpoint: [https://m, http://127.0.0.1:5050]\n",
            )],
            Level::Problem,
            "does not lead here",
        ),
        (
            vec![(
                "/etc/rancher/k3s/registries.yaml",
                "mirrors:\n  quay.io:\n    endpoint: [http://127.0.0.1:5050]\n    rewrite: {'(.*)': 'q/$1'}\n",
            )],
            Level::Problem,
            "asked for other images than the pods name",
        ),
        (
            vec![(
                "/etc/rancher/k3s/registries.yaml",
                "mirrors:\n  '*':\n    endpoint: [https://m]\n    rewrite: {'(.*)': 'q/$1'}\n",
            )],
            Level::Warning,
            "has a rewrite, and does not lead here",
        ),
        (vec![("/etc/rancher/k3s/registries.yaml", "mirrors: [")], Level::Problem, "does not start with it"),
        (vec![("/etc/k0s/x", "")], Level::Problem, "no config_path"),
        (
            vec![("/var/snap/microk8s/current/args/certs.d/docker.io/hosts.toml", "")],
            Level::Warning,
            "docker.io hides _default",
        ),
        (
            vec![
                (CONFIG, one.as_str()),
                (DEFAULT, "host = { \"http://127.0.0.1:5050\" = { dial_timeout = \"1s\" } }\n"),
            ],
            Level::Problem,
            "passes over it",
        ),
        (vec![(CONFIG, v9.as_str()), (DEFAULT, good)], Level::Note, "version 9, which is not known"),
        (vec![(CONFIG, v9.as_str()), (DEFAULT, good)], Level::Ok, "_default leads here"),
        (
            vec![
                (CONFIG, imports.as_str()),
                (DEFAULT, good),
                ("/etc/containerd/config.d/site.toml", v3.as_str()),
            ],
            Level::Problem,
            "a file that it imports says otherwise",
        ),
        (
            vec![
                (CONFIG, imports.as_str()),
                (DEFAULT, good),
                ("/etc/containerd/config.d/gpu.toml", "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n"),
            ],
            Level::Warning,
            "uses in place of that of /etc/containerd/config.toml",
        ),
        (vec![("/etc/docker/certs.d/x", "")], Level::Note, "no runtime"),
        (vec![], Level::Note, "no runtime"),
    ] {
        let findings = found(&files);
        let hit = findings.iter().find(|f| f.what.contains(part));
        let hit = hit.unwrap_or_else(|| panic!("{part}: {findings:#?}"));
        assert_eq!(hit.level, level, "{hit:?}");
        assert!(hit.level < Level::Warning || !hit.remedy.is_empty(), "{hit:?}");
    }
}

#[test]
fn every_version_of_containerd_is_understood_as_it_prints_itself() {
    for (name, printed) in DUMPS {
        let wired = printed
            .replacen("config_path = ''", "config_path = '/etc/containerd/certs.d'", 1)
            .replacen("config_path = \"\"", "config_path = \"/etc/containerd/certs.d\"", 1);
        let good = "[host.\"http://127.0.0.1:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n";
        let hosts = ("/etc/containerd/certs.d/_default/hosts.toml", good);
        let findings = found(&[("/etc/containerd/config.toml", &wired), hosts]);
        let [Finding { level: Level::Ok, .. }] = &findings[..] else { panic!("{name}: {findings:#?}") };
        let findings = found(&[("/etc/containerd/config.toml", printed), hosts]);
        assert!(findings[0].what.contains("no config_path"), "{name}: {findings:#?}");
    }
}

#[test]
fn a_runtime_that_cannot_send_the_gates_header_is_named_where_it_leads_here() {
    let mirror = [("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050\"]}")];
    let findings = found_with("[server]\ngate_header = \"X-K\"\ngate_file = \"/g\"", &mirror);
    assert!(
        findings.iter().any(|f| f.level == Level::Problem && f.what.contains("gate_header")),
        "{findings:?}"
    );
}

#[test]
fn docker_is_not_led_to_another_registry() {
    let mirror = [("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050\"]}")];
    let findings = found_with("[server]\ndefault_registry = \"quay.io\"", &mirror);
    let [Finding { level: Level::Problem, what, .. }] = &findings[..] else { panic!("{findings:?}") };
    assert!(what.contains("gets those of quay.io"), "{what}");
}

#[test]
fn a_file_that_cannot_be_read_is_not_said_to_lead_elsewhere() {
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    for files in [
        vec!["/etc/rancher/k3s/registries.yaml"],
        vec!["/etc/docker/daemon.json"],
        vec!["/usr/bin/podman", "/etc/containers/registries.conf"],
        vec!["/etc/containerd/config.toml"],
        vec!["/etc/containerd/config.toml", "/etc/containerd/certs.d/_default/hosts.toml"],
    ] {
        let (unread, before) = files.split_last().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &[u8]| {
            let path = directory.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        before.iter().for_each(|path| write(path, config.as_bytes()));
        // Root may read every file; that it is no text stops root too.
        write(unread, &[0xff, 0xfe]);
        let found = found_under(directory.path(), "");
        let [Finding { what, .. }] = &found[..] else { panic!("{unread}: {found:#?}") };
        assert!(what.contains("cannot read") && what.contains(unread), "{what}");
    }
}

#[test]
fn a_cache_that_listens_on_every_address_is_led_to_by_its_loopback_address() {
    let hosts = |at: &str| {
        format!(
            "[host.\"http://{at}:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n"
        )
    };
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    for (listen, leads_here) in [
        ("0.0.0.0:5050", &["127.0.0.1"][..]),
        ("[::]:5050", &["127.0.0.1", "[::1]"]),
        ("127.0.0.1:5050", &["127.0.0.1"]),
    ] {
        for at in ["127.0.0.1", "[::1]", "0.0.0.0"] {
            let files = [
                ("/etc/containerd/config.toml", config),
                ("/etc/containerd/certs.d/_default/hosts.toml", &hosts(at)),
                ("/etc/docker/daemon.json", &format!("{{\"registry-mirrors\":[\"http://{at}:5050\"]}}")),
            ];
            let found = found_with(&format!("[server]\nlisten = [\"{listen}\"]\n"), &files);
            let is = |about| found.iter().any(|one| one.about == about && one.level == Level::Ok);
            let expected = leads_here.contains(&at);
            assert_eq!((is("containerd"), is("docker")), (expected, expected), "{listen} {at}: {found:?}");
        }
    }
}
