//! What the health of an endpoint is kept by: its URL, and how it is connected to.
//!
//! Two registries may name one URL. With other certificate authorities, another client certificate, or other addresses
//! that are permitted, one of them can be asked there and the other cannot: that is nothing that they learn from each
//! other. Where all of that is the same, they do.

use std::path::PathBuf;
use std::sync::Arc;

use crate::upstream::config::{ClientCertificate, RegistryConfig};
use crate::upstream::transport::address::HostTrust;

/// What an endpoint is known by to others that are connected to in the same way. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey(Arc<Parts>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    url: Arc<str>,
    trust: HostTrust,
    /// As in [`RegistryConfig`]; `None` over plain HTTP, which has no use for it.
    ca: Option<PathBuf>,
    client: Option<ClientCertificate>,
}

impl EndpointKey {
    /// Of an endpoint of a registry that has these settings of its own, if any.
    pub(super) fn new(url: Arc<str>, trust: HostTrust, settings: Option<&RegistryConfig>) -> Self {
        let tls = settings.filter(|_| url.starts_with("https:"));
        let ca = tls.and_then(|settings| settings.ca.clone());
        let client = tls.and_then(|settings| settings.client.clone());
        Self(Arc::new(Parts { url, trust, ca, client }))
    }

    /// The URL of the endpoint.
    pub(super) fn url(&self) -> &str {
        &self.0.url
    }
}
