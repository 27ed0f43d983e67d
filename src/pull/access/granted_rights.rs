//! What is granted, and by which terms: what the questions about known rights and the records of answers share.

use std::sync::Arc;

use super::grants::Grants;
use super::principals::Principals;
use super::shared_rights::SharedRights;
use crate::pull::config::Config;
use crate::pull::metrics::Metrics;
use crate::support::live::Live;

/// The grants, the principals that they are of, and the operator's terms. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GrantedRights {
    pub(super) config: Live<Config>,
    pub(super) principals: Principals,
    pub(super) grants: Arc<Grants>,
    /// What other nodes shared for an outage.
    pub(super) shared: Arc<SharedRights>,
    pub(super) metrics: Arc<Metrics>,
}
