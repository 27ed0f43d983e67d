//! The runtimes: does their own configuration lead to this cache, and do they believe it?

use std::fs;
use std::path::Path;

use toml_edit::{DocumentMut, Item};

use super::super::setup::config_of;
use super::{Findings, Level};
use crate::config::Settings;
use crate::listener::Listen;
use crate::reference::{DOCKER_HUB, Registry};

const SETUP: &str = "larder setup containerd, then systemctl restart containerd";
/// What every version of containerd knows; one that is not known makes it drop the whole file.
const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];
/// Keys that make containerd try TLS first on an http host.
const TLS_KEYS: [&str; 3] = ["ca", "client", "skip_verify"];

pub(super) fn look(root: &Path, settings: &Settings, findings: &mut Findings) {
    let urls: Vec<String> =
        settings.listen.iter().filter(|at| matches!(at, Listen::Tcp(_))).map(ToString::to_string).collect();
    let there = |path: &str| root.join(path.trim_start_matches('/')).exists();
    let mut none = true;
    if there("/etc/containerd") || there("/usr/bin/containerd") || there("/usr/local/bin/containerd") {
        none = false;
        containerd(root, &urls, findings);
    }
    for (folder, name) in [("/etc/rancher/k3s", "k3s"), ("/etc/rancher/rke2", "rke2")] {
        if there(folder) {
            none = false;
            rancher(root, folder, name, &urls, findings);
        }
    }
    if there("/etc/docker") || there("/usr/bin/dockerd") {
        none = false;
        docker(root, &urls, &settings.serve.default_registry, findings);
    }
    if there("/etc/containers/registries.conf.d") || there("/usr/bin/crio") {
        none = false;
        containers(root, &urls, findings);
    }
    if none {
        findings.add(Level::Note, "runtimes", "no runtime was found on this machine", "");
    }
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path.trim_start_matches('/'))).unwrap_or_default()
}

