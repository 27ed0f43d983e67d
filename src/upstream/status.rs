//! The endpoints of one registry as they would be asked now, for people.

use crate::reference::{PrincipalKind, Registry};
use crate::upstream::client::Upstream;
use crate::upstream::endpoint::select;
use crate::upstream::error::Error;

/// An endpoint of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its URL, without any query.
    pub url: String,
    /// `host:port`, as errors name it.
    pub host: String,
    /// Whether its answers prove rights and decide what a tag names.
    pub authoritative: bool,
    /// Which credentials it may be shown: `none`, `caller`, or `node`, which includes those of callers.
    pub credentials: &'static str,
}

impl Upstream {
    /// Whether a `[[registry]]` section names the registry.
    pub fn is_configured(&self, registry: &Registry) -> bool {
        self.configuration().config.registries.contains_key(registry)
    }

    /// The endpoints of a registry, in the order in which they are asked.
    ///
    /// # Errors
    /// [`Error::Declined`]: the operator permits no request to this registry.
    pub fn endpoints_of(&self, registry: &Registry) -> Result<Vec<EndpointStatus>, Error> {
        let endpoints = select::endpoints(&self.configuration().config, registry)?;
        let status = |endpoint: &select::Endpoint| EndpointStatus {
            url: endpoint.base_url().to_owned(),
            host: endpoint.host_and_port().to_owned(),
            authoritative: endpoint.is_authoritative(),
            credentials: if endpoint.accepts(PrincipalKind::Node) {
                "node"
            } else if endpoint.accepts(PrincipalKind::Caller) {
                "caller"
            } else {
                "none"
            },
        };
        Ok(endpoints.iter().map(status).collect())
    }
}
