//! Claims and waits: the effects of [`super::lease`].
//!
//! A claim is this node's lease; it is renewed while it is held and deleted when it is dropped. A wait is a body that
//! begins when another node has completed the object.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::lease::{BYTES_MAX, Decision, LEASED_MIN, Lease, RENEW_EVERY, decide};
use super::objects::{Replace, shareable};
use super::reading::{Found, Lookup, TierBody};
use crate::reference::{Digest, Registry};

/// This node's lease for a blob that it downloads and writes.
pub(crate) struct Claim {
    inner: Arc<Inner>,
    key: String,
    done: Arc<AtomicU64>,
    renewing: JoinHandle<()>,
}

/// A place for the claim of a download: a node that waits in vain may get it later. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClaimSlot(Arc<Mutex<Option<Claim>>>);

/// What a node is for a blob that the tier lacks.
pub(crate) enum Role {
    /// It downloads and writes the blob; no other node does, as far as leases tell.
    Writer(ClaimSlot),
    /// Another node does. The body begins when that one is done, or ends with [`ErrorKind::GaveUp`].
    Waiter(Found, ClaimSlot),
    /// It downloads the blob; the tier is not written, or cannot hold a lease.
    Alone,
}

impl ClaimSlot {
    /// Whether this node holds the lease.
    pub(crate) fn is_held(&self) -> bool {
        self.0.lock().is_some()
    }

    /// So many bytes have been received.
    pub(crate) fn received(&self, bytes: u64) {
        if let Some(claim) = &*self.0.lock() {
            claim.done.store(bytes, Ordering::Relaxed);
        }
    }

    /// Gives the lease back.
    pub(crate) fn release(&self) {
        let claim = self.0.lock().take();
        drop(claim);
    }
}

impl Tier {
    /// Whether nodes wait for each other for a blob of `size` bytes.
    pub(crate) fn is_leased(&self, size: u64) -> bool {
        size >= LEASED_MIN && self.reader().is_some_and(|inner| inner.config.wait_max > Duration::ZERO)
    }

    /// What this node is for a blob of `size` bytes that the tier lacks. A waiter's right to the blob is proved before the
    /// body is used.
    pub(crate) async fn role(&self, registry: &Registry, digest: Digest, size: u64) -> Role {
        let Some(inner) = self.reader() else { return Role::Alone };
        let slot = ClaimSlot::default();
        if inner.config.write && inner.writing.admits(Instant::now()) {
            match inner.claim(registry, digest, size).await {
                Ok(claim) => {
                    inner.writing.succeeded();
                    // The writer before may have completed the object and given its lease back since this node looked.
                    let blob = inner.layout.blob(registry, digest);
                    if let Lookup::Found(found) = inner.look(registry, digest, &blob).await
                        && found.size == size
                    {
                        return Role::Waiter(found, slot);
                    }
                    *slot.0.lock() = Some(claim);
                    inner.metrics.count_lease("claimed");
                    return Role::Writer(slot);
                }
                Err(error) if error.kind == ErrorKind::Exists => inner.writing.succeeded(),
                Err(error) => {
                    if error.kind.is_trouble() {
                        inner.writing.failed(error.kind, Instant::now());
                    }
                    tracing::debug!(%error, "no lease in the shared tier: each node downloads for itself");
                    return Role::Alone;
                }
            }
        } else if !matches!(inner.lease_at(&inner.layout.lease(registry, digest)).await, Ok(Some(_))) {
            return Role::Alone;
        }
        inner.metrics.count_lease("waited");
        let body = waiting(Arc::clone(inner), registry.clone(), digest, size, slot.clone());
        Role::Waiter(Found { size, body }, slot)
    }
}

impl Inner {
    /// Creates a lease, and renews it from then on.
    async fn claim(self: &Arc<Self>, registry: &Registry, digest: Digest, size: u64) -> Result<Claim, Error> {
        let key = self.layout.lease(registry, digest);
        let lease = Lease { nonce: fastrand::u64(..), size, ..Lease::default() };
        self.bounded(self.objects.put(&key, written(lease), Replace::Nothing)).await?;
        let done = Arc::new(AtomicU64::new(0));
        let renewing = tokio::spawn(renew(Arc::clone(self), key.clone(), lease, Arc::clone(&done)));
        Ok(Claim { inner: Arc::clone(self), key, done, renewing })
    }

