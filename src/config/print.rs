//! The effective configuration as a file that means the same.

use std::fmt::{Display, Write as _};

use super::{LogFormat, Settings};
use crate::credentials::{self, NodeFiles};
use crate::prepull;
use crate::pull::{self, Freshness, Policy, TagTtl, Terms};
use crate::store::Amount;
use crate::upstream::{self, Allow, CredentialUse, EndpointConfig};

/// Writes every key with its effective value.
pub fn print(settings: &Settings) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, settings);
    out
}

fn write_all(out: &mut String, settings: &Settings) -> std::fmt::Result {
    write_server(out, settings)?;
    writeln!(out, "\n[admin]")?;
    writeln!(out, "listen = {}", quoted(settings.admin.listen))?;
    writeln!(out, "socket = {}", quoted(settings.admin.socket.display()))?;
    if let Some(at) = settings.admin.metrics_listen {
        writeln!(out, "metrics_listen = {}", quoted(at))?;
    }
    writeln!(out, "\n[store]")?;
    writeln!(out, "path = {}", quoted(settings.store.path.display()))?;
    writeln!(out, "max_bytes = {}", quoted(amount(settings.store.budget.max)))?;
    writeln!(out, "min_free = {}", quoted(amount(settings.store.budget.min_free)))?;
    write_credentials(out, &settings.credentials)?;
    write_terms(out, "\n[access]\npolicy", &settings.pull.access)?;
    writeln!(out, "\n[freshness]")?;
    write_freshness(out, &settings.pull.freshness.freshness)?;
    writeln!(out, "negative_ttl = {}", quoted(humantime::format_duration(settings.pull.negative_ttl)))?;
    for rule in &settings.pull.freshness.rules {
        writeln!(out, "\n[[freshness.rule]]")?;
        writeln!(out, "match = {}", quoted(rule.matches.glob()))?;
        if let Some(time) = rule.tag_ttl {
            writeln!(out, "tag_ttl = {}", ttl(time))?;
        }
        let spans = [
            ("stale_while_revalidate", rule.stale_while_revalidate),
            ("stale_if_error", rule.stale_if_error),
        ];
        for (key, span) in spans {
            if let Some(span) = span {
                writeln!(out, "{key} = {}", quoted(humantime::format_duration(span)))?;
            }
        }
    }
    write_upstream(out, &settings.upstream, &settings.pull)?;
    write_prepull(out, &settings.prepull)?;
    let format = match settings.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    writeln!(out, "\n[log]")?;
    writeln!(out, "level = {}", quoted(&settings.log.level))?;
    writeln!(out, "format = {}", quoted(format))
}

fn write_prepull(out: &mut String, prepull: &prepull::Config) -> std::fmt::Result {
    writeln!(out, "\n[prepull]")?;
    writeln!(out, "images = {}", list(&prepull.images))?;
    if let Some(path) = &prepull.manifests {
        writeln!(out, "manifests = {}", quoted(path.display()))?;
    }
    writeln!(out, "platforms = {}", list(&prepull.platforms))?;
    writeln!(out, "interval = {}", quoted(humantime::format_duration(prepull.interval)))?;
    writeln!(out, "concurrency = {}", prepull.concurrency)?;
    writeln!(out, "pin = {}", prepull.pin)
}

fn write_credentials(out: &mut String, credentials: &credentials::Config) -> std::fmt::Result {
    writeln!(out, "\n[credentials]")?;
    match &credentials.node {
        NodeFiles::Named(files) => writeln!(out, "node = {}", list(files.iter().map(|f| f.display())))?,
        NodeFiles::Kubelet(places) => {
            writeln!(out, "node = \"kubelet\"")?;
            writeln!(out, "kubelet_root = {}", quoted(places.kubelet_root.display()))?;
            writeln!(out, "kubelet_cwd = {}", quoted(places.kubelet_cwd.display()))?;
            if let Some(home) = &places.home {
                writeln!(out, "home = {}", quoted(home.display()))?;
            }
        }
    }
    if let Some(files) = &credentials.providers {
        writeln!(out, "provider_config = {}", quoted(files.config.display()))?;
        writeln!(out, "provider_bin_dir = {}", quoted(files.bin_dir.display()))?;
    }
    if let Some(directory) = &credentials.helper_dir {
        writeln!(out, "helper_dir = {}", quoted(directory.display()))?;
    }
    writeln!(out, "pull_secrets = {}", list(credentials.pull_secrets.iter().map(|f| f.display())))
}

fn ttl(ttl: TagTtl) -> String {
    match ttl {
        TagTtl::For(time) => quoted(humantime::format_duration(time)),
        TagTtl::Immutable => quoted("immutable"),
    }
}

