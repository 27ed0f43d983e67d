//! What the operator decides about upstreams.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::reference::Registry;
use crate::upstream::transport::network::Reach;

/// Everything that `upstream` is built from.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which registries may be asked besides those in `registries`.
    pub allow: Allow,
    /// Registries with settings of their own.
    pub registries: HashMap<Registry, RegistryConfig>,
    /// How long upstream may take.
    pub timeouts: Timeouts,
    /// Proxies, as the environment names them.
    pub proxy: Proxy,
    /// `host:port` of token servers that may be private or of another domain.
    pub trusted_realms: HashSet<String>,
    /// `host:port` of redirect targets that may be private.
    pub trusted_redirects: HashSet<String>,
    /// What connections are made of; no setting of the operator.
    pub reach: Reach,
}

/// Which registries may be asked without a `[[registry]]` entry.
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
    /// Where to ask, in order; empty for the registry itself over TLS.
    pub endpoints: Vec<EndpointConfig>,
    /// PEM file of certificate authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// What we show where a registry asks who we are in the TLS handshake.
    pub client: Option<ClientCertificate>,
}

/// A certificate of our own, for registries that ask for one. CredentialUse to hosts that the operator named, to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// PEM file of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file of its key; may be the same file.
    pub key: PathBuf,
}

/// One endpoint of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where.
    pub url: Url,
    /// Whose credentials it is shown; `None`: everybody's if it stands for the registry, else nobody's.
    pub credentials: Option<CredentialUse>,
    /// Whether its word proves a right; `None`: if it stands for the registry, which is so for the registry's own
    /// host and for an endpoint that is the only one.
    pub authoritative: Option<bool>,
}

impl From<Url> for EndpointConfig {
    fn from(url: Url) -> Self {
        Self { url, credentials: None, authoritative: None }
    }
}

/// Whose credentials an endpoint is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CredentialUse {
    /// Nobody's.
    None,
    /// The node's, and the plugins'.
    Node,
    /// Those and the callers'.
    Caller,
}

impl CredentialUse {
    /// As configuration has it.
    pub const NAMES: [(&'static str, Self); 3] =
        [("none", Self::None), ("node", Self::Node), ("caller", Self::Caller)];
}

/// Bounds on every wait. Their sum stays below the 30 s after which containerd gives up.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TCP connection, each address.
    pub connect: Duration,
    /// From the request to the head of the response, connecting included.
    pub header: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            header: Duration::from_secs(15),
            idle: Duration::from_secs(30),
        }
    }
}

/// Values of the proxy environment variables; empty where unset.
#[derive(Clone, Default)]
pub struct Proxy {
    /// `HTTP_PROXY`.
    pub http: String,
    /// `HTTPS_PROXY`.
    pub https: String,
    /// `NO_PROXY`.
    pub no: String,
}

impl std::fmt::Debug for Proxy {
    /// A proxy URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |text: &str| if text.is_empty() { "unset" } else { "set" };
        f.debug_struct("Proxy").field("http", &shown(&self.http)).field("https", &shown(&self.https)).finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Allow::Public,
            registries: HashMap::new(),
            timeouts: Timeouts::default(),
            proxy: Proxy::default(),
            trusted_realms: HashSet::new(),
            trusted_redirects: HashSet::new(),
            reach: Reach::default(),
        }
    }
}
