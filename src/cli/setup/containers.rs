//! podman and CRI-O: this cache as the first mirror of each registry, by path prefix.
//!
//! Promises: what a site has written about a registry (`blocked`, `location`, `insecure`, mirrors) still counts. An
//! entry that is there is joined in its own file; only registries without an entry get one in a file of setup's own.
//! What is blocked stays blocked. What a package ships below `/usr/share` is not changed.
//!
//! A location has no colon but that of its own port: `reg.corp:5000` is `reg.corp_5000` in it, which `serve::route`
//! reads. What cannot be written so gets no mirror, since one that cannot be read ends every pull.
//!
//! containers/image shows no credential for a registry to a mirror of another host: through it this cache serves what
//! the node's credentials or anonymous callers may read. It can send a mirror no header either.
//!
//! `insecure` is written for mirrors and this cache's own address alone. Of a `[[registry]]` it counts for every push
//! to what its prefix matches, and every login, which go to the registry itself wherever `location` leads: their
//! certificates would not be verified. With `--strict` the location, asked after the mirror, is this cache too, over
//! TLS, which it does not speak: nothing else is asked.
//!
//! What must be signed gets no mirror: `signature_policy` says why.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, Value};

use super::change::Change;
use super::plan::{SetupPlan, SetupRequest};
use super::signed::{nothing_signed, of_entry, of_signed};
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::marks::MARK;
use crate::cli::runtimes::registries_conf::{
    DROP_INS, Entry, OURS, entries, files, in_force, is_shipped, matching, prefix_of,
};
use crate::cli::runtimes::signature_policy::SignaturePolicies;
use crate::cli::runtimes::toml_text::rendered;
use crate::reference::Registry;

/// After [`MARK`], behind what setup has replaced: the value from before follows.
const BEFORE: &str = "; before: ";
/// In place of the value from before: there was none.
const NONE: &str = "none";
/// Registries that every cluster pulls from; mirrors cannot be named for all at once.
pub(in crate::cli) const BEST_KNOWN: [&str; 7] =
    ["docker.io", "gcr.io", "ghcr.io", "mcr.microsoft.com", "public.ecr.aws", "quay.io", "registry.k8s.io"];

/// A file of the site, without what setup has added.
struct Theirs {
    change: Change,
    original: Option<String>,
}

pub(super) fn plan(machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    let (mut theirs, mut all) = (Vec::new(), Vec::new());
    for path in files(machine).into_iter().filter(|path| path != OURS) {
        if is_shipped(&path) {
            if !request.undo {
                all.extend(entries(&path, &machine.read(&path))?);
            }
            continue;
        }
        let change = Change::read(machine, &path)?;
        let original = change.original(&without_mirrors);
        if !request.undo {
            all.extend(entries(&change.path, original.as_deref().unwrap_or_default())?);
        }
        theirs.push(Theirs { change, original });
    }
    // All of it is ours.
    let (ours, nothing) = (Change::read(machine, OURS)?, |_: &str| None);
    if request.undo {
        plan.changes.push(ours.undone(&nothing));
        plan.changes.extend(theirs.into_iter().map(|file| file.change.undone(&without_mirrors)));
        return Ok(plan);
    }
    if request.gate.is_some() {
        return Err(format!(
            "[server] gate_header is set, and {0} can send a mirror no header: this cache would refuse its every request, and {0} would pull around it. \
             Nothing was written. allow_uids restricts who may connect without a header",
            request.runtime
        ));
    }
    if request.authority.starts_with('[') {
        return Err(format!(
            "this cache listens on {}, and {} cannot read a mirror at an IPv6 address: every pull would fail. Nothing was written. Put an address such as \"127.0.0.1:5050\" first in [server] listen (or in larder.socket), then run this again",
            request.authority, request.runtime
        ));
    }
    let all = in_force(all);
    let registries = nameable(wanted(request), &mut plan.notes);
    let policies = SignaturePolicies::read(machine, &[&request.authority])?;
    if request.strict {
        nothing_signed(&registries, &policies)?;
    }
    for file in theirs {
        plan.changes.push(joined(file, &all, &registries, &policies, request, &mut plan.notes)?);
    }
    let text = own(&all, &registries, &policies, request, &mut plan.notes);
    let _: DocumentMut = text.parse().map_err(|error| format!("{OURS}: {error}"))?;
    plan.changes.push(ours.becomes(text, &request.url, &nothing));
    plan.notes.push("CRI-O reads it again with: systemctl reload crio".to_owned());
    plan.notes.push("podman and CRI-O show no credential to a mirror: private images are served from here only where the node's own docker config may read them".to_owned());
    Ok(plan)
}

fn wanted(request: &SetupRequest) -> BTreeSet<String> {
    if request.registries.is_empty() {
        let configured = request.configured.iter().cloned();
        BEST_KNOWN.iter().map(|name| (*name).to_owned()).chain(configured).collect()
    } else {
        request.registries.iter().cloned().collect()
    }
}

