//! What images are pulled with: credentials, upstream, the shared tier, and the puller over them and the store.

use std::sync::Arc;

use super::check;
use super::error::Error;
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::pull::Puller;
use crate::store::Store;
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::Registry;
use crate::tier::Tier;
use crate::upstream::{RegistryLabels, Upstream};
use crate::{pull, tier, upstream};

/// The parts that a pull goes through.
pub(super) struct Pulling {
    pub(super) keychain: Keychain,
    pub(super) upstream: Upstream,
    pub(super) tier: Tier,
    pub(super) pull: Live<pull::Config>,
    pub(super) puller: Puller,
}

impl Pulling {
    /// Builds them. Blocks for a moment.
    ///
    /// # Errors
    /// Keys that cannot be opened, and settings that cannot be used.
    pub(super) fn build(
        settings: &Settings,
        registry: &Registry,
        labels: &Arc<RegistryLabels>,
        store: &Store,
        clock: &Clock,
    ) -> Result<Self, Error> {
        let upstream_metrics = upstream::metrics::Metrics::register(registry)?;
        let keychain = check::keychain(settings, Keys::open(&settings.keys)?)?;
        let upstream = Upstream::new(
            check::configured(settings)?,
            keychain.anonymous(),
            upstream_metrics,
            Arc::clone(labels),
            clock.clone(),
        );
        let pull_metrics = pull::metrics::Metrics::register(registry)?;
        let pull = Live::new(settings.pull.clone());
        let tier = check::build_tier(settings, clock.clone(), tier::metrics::Metrics::register(registry)?)?;
        let puller = Puller::new(
            pull.clone(),
            store.clone(),
            upstream.clone(),
            keychain.clone(),
            tier.clone(),
            pull_metrics,
        );
        Ok(Self { keychain, upstream, tier, pull, puller })
    }
}
