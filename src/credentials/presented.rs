//! What is presented to a registry, with the principal that it makes.

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
}
