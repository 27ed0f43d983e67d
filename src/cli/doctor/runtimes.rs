//! The runtimes: does their own configuration lead to this cache, and do they believe it?

use super::finding::{CONTAINERS, CORRECT, DOCKER, Findings, Level};
use super::here::Here;
use super::hosts::{self, HostsFile, Leads};
use super::{containerd, containers_entries, unreadable};
use crate::cli::daemon::InEffect;
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::marks::{DOCKER_CONFIG, DOCKER_HOSTS};
use crate::cli::runtimes::registries_conf::{self, OURS};
use crate::cli::runtimes::registries_yaml;
use crate::cli::runtimes::runtime::Runtime;
use crate::cli::setup::{
    BEST_KNOWN, MICROK8S_HOSTS, REWRITE_REMEDY, first_directory, judged_list, k0s_hosts,
};
use crate::config::Settings;
use crate::reference::{DOCKER_HUB, Registry};

pub(super) fn check(machine: &Machine, asked: &InEffect, findings: &mut Findings) {
    let settings = &asked.settings;
    let here = Here::of(asked);
    let before = findings.0.len();
    for runtime in [Runtime::Containerd, Runtime::K3s, Runtime::Rke2, Runtime::Microk8s, Runtime::K0s] {
        if !runtime.is_on(machine) {
            continue;
        }
        match runtime {
            Runtime::K3s => rancher(machine, "/etc/rancher/k3s", runtime, &here, findings),
            Runtime::Rke2 => rancher(machine, "/etc/rancher/rke2", runtime, &here, findings),
            Runtime::Microk8s => {
                hosts::directories(machine, runtime.name(), MICROK8S_HOSTS, &here, findings);
            }
            Runtime::K0s => k0s(machine, &here, findings),
            _ => containerd::check(machine, &here, findings),
        }
        gate(runtime, runtime.name(), &here, findings);
    }
    if Runtime::Docker.is_on(machine) {
        docker(machine, &here, settings, findings);
    }
    if Runtime::Crio.is_on(machine) || Runtime::Podman.is_on(machine) || machine.has(OURS) {
        containers(machine, &here, settings, findings);
        gate(Runtime::Podman, CONTAINERS, &here, findings);
    }
    if findings.0.len() == before {
        findings.add(Level::Note, "runtimes", "no runtime was found on this machine", "");
    }
}

/// A runtime that leads here and cannot send the gate's header pulls around this cache: every request is refused.
fn gate(runtime: Runtime, about: &'static str, here: &Here, findings: &mut Findings) {
    if here.header.is_some() && !runtime.sends_headers() && findings.leads_here(about) {
        findings.add(
            Level::Problem,
            about,
            "it leads here and cannot send the header of [server] gate_header: its requests are refused, and it pulls around this cache (with --strict not at all)",
            format!("larder setup {} --undo, or allow_uids instead of gate_header", runtime.name()),
        );
    }
}

/// What makes a runtime lead here that can send no header. With a gate `setup` alone writes nothing for it.
fn setup_of(runtime: &str, here: &Here, then: &str) -> String {
    let gate = match &here.header {
        Some(_) => format!("allow_uids in place of [server] gate_header, which {runtime} cannot send; then "),
        None => String::new(),
    };
    format!("{gate}larder setup {runtime}, then {then}")
}

fn k0s(machine: &Machine, here: &Here, findings: &mut Findings) {
    const ABOUT: &str = "k0s";
    match k0s_hosts(machine) {
        Ok(Some(list)) => {
            if list.contains(':') {
                let found = match judged_list(machine, &list) {
                    Err(why) => (Level::Problem, why, "larder setup k0s"),
                    Ok(Some(why)) => (Level::Warning, why, "larder doctor --canary IMAGE"),
                    Ok(None) => (Level::Note, format!("config_path is a list ({list}), which it reads"), ""),
                };
                findings.add(found.0, ABOUT, found.1, found.2);
            }
            hosts::directories(machine, ABOUT, &first_directory(Some(&list)), here, findings);
        }
        Ok(None) => findings.add(
            Level::Problem,
            ABOUT,
            "it has no config_path: its containerd reads no hosts.toml",
            "larder setup k0s, then systemctl restart k0sworker",
        ),
        Err(error) => findings.add(Level::Problem, ABOUT, error, CORRECT),
    }
}

