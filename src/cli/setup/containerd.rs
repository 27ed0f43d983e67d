//! containerd: one `hosts.toml` for all registries, and a `config_path` that names one single directory.
//!
//! What is known of its traps (docs/wiring.md): a `config_path` with a colon makes the transfer service read no mirror
//! at all; the old `registry.mirrors` and `registry.configs.*.tls` beside a `config_path` keep the CRI from starting; a
//! capability that a version does not know makes it drop the whole file; `ca` or `skip_verify` on an http host makes it
//! try TLS first; a directory of a registry hides `_default`; a file that is imported overrides the one that imports
//! it.

use super::change::Change;
use super::hosts::{Certificates, Host, certificates_of, is_ours, with_host, without_host};
use super::plan::{SetupPlan, SetupRequest};
use crate::cli::runtimes::containerd_config::{Cri, config_at, restored};
use crate::cli::runtimes::containerd_files::{DROP_INS, files, takes_config_path_away};
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::marks::DOCKER_HOSTS;

/// Where hosts are looked up, unless it says otherwise.
pub(in crate::cli) const HOSTS: &str = "/etc/containerd/certs.d";
/// What is to be said of a `config.toml` of version 2 that does not say so.
pub(in crate::cli) const LACKS_VERSION: &str = "/etc/containerd/config.toml has the table io.containerd.grpc.v1.cri and no version: containerd 1.x passes over that table without a word. Put version = 2 into its first line, restart containerd and check that it works, then run this again";
/// What is to be said of a file with logins for registries.
pub(in crate::cli) const LOGINS: &str = "has logins for registries (registry.configs.*.auth), which containerd shows to the registry itself and not to this cache";
/// What to do about it.
pub(in crate::cli) const LOGINS_REMEDY: &str = "For images that these logins open to be cached, put them into a docker config that [credentials] node names";
/// The drop-in that is written where there is no `config.toml`, whose defaults it would end.
const DROP_IN: &str = "larder.toml";

/// A file of the configuration, and what it says without this cache's own changes.
struct Part {
    change: Change,
    cri: Cri,
    /// Whether it is certain that containerd reads it.
    certain: bool,
}

pub(super) fn plan(machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    let mut parts = Vec::new();
    for file in files(machine)? {
        let change = Change::read(machine, &file.path)?;
        let text = if request.undo { change.before.clone() } else { change.original(&restored) };
        let cri = config_at(&file.path, text.as_deref().unwrap_or_default())?;
        parts.push(Part { change, cri, certain: file.certain });
    }
    let config_path = parts.iter().rev().find_map(|part| part.cri.config_path());
    let directory = first_directory(config_path.as_deref());
    if request.undo {
        plan.changes.extend(parts.into_iter().map(|part| part.change.undone(&restored)));
        let configured = plan.changes.iter().any(Change::changes_anything);
        hosts_undone(machine, &directory, &mut plan)?;
        plan.restart = configured.then_some("systemctl restart containerd");
        return Ok(plan);
    }
    judge(&parts, &mut plan)?;
    let dropped = dropped_directories(&parts, config_path.as_deref());
    let said = config_path.is_some();
    plan.changes.extend(configured(machine, parts, said, &directory, request)?);
    plan.restart =
        plan.changes.iter().any(Change::changes_anything).then_some("systemctl restart containerd");
    hosts(machine, request, &directory, &mut plan)?;
    for (dropped, in_force) in dropped {
        kept_certificates(machine, request, &directory, dropped.as_str(), in_force, &mut plan)?;
    }
    Ok(plan)
}

/// What keeps containerd from using what would be written, or has to be said about it.
fn judge(parts: &[Part], plan: &mut SetupPlan) -> Result<(), String> {
    if parts.first().is_some_and(|part| part.cri.lacks_version()) {
        return Err(LACKS_VERSION.to_owned());
    }
    for Part { change, cri, .. } in parts {
        let path = &change.path;
        let old = cri.old_settings();
        if !old.is_empty() {
            return Err(format!(
                "{path} names registries in the old form ({}), and containerd's CRI does not start with both. \
                 Move them to {HOSTS}/<registry>/hosts.toml first: https://github.com/containerd/containerd/blob/main/docs/hosts.md",
                old.join(", ")
            ));
        }
        if cri.has_logins() {
            plan.notes.push(format!("{path} {LOGINS}. {LOGINS_REMEDY}"));
        }
        if let Some(version) = cri.unknown_version() {
            if !cri.has_registry() {
                return Err(format!(
                    "{path} is of version {version}, which is not known here, and has none of the tables that are: set its \
                     registry config_path to {HOSTS} by hand, then run this again"
                ));
            }
            plan.notes.push(format!(
                "{path} is of version {version}, which is not known here; it has the registry table of version 3, which is what was changed: check it with larder doctor --canary IMAGE"
            ));
        }
        if cri.is_off() {
            plan.notes.push(format!("{path} has the CRI in disabled_plugins: only ctr and nerdctl pull by this; for Docker: larder setup docker"));
        }
    }
    Ok(())
}

