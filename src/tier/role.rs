//! What a node is for a blob that the tier lacks: its writer, one that waits for the writer, or one that does without.
//!
//! Deliberately not here: the lease of the writer ([`super::claim`]), and the wait ([`super::wait`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::claim::ClaimSlot;
use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::lease::{LEASED_MIN, Lease};
use super::metrics::Leased;
use super::reading::{Found, Lookup};
use super::wait::{Wait, waiting};
use crate::reference::{Digest, Registry};

/// Nodes that begin in the same instant look for a lease within this time of each other, so that most of them find that
/// of the first one and do not try to create theirs: stores limit the writes of one object.
const LOOK_JITTER: Duration = Duration::from_millis(50);

/// What a node is for a blob that the tier lacks.
pub(crate) enum Role {
    /// It downloads and writes the blob; no other node does, as far as leases say.
    Writer(ClaimSlot),
    /// Another node does. The body begins when that one is done, or ends with [`ErrorKind::GaveUp`].
    Waiter(Found, ClaimSlot),
    /// It downloads the blob; the tier is not written, or cannot hold a lease.
    Alone,
}

impl Tier {
    /// Whether nodes wait for each other for a blob of `size` bytes from `registry`.
    pub(crate) fn is_leased(&self, registry: &Registry, size: u64) -> bool {
        size >= LEASED_MIN
            && self.reader_of(registry).is_some_and(|inner| inner.config.wait_max > Duration::ZERO)
    }

    /// What this node is for a blob of `size` bytes that the tier lacks. A waiter's right to the blob is proved before
    /// the body is used. All requests for that together may take as long as the head of one answer: a tier that answers
    /// each of them slowly is left alone like one that does not.
    pub(crate) async fn role(&self, registry: &Registry, digest: Digest, size: u64) -> Role {
        let Some(inner) = self.reader_of(registry) else { return Role::Alone };
        tokio::time::sleep(LOOK_JITTER.mul_f64(fastrand::f64())).await;
        if !inner.health.leasing.admits(Instant::now()) {
            return Role::Alone;
        }
        let wait = inner.config.head_timeout;
        match timeout(wait, inner.role(registry, digest, size)).await {
            Ok(role) => role,
            Err(_) => inner.alone(&Error::timed_out(wait)),
        }
    }
}

impl Inner {
    async fn role(self: &Arc<Self>, registry: &Registry, digest: Digest, size: u64) -> Role {
        let (inner, slot) = (self, ClaimSlot::default());
        let key = inner.bucket.layout.lease(registry, digest);
        let mut found = match inner.leases.lease_at(&key).await {
            Ok(found) => found,
            Err(error) => return inner.alone(&error),
        };
        if found.is_none() && inner.config.write {
            match inner.claim(registry, digest, size, &slot).await {
                Ok(claim) => {
                    inner.health.leasing.succeeded();
                    // The writer before may have completed the object and given its lease back since this node looked.
                    let blob = inner.bucket.layout.blob(registry, digest);
                    if let Lookup::Found(found) = inner.look(registry, digest, &blob).await
                        && found.size == size
                    {
                        return Role::Waiter(found, slot);
                    }
                    slot.hold(claim);
                    inner.bucket.metrics.leases.count(Leased::Claimed);
                    return Role::Writer(slot);
                }
                Err(error) if error.kind == ErrorKind::Exists => {
                    found = Some((Lease::default(), Bytes::new()));
                }
                // Another node may have been the reason.
                Err(error) if error.kind == ErrorKind::Throttled => match inner.leases.lease_at(&key).await {
                    Ok(Some(lease)) => found = Some(lease),
                    Ok(None) | Err(_) => return inner.alone(&error),
                },
                Err(error) => return inner.alone(&error),
            }
        }
        inner.health.leasing.succeeded();
        match found {
            None => return Role::Alone,
            // Only a node that may write takes it over.
            Some((lease, _)) if !inner.config.write && inner.leases.is_silent(&key, lease) => {
                return Role::Alone;
            }
            Some(_) => {}
        }
        inner.bucket.metrics.leases.count(Leased::Waited);
        let (inner, registry, of_waiter) = (Arc::clone(inner), registry.clone(), slot.clone());
        let body = waiting(Wait { inner, registry, digest, size, slot: of_waiter });
        Role::Waiter(Found { size, modified: None, body }, slot)
    }

    fn alone(&self, error: &Error) -> Role {
        self.health.leasing.record_error(error, Instant::now());
        tracing::debug!(%error, "no lease in the shared tier: each node downloads for itself");
        Role::Alone
    }
}