fn rancher(machine: &Machine, directory: &str, runtime: Runtime, here: &Here, findings: &mut Findings) {
    let (file, about) = (format!("{directory}/registries.yaml"), runtime.name());
    let setup = setup_of(about, here, &format!("restart {about}"));
    let text = match machine.text_or_empty(&file) {
        Ok(text) => text,
        Err(why) => return unreadable::add(findings, about, &why),
    };
    let read = match registries_yaml::read(&text) {
        Ok(read) => read,
        Err(at) => {
            let why = format!("{file} is malformed, and {about} does not start with it: {at}");
            return findings.add(Level::Problem, about, why, "correct it");
        }
    };
    let is_ours = |url: &String| here.urls.iter().any(|own| registries_yaml::leads_to(url, own));
    let rewritten = registries_yaml::rewritten(&read);
    let (changed, named): (Vec<_>, Vec<_>) =
        registries_yaml::endpoints(&read).into_iter().partition(|(registry, _)| rewritten.contains(registry));
    for (registry, endpoints) in &changed {
        let (level, what) = match endpoints.iter().any(is_ours) {
            true => (
                Level::Problem,
                "leads here, with a rewrite: this cache is asked for other images than the pods name",
            ),
            false => (
                Level::Warning,
                "has a rewrite, and does not lead here: its images are pulled without this cache",
            ),
        };
        findings.add(level, about, format!("{file}: the mirror of {registry} {what}"), REWRITE_REMEDY);
    }
    let (ours, elsewhere): (Vec<_>, Vec<_>) =
        named.iter().partition(|(_, endpoints)| endpoints.first().is_some_and(is_ours));
    for (registry, _) in elsewhere.iter().filter(|(registry, _)| registry != registries_yaml::ALL) {
        findings.add(
            Level::Warning,
            about,
            format!("{file} does not lead {registry} here first: its images are pulled without this cache"),
            setup.clone(),
        );
    }
    if ours.iter().any(|(registry, _)| registry == registries_yaml::ALL) {
        findings.ok(about, format!("{file} leads here"));
    } else if ours.is_empty() {
        let is_all = rewritten.iter().any(|registry| registry == registries_yaml::ALL);
        let remedy = if is_all { REWRITE_REMEDY } else { &setup };
        findings.add(Level::Problem, about, format!("{file} does not lead here"), remedy);
    } else {
        let names: Vec<&str> = ours.iter().map(|(registry, _)| registry.as_str()).collect();
        findings.ok(about, format!("{file} leads here for {} only", names.join(", ")));
    }
}

fn docker(machine: &Machine, here: &Here, settings: &Settings, findings: &mut Findings) {
    let default: &Registry = &settings.serve.default_registry;
    let text = match machine.text_or_empty(DOCKER_CONFIG) {
        Ok(text) => text,
        Err(why) => return unreadable::add(findings, DOCKER, &why),
    };
    let text = if text.trim().is_empty() { "{}" } else { &text };
    let config: serde_json::Value = match serde_json::from_str(text) {
        Ok(config) => config,
        Err(error) => {
            return findings.add(
                Level::Problem,
                DOCKER,
                format!("{DOCKER_CONFIG} is malformed: {error}"),
                "correct it",
            );
        }
    };
    let mirrors = config.get("registry-mirrors").and_then(serde_json::Value::as_array);
    let ours = mirrors.into_iter().flatten().filter_map(serde_json::Value::as_str);
    let leads_here =
        ours.map(|url| url.trim_end_matches('/')).any(|url| here.urls.iter().any(|own| own == url));
    if leads_here && default.as_str() != DOCKER_HUB {
        findings.add(
            Level::Problem,
            DOCKER,
            format!("it asks here for images of Docker Hub without saying so, and gets those of {default}"),
            format!("default_registry = \"{DOCKER_HUB}\" in [server], or larder setup docker --undo"),
        );
    } else if leads_here {
        findings.ok(DOCKER, "Docker Hub leads here");
        if here.header.is_some() {
            findings.add(
                Level::Problem,
                DOCKER,
                "registry-mirrors names this cache, and Docker can send it no header of [server] gate_header: its requests are refused, and it pulls around this cache",
                "larder setup docker, which takes the mirror away and leads its containerd image store here; or allow_uids instead of gate_header",
            );
        }
    } else if here.header.is_some() {
        image_store(machine, &config, here, findings);
    } else {
        findings.add(
            findings.docker_level(),
            DOCKER,
            "registry-mirrors does not name this cache",
            "larder setup docker, then systemctl restart docker",
        );
    }
}