/// The configuration with one single directory in it: in every file that says something else; if none says anything, in
/// the first; and in one whose table containerd 1.x uses in place of an earlier one.
fn configured(
    machine: &Machine,
    parts: Vec<Part>,
    said: bool,
    directory: &str,
    request: &SetupRequest,
) -> Result<Vec<Change>, String> {
    let certain = parts.iter().any(|part| part.certain && part.cri.config_path().is_some());
    let mut changes = Vec::new();
    // The first is config.toml. Where that is not there and drop-ins are, containerd is 2.2 or later and reads them by
    // default; a config.toml that does not import them might end that.
    let drop_in = parts.first().is_some_and(|part| part.change.before.is_none()) && parts.len() > 1;
    let last = takes_config_path_away(parts.iter().map(|part| (&part.cri, part.certain)));
    for (at, Part { change, mut cri, .. }) in parts.into_iter().enumerate() {
        let path = cri.config_path();
        let to_be_said = at == 0 && !certain && !drop_in || Some(at) == last;
        if path.is_none() && !to_be_said || path.as_deref() == Some(directory) {
            let original = change.original(&restored);
            changes.push(match original {
                Some(original) => change.becomes(original, &request.url, &restored),
                None => change.undone(&restored),
            });
            continue;
        }
        let there = change.original(&restored).is_some();
        cri.set(directory, there);
        // After the change it must still be a file that containerd can read.
        config_at(&change.path, &cri.text())?;
        changes.push(change.becomes(cri.text(), &request.url, &restored));
    }
    if drop_in && !said {
        let change = Change::read(machine, &format!("{DROP_INS}/{DROP_IN}"))?;
        let mut cri = config_at(&change.path, "version = 3\n")?;
        cri.set(directory, false);
        changes.retain(|other| other.path != change.path);
        changes.push(change.becomes(cri.text(), &request.url, &restored));
    }
    Ok(changes)
}

/// The one directory: of a list the first, which is where containerd itself looks first.
pub(in crate::cli) fn first_directory(config_path: Option<&str>) -> String {
    let first = config_path.unwrap_or(HOSTS).split(':').find(|path| !path.is_empty());
    first.unwrap_or(HOSTS).trim_end_matches('/').to_owned()
}

/// The directories that are not read any more, and whether it is certain that they were.
fn dropped_directories(parts: &[Part], config_path: Option<&str>) -> Vec<(String, bool)> {
    match config_path {
        Some(list) => {
            let all = list.split(':').filter(|path| !path.is_empty()).skip(1);
            all.map(|path| (path.trim_end_matches('/').to_owned(), true)).collect()
        }
        None => {
            let drop_ins = parts.len() > 1 && parts.iter().any(|part| !part.certain);
            let by_default = drop_ins || parts.iter().any(|part| part.cri.has_list_by_default());
            vec![(DOCKER_HOSTS.to_owned(), by_default)]
        }
    }
}

/// A registry's directory as containerd writes it: a colon divides paths elsewhere.
fn port_name(registry: &str) -> String {
    registry.rsplit_once(':').map_or(registry.to_owned(), |(host, port)| format!("{host}_{port}_"))
}

/// A registry's directory: of its two names, in the order in which containerd looks them up, the one that is there.
fn directory_name(machine: &Machine, directory: &str, registry: &str) -> String {
    let name = port_name(registry);
    let is_there = |name: &str| machine.has_directory(&format!("{directory}/{name}"));
    if !is_there(&name) && is_there(registry) { registry.to_owned() } else { name }
}

/// The `hosts.toml` of all registries, or of those that are named; and of those that an earlier setup has named, which
/// would lead to an old port otherwise.
pub(super) fn hosts(
    machine: &Machine,
    request: &SetupRequest,
    directory: &str,
    plan: &mut SetupPlan,
) -> Result<(), String> {
    let all = request.registries.is_empty();
    let mut wanted: Vec<String> =
        request.registries.iter().map(|name| directory_name(machine, directory, name)).collect();
    if all {
        wanted.push("_default".to_owned());
    }
    for name in machine.names(directory) {
        let path = format!("{directory}/{name}");
        if wanted.contains(&name) || !machine.has_directory(&path) {
            continue;
        }
        let other = port_name(&name);
        if is_ours(&machine.read(&format!("{path}/hosts.toml"))) {
            wanted.push(name);
        } else if other != name && machine.has_directory(&format!("{directory}/{other}")) {
            plan.notes.push(format!("{path} is not read by containerd, since {directory}/{other} is there"));
        } else if all {
            plan.notes.push(format!(
                "{path} hides _default: its images are pulled without this cache; to change that: larder setup {} --registry {}",
                request.runtime,
                registry_of(&name)
            ));
        }
    }
    for name in &wanted {
        let path = format!("{directory}/{name}/hosts.toml");
        plan.changes.push(hosts_of(machine, request, &path, Certificates::default())?);
    }
    Ok(())
}

