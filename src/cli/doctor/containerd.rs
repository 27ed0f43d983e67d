//! containerd: what its configuration in force leads to, and the traps in it (docs/wiring.md).

use super::finding::{CONTAINERD as ABOUT, CONTAINERD_SETUP as SETUP, CORRECT, Findings, Level};
use super::here::Here;
use super::{hosts, unreadable};
use crate::cli::runtimes::containerd_config::{CONFIG, Cri, config_at, config_of};
use crate::cli::runtimes::containerd_files::{files, takes_config_path_away};
use crate::cli::runtimes::machine::Machine;
use crate::cli::setup::{LACKS_VERSION, LOGINS, LOGINS_REMEDY, first_directory};

/// In place of a file: containerd itself was asked.
const ASKED: &str = "containerd's configuration in force";

/// A file of containerd's configuration, or what containerd printed.
struct Part {
    path: String,
    cri: Cri,
    /// Whether it is certain that containerd reads it.
    certain: bool,
}

/// Looks at the containerd of the machine.
pub(super) fn check(machine: &Machine, here: &Here, findings: &mut Findings) {
    if let Err(why) = machine.text_or_empty(CONFIG) {
        return unreadable::add(findings, ABOUT, &why);
    }
    let parts = match in_force(machine) {
        Ok(parts) => parts,
        Err(error) => return findings.add(Level::Problem, ABOUT, error, CORRECT),
    };
    if !judge(&parts, findings) {
        return;
    }
    let Some(path) = config_path(&parts) else {
        return findings.add(
            Level::Problem,
            ABOUT,
            "it has no config_path: up to 2.1 it reads no hosts.toml, and from 2.2 on it has a list by default, of which its transfer service reads nothing",
            SETUP,
        );
    };
    if path.contains(':') {
        list(&path, &parts, findings);
    }
    let last = takes_config_path_away(parts.iter().map(|part| (&part.cri, part.certain)));
    if let Some(part) = last.and_then(|at| parts.get(at)) {
        findings.add(
            Level::Warning,
            ABOUT,
            format!("{} has a table of the CRI without config_path, which containerd 1.x uses in place of that of {CONFIG}", part.path),
            SETUP,
        );
    }
    let written = config_of(&machine.read(CONFIG)).ok().and_then(|cri| cri.config_path());
    if let Some(written) = written.filter(|written| *written != path) {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("config_path is {path}, though config.toml says {written}: a file that it imports says otherwise"),
            SETUP,
        );
    }
    hosts::directories(machine, ABOUT, &first_directory(Some(&path)), here, findings);
}

/// What is to be said whatever directory is named; whether that counts at all.
fn judge(parts: &[Part], findings: &mut Findings) -> bool {
    for Part { path, cri, .. } in parts {
        if let Some(version) = cri.unknown_version() {
            findings.add(
                Level::Note,
                ABOUT,
                format!("{path} is of version {version}, which is not known here; it is judged as if it were of the newest that is"),
                "larder doctor --canary IMAGE shows whether a pull comes through this cache",
            );
        }
    }
    if parts.iter().any(|part| part.cri.is_off()) {
        findings.add(Level::Note, ABOUT, "its CRI is off (disabled_plugins): no kubelet pulls by it", "");
        return false;
    }
    if let Some(Part { path, cri, .. }) = parts.iter().find(|part| !part.cri.old_settings().is_empty()) {
        let old = cri.old_settings().join(", ");
        findings.add(
            Level::Problem,
            ABOUT,
            format!("{path} names registries in the old form ({old}): with a config_path beside it containerd's CRI does not start, and without one no hosts.toml is read"),
            "move them to hosts.toml, then larder setup containerd",
        );
        return false;
    }
    if parts.first().is_some_and(|part| part.path == CONFIG && part.cri.lacks_version()) {
        findings.add(Level::Problem, ABOUT, LACKS_VERSION, "version = 2 as the first line of that file");
    }
    for Part { path, .. } in parts.iter().filter(|part| part.cri.has_logins()) {
        findings.add(Level::Note, ABOUT, format!("{path} {LOGINS}"), LOGINS_REMEDY);
    }
    true
}

/// A list of directories, which containerd 1.x and 2.0 read, and later ones where the CRI pulls by itself.
fn list(path: &str, parts: &[Part], findings: &mut Findings) {
    let why = "from 2.1 on, its transfer service reads no hosts.toml at all";
    if parts.iter().any(|part| part.cri.pulls_locally()) {
        let what = format!(
            "config_path is a list ({path}), which it reads, since its CRI is set to pull without the transfer service"
        );
        findings.add(
            Level::Note,
            ABOUT,
            what,
            "larder doctor --canary IMAGE shows whether a pull comes through this cache",
        );
    } else if !parts.iter().all(|part| part.cri.may_be_old()) {
        findings.add(Level::Problem, ABOUT, format!("config_path is a list ({path}): {why}"), SETUP);
    } else if parts.iter().all(|part| part.path != ASKED) {
        // 2.x prints its configuration with a later version.
        findings.add(
            Level::Warning,
            ABOUT,
            format!("config_path is a list ({path}), which 1.x reads: {why}"),
            SETUP,
        );
    }
}

/// The directory of `hosts.toml` in the configuration in force: of a list the first.
///
/// # Errors
/// There is none, or the configuration cannot be used.
pub(super) fn hosts_directory(machine: &Machine) -> Result<String, String> {
    let path = config_path(&in_force(machine)?);
    path.map(|path| first_directory(Some(&path))).ok_or_else(|| "it has no config_path".to_owned())
}

/// What the last file says that says anything.
fn config_path(parts: &[Part]) -> Option<String> {
    parts.iter().rev().find_map(|part| part.cri.config_path())
}

/// containerd's configuration as it is in force, if containerd itself can be asked; else its files in their order.
fn in_force(machine: &Machine) -> Result<Vec<Part>, String> {
    let dumped = machine
        .is_this_one()
        .then(|| std::process::Command::new("containerd").args(["config", "dump"]).output().ok())
        .flatten()
        .filter(|done| done.status.success());
    if let Some(done) = dumped {
        let cri = config_at(ASKED, &String::from_utf8_lossy(&done.stdout))?;
        return Ok(vec![Part { path: ASKED.to_owned(), cri, certain: true }]);
    }
    let mut parts = Vec::new();
    for file in files(machine)? {
        let cri = config_at(&file.path, &machine.text_or_empty(&file.path)?)?;
        parts.push(Part { path: file.path, cri, certain: file.certain });
    }
    Ok(parts)
}
