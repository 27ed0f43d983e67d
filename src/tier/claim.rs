//! Claims and waits: the effects of [`super::lease`].
//!
//! A claim is this node's lease; it is renewed while it is held and deleted when it is dropped. A wait is a body that
//! begins when another node has completed the object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::lease::{
    BYTES_MAX, Decision, LEASED_MIN, Lease, RENEW_EVERY, SILENT_MAX, decide, first_pause, longer,
};
use super::objects::{Chunks, Replace, read_whole, shareable};
use super::reading::{Found, Lookup};
use crate::reference::{Digest, Registry};

/// Nodes that begin in the same instant look for a lease within this time of each other, so that most of them find that of
/// the first one and do not try to create theirs: stores limit the writes of one object.
const LOOK_JITTER: Duration = Duration::from_millis(50);
/// Looks at a lease that fail in a row before a wait ends.
const FAILED_LOOKS_MAX: u32 = 3;
/// A lease that was the same for so long may be that of a writer that is done and could not delete it.
const LOOK_AFTER: Duration = RENEW_EVERY.saturating_mul(2);

/// This node's lease for a blob that it downloads and writes.
pub(crate) struct Claim {
    inner: Arc<Inner>,
    key: String,
    nonce: u64,
    renewing: JoinHandle<()>,
}

/// How many bytes of a blob this node has received.
type Received = Box<dyn Fn() -> u64 + Send + Sync>;

/// Where the claim of a download is, if there is one: a node that waits in vain may get it later. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClaimSlot {
    claim: Arc<Mutex<Option<Claim>>>,
    received: Arc<Mutex<Option<Received>>>,
}

/// What a node is for a blob that the tier lacks.
pub(crate) enum Role {
    /// It downloads and writes the blob; no other node does, as far as leases say.
    Writer(ClaimSlot),
    /// Another node does. The body begins when that one is done, or ends with [`ErrorKind::GaveUp`].
    Waiter(Found, ClaimSlot),
    /// It downloads the blob; the tier is not written, or cannot hold a lease.
    Alone,
}

impl ClaimSlot {
    /// Whether this node holds the lease.
    pub(crate) fn is_held(&self) -> bool {
        self.claim.lock().is_some()
    }

    /// The lease states from now on that so many bytes were received as `received` returns.
    pub(crate) fn report(&self, received: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.received.lock() = Some(Box::new(received));
    }

    /// Gives the lease back.
    pub(crate) fn release(&self) {
        let claim = self.claim.lock().take();
        drop(claim);
    }

    fn hold(&self, claim: Claim) {
        *self.claim.lock() = Some(claim);
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
        let key = inner.layout.lease(registry, digest);
        tokio::time::sleep(LOOK_JITTER.mul_f64(fastrand::f64())).await;
        if !inner.leasing.admits(Instant::now()) {
            return Role::Alone;
        }
        let mut found = match inner.lease_at(&key).await {
            Ok(found) => found,
            Err(error) => return inner.alone(&error),
        };
        if found.is_none() && inner.config.write {
            match inner.claim(registry, digest, size, &slot).await {
                Ok(claim) => {
                    inner.leasing.succeeded();
                    // The writer before may have completed the object and given its lease back since this node looked.
                    let blob = inner.layout.blob(registry, digest);
                    if let Lookup::Found(found) = inner.look(registry, digest, &blob).await
                        && found.size == size
                    {
                        return Role::Waiter(found, slot);
                    }
                    slot.hold(claim);
                    inner.metrics.count_lease("claimed");
                    return Role::Writer(slot);
                }
                Err(error) if error.kind == ErrorKind::Exists => {
                    found = Some((Lease::default(), Bytes::new()));
                }
                // Another node may have been the reason.
                Err(error) if error.kind == ErrorKind::Throttled => match inner.lease_at(&key).await {
                    Ok(Some(lease)) => found = Some(lease),
                    Ok(None) | Err(_) => return inner.alone(&error),
                },
                Err(error) => return inner.alone(&error),
            }
        }
        inner.leasing.succeeded();
        match found {
            None => return Role::Alone,
            // Only a node that may write takes it over.
            Some((lease, _)) if !inner.config.write && inner.is_silent(&key, lease) => return Role::Alone,
            Some(_) => {}
        }
        inner.metrics.count_lease("waited");
        let body = waiting(Arc::clone(inner), registry.clone(), digest, size, slot.clone());
        Role::Waiter(Found { size, modified: None, body }, slot)
    }
}

