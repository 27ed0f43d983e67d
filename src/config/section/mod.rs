//! The sections of the configuration, one file each, and all of them together.
//!
//! Deliberately not here: how files are found and merged, and how any of this is printed.

mod access;
mod admin;
mod credentials;
mod endpoint;
mod freshness;
mod kubernetes;
mod log;
mod prepull;
mod registry;
mod server;
mod store;
mod tier;
mod upstream;

use std::path::{Path, PathBuf};

pub use log::{LogConfig, LogFormat, LogLevel};

use super::environment::Environment;
use super::file::{List, Tree, Value};
use super::report::Report;
use super::schema::{Context, Key, Needs, Reader, Section};
use crate::reference::Registry as Host;

/// The lists of sections that a later file completes: a registry by its host, a rule by its pattern.
pub(super) const LISTS: &[List] = &[
    List { path: registry::Registry::NAME, about: |entry| text(entry, "host").map(str::to_ascii_lowercase) },
    List { path: freshness::Rule::NAME, about: |entry| text(entry, "match").map(str::to_owned) },
];

/// Everything that was configured, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sections {
    pub(super) server: server::Server,
    pub(super) admin: admin::Admin,
    pub(super) store: store::Store,
    pub(super) credentials: credentials::Credentials,
    pub(super) access: access::Access,
    pub(super) freshness: freshness::Freshness,
    pub(super) rules: Vec<freshness::Rule>,
    pub(super) upstream: upstream::Upstream,
    pub(super) registries: Vec<registry::Registry>,
    pub(super) prepull: prepull::Prepull,
    pub(super) kubernetes: kubernetes::Kubernetes,
    pub(super) tier: tier::Tier,
    pub(super) log: log::Log,
}

/// A section as data: what it and its keys are, and what they hold.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) name: &'static str,
    pub(super) about: String,
    pub(super) keys: Vec<Key>,
    pub(super) entries: Entries,
}

/// What the keys of a section hold, in the order of the keys.
#[derive(Debug, Clone)]
pub(super) enum Entries {
    /// The section is there once.
    One(Vec<Option<Value>>),
    /// It is there any number of times.
    Many(Vec<Vec<Option<Value>>>),
}

/// A key that holds something else than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Section and key: `[server] listen`, `[[registry]] docker.io ca`.
    pub key: String,
    /// Whether it counts from the next start only.
    pub needs_restart: bool,
}

impl Sections {
    /// Reads everything and notes every mistake.
    pub(super) fn read(tree: Tree, environment: &Environment, report: &Report) -> Self {
        let mut file = Reader::new(tree, report);
        let no_state = Context { environment, state: Path::new("") };
        let server: server::Server = section(&mut file, &no_state, server::Server::check);
        let state: PathBuf = server.state.clone().unwrap_or_default();
        let context = Context { environment, state: &state };
        let admin = section(&mut file, &context, |_, _| {});
        let store = section(&mut file, &context, |_, _| {});
        let credentials = section(&mut file, &context, credentials::Credentials::check);
        let access = section(&mut file, &context, |_, _| {});
        let mut reader = file.section::<freshness::Freshness>();
        let rules = sections(&mut reader, &context, freshness::Rule::check);
        let freshness = freshness::Freshness::read(&mut reader, &context);
        reader.finish();
        let upstream = section(&mut file, &context, upstream::Upstream::check);
        let registries = sections(&mut file, &context, registry::Registry::check);
        let prepull = section(&mut file, &context, |_, _| {});
        let kubernetes = section(&mut file, &context, kubernetes::Kubernetes::check);
        let tier = section(&mut file, &context, tier::Tier::check);
        let log = section(&mut file, &context, log::Log::check);
        file.finish();
        Self {
            server,
            admin,
            store,
            credentials,
            access,
            freshness,
            rules,
            upstream,
            registries,
            prepull,
            kubernetes,
            tier,
            log,
        }
    }

    /// All sections as data, in the order in which they are printed.
    pub(super) fn blocks(&self) -> Vec<Block> {
        vec![
            one(&self.server),
            one(&self.admin),
            one(&self.store),
            one(&self.credentials),
            one(&self.access),
            one(&self.freshness),
            many(&self.rules),
            one(&self.upstream),
            many(&self.registries),
            one(&self.prepull),
            one(&self.kubernetes),
            one(&self.tier),
            one(&self.log),
        ]
    }

