//! What the configuration means: defaults filled in, every value checked, every mistake told at once.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::environment::Environment;
use super::file::{self, Mistake, Section};
use super::{LogConfig, LogFormat, Settings, access};
use crate::listener::Listen;
use crate::reference::Registry;
use crate::store::Amount;
use crate::upstream::{Allow, RegistryConfig};
use crate::{admin, listener, prepull, pull, serve, store, upstream};

/// Reads the text of a configuration file; an empty one means the defaults.
///
/// # Errors
/// All mistakes at once.
pub fn resolve(text: &str, environment: &Environment) -> Result<Settings, Vec<Mistake>> {
    let mut file = file::parse(text).map_err(|mistake| vec![mistake])?;
    let Server { listen, limits, serve, state, uids } = server(file.section("server"), environment);
    let state = state.unwrap_or_default();
    let admin = admin(file.section("admin"), &state, environment);
    let store = store_(file.section("store"), &state);
    let credentials = access::credentials(file.section("credentials"), environment);
    let mut pull = access::pull(file.section("access"), file.section("freshness"));
    let upstream = upstream_(file.section("upstream"), file.sections("registry"), environment, &mut pull);
    let prepull = prepull_(file.section("prepull"), &credentials.pull_secrets);
    let log = log(file.section("log"));
    for (at, address) in listen.iter().enumerate() {
        if listen[..at].contains(address) || *address == Listen::Tcp(admin.listen) && admin.listen.port() != 0
        {
            file.mistake("[server] listen", format!("{address} is used twice"));
        }
    }
    if state.as_os_str().is_empty() {
        let problem = "no place to keep state: set it, or HOME, or XDG_STATE_HOME".to_owned();
        file.mistake("[server] state", problem);
    }
    let mistakes = file.finish();
    if mistakes.is_empty() {
        Ok(Settings {
            listen,
            limits,
            serve,
            admin,
            store,
            upstream,
            prepull,
            log,
            credentials,
            keys: state.join("keys"),
            pull,
            uids,
            root: environment.root,
        })
    } else {
        Err(mistakes)
    }
}

struct Server {
    listen: Vec<Listen>,
    limits: listener::ConnectionLimits,
    serve: serve::Config,
    state: Option<PathBuf>,
    uids: Option<Vec<u32>>,
}

fn server(mut section: Section, environment: &Environment) -> Server {
    let listen = section.read_all("listen", str::parse::<Listen>);
    let listen = listen.unwrap_or_else(|| vec![Listen::Tcp(([127, 0, 0, 1], 5050).into())]);
    if listen.is_empty() {
        section.mistake("listen", "at least one address is needed".to_owned());
    }
    let state = section.read("state", absolute).or_else(|| default_state(environment));
    let defaults = serve::Config::default();
    let serve = serve::Config {
        default_registry: section.read("default_registry", str::parse).unwrap_or(defaults.default_registry),
        hosts: section.read_all("hosts", host).unwrap_or_default(),
        requests_max: section.number("requests_max", 1..=65_536).unwrap_or(defaults.requests_max),
        gate: access::gate(&mut section),
        answer_wait: defaults.answer_wait,
    };
    let defaults = listener::ConnectionLimits::default();
    let limits = listener::ConnectionLimits {
        connections_max: section.number("connections_max", 1..=65_536).unwrap_or(defaults.connections_max),
        drain_wait: section.read("drain_wait", duration).unwrap_or(defaults.drain_wait),
        ..defaults
    };
    let uids = section.numbers("allow_uids").filter(|uids| !uids.is_empty());
    section.finish();
    Server { listen, limits, serve, state, uids }
}

fn default_state(environment: &Environment) -> Option<PathBuf> {
    if let Some(state) = &environment.state_dir {
        return Some(state.clone());
    }
    if environment.root {
        return Some("/var/lib/larder".into());
    }
    let home = || environment.home.as_ref().map(|home| home.join(".local/state"));
    Some(environment.state_home.clone().or_else(home)?.join("larder"))
}

fn admin(mut section: Section, state: &Path, environment: &Environment) -> admin::Config {
    let socket = || environment.runtime_dir.as_deref().unwrap_or(state).join("larder.sock");
    let config = admin::Config {
        socket: section.read("socket", absolute).unwrap_or_else(socket),
        listen: section.read("listen", address).unwrap_or(admin::LISTEN.into()),
        metrics_listen: section.read("metrics_listen", address),
    };
    section.finish();
    config
}

fn store_(mut section: Section, state: &Path) -> store::Config {
    let path = section.read("path", absolute).unwrap_or_else(|| state.join("store"));
    let defaults = store::Budget::default();
    let budget = store::Budget {
        max: section.read("max_bytes", amount).unwrap_or(defaults.max),
        min_free: section.read("min_free", amount).unwrap_or(defaults.min_free),
    };
    section.finish();
    store::Config { path, budget }
}

fn upstream_(
    mut section: Section,
    registries: Vec<Section>,
    environment: &Environment,
    pull: &mut pull::Config,
) -> upstream::Config {
    let defaults = upstream::Timeouts::default();
    let config = upstream::Config {
        allow: allow(&mut section),
        timeouts: upstream::Timeouts {
            connect: section.read("connect_timeout", duration).unwrap_or(defaults.connect),
            header: section.read("header_timeout", duration).unwrap_or(defaults.header),
            idle: section.read("idle_timeout", duration).unwrap_or(defaults.idle),
        },
        trusted_realms: authorities(&mut section, "trusted_realms"),
        trusted_redirects: authorities(&mut section, "trusted_redirects"),
        proxy: environment.proxy.clone(),
        registries: registries_of(registries, pull),
        reach: upstream::Reach::default(),
    };
    if config.timeouts.header > Duration::from_secs(20) {
        let problem = "must be at most 20s: containerd gives up on an answer after 30s".to_owned();
        section.mistake("header_timeout", problem);
    }
    section.finish();
    config
}

