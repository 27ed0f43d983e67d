//! `[server]`: the data plane.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use crate::config::environment::Environment;
use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{HOUR, MILLISECOND, Text, list, number, parsed, path, span};
use crate::listener::{ConnectionLimits, Listen};
use crate::reference::Registry;
use crate::serve::{self, GateConfig};

/// Where the data plane listens by default.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 5050);
/// Connections, or requests, that one process can have at the most: there are no more ports.
const AT_ONCE_MAX: u32 = 65_536;

section! {
    /// Where runtimes connect, and how many requests are served at the same time.
    Server = "server";

    /// Where runtimes connect: address:port or unix:/path, any number. A loopback address is bound to the loopback
    /// device.
    restart listen: Vec<Listen> = list(listen()), |_| vec![Listen::Tcp(LISTEN.into())];

    /// The directory for what outlives the process. This is the default as root; otherwise it is $XDG_STATE_HOME/larder
    /// or ~/.local/state/larder.
    restart state: Option<PathBuf> = path(), |context| state(context.environment);

    /// The registry of an image name that has none.
    restart default_registry: Registry = registry(), |_| serve::Config::default().default_registry;

    /// Other host names, with port, under which clients may address this daemon ("cache.corp:5050"). Any other name is
    /// answered with 421.
    restart hosts: Vec<String> = list(host()), |_| serve::Config::default().hosts;

    /// Connections at the same time; fewer where the file limit does not allow as many. The next one is answered with
    /// 503 at once.
    restart connections_max: u32 = number(1..=AT_ONCE_MAX), |_| whole(ConnectionLimits::default().connections_max);

    /// Requests that wait for the head of their answer at the same time. The next one is answered with 503 at once.
    restart requests_max: u32 = number(1..=AT_ONCE_MAX), |_| whole(serve::Config::default().requests_max);

    /// How long a stop waits for bodies that are still being sent. The unit is given that time and 15 s; a pod's
    /// terminationGracePeriodSeconds (45) has to be as much.
    restart drain_wait: Duration = span(MILLISECOND..=HOUR), |_| ConnectionLimits::default().drain_wait;

    /// The local users (numbers) whose processes may connect; empty for all. [0] lets only root's connect.
    restart allow_uids: Vec<u32> = list(number(0..=u32::MAX)), |_| Vec::new();

    /// A header that every request must carry, except those for /token. `larder setup` writes it into root's
    /// hosts.toml: run it again whenever the header or its value changes, or Larder refuses every request, and runtimes
    /// pull around it (with --strict not at all).
    reload gate_header: Option<HeaderName> = header(), |_| None, example "\"X-Node-Key\"";

    /// The file that holds the value of `gate_header`: 16 to 1024 visible ASCII characters. It is refused if other
    /// users can read it. A reload reads it again; what systemd hands over (LoadCredential=) is read anew at a restart.
    reload gate_file: Option<PathBuf> = path(), |_| None,
        example "\"/run/credentials/larder.service/gate\"";
}

impl Server {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, place: &Place<'_>) {
        if self.listen.is_empty() {
            place.known_key("listen").mistake("at least one address is needed");
        }
        if self.state.is_none()
            && let Some(state) = place.absent_key("state")
        {
            state.mistake("no place to keep state: set it, or HOME, or XDG_STATE_HOME");
        }
        place.both(
            ("gate_header", self.gate_header.is_some(), "the header that carries it"),
            ("gate_file", self.gate_file.is_some(), "the file with its value"),
        );
    }

    /// What connections are bounded by.
    pub(crate) fn limits(&self) -> ConnectionLimits {
        let connections_max = self.connections_max as usize;
        ConnectionLimits { connections_max, drain_wait: self.drain_wait, ..ConnectionLimits::default() }
    }

    /// What the data plane is built from; a login by path is sent to the registries `path_logins`.
    pub(crate) fn serve(&self, path_logins: HashSet<Registry>) -> serve::Config {
        let gate = self.gate_header.clone().zip(self.gate_file.clone());
        serve::Config {
            default_registry: self.default_registry.clone(),
            hosts: self.hosts.clone(),
            requests_max: self.requests_max as usize,
            gate: gate.map(|(header, file)| GateConfig { header, file }),
            path_logins,
            ..serve::Config::default()
        }
    }

    /// The local users that may connect; `None` for all.
    pub(crate) fn uids(&self) -> Option<Vec<u32>> {
        (!self.allow_uids.is_empty()).then(|| self.allow_uids.clone())
    }
}

/// A registry, as names of images have it.
pub(super) fn registry() -> Text<Registry> {
    parsed("registry", &["docker.io", "quay.io", "registry.corp:5000"])
}

fn listen() -> Text<Listen> {
    let write = |at: &Listen| match at {
        Listen::Tcp(at) => at.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    };
    let examples = &["127.0.0.1:5050", "[::1]:1", "unix:/run/a \"b\".sock"];
    Text { write, ..parsed("address:port or unix:/path", examples) }
}

fn host() -> Text<String> {
    let read = |text: &str| {
        let name = text.parse::<Registry>().map_err(|error| error.to_string())?;
        Ok(name.as_str().to_ascii_lowercase())
    };
    Text { what: "host name, with port", examples: &["cache.corp:5050", "cache"], read, write: String::clone }
}

fn header() -> Text<HeaderName> {
    let read = |text: &str| {
        HeaderName::try_from(text).map_err(|error| format!("expected the name of a header field: {error}"))
    };
    Text { what: "header name", examples: &["x-node-key"], read, write: |name| name.as_str().to_owned() }
}

fn state(environment: &Environment) -> Option<PathBuf> {
    if let Some(state) = &environment.state_dir {
        return Some(state.clone());
    }
    if environment.root {
        return Some("/var/lib/larder".into());
    }
    let home = || environment.home.as_ref().map(|home| home.join(".local/state"));
    Some(environment.state_home.clone().or_else(home)?.join("larder"))
}

/// Defaults of other modules are far below what does not fit.
fn whole(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