/// Those that a path can name.
fn nameable(wanted: BTreeSet<String>, notes: &mut Vec<String>) -> BTreeSet<String> {
    let (named, left_out) = wanted.into_iter().partition(|registry| component_of(registry).is_some());
    notes.extend(BTreeSet::into_iter(left_out).map(|registry| {
        format!("{registry} cannot be named in the path of a mirror, for want of a dot in its host or as an IPv6 address: it is pulled without this cache")
    }));
    named
}

fn component_of(registry: &str) -> Option<String> {
    registry.parse::<Registry>().ok()?.path_component()
}

/// Where this cache has what begins with `prefix`: a registry, or a part of one.
fn location(request: &SetupRequest, prefix: &str) -> String {
    location_at(&request.authority, prefix)
}

/// The same at each of this cache's addresses: a hand may have written another one.
fn locations(request: &SetupRequest, prefix: &str) -> Vec<String> {
    request.authorities.iter().map(|authority| location_at(authority, prefix)).collect()
}

fn location_at(authority: &str, prefix: &str) -> String {
    let (registry, path) = prefix.split_at(prefix.find('/').unwrap_or(prefix.len()));
    let registry = component_of(registry).unwrap_or_else(|| registry.to_owned());
    format!("{authority}/{registry}{path}")
}

/// A file of the site, with this cache as the first mirror of those of its entries that count and are wanted.
fn joined(
    Theirs { change, original }: Theirs,
    all: &[Entry],
    registries: &BTreeSet<String>,
    policies: &SignaturePolicies,
    request: &SetupRequest,
    notes: &mut Vec<String>,
) -> Result<Change, String> {
    let Some(original) = original else { return Ok(change.undone(&without_mirrors)) };
    let path = change.path.clone();
    let mut document: DocumentMut =
        original.parse().map_err(|error| format!("{path} is malformed: {error}"))?;
    let mut any = false;
    if let Some(item) = document.get_mut("registry") {
        as_tables(item);
        for table in item.as_array_of_tables_mut().into_iter().flat_map(ArrayOfTables::iter_mut) {
            let Some(prefix) = prefix_of(table) else { continue };
            let host = prefix.split('/').next().unwrap_or_default();
            let counts = all.iter().find(|entry| entry.prefix == prefix && entry.file == path);
            let Some(entry) = counts.filter(|_| registries.contains(host)) else { continue };
            if entry.blocked {
                notes.push(format!("{path} blocks {prefix}, and it stays blocked"));
                continue;
            }
            if let Some(with_port) = of_another_port(&prefix, all, registries) {
                notes.push(format!(
                    "{path} has {prefix}, which podman and CRI-O take for {with_port} too, and could not read a mirror of it then: \
                     {prefix} is pulled without this cache. Name {with_port} there by itself, then run this again"
                ));
                continue;
            }
            let mut signed = policies.signed_in(&prefix);
            signed.retain(|part, _| matching(all, part) == Some(entry));
            if let Some(what) = of_signed(&signed) {
                let here = locations(request, &prefix);
                any |= remove_mirrors(table, &here);
                let is_located_here = entry.location.as_ref().is_some_and(|at| here.contains(at));
                let follows = of_entry(&prefix, &path, signed.contains_key(&prefix), is_located_here);
                notes.push(format!("{what}: {follows}"));
                continue;
            }
            join(table, entry, request)?;
            any = true;
            if let Some(location) = entry.location.as_ref().filter(|location| **location != prefix) {
                notes.push(format!(
                    "{path} has {prefix} at {location}; this cache asks {host} where its own [[registry]] says: endpoints = [...]"
                ));
            }
        }
    }
    // What has no entry of ours stays as it was written, to the byte.
    let text = if any { rendered(&document, &original) } else { original };
    Ok(change.becomes(text, &request.url, &without_mirrors))
}

/// A registry that an entry for `prefix` counts for although it has a port, and no entry of its own: what follows the
/// prefix is added to the location as it is, and a colon in a path cannot be read.
fn of_another_port<'r>(prefix: &str, all: &[Entry], registries: &'r BTreeSet<String>) -> Option<&'r String> {
    let has_port = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(':'));
    registries.iter().find(|name| has_port(name) && !all.iter().any(|entry| entry.prefix == **name))
}

fn join(table: &mut Table, entry: &Entry, request: &SetupRequest) -> Result<(), String> {
    let Entry { file, prefix, mirrors, .. } = entry;
    let here = location(request, prefix);
    if request.strict {
        if !mirrors.is_empty() {
            return Err(format!(
                "{file} has mirrors for {prefix}, which --strict would have to remove; remove them first"
            ));
        }
        replace(table, "prefix", prefix);
        replace(table, "location", &here);
    }
    remove_mirrors(table, &locations(request, prefix));
    let item = table.entry("mirror").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    as_tables(item);
    if let Some(mirrors) = item.as_array_of_tables_mut() {
        let mut mirror = Table::new();
        mirror.decor_mut().set_prefix("\n");
        mirror.decor_mut().set_suffix(format!(" {MARK}"));
        mirror.insert("location", Item::Value(Value::from(here)));
        mirror.insert("insecure", Item::Value(Value::from(true)));
        mirrors.insert(0, mirror);
    }
    Ok(())
}

