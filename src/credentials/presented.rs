//! What is presented to a registry, with the principal that it makes.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::credentials::credential::Credential;
use crate::credentials::docker_config::HttpHeaders;
use crate::reference::Principal;

/// A credential, or that there is none, as it is presented to a registry.
#[derive(Debug, Clone)]
pub struct PresentedCredential {
    /// Whose it is.
    pub principal: Principal,
    /// The credential; `None` for an anonymous request.
    pub credential: Option<Credential>,
    /// `HttpHeaders` of the docker config that the credential is from.
    pub headers: Arc<HttpHeaders>,
    /// Where it is from.
    pub source: CredentialSource,
}

/// Where a credential is from, for the log: a user name may be a secret, and is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// There is no credential.
    None,
    /// The request brought it, or a pull secret that a command read.
    Caller,
    /// This docker config of the node.
    DockerConfig(Arc<Path>),
    /// This plugin.
    Provider(Arc<Path>),
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no credential"),
            Self::Caller => f.write_str("the caller"),
            Self::DockerConfig(path) | Self::Provider(path) => write!(f, "{}", path.display()),
        }
    }
}