    /// What is not as in `before`, key by key.
    pub(super) fn changes(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        changed(&self.server, &before.server, &mut changes);
        changed(&self.admin, &before.admin, &mut changes);
        changed(&self.store, &before.store, &mut changes);
        changed(&self.credentials, &before.credentials, &mut changes);
        changed(&self.access, &before.access, &mut changes);
        changed(&self.freshness, &before.freshness, &mut changes);
        if self.rules != before.rules {
            changes.push(Change { key: format!("[[{}]]", freshness::Rule::NAME), needs_restart: false });
        }
        changed(&self.upstream, &before.upstream, &mut changes);
        changed_registries(&self.registries, &before.registries, &mut changes);
        changed(&self.prepull, &before.prepull, &mut changes);
        changed(&self.kubernetes, &before.kubernetes, &mut changes);
        changed(&self.tier, &before.tier, &mut changes);
        changed(&self.log, &before.log, &mut changes);
        changes
    }
}

/// Reads the section `S` of a file, which is there once.
fn section<S: Section>(
    file: &mut Reader<'_>,
    context: &Context<'_>,
    check: impl Fn(&S, &super::report::Place<'_>),
) -> S {
    finished(file.section::<S>(), context, &check)
}

/// Reads all sections `S` of a file.
fn sections<S: Section>(
    file: &mut Reader<'_>,
    context: &Context<'_>,
    check: impl Fn(&S, &super::report::Place<'_>),
) -> Vec<S> {
    file.sections::<S>().into_iter().map(|reader| finished(reader, context, &check)).collect()
}

fn finished<S: Section>(
    mut reader: Reader<'_>,
    context: &Context<'_>,
    check: impl Fn(&S, &super::report::Place<'_>),
) -> S {
    let section = S::read(&mut reader, context);
    check(&section, &reader.place());
    reader.finish();
    section
}

fn one<S: Section>(section: &S) -> Block {
    Block { name: S::NAME, about: S::about(), keys: S::keys(), entries: Entries::One(section.values()) }
}

fn many<S: Section>(sections: &[S]) -> Block {
    let entries = Entries::Many(sections.iter().map(S::values).collect());
    Block { name: S::NAME, about: S::about(), keys: S::keys(), entries }
}

fn changed<S: Section>(now: &S, before: &S, changes: &mut Vec<Change>) {
    changed_keys(now, before, &format!("[{}]", S::NAME), changes);
}

fn changed_keys<S: Section>(now: &S, before: &S, name: &str, changes: &mut Vec<Change>) {
    let keys = S::keys();
    for changed in now.changed(before) {
        let needs_restart = keys.iter().any(|key| key.name == changed && key.needs == Needs::Restart);
        changes.push(Change { key: format!("{name} {changed}"), needs_restart });
    }
}

/// Registries are compared by their host: one that came, went, or changed.
fn changed_registries(now: &[registry::Registry], before: &[registry::Registry], changes: &mut Vec<Change>) {
    let find =
        |all: &[registry::Registry], host: &Option<Host>| all.iter().find(|r| r.host == *host).cloned();
    for registry in now {
        let Some(host) = &registry.host else { continue };
        let name = format!("[[{}]] {host}", registry::Registry::NAME);
        match find(before, &registry.host) {
            Some(before) => changed_keys(registry, &before, &name, changes),
            None => changes.push(Change { key: name, needs_restart: false }),
        }
    }
    for gone in before.iter().filter(|registry| find(now, &registry.host).is_none()) {
        let Some(host) = &gone.host else { continue };
        changes
            .push(Change { key: format!("[[{}]] {host}", registry::Registry::NAME), needs_restart: false });
    }
}

/// The text under a key, if it is one.
fn text<'t>(entry: &'t Tree, key: &str) -> Option<&'t str> {
    match &entry.get(key)?.node {
        super::file::Node::Value(value) => value.as_str(),
        _ => None,
    }
}
