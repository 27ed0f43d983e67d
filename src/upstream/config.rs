//! The settings of `upstream`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::reference::Registry;
use crate::support::proxies::ProxyVariables;
use crate::upstream::transport::network::Reach;

/// Everything that `upstream` is built from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which registries are permitted besides those in `registries`.
    pub allow: Allow,
    /// Registries with settings of their own.
    pub registries: HashMap<Registry, RegistryConfig>,
    /// Bounds on waits.
    pub timeouts: Timeouts,
    /// Proxies, as the environment names them.
    pub proxy: ProxyVariables,
    /// How long a login that a token server refused is not repeated.
    pub negative_ttl: Duration,
    /// As in [`RegistryConfig`], for every registry in `registries` and for no other.
    pub trusted_redirects: HashSet<String>,
    /// The network that connections are opened through; not a setting of the configuration.
    pub reach: Reach,
}

/// Which registries are permitted without a `[[registry]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Any public DNS name, over TLS.
    Public,
    /// These, over TLS, and no other.
    Only(HashSet<Registry>),
}

/// One `[[registry]]` entry.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Endpoints in order; empty for the registry itself over TLS.
    pub endpoints: Vec<EndpointConfig>,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that is presented to a registry that requests one in the TLS handshake.
    pub client: Option<ClientCertificate>,
    /// `host:port` of token servers of this registry that may have private addresses or another domain.
    pub trusted_realms: HashSet<String>,
    /// `host:port` of servers that may have private addresses and to which it may redirect; `http://host:port` of those
    /// that may be asked for its blobs over plain HTTP too.
    pub trusted_redirects: HashSet<String>,
}

impl Config {
    /// Whether `registry` may redirect to `target`, which is written as in [`RegistryConfig::trusted_redirects`]. A
    /// registry that the operator did not name, by a section or in a closed list, leads nowhere.
    pub(crate) fn trusts_redirect(&self, registry: &Registry, target: &str) -> bool {
        let own = self.registries.get(registry);
        let is_allowed = matches!(&self.allow, Allow::Only(listed) if listed.contains(registry));
        own.is_some_and(|own| own.trusted_redirects.contains(target))
            || (own.is_some() || is_allowed) && self.trusted_redirects.contains(target)
    }
}

/// A client certificate. Presented to hosts that the configuration names, and to no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// PEM file of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of its key; may be the same file.
    pub key: PathBuf,
}

/// One endpoint of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Its URL; the `/v2` of the registry API is appended unless it is there.
    pub url: Url,
    /// Which credentials are presented to it; `None`: all of them if it is authoritative by default, else none.
    pub credentials: Option<CredentialUse>,
    /// Whether its responses prove rights; `None`: if it is the registry's own host, or the only endpoint.
    pub authoritative: Option<bool>,
}

impl From<Url> for EndpointConfig {
    fn from(url: Url) -> Self {
        Self { url, credentials: None, authoritative: None }
    }
}

/// Which credentials are presented to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialUse {
    /// None.
    None,
    /// Those of the node and of the plugins.
    Node,
    /// Those, and those of callers.
    Caller,
}

impl CredentialUse {
    /// The names in the configuration.
    pub const NAMES: [(&'static str, Self); 3] =
        [("none", Self::None), ("node", Self::Node), ("caller", Self::Caller)];
}

/// Bounds on every wait. Their sum stays below the 30 s after which containerd gives up.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For TCP connections to the addresses of a name, of which each has an equal part, a third at least.
    pub connect: Duration,
    /// From sending a request to the head of its response, connecting included.
    pub header: Duration,
    /// Between two chunks of a body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(6),
            header: Duration::from_secs(15),
            idle: Duration::from_secs(30),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Allow::Public,
            registries: HashMap::new(),
            timeouts: Timeouts::default(),
            proxy: ProxyVariables::default(),
            negative_ttl: Duration::from_secs(3),
            trusted_redirects: HashSet::new(),
            reach: Reach::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_cannot_be_used_is_known_before_every_registry_counts_as_away() {
        for (url, expected) in [
            ("", None),
            ("proxy.corp:3128", None),
            ("HTTP://u:p@proxy.corp:3128", None),
            ("https://u:p@proxy.corp", Some("https")),
            ("socks5h://proxy.corp:1080", Some("socks5h")),
        ] {
            let proxy = ProxyVariables { https: url.to_owned(), ..ProxyVariables::default() };
            let expected = expected.map(|scheme| ("HTTPS_PROXY", scheme.to_owned()));
            assert_eq!(proxy.unsupported(), expected, "{url}");
            let config = Config { proxy, ..Config::default() };
            let built = crate::upstream::Configured::new(config);
            assert_eq!(built.is_err(), expected.is_some(), "{url}");
        }
    }

    #[test]
    fn no_registry_without_a_section_leads_into_the_nodes_network() {
        let trusted = HashSet::from(["minio.corp:9000".to_owned()]);
        let own = RegistryConfig { trusted_redirects: trusted.clone(), ..RegistryConfig::default() };
        let named = |name: &str, config| HashMap::from([(name.parse().unwrap(), config)]);
        let of_one = Config { registries: named("reg.corp", own), ..Config::default() };
        let registries = named("reg.corp", RegistryConfig::default());
        let of_all = Config { registries, trusted_redirects: trusted.clone(), ..Config::default() };
        // As files of before the sections have it.
        let allow = Allow::Only(["reg.corp".parse().unwrap()].into());
        let of_list = Config { allow, trusted_redirects: trusted, ..Config::default() };
        for config in [of_one, of_all, of_list] {
            let trusts =
                |registry: &str| config.trusts_redirect(&registry.parse().unwrap(), "minio.corp:9000");
            assert!(trusts("reg.corp") && !trusts("evil.example"));
        }
    }
}
