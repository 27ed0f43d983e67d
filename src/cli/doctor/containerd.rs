//! containerd: what its configuration in force leads to, and the traps in it (docs/wiring.md).

use std::fs;

use toml_edit::{DocumentMut, Item};

use super::finding::{Findings, Level};
use super::machine::Machine;
use crate::cli::containerd_config::{CONFIG, config_of};

const ABOUT: &str = "containerd";
const SETUP: &str = "larder setup containerd, then systemctl restart containerd";
/// What every version of containerd knows; one that is not known makes it drop the whole file.
const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];
/// Keys that make containerd try TLS first on an http host.
const TLS_KEYS: [&str; 3] = ["ca", "client", "skip_verify"];

/// Looks at containerd under `root`; `urls` are where this cache listens.
pub(super) fn check(machine: &Machine<'_>, urls: &[String], findings: &mut Findings) {
    let cri = match config_of(&in_force(machine)) {
        Ok(cri) => cri,
        Err(error) => return findings.add(Level::Problem, ABOUT, error, "correct it"),
    };
    if cri.is_off() {
        return findings.add(
            Level::Note,
            ABOUT,
            "its CRI is off (disabled_plugins): no kubelet pulls by it",
            "",
        );
    }
    let old = cri.old_settings();
    if !old.is_empty() {
        findings.add(
            Level::Problem,
            ABOUT,
            format!(
                "it names registries in the old form (registry.{}), and reads no hosts.toml",
                old.join(", registry.")
            ),
            "move them to hosts.toml, then larder setup containerd",
        );
        return;
    }
    let Some(path) = cri.config_path() else {
        return findings.add(Level::Problem, ABOUT, "it has no config_path: it reads no hosts.toml", SETUP);
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
    let written = config_of(&machine.read(CONFIG)).ok().and_then(|cri| cri.config_path());
    if let Some(written) = written.filter(|written| *written != path) {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("config_path is {path}, though config.toml says {written}: a file that it imports says otherwise"),
            format!("set config_path = \"{written}\" in that file too, or remove it there"),
        );
    }
    directories(machine, path.split(':').next().unwrap_or_default().trim_end_matches('/'), urls, findings);
}

/// containerd's configuration as it is in force, imports included, if containerd itself can be asked; else its file.
fn in_force(machine: &Machine<'_>) -> String {
    let dumped = machine
        .is_this_one()
        .then(|| std::process::Command::new("containerd").args(["config", "dump"]).output().ok())
        .flatten()
        .filter(|done| done.status.success());
    match dumped {
        Some(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        None => machine.read(CONFIG),
    }
}

/// Looks at the directory of each registry in the one that containerd looks into.
fn directories(machine: &Machine<'_>, directory: &str, urls: &[String], findings: &mut Findings) {
    let entries = fs::read_dir(machine.path(directory)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let (mut leads_here, mut default) = (Vec::new(), false);
    for name in &names {
        let file = format!("{directory}/{name}/hosts.toml");
        if hosts(&file, &machine.read(&file), urls, findings) {
            default |= name == "_default";
            leads_here.push(name.clone());
        } else if name != "_default" {
            findings.add(
                Level::Warning,
                ABOUT,
                format!("{directory}/{name} hides _default: its images are pulled without this cache"),
                format!("larder setup containerd --registry {name}"),
            );
        }
    }
    if default {
        findings.ok(ABOUT, format!("{directory}/_default leads here"));
    } else if leads_here.is_empty() {
        findings.add(Level::Problem, ABOUT, format!("nothing in {directory} leads here"), SETUP);
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
    let document: DocumentMut = match text.parse() {
        Ok(document) => document,
        Err(error) => {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            findings.add(
                Level::Problem,
                ABOUT,
                format!("{file} is malformed, and not used: {first}"),
                "correct it",
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
