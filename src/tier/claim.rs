//! Leases in the tier, and claims: the effects of [`super::lease`] for the node that writes.
//!
//! A claim is this node's lease; it is renewed while it is held and deleted when it is dropped.
//!
//! Deliberately not here: waiting for another node's ([`super::wait`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bucket::Bucket;
use super::error::Error;
use super::lease::{BYTES_MAX, Lease, RENEW_EVERY, Took};
use super::objects::Replace;
use super::recent::{Recent, SILENT_FOR, VAIN_FOR};
use crate::reference::{Digest, Registry};

/// The leases of all nodes, and what this node found out about them.
pub(super) struct Leases {
    bucket: Arc<Bucket>,
    /// Leases, by key, nonce and number of renewals, that were silent for too long.
    silent: Recent<(String, u64, u64)>,
    /// Registries of whose blobs one was waited for in vain a while ago.
    vain: Recent<Registry>,
}

/// This node's lease for a blob that it downloads and writes.
pub(crate) struct Claim {
    leases: Arc<Leases>,
    key: String,
    nonce: u64,
    renewing: JoinHandle<()>,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that were received.
    pub(crate) received: u64,
    /// Whether it makes way for others of this node now.
    pub(crate) yields: bool,
}

type Report = Box<dyn Fn() -> Progress + Send + Sync>;

/// Where the claim of a download is, if there is one: a node that waits in vain may get it later. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClaimSlot {
    claim: Arc<Mutex<Option<Claim>>>,
    report: Arc<Mutex<Option<Report>>>,
}

impl ClaimSlot {
    /// Whether this node got the lease. One of a download that made way for others may be another node's by now.
    pub(crate) fn is_held(&self) -> bool {
        self.claim.lock().is_some()
    }

    /// The lease states from now on what `report` returns.
    pub(crate) fn report(&self, report: impl Fn() -> Progress + Send + Sync + 'static) {
        *self.report.lock() = Some(Box::new(report));
    }

    /// Gives the lease back.
    pub(crate) fn release(&self) {
        let claim = self.claim.lock().take();
        drop(claim);
    }

    pub(super) fn hold(&self, claim: Claim) {
        *self.claim.lock() = Some(claim);
    }
}

impl Leases {
    pub(super) fn new(bucket: Arc<Bucket>) -> Self {
        Self { bucket, silent: Recent::new(SILENT_FOR), vain: Recent::new(VAIN_FOR) }
    }

    /// Whether this lease was silent before, and was not renewed since.
    pub(super) fn is_silent(&self, key: &str, lease: Lease) -> bool {
        self.silent.is_noted(&(key.to_owned(), lease.nonce, lease.renewals))
    }

    /// Takes note that nothing renews this lease.
    pub(super) fn note_silent(&self, key: &str, lease: Lease) {
        self.silent.note_once((key.to_owned(), lease.nonce, lease.renewals));
    }

    /// Whether a blob of `registry` was waited for in vain a while ago.
    pub(super) fn is_vain(&self, registry: &Registry) -> bool {
        self.vain.is_noted(registry)
    }

    /// Takes note that a blob of `registry` was waited for in vain.
    pub(super) fn note_vain(&self, registry: &Registry) {
        self.vain.note_once(registry.clone());
    }

    /// Creates a lease, and renews it from then on: whatever else this node writes, since parts of all blobs are sent
    /// in turn.
    pub(super) async fn claim(
        self: &Arc<Self>,
        registry: &Registry,
        digest: Digest,
        size: u64,
        slot: &ClaimSlot,
    ) -> Result<Claim, Error> {
        let key = self.bucket.layout.lease(registry, digest);
        let lease = Lease { nonce: fastrand::u64(1..), size, ..Lease::default() };
        self.bucket.put(&key, written(lease), Replace::Nothing).await?;
        let report = Arc::clone(&slot.report);
        let renewing = tokio::spawn(renew(Arc::clone(self), key.clone(), lease, report));
        Ok(Claim { leases: Arc::clone(self), key, nonce: lease.nonce, renewing })
    }

    /// Whether the lease that is there is the one of `nonce`. What cannot be read is not this node's to change.
    async fn is_own(&self, key: &str, nonce: u64) -> Option<bool> {
        let found = self.lease_at(key).await.ok()?;
        Some(found.is_some_and(|(lease, _)| lease.nonce == nonce))
    }

    /// Deletes the lease of `nonce`, unless another node's is there.
    async fn give_back(&self, key: &str, nonce: u64) {
        if self.is_own(key, nonce).await != Some(true) {
            return;
        }
        if let Err(error) = self.bucket.ensure_absent(key).await {
            tracing::debug!(%error, "a lease in the shared tier could not be deleted; it counts for seconds more");
        }
    }

    /// The lease that is there, and its bytes, by which a change is noticed. What is no lease counts as one that says
    /// nothing.
    pub(super) async fn lease_at(&self, key: &str) -> Result<Option<(Lease, Bytes)>, Error> {
        let found = self.bucket.get_whole(key, BYTES_MAX).await.map(Option::unwrap_or_default);
        let found = found.map(|whole| (serde_json::from_slice(&whole).unwrap_or_default(), whole));
        found.map(Some).or_else(Error::absent)
    }
}

fn written(lease: Lease) -> Bytes {
    serde_json::to_vec(&lease).unwrap_or_default().into()
}

/// Writes the lease again until it is aborted, or the lease is another node's. The lease of a download that has made
/// way for others of this node from one renewal to the next is given back: another node may need the blob now, and
/// would wait for what this node puts off.
async fn renew(leases: Arc<Leases>, key: String, mut lease: Lease, report: Arc<Mutex<Option<Report>>>) {
    let (begun, mut complete_since, mut yielded) = (Instant::now(), None, false);
    // When the lease was told what it states.
    let mut stated = begun;
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match leases.is_own(&key, lease.nonce).await {
            Some(true) => {}
            Some(false) => return,
            None => continue,
        }
        let Progress { received: done, yields } =
            report.lock().as_ref().map(|report| report()).unwrap_or_default();
        let yields = yields && done < lease.size;
        if yields && yielded {
            return leases.give_back(&key, lease.nonce).await;
        }
        yielded = yields;
        lease.renewals += 1;
        let complete_for = match done >= lease.size {
            true => complete_since.get_or_insert_with(Instant::now).elapsed(),
            false => Duration::ZERO,
        };
        let took = Took { since_begun: begun.elapsed(), since_stated: stated.elapsed() };
        lease.progressed(done, took, complete_for);
        stated = Instant::now();
        if let Err(error) = leases.bucket.put(&key, written(lease), Replace::Anything).await {
            tracing::debug!(%error, "a lease in the shared tier could not be renewed");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.renewing.abort();
        let (leases, key, nonce) = (Arc::clone(&self.leases), std::mem::take(&mut self.key), self.nonce);
        self.leases.bucket.tasks.spawn_detached(async move { leases.give_back(&key, nonce).await });
    }
}