/// With a gate, only Docker's containerd image store can pull through this cache, since its `hosts.toml` has headers.
fn image_store(machine: &Machine, config: &serde_json::Value, here: &Here, findings: &mut Findings) {
    let level = findings.docker_level();
    if config["features"]["containerd-snapshotter"] == serde_json::Value::Bool(false) {
        return findings.add(
            level,
            DOCKER,
            "its containerd image store is off (features in daemon.json), and only that can send the header of [server] gate_header",
            "turn it on, then larder setup docker; or allow_uids instead of gate_header",
        );
    }
    let names = match machine.names_or_empty(DOCKER_HOSTS) {
        Ok(names) => names,
        Err(why) => return unreadable::add(findings, DOCKER, &why),
    };
    let mut hub = Some(Leads::Elsewhere);
    for name in names.iter().filter(|name| machine.has_directory(&format!("{DOCKER_HOSTS}/{name}"))) {
        let file = HostsFile { about: DOCKER, directory: DOCKER_HOSTS, name };
        let leads = hosts::look(machine, &file, here, findings);
        if name == DOCKER_HUB {
            hub = leads;
        }
    }
    match hub {
        Some(Leads::Here { passes: true }) => findings.ok(
            DOCKER,
            format!("{DOCKER_HOSTS}/{DOCKER_HUB} leads here{}, for its containerd image store alone", here.sends()),
        ),
        Some(Leads::Elsewhere) => findings.add(
            level,
            DOCKER,
            "nothing leads its containerd image store here, and only that can send the header of [server] gate_header",
            "larder setup docker; without that store allow_uids instead of gate_header",
        ),
        // What is wrong with it has been said.
        Some(Leads::Here { passes: false }) | None => {}
    }
}

fn containers(machine: &Machine, here: &Here, settings: &Settings, findings: &mut Findings) {
    let setup = setup_of(Runtime::Podman.name(), here, "systemctl reload crio");
    let mut all = Vec::new();
    for file in registries_conf::files(machine) {
        let text = match machine.text_or_empty(&file) {
            Ok(text) => text,
            Err(why) => return unreadable::add(findings, CONTAINERS, &why),
        };
        match registries_conf::entries(&file, &text) {
            Ok(found) => all.extend(found),
            Err(error) => return findings.add(Level::Problem, CONTAINERS, error, "correct it"),
        }
    }
    for (at, earlier) in all.iter().enumerate() {
        let ours = all[at..].iter().any(|later| later.file == OURS && later.prefix == earlier.prefix);
        if earlier.file != OURS && ours {
            findings.add(
                Level::Problem,
                CONTAINERS,
                format!("{OURS} overrides what {} says of {}", earlier.file, earlier.prefix),
                setup.clone(),
            );
        }
    }
    let all = registries_conf::in_force(all);
    let authorities: Vec<&str> = here.urls.iter().filter_map(|url| url.strip_prefix("http://")).collect();
    let is_ours =
        |at: &str| authorities.iter().any(|own| at.strip_prefix(own).is_some_and(|r| r.starts_with('/')));
    let bad = unreadable_locations(&all, &is_ours, &setup, findings);
    let policies = containers_entries::check(machine, &all, &authorities, &is_ours, &setup, findings);
    let configured = settings.upstream.registries.keys();
    let named = configured.filter(|registry| registry.path_component().is_some()).map(ToString::to_string);
    let (mut ours, mut not, mut signed) = (Vec::new(), Vec::new(), Vec::new());
    for registry in BEST_KNOWN.iter().map(|name| (*name).to_owned()).chain(named) {
        let must_be_signed = policies.signed_in(&registry).contains_key(&registry);
        match registries_conf::matching(&all, &registry) {
            Some(entry) if entry.blocked || bad.contains(&entry.prefix) => {}
            Some(entry) => {
                let first = entry.mirrors.first().or(entry.location.as_ref());
                match first.filter(|at| is_ours(at)).map(|at| entry.rewritten(at, &registry)) {
                    Some(at) if !registries_conf::is_readable(&at) => {
                        let what = format!(
                            "{} leads {registry} to {at}, which podman and CRI-O cannot read: they cannot pull it at all",
                            entry.file
                        );
                        findings.add(Level::Problem, CONTAINERS, what, setup.clone());
                    }
                    Some(_) => ours.push(registry),
                    None if must_be_signed => signed.push(registry),
                    None => not.push(registry),
                }
            }
            None if must_be_signed => signed.push(registry),
            None => not.push(registry),
        }
    }
    let led = Led { ours, not, signed };
    if led.ours.is_empty() && !bad.is_empty() {
        led.say_signed(findings);
    } else {
        // podman is for people, who may pull as they like.
        let level = if Runtime::Crio.is_on(machine) { findings.crio_level() } else { Level::Warning };
        led.say(level, setup, findings);
    }
}

