//! The whole report for the owner of the daemon: the numbers, the registries by name, the pre-pull list.

use serde::{Deserialize, Serialize};

use super::registries::RegistryReport;
use super::status::DaemonStatus;
use crate::kubernetes::PodsStatus;
use crate::prepull::ListStatus;

/// The whole report, through the control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReport {
    /// The numbers.
    #[serde(flatten)]
    pub numbers: DaemonStatus,
    /// Registries about which there is something to report.
    pub registries: Vec<RegistryReport>,
    /// Registries that fail, have never answered, and are not in the configuration: some may be mistyped.
    #[serde(default)]
    pub never_answered: Vec<String>,
    /// The images that the daemon fetches by itself.
    pub prepull: ListStatus,
    /// Where this node's pods are seen, and which of their images could not be fetched.
    #[serde(default)]
    pub pod_sources: PodsStatus,
}