fn allow(section: &mut Section) -> Allow {
    let Some(listed) = section.read_all("allow", |text| {
        if text == "public" { Ok(None) } else { text.parse::<Registry>().map(|r| Some(r.to_lowercase())) }
    }) else {
        return Allow::Public;
    };
    if listed.contains(&None) && listed.len() > 1 {
        let problem = "\"public\" already permits every public registry; list it alone".to_owned();
        section.mistake("allow", problem);
    }
    if listed.contains(&None) { Allow::Public } else { Allow::Only(listed.into_iter().flatten().collect()) }
}

fn registries_of(sections: Vec<Section>, pull: &mut pull::Config) -> HashMap<Registry, RegistryConfig> {
    let mut registries = HashMap::new();
    for mut section in sections {
        let host = section.read("host", str::parse::<Registry>).map(|r| r.to_lowercase());
        let endpoints = access::endpoints(&mut section, host.as_ref());
        let ca = section.read("ca", absolute);
        let client = access::client_certificate(&mut section);
        let archs = section.read_all("arch_suffix", arch).unwrap_or_default();
        let terms = access::terms(&mut section, "access", pull.access);
        let freshness = access::freshness(&mut section, pull.freshness.freshness);
        match host {
            None => {
                section.mistake("host", "which registry is this about? host = \"registry.corp\"".to_owned())
            }
            Some(host) if registries.contains_key(&host) => {
                section.mistake("host", format!("{host} has a section already"));
            }
            Some(host) => {
                if terms != pull.access {
                    pull.registries.insert(host.clone(), terms);
                }
                if !archs.is_empty() {
                    pull.arch_suffixes.insert(host.clone(), archs);
                }
                if freshness != pull.freshness.freshness {
                    pull.freshness.registries.insert(host.clone(), freshness);
                }
                registries.insert(host, RegistryConfig { endpoints, ca, client });
            }
        }
        section.finish();
    }
    registries
}

fn prepull_(mut section: Section, secrets: &[PathBuf]) -> prepull::Config {
    let defaults = prepull::Config::default();
    let config = prepull::Config {
        images: section.read_all("images", str::parse).unwrap_or(defaults.images),
        manifests: section.read("manifests", absolute),
        platforms: section.read_all("platforms", str::parse).unwrap_or(defaults.platforms),
        interval: section.read("interval", interval).unwrap_or(defaults.interval),
        concurrency: section.number("concurrency", 1..=16).unwrap_or(defaults.concurrency),
        pin: section.flag("pin").unwrap_or(defaults.pin),
        pull_secrets: secrets.to_owned(),
    };
    section.finish();
    config
}

/// Between two looks at the list.
fn interval(text: &str) -> Result<Duration, &'static str> {
    let parsed = humantime::parse_duration(text).map_err(|_| "expected a duration, such as 10m or 6h")?;
    let sensible = Duration::from_secs(10)..=Duration::from_secs(30 * 86_400);
    if sensible.contains(&parsed) { Ok(parsed) } else { Err("expected a duration between 10s and 30d") }
}

fn log(mut section: Section) -> LogConfig {
    let defaults = LogConfig::default();
    let config = LogConfig {
        level: section.read("level", level).unwrap_or(defaults.level),
        format: section
            .read("format", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("expected \"text\" or \"json\""),
            })
            .unwrap_or(defaults.format),
    };
    section.finish();
    config
}

/// An architecture as names carry it.
fn arch(text: &str) -> Result<String, &'static str> {
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if good {
        Ok(text.to_owned())
    } else {
        Err("expected an architecture as Go names it, such as amd64 or arm64")
    }
}

/// `20%`, `50GiB`, `1048576`.
fn amount(text: &str) -> Result<Amount, &'static str> {
    let problem = "expected a size such as 50GiB, or a part of the filesystem such as 20%";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| problem)?;
    let shift = match unit.trim() {
        "%" if number <= 100 => return u8::try_from(number).map(Amount::Percent).map_err(|_| problem),
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(problem),
    };
    number.checked_mul(1 << shift).map(Amount::Bytes).ok_or(problem)
}

fn level(text: &str) -> Result<String, &'static str> {
    let known = ["error", "warn", "info", "debug", "trace"].contains(&text);
    if known { Ok(text.to_owned()) } else { Err("expected error, warn, info, debug or trace") }
}

pub(super) fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("expected an absolute path") }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected address:port, such as 127.0.0.1:5051")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    let parsed =
        humantime::parse_duration(text).map_err(|_| "expected a duration, such as 500ms, 5s or 2m")?;
    let sensible = Duration::from_millis(1)..=Duration::from_secs(3_600);
    if sensible.contains(&parsed) { Ok(parsed) } else { Err("expected a duration between 1ms and 1h") }
}

fn host(text: &str) -> Result<String, String> {
    text.parse::<Registry>().map(|name| name.as_str().to_ascii_lowercase()).map_err(|e| e.to_string())
}

pub(super) fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{e}; expected https://host or http://host:port"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected https:// or http://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold a user name or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an endpoint has no query and no fragment".to_owned());
    }
    Ok(url)
}

fn authorities(section: &mut Section, key: &'static str) -> HashSet<String> {
    let read = |text: &str| match text.parse::<Registry>() {
        Ok(at) if at.host().len() < at.as_str().len() => Ok(at.as_str().to_ascii_lowercase()),
        _ => Err("expected host:port, such as auth.corp:443"),
    };
    section.read_all(key, read).unwrap_or_default().into_iter().collect()
}