    /// The lease that is there, and its bytes, by which a change is noticed. What is no lease counts as one that says nothing.
    async fn lease_at(&self, key: &str) -> Result<Option<(Lease, Bytes)>, Error> {
        let reading = async {
            let mut object = self.objects.get(key).await?;
            let mut whole = Vec::new();
            while let Some(chunk) = object.body.next().await {
                whole.extend_from_slice(&chunk?);
                if whole.len() > BYTES_MAX {
                    break;
                }
            }
            Ok((serde_json::from_slice(&whole).unwrap_or_default(), Bytes::from(whole)))
        };
        match self.bounded(reading).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn written(lease: Lease) -> Bytes {
    serde_json::to_vec(&lease).unwrap_or_default().into()
}

async fn renew(inner: Arc<Inner>, key: String, mut lease: Lease, done: Arc<AtomicU64>) {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        lease.beat += 1;
        lease.done = done.load(Ordering::Relaxed);
        lease.rate = (lease.done as f64 / begun.elapsed().as_secs_f64()) as u64;
        let put = inner.objects.put(&key, written(lease), Replace::Anything);
        if let Err(error) = inner.bounded(put).await {
            tracing::debug!(%error, "a lease in the shared tier could not be renewed");
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.renewing.abort();
        let (inner, key) = (Arc::clone(&self.inner), std::mem::take(&mut self.key));
        self.inner.tasks.spawn_detached(async move {
            if let Err(error) = inner.bounded(inner.objects.delete(&key)).await
                && error.kind != ErrorKind::NotFound
            {
                tracing::debug!(%error, "a lease in the shared tier could not be deleted; it counts for seconds more");
            }
        });
    }
}

/// The body of an object that another node is writing.
fn waiting(inner: Arc<Inner>, registry: Registry, digest: Digest, size: u64, slot: ClaimSlot) -> TierBody {
    let waited = async move {
        let begun = Instant::now();
        let found = wait(&inner, &registry, digest, size, &slot).await;
        let seconds = begun.elapsed().as_secs_f64();
        let result = match &found {
            Some(_) => "hit",
            None if slot.is_held() => "took_over",
            None => "gave_up",
        };
        inner.metrics.wait_seconds.with_label_values(&[result]).observe(seconds);
        let why = "another node did not write the blob in time";
        found.map(|found| found.body).ok_or_else(|| Error::new(ErrorKind::GaveUp, why))
    };
    shareable(stream::once(waited).try_flatten())
}

/// Waits for an object; `None` if the registry is to be asked. This node then holds the lease if it is in `slot`.
async fn wait(
    inner: &Arc<Inner>,
    registry: &Registry,
    digest: Digest,
    size: u64,
    slot: &ClaimSlot,
) -> Option<Found> {
    let (key, begun) = (inner.layout.lease(registry, digest), Instant::now());
    let mut seen: Option<(Bytes, Instant)> = None;
    let mut pause = Duration::from_millis(300);
    loop {
        // Not all nodes at once.
        tokio::time::sleep(pause.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
        let Some((lease, bytes)) = inner.lease_at(&key).await.ok()? else {
            match inner.look(registry, digest, &inner.layout.blob(registry, digest)).await {
                Lookup::Found(found) => return Some(found).filter(|found| found.size == size),
                Lookup::Unavailable => return None,
                Lookup::Absent if begun.elapsed() >= inner.config.wait_max || !inner.config.write => {
                    return None;
                }
                Lookup::Absent => {}
            }
            // The writer gave up.
            match inner.claim(registry, digest, size).await {
                Ok(claim) => return hold(slot, claim),
                Err(error) if error.kind == ErrorKind::Exists => continue,
                Err(_) => return None,
            }
        };
        let now = Instant::now();
        let since = match &seen {
            Some((before, since)) if *before == bytes => *since,
            _ => seen.insert((bytes, now)).1,
        };
        match decide(lease, begun.elapsed(), now.duration_since(since), inner.config.wait_max) {
            Decision::Wait(next) => pause = next,
            Decision::GiveUp => return None,
            Decision::TakeOver => {
                // Its writer may be done, and not have been able to delete its lease.
                match inner.look(registry, digest, &inner.layout.blob(registry, digest)).await {
                    Lookup::Found(found) => return Some(found).filter(|found| found.size == size),
                    Lookup::Absent if inner.config.write => {}
                    Lookup::Absent | Lookup::Unavailable => return None,
                }
                // Another one may have been faster.
                if inner
                    .lease_at(&key)
                    .await
                    .ok()?
                    .is_some_and(|(_, now)| seen.as_ref().is_some_and(|(before, _)| now != *before))
                {
                    continue;
                }
                if let Err(error) = inner.bounded(inner.objects.delete(&key)).await
                    && error.kind != ErrorKind::NotFound
                {
                    return None;
                }
                match inner.claim(registry, digest, size).await {
                    Ok(claim) => return hold(slot, claim),
                    Err(error) if error.kind == ErrorKind::Exists => seen = None,
                    Err(_) => return None,
                }
            }
        }
    }
}

fn hold(slot: &ClaimSlot, claim: Claim) -> Option<Found> {
    *slot.0.lock() = Some(claim);
    None
}