/// containerd's configuration as it is in force, imports included, if containerd itself can be asked; else its file.
fn in_force(root: &Path) -> String {
    let dumped = (root == Path::new("/"))
        .then(|| std::process::Command::new("containerd").args(["config", "dump"]).output().ok())
        .flatten()
        .filter(|done| done.status.success());
    match dumped {
        Some(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        None => read(root, "/etc/containerd/config.toml"),
    }
}

fn containerd(root: &Path, urls: &[String], findings: &mut Findings) {
    const ABOUT: &str = "containerd";
    let cri = match config_of(&in_force(root)) {
        Ok(cri) => cri,
        Err(error) => return findings.add(Level::Problem, ABOUT, error, "mend it"),
    };
    let old = cri.old_settings();
    if !old.is_empty() {
        findings.add(
            Level::Problem,
            ABOUT,
            format!(
                "it names registries the old way (registry.{}), and looks at no hosts.toml",
                old.join(", registry.")
            ),
            "move them to hosts.toml, then larder setup containerd",
        );
        return;
    }
    let Some(path) = cri.config_path() else {
        return findings.add(
            Level::Problem,
            ABOUT,
            "it has no config_path: it looks at no hosts.toml",
            SETUP,
        );
    };
    if path.contains(':') {
        findings.add(
            Level::Problem,
            ABOUT,
            format!(
                "config_path is a list ({path}): from 2.1 on, its transfer service reads no hosts.toml at all"
            ),
            SETUP,
        );
    }
    let folder = path.split(':').next().unwrap_or_default().trim_end_matches('/').to_owned();
    let entries = fs::read_dir(root.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let (mut leads_here, mut default) = (Vec::new(), false);
    for name in &names {
        let file = format!("{folder}/{name}/hosts.toml");
        if hosts(&file, &read(root, &file), urls, findings) {
            default |= name == "_default";
            leads_here.push(name.clone());
        } else if name != "_default" {
            findings.add(
                Level::Warning,
                ABOUT,
                format!("{folder}/{name} hides _default: its images are pulled without this cache"),
                format!("larder setup containerd --registry {name}"),
            );
        }
    }
    if default {
        findings.ok(ABOUT, format!("{folder}/_default leads here"));
    } else if leads_here.is_empty() {
        findings.add(Level::Problem, ABOUT, format!("nothing in {folder} leads here"), SETUP);
    } else {
        findings.add(
            Level::Note,
            ABOUT,
            format!("only these registries lead here: {}", leads_here.join(", ")),
            "",
        );
    }
}

/// Looks at one `hosts.toml`; whether it leads here.
fn hosts(file: &str, text: &str, urls: &[String], findings: &mut Findings) -> bool {
    const ABOUT: &str = "containerd";
    let document: DocumentMut = match text.parse() {
        Ok(document) => document,
        Err(error) => {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            findings.add(
                Level::Problem,
                ABOUT,
                format!("{file} is malformed, and not used: {first}"),
                "mend it",
            );
            return false;
        }
    };
    let Some(hosts) = document.get("host").and_then(Item::as_table_like) else { return false };
    let mut ours = false;
    for (url, host) in hosts.iter() {
        let Some(host) = host.as_table_like() else { continue };
        let listed = host.get("capabilities").and_then(Item::as_array);
        let unknown: Vec<&str> = listed
            .into_iter()
            .flatten()
            .filter_map(toml_edit::Value::as_str)
            .filter(|name| !CAPABILITIES.contains(name))
            .collect();
        if !unknown.is_empty() {
            findings.add(
                Level::Problem,
                ABOUT,
                format!(
                    "{file}: capabilities {}: versions that do not know it drop the whole file",
                    unknown.join(", ")
                ),
                "use \"pull\" and \"resolve\" only",
            );
        }
        if !urls.iter().any(|own| own == url.trim_end_matches('/')) {
            if is_near(url, urls) {
                findings.add(
                    Level::Problem,
                    ABOUT,
                    format!("{file}: {url} is another address than the cache listens on; where HTTP_PROXY is set, containerd asks the proxy for it"),
                    format!("name it by its loopback address: {}", urls.join(" or ")),
                );
            }
            continue;
        }
        ours = true;
        our_host(file, host, findings);
    }
    ours
}

/// What may be wrong with the entry that leads here.
fn our_host(file: &str, host: &dyn toml_edit::TableLike, findings: &mut Findings) {
    const ABOUT: &str = "containerd";
    let listed = host.get("capabilities").and_then(Item::as_array);
    let resolves = listed.is_none_or(|listed| listed.iter().any(|name| name.as_str() == Some("resolve")));
    if !resolves {
        findings.add(
            Level::Note,
            ABOUT,
            format!("{file}: tags are asked of the registry itself, and only digests here"),
            "",
        );
    }
    let tls: Vec<&str> = TLS_KEYS.into_iter().filter(|key| host.get(key).is_some()).collect();
    if !tls.is_empty() {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("{file}: {} on an http host: containerd tries TLS first", tls.join(", ")),
            "remove it",
        );
    }
    if host.get("dial_timeout").is_none() {
        findings.add(
            Level::Warning,
            ABOUT,
            format!("{file}: without dial_timeout a stopped cache may cost 30 s"),
            "dial_timeout = \"1s\"",
        );
    }
}

/// Whether a URL has our port at another address: a node's own, say, which proxies take for a stranger's.
fn is_near(url: &str, urls: &[String]) -> bool {
    let port = |url: &str| url.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.to_owned());
    url.starts_with("http://") && urls.iter().any(|own| port(own) == port(url))
}

fn rancher(root: &Path, folder: &str, name: &'static str, urls: &[String], findings: &mut Findings) {
    let text = read(root, &format!("{folder}/registries.yaml"));
    if urls.iter().any(|url| text.contains(url.as_str())) {
        findings.ok(name, format!("{folder}/registries.yaml names this cache"));
    } else {
        findings.add(
            Level::Problem,
            name,
            format!("{folder}/registries.yaml does not name this cache"),
            "larder setup containerd shows the lines",
        );
    }
}

fn docker(root: &Path, urls: &[String], default: &Registry, findings: &mut Findings) {
    const ABOUT: &str = "docker";
    let text = read(root, "/etc/docker/daemon.json");
    let config: serde_json::Value = match serde_json::from_str(if text.is_empty() { "{}" } else { &text }) {
        Ok(config) => config,
        Err(error) => {
            return findings.add(
                Level::Problem,
                ABOUT,
                format!("/etc/docker/daemon.json is malformed: {error}"),
                "mend it",
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
            Level::Problem,
            ABOUT,
            "registry-mirrors does not name this cache",
            "larder setup docker, then systemctl restart docker",
        );
    }
}

fn containers(root: &Path, urls: &[String], findings: &mut Findings) {
    const ABOUT: &str = "podman/crio";
    let folder = root.join("etc/containers/registries.conf.d");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
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
    use super::super::Finding;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<Finding> {
        found_with("", files)
    }

    fn found_with(config: &str, files: &[(&str, &str)]) -> Vec<Finding> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
        let settings = crate::config::resolve(config, &environment).unwrap();
        let mut findings = Findings::default();
        look(folder.path(), &settings, &mut findings);
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
                "the old way",
            ),
            (vec![("/etc/docker/daemon.json", "{}")], Level::Problem, "registry-mirrors"),
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
