//! The handle of the tier: what it is built from, and what is remembered of its objects.
//!
//! Promises: cheap to clone, and all clones remember the same; whatever is remembered is bounded, and may be forgotten.
//!
//! Deliberately not here: reading (`reading`), uploads (`upload`), and where objects are (`backend`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(feature = "tier")]
use super::backend;
use super::bucket::Bucket;
use super::claim::Leases;
use super::config::Config;
use super::counts::Counts;
use super::error::BuildError;
use super::health::Healths;
use super::layout::Layout;
use super::metrics::{Metrics, Read};
use super::objects::Objects;
use super::registries::Registries;
use super::remembered::{Names, Reads, Writes};
use crate::credentials::ClusterKey;
use crate::reference::{Digest, Registry};
use crate::support::clock::{Clock, Timestamp};
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// The shared tier, or none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tier(pub(super) Option<Arc<Inner>>);

/// How an object failed to deliver the content that its key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The object is wrong: another digest, another length.
    Wrong,
    /// The transfer broke off, or came too slowly.
    BrokenOff,
}

pub(super) struct Inner {
    pub(super) config: Config,
    /// Of which registries content is shared, as the configuration says now.
    pub(super) registries: Live<Registries>,
    pub(super) bucket: Arc<Bucket>,
    pub(super) health: Healths,
    pub(super) reads: Reads,
    pub(super) writes: Writes,
    pub(super) leases: Arc<Leases>,
    pub(super) names: Names,
    pub(super) counts: Counts,
}

impl Tier {
    /// The tier of `config`. Blocks while files are read.
    ///
    /// # Errors
    /// A URL, file or credential that cannot be used. Whether the tier answers is not asked.
    #[cfg(feature = "tier")]
    pub fn build(config: Config, clock: Clock, metrics: Metrics) -> Result<Self, BuildError> {
        let objects = backend::build(&config)?;
        let key = config.cluster_key.as_deref().map(ClusterKey::read).transpose()?;
        Ok(Self::over(config, objects, key, clock, metrics))
    }

    /// No tier can be built without the feature `tier`.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "tier"))]
    pub fn build(_config: Config, _clock: Clock, _metrics: Metrics) -> Result<Self, BuildError> {
        Err(BuildError::NotCompiledIn)
    }

    #[cfg_attr(not(feature = "tier"), allow(dead_code, reason = "only a tier that is compiled in is built"))]
    pub(super) fn over(
        config: Config,
        objects: Arc<dyn Objects>,
        key: Option<ClusterKey>,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        let bucket = Bucket {
            layout: Layout::new(config.location.prefix()),
            objects,
            head_timeout: config.head_timeout,
            clock,
            metrics,
            tasks: Tasks::default(),
        };
        let bucket = Arc::new(bucket);
        Self(Some(Arc::new(Inner {
            registries: Live::new(config.registries.clone()),
            health: Healths::default(),
            reads: Reads::default(),
            writes: Writes::new(config.uploads as usize),
            leases: Arc::new(Leases::new(Arc::clone(&bucket))),
            names: Names::new(key),
            counts: Counts::default(),
            bucket,
            config,
        })))
    }

    /// No tier: everything is absent and nothing is written.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is a tier.
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Whether content of `registry` is shared.
    pub(crate) fn shares(&self, registry: &Registry) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.shares(registry))
    }

    /// From now on, content of `registries` is shared. What is under way ends as it began.
    pub fn reconfigure(&self, registries: Registries) {
        if let Some(inner) = &self.0 {
            inner.registries.replace(registries);
        }
    }

    pub(super) fn reader(&self) -> Option<&Arc<Inner>> {
        self.0.as_ref().filter(|inner| inner.config.read)
    }

    /// What is asked for content of `registry`, if it is shared and this node reads.
    pub(super) fn reader_of(&self, registry: &Registry) -> Option<&Arc<Inner>> {
        self.reader().filter(|inner| inner.shares(registry))
    }

    /// What is given content of `registry`, if it is shared and this node writes.
    pub(super) fn writer_of(&self, registry: &Registry) -> Option<&Arc<Inner>> {
        self.writer().filter(|inner| inner.shares(registry))
    }

    pub(super) fn writer(&self) -> Option<&Arc<Inner>> {
        self.0.as_ref().filter(|inner| inner.config.write)
    }

    /// Records that an object did not deliver the content of `digest`. One that is wrong is deleted.
    pub(crate) fn record_fault(&self, registry: &Registry, digest: Digest, fault: Fault) {
        let Some(inner) = &self.0 else { return };
        inner.avoid(registry, digest);
        match fault {
            Fault::BrokenOff => inner.bucket.metrics.reads.count(Read::BrokenOff),
            Fault::Wrong => {
                inner.counts.bad_objects.fetch_add(1, Ordering::Relaxed);
                inner.bucket.metrics.bad_objects.inc();
                tracing::error!(%registry, %digest, "an object of the shared tier is not the content of its digest; it is deleted where this node may write");
                if inner.config.write {
                    inner.delete_in_background(registry, digest);
                }
            }
        }
    }

    /// What is there is written again once the content is here: it may be wrong.
    pub(crate) fn forget_present(&self, registry: &Registry, digest: Digest) {
        if let Some(inner) = &self.0 {
            inner.writes.present.forget(registry, digest);
        }
    }

    /// Records that a registry delivered a body of `bytes` bytes, which was waited for as long as `waited`.
    pub(crate) fn record_pace(&self, registry: &Registry, bytes: u64, waited: Duration) {
        if let Some(inner) = &self.0 {
            inner.reads.paces.record(registry, bytes, waited, Instant::now());
        }
    }

    /// The time by the clock of this node; `None` without a tier.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        self.0.as_ref().map(|inner| inner.bucket.clock.now())
    }

    /// Waits until what goes on in the background is over, but no longer than `wait`.
    pub async fn finish(&self, wait: Duration) {
        if let Some(inner) = &self.0 {
            inner.bucket.tasks.finish(wait).await;
        }
    }
}

impl Inner {
    /// An object that could not be read is not read again for a while, and may be written again.
    pub(super) fn avoid(&self, registry: &Registry, digest: Digest) {
        self.reads.avoided.note(registry, digest);
        self.writes.present.forget(registry, digest);
    }

    fn shares(&self, registry: &Registry) -> bool {
        self.registries.current().include(registry)
    }

    fn delete_in_background(&self, registry: &Registry, digest: Digest) {
        let bucket = Arc::clone(&self.bucket);
        let keys = [bucket.layout.blob(registry, digest), bucket.layout.manifest(registry, digest)];
        self.bucket.tasks.spawn_detached(async move {
            for key in keys {
                if let Err(error) = bucket.ensure_absent(&key).await {
                    tracing::warn!(%digest, %error, "a wrong object of the shared tier could not be deleted");
                }
            }
        });
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tier").field(&self.0.as_ref().map(|inner| &inner.config)).finish()
    }
}