/// Where podman and CRI-O are led to for the registries that they pull from.
struct Led {
    ours: Vec<String>,
    not: Vec<String>,
    /// Not here, since what they have must be signed.
    signed: Vec<String>,
}

impl Led {
    /// Says so; `level` is that of a runtime that is led here for nothing.
    fn say(self, level: Level, setup: String, findings: &mut Findings) {
        self.say_signed(findings);
        let Self { ours, not, signed } = self;
        match (ours.is_empty(), not.is_empty()) {
            (true, true) if !signed.is_empty() => {}
            (true, _) => {
                findings.add(level, CONTAINERS, "registries.conf.d does not name this cache", setup);
            }
            (false, is_all) => {
                findings.ok(CONTAINERS, format!("these registries lead here: {}", ours.join(", ")));
                if !is_all {
                    let what = format!("these registries are pulled without this cache: {}", not.join(", "));
                    findings.add(Level::Warning, CONTAINERS, what, setup);
                }
            }
        }
    }

    /// As setup leaves it.
    fn say_signed(&self, findings: &mut Findings) {
        if !self.signed.is_empty() {
            let what = format!(
                "these registries are pulled without this cache, since what they have must be signed: {}",
                self.signed.join(", ")
            );
            findings.add(Level::Note, CONTAINERS, what, "");
        }
    }
}

/// Says which entries lead here in a form that podman and CRI-O cannot read, as earlier setups wrote it for a registry
/// with a port; returns their prefixes.
fn unreadable_locations(
    all: &[registries_conf::Entry],
    is_ours: &impl Fn(&str) -> bool,
    setup: &str,
    findings: &mut Findings,
) -> Vec<String> {
    let mut bad = Vec::new();
    for entry in all.iter().filter(|entry| !entry.blocked) {
        let mut locations = entry.mirrors.iter().chain(&entry.location);
        let at =
            locations.find(|at| is_ours(at) && !registries_conf::is_readable(entry.without_reference(at)));
        let Some(at) = at else { continue };
        let what = format!(
            "{} leads {} to {at}, which podman and CRI-O cannot read: they cannot pull it at all",
            entry.file, entry.prefix
        );
        let remedy = match at.starts_with('[') {
            true => {
                format!("put an address such as \"127.0.0.1:5050\" first in [server] listen; then {setup}")
            }
            false => setup.to_owned(),
        };
        findings.add(Level::Problem, CONTAINERS, what, remedy);
        bad.push(entry.prefix.clone());
    }
    bad
}

#[cfg(test)]
#[path = "runtimes_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "containers_tests.rs"]
mod containers_tests;

#[cfg(test)]
#[path = "gate_tests.rs"]
mod gate_tests;