impl Inner {
    fn alone(&self, error: &Error) -> Role {
        if error.kind.is_trouble() {
            self.leasing.failed(error.kind, Instant::now());
        }
        tracing::debug!(%error, "no lease in the shared tier: each node downloads for itself");
        Role::Alone
    }

    /// Whether this lease was silent before, and was not renewed since.
    fn is_silent(&self, key: &str, lease: Lease) -> bool {
        self.silent.is_noted(&(key.to_owned(), lease.nonce, lease.renewals))
    }

    /// Creates a lease, and renews it from then on: whatever else this node writes, since parts of all blobs are sent in
    /// turn.
    async fn claim(
        self: &Arc<Self>,
        registry: &Registry,
        digest: Digest,
        size: u64,
        slot: &ClaimSlot,
    ) -> Result<Claim, Error> {
        if self.writing.is_left_alone(Instant::now()) {
            return Err(Error::new(ErrorKind::GaveUp, "it does not take what it is given"));
        }
        let key = self.layout.lease(registry, digest);
        let lease = Lease { nonce: fastrand::u64(1..), size, ..Lease::default() };
        self.bounded(self.objects.put(&key, written(lease), Replace::Nothing)).await?;
        let received = Arc::clone(&slot.received);
        let renewing = tokio::spawn(renew(Arc::clone(self), key.clone(), lease, received));
        Ok(Claim { inner: Arc::clone(self), key, nonce: lease.nonce, renewing })
    }

    /// Whether the lease that is there is the one of `nonce`. What cannot be read is not this node's to change.
    async fn is_own(&self, key: &str, nonce: u64) -> Option<bool> {
        let found = self.lease_at(key).await.ok()?;
        Some(found.is_some_and(|(lease, _)| lease.nonce == nonce))
    }

