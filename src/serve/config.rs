//! The settings of the data plane.

use std::collections::HashSet;
use std::time::Duration;

use super::gate::GateConfig;
use crate::reference::Registry;

/// The settings of the data plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// What a name without a registry means.
    pub default_registry: Registry,
    /// Host names besides the loopback ones under which clients may address us, with their port.
    pub hosts: Vec<String>,
    /// Requests whose head is being answered at the same time; bodies do not count.
    pub requests_max: usize,
    /// A header that every request must carry, except those for `/token`: older containerd versions leave it out there.
    pub gate: Option<GateConfig>,
    /// The registries to which a credential that arrives by path is sent: the client gave it for this cache's address.
    pub path_logins: HashSet<Registry>,
    /// How long a client waits for the head of an answer, whatever upstream does; below the 30 s of containerd.
    pub answer_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            default_registry: Registry::docker_hub(),
            hosts: Vec::new(),
            requests_max: 1_024,
            gate: None,
            path_logins: HashSet::new(),
            answer_wait: Duration::from_secs(25),
        }
    }
}