fn write_freshness(out: &mut String, freshness: &Freshness) -> std::fmt::Result {
    let Freshness { tag_ttl, stale_while_revalidate, stale_if_error } = *freshness;
    writeln!(out, "tag_ttl = {}", ttl(tag_ttl))?;
    writeln!(out, "stale_while_revalidate = {}", quoted(humantime::format_duration(stale_while_revalidate)))?;
    writeln!(out, "stale_if_error = {}", quoted(humantime::format_duration(stale_if_error)))
}

fn write_terms(out: &mut String, policy: &str, terms: &Terms) -> std::fmt::Result {
    writeln!(out, "{policy} = {}", quoted(named(&Policy::NAMES, terms.policy)))?;
    writeln!(out, "grant_ttl = {}", quoted(humantime::format_duration(terms.grant_ttl)))?;
    writeln!(out, "outage_grace = {}", quoted(humantime::format_duration(terms.outage_grace)))
}

fn amount(amount: Amount) -> String {
    match amount {
        Amount::Percent(part) => format!("{part}%"),
        Amount::Bytes(bytes) => crate::support::size::exact(bytes),
    }
}

fn named<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, named)| *named == value).map_or("", |(name, _)| name)
}

fn write_server(out: &mut String, settings: &Settings) -> std::fmt::Result {
    let Settings { listen, limits, serve, uids, keys, .. } = settings;
    writeln!(out, "[server]")?;
    if let Some(state) = keys.parent() {
        writeln!(out, "state = {}", quoted(state.display()))?;
    }
    if let Some(gate) = &serve.gate {
        writeln!(out, "gate_header = {}", quoted(&gate.header))?;
        writeln!(out, "gate_file = {}", quoted(gate.file.display()))?;
    }
    writeln!(out, "allow_uids = {:?}", uids.as_deref().unwrap_or_default())?;
    writeln!(out, "listen = {}", list(listen.iter().map(|at| at.to_string().replacen("http://", "", 1))))?;
    writeln!(out, "default_registry = {}", quoted(&serve.default_registry))?;
    writeln!(out, "hosts = {}", list(&serve.hosts))?;
    writeln!(out, "connections_max = {}", limits.connections_max)?;
    writeln!(out, "requests_max = {}", serve.requests_max)?;
    writeln!(out, "drain_wait = {}", quoted(humantime::format_duration(limits.drain_wait)))
}

fn write_upstream(out: &mut String, upstream: &upstream::Config, pull: &pull::Config) -> std::fmt::Result {
    let allow = match &upstream.allow {
        Allow::Public => list(["public"]),
        Allow::Only(registries) => list(sorted(registries)),
    };
    writeln!(out, "\n[upstream]")?;
    writeln!(out, "allow = {allow}")?;
    for (key, wait) in [
        ("connect_timeout", upstream.timeouts.connect),
        ("header_timeout", upstream.timeouts.header),
        ("idle_timeout", upstream.timeouts.idle),
    ] {
        writeln!(out, "{key} = {}", quoted(humantime::format_duration(wait)))?;
    }
    writeln!(out, "trusted_realms = {}", list(sorted(&upstream.trusted_realms)))?;
    writeln!(out, "trusted_redirects = {}", list(sorted(&upstream.trusted_redirects)))?;
    for host in sorted(upstream.registries.keys()) {
        let Some(registry) = upstream.registries.get(host) else { continue };
        writeln!(out, "\n[[registry]]")?;
        writeln!(out, "host = {}", quoted(host))?;
        let endpoints: Vec<_> = registry.endpoints.iter().map(endpoint).collect();
        writeln!(out, "endpoints = [{}]", endpoints.join(", "))?;
        if let Some(terms) = pull.registries.get(host) {
            write_terms(out, "access", terms)?;
        }
        if let Some(freshness) = pull.freshness.registries.get(host) {
            write_freshness(out, freshness)?;
        }
        if let Some(ca) = &registry.ca {
            writeln!(out, "ca = {}", quoted(ca.display()))?;
        }
        if let Some(archs) = pull.arch_suffixes.get(host) {
            writeln!(out, "arch_suffix = {}", list(archs))?;
        }
        if let Some(client) = &registry.client {
            writeln!(out, "client_cert = {}", quoted(client.certificate.display()))?;
            writeln!(out, "client_key = {}", quoted(client.key.display()))?;
        }
    }
    Ok(())
}

fn endpoint(endpoint: &EndpointConfig) -> String {
    let EndpointConfig { url, credentials, authoritative } = endpoint;
    if credentials.is_none() && authoritative.is_none() {
        return quoted(url);
    }
    let mut table = format!("{{ url = {}", quoted(url));
    if let Some(credentials) = credentials {
        table += &format!(", credentials = {}", quoted(named(&CredentialUse::NAMES, *credentials)));
    }
    if let Some(authoritative) = authoritative {
        table += &format!(", authoritative = {authoritative}");
    }
    table + " }"
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

/// A TOML basic string; values here are names, paths and numbers.
fn quoted(value: impl Display) -> String {
    format!("\"{}\"", value.to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    format!("[{}]", items.into_iter().map(quoted).collect::<Vec<_>>().join(", "))
}
