//! The effective configuration as a file that means the same.

use std::fmt::{Display, Write as _};

use super::{LogFormat, Settings};
use crate::upstream::{self, Allow};

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
    if let Some(at) = settings.admin.metrics_listen {
        writeln!(out, "metrics_listen = {}", quoted(at))?;
    }
    writeln!(out, "\n[store]")?;
    writeln!(out, "path = {}", quoted(settings.store.path.display()))?;
    write_upstream(out, &settings.upstream)?;
    let format = match settings.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    writeln!(out, "\n[log]")?;
    writeln!(out, "level = {}", quoted(&settings.log.level))?;
    writeln!(out, "format = {}", quoted(format))
}

fn write_server(out: &mut String, Settings { listen, limits, serve, .. }: &Settings) -> std::fmt::Result {
    writeln!(out, "[server]")?;
    writeln!(out, "listen = {}", list(listen.iter().map(|at| at.to_string().replacen("http://", "", 1))))?;
    writeln!(out, "default_registry = {}", quoted(&serve.default_registry))?;
    writeln!(out, "hosts = {}", list(&serve.hosts))?;
    writeln!(out, "connections_max = {}", limits.connections_max)?;
    writeln!(out, "requests_max = {}", serve.requests_max)?;
    writeln!(out, "drain_wait = {}", quoted(humantime::format_duration(limits.drain_wait)))
}

fn write_upstream(out: &mut String, upstream: &upstream::Config) -> std::fmt::Result {
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
        writeln!(out, "endpoints = {}", list(&registry.endpoints))?;
        if let Some(ca) = &registry.ca {
            writeln!(out, "ca = {}", quoted(ca.display()))?;
        }
    }
    Ok(())
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
