//! The `hosts.toml` of a runtime: which of them lead here, what each sends to the gate, and the traps in them
//! (docs/wiring.md).

use toml_edit::{DocumentMut, Item, TableLike};

use super::finding::{CONTAINERD, CONTAINERD_SETUP, Findings, Level};
use super::here::{Here, Sent};
use super::unreadable;
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::marks::{DOCKER_HOSTS, MODE, TLS_KEYS};
use crate::cli::setup::{listed_hosts, registry_of};
use crate::reference::DOCKER_HUB;

/// What every version of containerd knows; one that is not known makes it drop the whole file.
const CAPABILITIES: [&str; 3] = ["pull", "resolve", "push"];

/// A `hosts.toml`.
pub(super) struct HostsFile<'a> {
    /// Whose it is.
    pub(super) about: &'static str,
    /// The directory with one directory for each registry.
    pub(super) directory: &'a str,
    /// The registry's.
    pub(super) name: &'a str,
}

/// Where a `hosts.toml` leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    Elsewhere,
    /// Here; whether it is known to pass the gate, which it does if there is none.
    Here {
        passes: bool,
    },
}

/// Looks at the directory of each registry in the one that containerd looks into.
pub(super) fn directories(
    machine: &Machine,
    about: &'static str,
    directory: &str,
    here: &Here,
    findings: &mut Findings,
) {
    let names = match machine.names_or_empty(directory) {
        Ok(names) => names,
        Err(why) => return unreadable::add(findings, about, &why),
    };
    let (mut leads_here, mut default, mut unread, mut all_pass) = (Vec::new(), false, false, true);
    for name in names.iter().filter(|name| machine.has_directory(&format!("{directory}/{name}"))) {
        let file = HostsFile { about, directory, name };
        match look(machine, &file, here, findings) {
            None => unread = true,
            Some(Leads::Here { passes }) => {
                default |= name == "_default";
                all_pass &= passes;
                leads_here.push(name.clone());
            }
            Some(Leads::Elsewhere) if name != "_default" => findings.add(
                Level::Warning,
                about,
                format!("{directory}/{name} hides _default: its images are pulled without this cache"),
                format!("larder setup {about} --registry {}", registry_of(name)),
            ),
            Some(Leads::Elsewhere) => {}
        }
    }
    let sends = if all_pass { here.sends() } else { "" };
    if default {
        findings.ok(about, format!("{directory}/_default leads here{sends}"));
    } else if leads_here.is_empty() && unread {
        // What is in the files that cannot be read is not known.
    } else if leads_here.is_empty() {
        let remedy =
            if about == CONTAINERD { CONTAINERD_SETUP.to_owned() } else { format!("larder setup {about}") };
        findings.add(Level::Problem, about, format!("nothing in {directory} leads here"), remedy);
    } else {
        findings.ok(about, format!("only these registries lead here{sends}: {}", leads_here.join(", ")));
    }
}

/// Looks at one `hosts.toml`; `None`: it cannot be read.
pub(super) fn look(
    machine: &Machine,
    of: &HostsFile<'_>,
    here: &Here,
    findings: &mut Findings,
) -> Option<Leads> {
    let (about, file) = (of.about, of.path());
    let text = match machine.text_or_empty(&file) {
        Ok(text) => text,
        Err(why) => {
            unreadable::add(findings, about, &why);
            return None;
        }
    };
    let document: DocumentMut = match text.parse() {
        Ok(document) => document,
        Err(error) => {
            let first = error.to_string().lines().next().unwrap_or_default().to_owned();
            findings.add(
                Level::Problem,
                about,
                format!("{file} is malformed, and not used: {first}"),
                "correct it",
            );
            return Some(Leads::Elsewhere);
        }
    };
    let (hosts, passed_over) = listed_hosts(&document);
    if passed_over {
        findings.add(
            Level::Problem,
            about,
            format!("{file}: a host in an inline table or under dotted keys: containerd from 2.0 on passes over it without a word"),
            format!("write it as [host.\"URL\"]; larder setup {about} does"),
        );
    }
    let mut leads = Leads::Elsewhere;
    for (url, host) in hosts {
        known_capabilities(about, &file, host, findings);
        if here.urls.iter().any(|own| own == url.trim_end_matches('/')) {
            our_host(about, &file, host, findings);
            let passes = passes_gate(of, host, here, findings);
            leads = Leads::Here { passes: passes && leads != Leads::Here { passes: false } };
        } else if has_our_port(url, &here.urls) {
            findings.add(
                Level::Problem,
                about,
                format!("{file}: {url} is another address than the cache listens on; where HTTP_PROXY is set, containerd asks the proxy for it"),
                format!("name it by its loopback address: {}", here.urls.join(" or ")),
            );
        }
    }
    Some(leads)
}

