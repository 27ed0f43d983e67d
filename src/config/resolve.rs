//! What the configuration means: layers merged, defaults filled in, every value checked, every mistake reported at
//! once.
//!
//! Pure: no file is read here and no environment variable; both come as text.

use std::collections::{HashMap, HashSet};

use super::environment::Environment;
use super::file::{self, Tree};
use super::report::{Mistake, Report};
use super::section::{LISTS, Sections};
use super::settings::Settings;
use super::variables;
use crate::listener::Listen;
use crate::pull::{self, Rules};
use crate::reference::Registry;
use crate::upstream;

/// The text of one configuration file.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// What mistakes call it.
    pub(super) name: String,
    pub(super) text: String,
}

/// Reads the text of a configuration file; an empty one means the defaults. Settings in the environment come after it.
///
/// # Errors
/// All mistakes at once.
pub fn resolve(text: &str, environment: &Environment) -> Result<Settings, Vec<Mistake>> {
    let layer = Layer { name: "larder.toml".to_owned(), text: text.to_owned() };
    resolve_layers(&[layer], environment).map_err(|rejected| rejected.mistakes)
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub(super) struct Rejected {
    /// All mistakes; of files that are no TOML, that alone.
    pub(super) mistakes: Vec<Mistake>,
    /// What the keys without a mistake come to, with the defaults of all others. Of a file that is no TOML no key is.
    pub(super) rest: Box<Settings>,
}

/// Reads several files, of which a later one stands in place of an earlier one, key by key.
///
/// # Errors
/// All mistakes at once.
pub(super) fn resolve_layers(layers: &[Layer], environment: &Environment) -> Result<Settings, Rejected> {
    let read: Vec<_> = layers.iter().map(|layer| file::parse(&layer.name, &layer.text)).collect();
    let broken: Vec<Mistake> = read.iter().filter_map(|read| read.as_ref().err().cloned()).collect();
    let (report, mut tree) = (Report::default(), Tree::new());
    let blocks = Sections::read(Tree::new(), environment, &Report::default()).blocks();
    let of_environment = variables::read(&environment.overrides, &blocks, &report);
    for layer in read.into_iter().flatten().chain([of_environment]) {
        file::merge(&mut tree, layer, "", LISTS);
    }
    let sections = Sections::read(tree, environment, &report);
    check_together(&sections, &report);
    let mistakes = if broken.is_empty() { report.mistakes() } else { broken };
    let settings = settings(sections, environment, &report);
    if mistakes.is_empty() { Ok(settings) } else { Err(Rejected { mistakes, rest: Box::new(settings) }) }
}

/// What does not fit together across sections.
fn check_together(sections: &Sections, report: &Report) {
    let (listen, admin) = (&sections.server.listen, sections.admin.listen);
    for (at, address) in listen.iter().enumerate() {
        let is_admin = *address == Listen::Tcp(admin) && admin.port() != 0;
        if listen[..at].contains(address) || is_admin {
            let place = report.whole().section("[server]".to_owned()).known_key("listen");
            place.mistake(format!("{address} is used twice"));
        }
    }
    let mut seen = HashSet::new();
    for (at, registry) in sections.registries.iter().enumerate() {
        if let Some(host) = &registry.host
            && !seen.insert(host)
        {
            let place = report.whole().section(format!("[[registry]] {}", at + 1)).known_key("host");
            place.mistake(format!("{host} has a section already"));
        }
    }
}

/// What each domain is built from.
fn settings(sections: Sections, environment: &Environment, report: &Report) -> Settings {
    let state = sections.server.state.clone().unwrap_or_default();
    let credentials = sections.credentials.config();
    Settings {
        listen: sections.server.listen.clone(),
        limits: sections.server.limits(),
        serve: sections.server.serve(path_logins(&sections)),
        admin: sections.admin.config(),
        store: sections.store.config(),
        upstream: upstream(&sections, environment),
        prepull: sections.prepull.config(&credentials.pull_secrets),
        kubernetes: sections.kubernetes.config(&sections.credentials.kubelet_root),
        tier: sections.tier.config(&environment.proxy, on_loopback(&sections)),
        log: sections.log.config(),
        traces: sections.log.traces(),
        credentials,
        keys: state.join("keys"),
        pull: pull(&sections),
        uids: sections.server.uids(),
        root: environment.root,
        sources: report.sources(),
        sections,
    }
}

fn upstream(sections: &Sections, environment: &Environment) -> upstream::Config {
    let registries = sections.registries.iter().filter_map(|r| Some((r.host.clone()?, r.config())));
    upstream::Config {
        allow: sections.upstream.allow(),
        timeouts: sections.upstream.timeouts(),
        negative_ttl: sections.freshness.negative_ttl,
        trusted_redirects: sections.upstream.trusted_redirects.iter().cloned().collect(),
        proxy: environment.proxy.clone(),
        registries: registries.collect(),
        ..upstream::Config::default()
    }
}

/// Of the registries with endpoints of their own, whether those are on the node itself.
fn on_loopback(sections: &Sections) -> HashMap<Registry, bool> {
    let with_endpoints = sections.registries.iter().filter(|r| !r.endpoints.is_empty());
    let each = with_endpoints.filter_map(|r| {
        let host = r.host.clone()?;
        let is_local = upstream::is_on_loopback(&r.endpoints, &host);
        Some((host, is_local))
    });
    each.collect()
}

/// The registries to which a login for this cache's own address is sent.
fn path_logins(sections: &Sections) -> HashSet<Registry> {
    sections.registries.iter().filter(|r| r.path_logins).filter_map(|r| r.host.clone()).collect()
}

/// The registries that the operator named, wherever in the configuration.
fn named(sections: &Sections) -> HashSet<Registry> {
    let sections_of_their_own = sections.registries.iter().filter_map(|registry| registry.host.clone());
    let mut named: HashSet<_> = sections_of_their_own.chain(sections.upstream.allowed()).collect();
    named.insert(sections.server.default_registry.clone());
    named
}

fn pull(sections: &Sections) -> pull::Config {
    let (access, freshness) = (sections.access.terms(), sections.freshness.freshness());
    let mut config = pull::Config {
        access,
        freshness: Rules {
            freshness,
            rules: sections.rules.iter().filter_map(|rule| rule.rule()).collect(),
            ..Rules::default()
        },
        negative_ttl: sections.freshness.negative_ttl,
        fetch_ahead: sections.upstream.fetch_ahead,
        named: named(sections),
        ..pull::Config::default()
    };
    for registry in &sections.registries {
        let Some(host) = registry.host.clone() else { continue };
        if registry.terms(access) != access {
            config.registries.insert(host.clone(), registry.terms(access));
        }
        if registry.freshness(freshness) != freshness {
            config.freshness.registries.insert(host.clone(), registry.freshness(freshness));
        }
        if !registry.arch_suffix.is_empty() {
            config.arch_suffixes.insert(host, registry.arch_suffix.clone());
        }
    }
    config
}
