//! What the unit tests of `pull` share: a store in a temporary directory, and a registry that answers what the test says.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::metrics::Metrics;
use crate::reference::{Digest, MediaType};
use crate::store::{self, Amount, Budget, Member, Store};
use crate::support::clock::{Clock, Timestamp};
use crate::support::metrics::{Registry as MetricsRegistry, RegistryLabels};

/// An image manifest without layers.
pub(crate) const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;

/// An empty store whose clock the test moves.
pub(crate) fn store() -> (Store, Clock, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp(1_000_000));
    let budget = Budget { max: Amount::Bytes(1 << 30), min_free: Amount::Bytes(0) };
    let config = store::Config { path: directory.path().join("store"), budget };
    let metrics = Arc::new(store::metrics::Metrics::register(&MetricsRegistry::new()).unwrap());
    (Store::open(&config, clock.clone(), metrics).unwrap(), clock, directory)
}

pub(crate) fn metrics() -> (Arc<Metrics>, Arc<RegistryLabels>) {
    let metrics = Metrics::register(&MetricsRegistry::new()).unwrap();
    (Arc::new(metrics), Arc::new(RegistryLabels::new(Vec::new())))
}

/// Stores a blob as if `repository`'s upstream had delivered it.
pub(crate) async fn remember_blob(store: &Store, repository: &str, content: &'static [u8]) -> Digest {
    let digest = Digest::of(content);
    let repository = repository.parse().unwrap();
    store.put(&repository, digest, Bytes::from_static(content), Member::Blob).await.unwrap();
    digest
}

/// Stores [`MANIFEST`] as if `repository`'s upstream had delivered it.
pub(crate) async fn remember_manifest(store: &Store, repository: &str) -> Digest {
    let digest = Digest::of(MANIFEST);
    let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
    let repository = repository.parse().unwrap();
    store.put(&repository, digest, Bytes::from_static(MANIFEST), member).await.unwrap();
    digest
}
