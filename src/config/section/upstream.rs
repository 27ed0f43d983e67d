//! `[upstream]`: which registries may be asked, and how long they may take.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{HOUR, MILLISECOND, Text, flag, list, parsed, span};
use crate::reference::{NameError, Registry};
use crate::upstream::{Allow, Timeouts};

/// containerd gives up on an answer after 30 s, and an answer may take more than one question.
const HEADER_TIMEOUT_MAX: Duration = Duration::from_secs(20);

section! {
    /// Which registries may be asked, and how long they may take.
    Upstream = "upstream";

    /// ["public"]: any registry with a public DNS name, over TLS. Or a closed list: ["docker.io", "quay.io"]. A
    /// [[registry]] section permits its host in any case.
    reload allow: Vec<Allowed> = list(allowed()), |_| vec![Allowed::Public];

    /// How long connecting to the addresses of a name may take together. At most three of IPv4 and three of IPv6 are
    /// tried, and each has an equal part of this, so a third at least.
    reload connect_timeout: Duration = span(MILLISECOND..=HOUR), |_| Timeouts::default().connect;

    /// From a request to the head of its answer; at most 20s, because containerd gives up after 30s.
    reload header_timeout: Duration = span(MILLISECOND..=HEADER_TIMEOUT_MAX), |_| Timeouts::default().header;

    /// Whether the config and the other layers of an image are fetched once a client reads its first layer as a whole.
    /// False for a node whose clients read images in part.
    reload fetch_ahead: bool = flag(), |_| true;

    /// The longest pause within a body.
    reload idle_timeout: Duration = span(MILLISECOND..=HOUR), |_| Timeouts::default().idle;

    /// As in [[registry]], for all registries that have a section or are listed in `allow`. For no other registry: it
    /// would lead into your network.
    reload trusted_redirects: Vec<String> = list(redirect_target()), |_| Vec::new();
}

/// An entry of `allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Every public registry.
    Public,
    /// This one.
    Registry(Registry),
}

impl Upstream {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, place: &Place<'_>) {
        if self.allow.contains(&Allowed::Public) && self.allow.len() > 1 {
            let problem = "\"public\" already permits every public registry; list it alone";
            place.known_key("allow").mistake(problem);
        }
    }

    /// The registries of a closed list.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = Registry> {
        self.allow.iter().filter_map(|allowed| match allowed {
            Allowed::Public => None,
            Allowed::Registry(registry) => Some(registry.clone()),
        })
    }

    /// Which registries may be asked.
    pub(crate) fn allow(&self) -> Allow {
        let listed = self.allow.iter().map(|allowed| match allowed {
            Allowed::Public => None,
            Allowed::Registry(registry) => Some(registry.clone()),
        });
        listed.collect::<Option<HashSet<_>>>().map_or(Allow::Public, Allow::Only)
    }

    /// How long they may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        Timeouts { connect: self.connect_timeout, header: self.header_timeout, idle: self.idle_timeout }
    }
}

impl FromStr for Allowed {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "public" {
            return Ok(Self::Public);
        }
        text.parse::<Registry>().map(|registry| Self::Registry(registry.to_lowercase()))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Registry(registry) => registry.fmt(f),
        }
    }
}

fn allowed() -> Text<Allowed> {
    parsed("registry or \"public\"", &["quay.io", "ghcr.io"])
}

/// A server to which a registry may redirect.
pub(super) fn redirect_target() -> Text<String> {
    let read = |text: &str| match text.strip_prefix("http://") {
        Some(plain) => (authority().read)(plain).map(|at| format!("http://{at}")),
        None => (authority().read)(text),
    };
    Text { what: "host:port or http://host:port", examples: &["minio.corp:9000"], read, write: String::clone }
}

pub(super) fn authority() -> Text<String> {
    let read = |text: &str| match text.parse::<Registry>() {
        Ok(at) if at.host().len() < at.as_str().len() => Ok(at.as_str().to_ascii_lowercase()),
        _ => Err("expected host:port, such as auth.corp:443".to_owned()),
    };
    Text { what: "host:port", examples: &["auth.corp:443"], read, write: String::clone }
}