    /// The lease that is there, and its bytes, by which a change is noticed. What is no lease counts as one that says nothing.
    async fn lease_at(&self, key: &str) -> Result<Option<(Lease, Bytes)>, Error> {
        let reading = async {
            let object = self.objects.get(key).await?;
            let whole = read_whole(object.body, BYTES_MAX).await?.unwrap_or_default();
            Ok((serde_json::from_slice(&whole).unwrap_or_default(), whole))
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

/// Writes the lease again until it is aborted, or the lease is another node's.
async fn renew(inner: Arc<Inner>, key: String, mut lease: Lease, received: Arc<Mutex<Option<Received>>>) {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match inner.is_own(&key, lease.nonce).await {
            Some(true) => {}
            Some(false) => return,
            None => continue,
        }
        lease.renewals += 1;
        lease.done = received.lock().as_ref().map_or(0, |received| received());
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
        let (inner, key, nonce) = (Arc::clone(&self.inner), std::mem::take(&mut self.key), self.nonce);
        self.inner.tasks.spawn_detached(async move {
            if inner.is_own(&key, nonce).await != Some(true) {
                return;
            }
            if let Err(error) = inner.bounded(inner.objects.delete(&key)).await
                && error.kind != ErrorKind::NotFound
            {
                tracing::debug!(%error, "a lease in the shared tier could not be deleted; it counts for seconds more");
            }
        });
    }
}

/// The body of an object that another node is writing.
fn waiting(inner: Arc<Inner>, registry: Registry, digest: Digest, size: u64, slot: ClaimSlot) -> Chunks {
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
    let mut seen: Option<Seen> = None;
    let (mut pause, mut failed) = (first_pause(), 0);
    loop {
        // Not all nodes at once.
        tokio::time::sleep(pause.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
        let is_over = begun.elapsed() >= inner.config.wait_max;
        let lease = match inner.lease_at(&key).await {
            Ok(lease) => lease,
            // One failure says little: the writer goes on.
            Err(error) => {
                failed += 1;
                if is_over || failed == FAILED_LOOKS_MAX || error.kind == ErrorKind::Denied {
                    return None;
                }
                pause = longer(pause);
                continue;
            }
        };
        failed = 0;
        let Some((lease, bytes)) = lease else {
            match inner.written(registry, digest, size).await {
                Written::Yes(found) => return Some(found),
                Written::No if is_over || !inner.config.write => return None,
                Written::No => {}
                Written::Unusable => return None,
            }
            // The writer gave up.
            match inner.claim(registry, digest, size, slot).await {
                Ok(claim) => {
                    slot.hold(claim);
                    return None;
                }
                Err(error) if matches!(error.kind, ErrorKind::Exists | ErrorKind::Throttled) => {
                    pause = longer(pause);
                    continue;
                }
                Err(_) => return None,
            }
        };
        let now = Instant::now();
        if seen.as_ref().is_none_or(|seen| seen.bytes != bytes) {
            seen = Some(Seen { bytes, since: now, looked: false });
        }
        let Some(seen) = &mut seen else { continue };
        let silent = if inner.is_silent(&key, lease) { SILENT_MAX } else { now - seen.since };
        match decide(lease, begun.elapsed(), silent, inner.config.wait_max) {
            Decision::Wait(next) => {
                pause = next;
                if silent >= LOOK_AFTER && !std::mem::replace(&mut seen.looked, true) {
                    match inner.written(registry, digest, size).await {
                        Written::Yes(found) => return Some(found),
                        Written::No => {}
                        Written::Unusable => return None,
                    }
                }
            }
            Decision::GiveUp => return None,
            Decision::TakeOver => {
                inner.silent.note_once((key.clone(), lease.nonce, lease.renewals));
                match take_over(inner, registry, digest, size, (&seen.bytes, slot)).await {
                    TakenOver::Ended(found) => return found,
                    TakenOver::Renewed => {}
                }
            }
        }
    }
}

/// A lease as it was seen last.
struct Seen {
    bytes: Bytes,
    since: Instant,
    /// Whether the blob was looked for since then.
    looked: bool,
}

/// Whether an object that was waited for is there.
enum Written {
    Yes(Found),
    No,
    /// It is of another size, or the tier does not say.
    Unusable,
}

/// What came of taking over.
enum TakenOver {
    /// The wait has ended.
    Ended(Option<Found>),
    /// There is another lease, or the same one again.
    Renewed,
}

impl Inner {
    async fn written(self: &Arc<Self>, registry: &Registry, digest: Digest, size: u64) -> Written {
        match self.look(registry, digest, &self.layout.blob(registry, digest)).await {
            Lookup::Found(found) if found.size == size => Written::Yes(found),
            Lookup::Absent => Written::No,
            Lookup::Found(_) | Lookup::Unavailable => Written::Unusable,
        }
    }
}

/// Deletes a silent lease and creates this node's. Where the blob is there after all, that one ends the wait.
async fn take_over(
    inner: &Arc<Inner>,
    registry: &Registry,
    digest: Digest,
    size: u64,
    (seen, slot): (&Bytes, &ClaimSlot),
) -> TakenOver {
    let key = inner.layout.lease(registry, digest);
    // Its writer may be done, and not have been able to delete its lease.
    match inner.written(registry, digest, size).await {
        Written::Yes(found) => return TakenOver::Ended(Some(found)),
        Written::No if inner.config.write => {}
        Written::No | Written::Unusable => return TakenOver::Ended(None),
    }
    // Another one may have been faster.
    match inner.lease_at(&key).await {
        Ok(now) if now.as_ref().is_none_or(|(_, now)| now == seen) => {}
        Ok(_) => return TakenOver::Renewed,
        Err(_) => return TakenOver::Ended(None),
    }
    if let Err(error) = inner.bounded(inner.objects.delete(&key)).await
        && error.kind != ErrorKind::NotFound
    {
        return TakenOver::Ended(None);
    }
    match inner.claim(registry, digest, size, slot).await {
        Ok(claim) => {
            slot.hold(claim);
            TakenOver::Ended(None)
        }
        Err(error) if error.kind == ErrorKind::Exists => TakenOver::Renewed,
        Err(_) => TakenOver::Ended(None),
    }
}
