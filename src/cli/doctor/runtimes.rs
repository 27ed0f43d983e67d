//! The runtimes: does their own configuration lead to this cache, and do they believe it?

use std::fs;

use super::containerd;
use super::finding::{Findings, Level};
use super::machine::Machine;
use crate::config::Settings;
use crate::listener::Listen;
use crate::reference::{DOCKER_HUB, Registry};

pub(super) fn check(machine: &Machine<'_>, settings: &Settings, findings: &mut Findings) {
    let urls: Vec<String> =
        settings.listen.iter().filter(|at| matches!(at, Listen::Tcp(_))).map(ToString::to_string).collect();
    let there = |path: &str| machine.has(path);
    let mut none = true;
    if there("/etc/containerd") || there("/usr/bin/containerd") || there("/usr/local/bin/containerd") {
        none = false;
        containerd::check(machine, &urls, findings);
    }
    for (directory, name) in [("/etc/rancher/k3s", "k3s"), ("/etc/rancher/rke2", "rke2")] {
        if there(directory) {
            none = false;
            rancher(machine, directory, name, &urls, findings);
        }
    }
    if there("/etc/docker") || there("/usr/bin/dockerd") {
        none = false;
        docker(machine, &urls, &settings.serve.default_registry, findings);
    }
    if there("/etc/containers/registries.conf.d") || there("/usr/bin/crio") {
        none = false;
        containers(machine, &urls, findings);
    }
    if none {
        findings.add(Level::Note, "runtimes", "no runtime was found on this machine", "");
    }
}

fn rancher(
    machine: &Machine<'_>,
    directory: &str,
    name: &'static str,
    urls: &[String],
    findings: &mut Findings,
) {
    let text = machine.read(&format!("{directory}/registries.yaml"));
    if urls.iter().any(|url| text.contains(url.as_str())) {
        findings.ok(name, format!("{directory}/registries.yaml names this cache"));
    } else {
        findings.add(
            Level::Problem,
            name,
            format!("{directory}/registries.yaml does not name this cache"),
            "larder setup containerd shows the lines",
        );
    }
}

fn docker(machine: &Machine<'_>, urls: &[String], default: &Registry, findings: &mut Findings) {
    const ABOUT: &str = "docker";
    let text = machine.read("/etc/docker/daemon.json");
    let config: serde_json::Value = match serde_json::from_str(if text.is_empty() { "{}" } else { &text }) {
        Ok(config) => config,
        Err(error) => {
            return findings.add(
                Level::Problem,
                ABOUT,
                format!("/etc/docker/daemon.json is malformed: {error}"),
                "correct it",
            );
        }
    };
    let mirrors = config.get("registry-mirrors").and_then(serde_json::Value::as_array);
    let ours = mirrors.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let leads_here = ours.map(|url| url.trim_end_matches('/')).any(|url| urls.iter().any(|own| own == url));
    if leads_here && default.as_str() != DOCKER_HUB {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("it asks here for images of Docker Hub without saying so, and gets those of {default}"),
            format!("default_registry = \"{DOCKER_HUB}\" in [server], or larder setup docker --undo"),
        );
    } else if leads_here {
        findings.ok(ABOUT, "Docker Hub leads here");
    } else {
        findings.add(
            findings.docker_level(),
            ABOUT,
            "registry-mirrors does not name this cache",
            "larder setup docker, then systemctl restart docker",
        );
    }
}

fn containers(machine: &Machine<'_>, urls: &[String], findings: &mut Findings) {
    const ABOUT: &str = "podman/crio";
    let directory = machine.path("/etc/containers/registries.conf.d");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let texts: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
    let authorities: Vec<&str> = urls.iter().filter_map(|url| url.strip_prefix("http://")).collect();
    if texts.iter().any(|text| authorities.iter().any(|at| text.contains(&format!("\"{at}/")))) {
        findings.ok(ABOUT, "registries.conf.d names this cache");
    } else {
        findings.add(
            Level::Warning,
            ABOUT,
            "registries.conf.d does not name this cache",
            "larder setup podman",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Finding;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Finding> {
        found_with("", files)
    }

    fn found_with(config: &str, files: &[(&str, &str)]) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
        let settings = crate::config::resolve(config, &environment).unwrap();
        let mut findings = Findings::default();
        check(&Machine(directory.path()), &settings, &mut findings);
        findings.0
    }

    #[test]
    fn each_trap_is_named_with_its_remedy() {
        const CONFIG: &str = "/etc/containerd/config.toml";
        const DEFAULT: &str = "/etc/containerd/certs.d/_default/hosts.toml";
        let v2 = |path: &str| {
            format!(
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{path}\"\n"
            )
        };
        let good = "[host.\"http://127.0.0.1:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n";
        let one = v2("/etc/containerd/certs.d");
        let list = v2("/etc/containerd/certs.d:/etc/docker/certs.d");
        let none = v2("");
        let near = good.replace("127.0.0.1", "10.0.0.5");
        let (referrers, tls, slow) = (
            good.replace("\"resolve\"", "\"resolve\", \"referrers\""),
            format!("{good}skip_verify = true\n"),
            good.replace("dial_timeout = \"1s\"\n", ""),
        );
        for (files, level, part) in [
            (vec![(CONFIG, one.as_str()), (DEFAULT, good)], Level::Ok, "_default leads here"),
            (vec![(CONFIG, list.as_str()), (DEFAULT, good)], Level::Problem, "is a list"),
            (vec![(CONFIG, "version = 2\n"), (DEFAULT, good)], Level::Problem, "no config_path"),
            (vec![(CONFIG, none.as_str()), (DEFAULT, good)], Level::Problem, "no config_path"),
            (vec![(CONFIG, one.as_str())], Level::Problem, "nothing in"),
            (vec![(CONFIG, one.as_str()), (DEFAULT, referrers.as_str())], Level::Problem, "referrers"),
            (vec![(CONFIG, one.as_str()), (DEFAULT, tls.as_str())], Level::Problem, "tries TLS first"),
            (vec![(CONFIG, one.as_str()), (DEFAULT, slow.as_str())], Level::Warning, "dial_timeout"),
            (vec![(CONFIG, one.as_str()), (DEFAULT, near.as_str())], Level::Problem, "HTTP_PROXY"),
            (vec![(CONFIG, one.as_str()), (DEFAULT, "[host")], Level::Problem, "malformed"),
            (
                vec![
                    (CONFIG, one.as_str()),
                    (DEFAULT, good),
                    ("/etc/containerd/certs.d/quay.io/hosts.toml", ""),
                ],
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
            (vec![("/etc/docker/daemon.json", "{}")], Level::Problem, "registry-mirrors"),
            (
                vec![(CONFIG, one.as_str()), (DEFAULT, good), ("/etc/docker/daemon.json", "{}")],
                Level::Warning,
                "registry-mirrors",
            ),
            (vec![(CONFIG, "disabled_plugins = [\"cri\"]\n")], Level::Note, "its CRI is off"),
            (
                vec![("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050/\"]}")],
                Level::Ok,
                "Docker Hub",
            ),
            (vec![("/etc/containers/registries.conf.d/x.conf", "")], Level::Warning, "registries.conf.d"),
            (vec![("/etc/rancher/k3s/x", "")], Level::Problem, "registries.yaml"),
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
    fn docker_is_not_led_to_another_registry() {
        let mirror = [("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050\"]}")];
        let findings = found_with("[server]\ndefault_registry = \"quay.io\"", &mirror);
        let [Finding { level: Level::Problem, what, .. }] = &findings[..] else { panic!("{findings:?}") };
        assert!(what.contains("gets those of quay.io"), "{what}");
    }
}