/// Takes the mirrors at these locations away, also those that were written by hand. Whether there were some.
fn remove_mirrors(table: &mut Table, locations: &[String]) -> bool {
    let Some(item) = table.get_mut("mirror") else { return false };
    as_tables(item);
    let Some(mirrors) = item.as_array_of_tables_mut() else { return false };
    let before = mirrors.len();
    let is_at = |location: &str| locations.iter().any(|at| at == location);
    mirrors.retain(|mirror| !mirror.get("location").and_then(Item::as_str).is_some_and(is_at));
    let found = mirrors.len() < before;
    if mirrors.is_empty() {
        table.remove("mirror");
    }
    found
}

/// Sets a value, and notes the one from before behind it.
fn replace(table: &mut Table, key: &str, value: &str) {
    let before = table.get(key).and_then(Item::as_value);
    if before.and_then(Value::as_str) == Some(value) {
        return;
    }
    let before = before.map_or(NONE.to_owned(), |value| value.to_string().trim().to_owned());
    table.insert(key, Item::Value(Value::from(value).decorated(" ", format!(" {MARK}{BEFORE}{before}"))));
}

/// A list of inline tables as tables with headers, which can be extended.
fn as_tables(item: &mut Item) {
    if item.is_array_of_tables() {
        return;
    }
    *item = match std::mem::take(item).into_array_of_tables() {
        Ok(tables) => Item::ArrayOfTables(tables),
        Err(other) => other,
    };
}

/// A file without what setup has added to it.
fn without_mirrors(text: &str) -> Option<String> {
    let Ok(mut document) = text.parse::<DocumentMut>() else { return Some(text.to_owned()) };
    let mut found = false;
    let registries = document.get_mut("registry").and_then(Item::as_array_of_tables_mut);
    for table in registries.into_iter().flat_map(ArrayOfTables::iter_mut) {
        // The last as earlier versions wrote it with --strict.
        for key in ["prefix", "location", "insecure"] {
            found |= restore(table, key);
        }
        let Some(mirrors) = table.get_mut("mirror").and_then(Item::as_array_of_tables_mut) else { continue };
        let before = mirrors.len();
        mirrors.retain(|mirror| !suffix(mirror.decor()).contains(MARK));
        found |= mirrors.len() < before;
        if mirrors.is_empty() {
            table.remove("mirror");
        }
    }
    Some(if found { rendered(&document, text) } else { text.to_owned() })
}

fn restore(table: &mut Table, key: &str) -> bool {
    let Some(value) = table.get(key).and_then(Item::as_value) else { return false };
    let Some((_, before)) = suffix(value.decor()).split_once(&format!("{MARK}{BEFORE}")) else {
        return false;
    };
    let before = before.trim().to_owned();
    match format!("it = {before}\n").parse::<DocumentMut>().ok().and_then(|mut d| d.remove("it")) {
        Some(item) if before != NONE => drop(table.insert(key, item)),
        _ => drop(table.remove(key)),
    }
    true
}

fn suffix(decor: &toml_edit::Decor) -> &str {
    decor.suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default()
}

/// Setup's own file: registries without an entry, and this cache's own port, so that an image may be named by it.
fn own(
    all: &[Entry],
    registries: &BTreeSet<String>,
    policies: &SignaturePolicies,
    request: &SetupRequest,
    notes: &mut Vec<String>,
) -> String {
    let mut text = "# Written by `larder setup`, removed by `larder setup podman --undo`.\n".to_owned();
    let here = &request.authority;
    // Writing to a String cannot fail.
    if matching(all, here).is_none() {
        let _ = write!(text, "\n[[registry]]\nprefix = \"{here}\"\nlocation = \"{here}\"\ninsecure = true\n");
    }
    for registry in registries {
        match matching(all, registry) {
            Some(entry) if entry.prefix == *registry && !is_shipped(&entry.file) => continue,
            Some(entry) if entry.blocked => {
                notes.push(format!(
                    "{} blocks {}, and with it {registry}: it stays blocked",
                    entry.file, entry.prefix
                ));
                continue;
            }
            Some(entry) if entry.prefix == *registry => {
                notes.push(format!(
                    "{} has {registry}, and belongs to a package, so that it is not changed: {registry} is pulled without this cache. Copy the file to {DROP_INS}, then run this again",
                    entry.file
                ));
                continue;
            }
            Some(entry) => {
                notes.push(format!(
                    "{} has {}, which an entry for {registry} would override: it is pulled without this cache. Name {registry} there by itself, then run this again",
                    entry.file, entry.prefix
                ));
                continue;
            }
            None => {}
        }
        let mut signed = policies.signed_in(registry);
        signed.retain(|part, _| matching(all, part).is_none());
        notes.extend(of_signed(&signed).map(|what| format!("{what}: that is pulled without this cache")));
        if signed.contains_key(registry) {
            continue;
        }
        for prefix in signed.keys() {
            let _ = write!(text, "\n[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{prefix}\"\n");
        }
        let mirror = location(request, registry);
        let location = if request.strict { &mirror } else { registry };
        let _ = write!(
            text,
            "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{location}\"\n\n[[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
        );
    }
    text
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