impl HostsFile<'_> {
    fn path(&self) -> String {
        format!("{}/{}/hosts.toml", self.directory, self.name)
    }

    /// What writes it anew.
    fn setup(&self) -> String {
        let of_all = self.name == "_default" || self.directory == DOCKER_HOSTS && self.name == DOCKER_HUB;
        let named = if of_all { String::new() } else { format!(" --registry {}", registry_of(self.name)) };
        format!("larder setup {}{named}", self.about)
    }
}

/// Names what makes versions that do not know it drop the whole file.
fn known_capabilities(about: &'static str, file: &str, host: &dyn TableLike, findings: &mut Findings) {
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
            about,
            format!(
                "{file}: capabilities {}: versions that do not know it drop the whole file",
                unknown.join(", ")
            ),
            "use \"pull\" and \"resolve\" only",
        );
    }
}

/// Whether requests by the entry that leads here are known to pass the gate.
fn passes_gate(of: &HostsFile<'_>, host: &dyn TableLike, here: &Here, findings: &mut Findings) -> bool {
    let Some(header) = &here.header else { return true };
    let (file, name) = (of.path(), &header.name);
    let what = match header.sent_by(host) {
        Sent::Wanted => return true,
        Sent::Nothing => format!("{file}: it does not send {name}, the header of [server] gate_header"),
        Sent::Another => format!("{file}: it sends another value in {name} than that of [server] gate_file"),
        Sent::Unknown(why) => {
            let what = format!(
                "{file}: whether it sends the value of [server] gate_file in {name} is not known: {why}"
            );
            findings.add(Level::Warning, of.about, what, "run this as root, or correct the file");
            return false;
        }
    };
    let mode = host.get("header").and_then(Item::as_table_like).and_then(|table| table.get(MODE));
    let (comes_of_it, strict) = match mode.and_then(Item::as_str) {
        Some("strict") => ("no image can be pulled", " --strict"),
        _ => ("it pulls around this cache", ""),
    };
    findings.add(
        Level::Problem,
        of.about,
        format!("{what}: its every request is refused, and {comes_of_it}"),
        format!("{}{strict}", of.setup()),
    );
    false
}

/// What may be wrong with the entry that leads here.
fn our_host(about: &'static str, file: &str, host: &dyn TableLike, findings: &mut Findings) {
    let listed = host.get("capabilities").and_then(Item::as_array);
    let resolves = listed.is_none_or(|listed| listed.iter().any(|name| name.as_str() == Some("resolve")));
    if !resolves {
        findings.add(
            Level::Note,
            about,
            format!("{file}: tags are asked of the registry itself, and only digests here"),
            "",
        );
    }
    let tls: Vec<&str> = TLS_KEYS.into_iter().filter(|key| host.get(key).is_some()).collect();
    if !tls.is_empty() {
        findings.add(
            Level::Problem,
            about,
            format!("{file}: {} on an http host: containerd tries TLS first", tls.join(", ")),
            "remove it",
        );
    }
    if host.get("dial_timeout").is_none() {
        findings.add(
            Level::Warning,
            about,
            format!("{file}: without dial_timeout a stopped cache may cost 30 s"),
            "dial_timeout = \"1s\"",
        );
    }
}

/// Whether a URL has our port at another address: a node's own, say, which the client sends to its proxy.
fn has_our_port(url: &str, urls: &[String]) -> bool {
    let port = |url: &str| url.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.to_owned());
    url.starts_with("http://") && urls.iter().any(|own| port(own) == port(url))
}