/// The registry that a directory is for.
pub(in crate::cli) fn registry_of(directory: &str) -> String {
    let port = directory.strip_suffix('_').and_then(|name| name.rsplit_once('_'));
    match port {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}:{port}")
        }
        _ => directory.to_owned(),
    }
}

/// The `hosts.toml` of every registry without this cache.
pub(super) fn hosts_undone(machine: &Machine, directory: &str, plan: &mut SetupPlan) -> Result<(), String> {
    for name in machine.names(directory) {
        if machine.has_directory(&format!("{directory}/{name}")) {
            let change = Change::read(machine, &format!("{directory}/{name}/hosts.toml"))?;
            plan.changes.push(change.undone(&without_host));
        }
    }
    Ok(())
}

/// The `hosts.toml` at a path; without certificates it keeps those that an earlier setup has written into it.
pub(super) fn hosts_of(
    machine: &Machine,
    request: &SetupRequest,
    path: &str,
    certificates: Certificates,
) -> Result<Change, String> {
    let mut change = Change::read(machine, path)?;
    let certificates = if certificates == Certificates::default() {
        kept_on(machine, certificates_of(change.text()))
    } else {
        certificates
    };
    let gate = request.gate.as_ref();
    let host = Host { url: &request.url, strict: request.strict, gate, certificates };
    let original = change.original(&without_host);
    let text = with_host(original.as_deref(), &host).map_err(|why| format!("{path} {why}"))?;
    // With a gate, every process that can read the file can speak to the cache.
    change.mode = if gate.is_some() { 0o600 } else { change.original_mode() };
    Ok(change.becomes(text, &request.url, &without_host))
}

/// The certificates of registries in a directory that is not read any more: each gets a `hosts.toml` that names them,
/// so that containerd still trusts the registry when it turns to it. Other content is named.
fn kept_certificates(
    machine: &Machine,
    request: &SetupRequest,
    directory: &str,
    dropped: &str,
    in_force: bool,
    plan: &mut SetupPlan,
) -> Result<(), String> {
    for name in machine.names(dropped) {
        let from = format!("{dropped}/{name}");
        // Docker writes a colon where containerd writes underscores.
        let registry = registry_of(&port_name(&name));
        let to = format!("{directory}/{}", directory_name(machine, directory, &registry));
        if !machine.has_directory(&from) {
            continue;
        }
        let certificates = certificates(machine, &from);
        let theirs = without_host(&machine.read(&format!("{from}/hosts.toml"))).is_some();
        if certificates == Certificates::default() && !theirs {
            continue;
        }
        if theirs
            || !in_force
            || machine.has_directory(&to) && !is_ours(&machine.read(&format!("{to}/hosts.toml")))
        {
            plan.notes.push(format!(
                "{from} is not read by containerd{}: what it has for {registry} must be in {to}/hosts.toml",
                if in_force { " any more" } else { "" }
            ));
            continue;
        }
        let path = format!("{to}/hosts.toml");
        plan.changes.retain(|change| change.path != path);
        plan.changes.push(hosts_of(machine, request, &path, certificates)?);
        plan.notes.push(format!(
            "{from} is not read by containerd any more: {path} names its certificates. This cache asks {0} itself and does not read them: [[registry]] host = \"{0}\", ca = ...",
            registry
        ));
    }
    Ok(())
}

/// Those that are there, or of which that is not known: an init container does not see the directory that they are in.
fn kept_on(machine: &Machine, mut certificates: Certificates) -> Certificates {
    let counts = |path: &str| {
        let of_registry = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let of_all = of_registry.rsplit_once('/').map_or("", |(directory, _)| directory);
        machine.has(path) || !machine.has_directory(of_all)
    };
    certificates.ca.retain(|path| counts(path));
    certificates.client.retain(|(path, _)| counts(path));
    certificates
}

/// The certificates in a directory, by their names as Docker reads them.
fn certificates(machine: &Machine, directory: &str) -> Certificates {
    let names = machine.names(directory);
    let path = |name: &str| format!("{directory}/{name}");
    let ca = names.iter().filter(|name| name.ends_with(".crt")).map(|name| path(name)).collect();
    let pairs = names.iter().filter_map(|name| Some((name, name.strip_suffix(".cert")?)));
    let client = pairs
        .map(|(certificate, stem)| {
            let key = format!("{stem}.key");
            (path(certificate), names.contains(&key).then(|| path(&key)))
        })
        .collect();
    Certificates { ca, client }
}

#[cfg(test)]
#[path = "containerd_tests.rs"]
mod tests;
