//! Waits for what another node writes: the effects of [`super::lease`] for the others.
//!
//! A wait is a body that begins when another node has completed the object. It ends without one in bounded time, and
//! then the registry is asked; where waits are for nothing, none begins for some minutes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use tokio::time::Instant;

use super::claim::{Claim, ClaimSlot};
use super::error::{Error, ErrorKind};
use super::handle::Inner;
use super::lease::{Decision, Lease, RENEW_EVERY, SILENT_MAX, decide, first_pause, longer};
use super::metrics::WaitEnd;
use super::objects::{Chunks, shareable};
use super::reading::{Found, Lookup};
use crate::reference::{Digest, Registry};

/// Looks at a lease that fail in a row before a wait ends.
const FAILED_LOOKS_MAX: u32 = 3;
/// A lease that was the same for so long may be that of a writer that is done and could not delete it.
const LOOK_AFTER: Duration = RENEW_EVERY.saturating_mul(2);

/// A wait for an object that another node is writing.
pub(super) struct Wait {
    pub(super) inner: Arc<Inner>,
    pub(super) registry: Registry,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Holds this node's lease once it has taken over.
    pub(super) slot: ClaimSlot,
}

/// The body of the object.
pub(super) fn waiting(wait: Wait) -> Chunks {
    let waited = async move {
        let begun = Instant::now();
        let found = wait.run().await;
        let result = match &found {
            Some(_) => WaitEnd::Hit,
            None if wait.slot.is_held() => WaitEnd::TookOver,
            None => WaitEnd::GaveUp,
        };
        wait.inner.bucket.metrics.waits.observe(result, begun.elapsed());
        let why = "another node did not write the blob in time";
        found.map(|found| found.body).ok_or_else(|| Error::new(ErrorKind::GaveUp, why))
    };
    shareable(stream::once(waited).try_flatten())
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

impl Wait {
    /// Waits for the object; `None` if the registry is to be asked. This node then holds the lease if it is in `slot`.
    async fn run(&self) -> Option<Found> {
        let Self { inner, registry, .. } = self;
        let (key, begun) = (self.lease_key(), Instant::now());
        let mut seen: Option<Seen> = None;
        let (mut pause, mut failed) = (first_pause(), 0);
        loop {
            // Not all nodes at once.
            tokio::time::sleep(pause.mul_f64(0.7 + 0.6 * fastrand::f64())).await;
            let is_over = begun.elapsed() >= inner.config.wait_max;
            let lease = match inner.leases.lease_at(&key).await {
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
                match self.after_the_writer(is_over).await {
                    TakenOver::Ended(found) => return found,
                    TakenOver::Renewed => {
                        pause = longer(pause);
                        continue;
                    }
                }
            };
            let now = Instant::now();
            if seen.as_ref().is_none_or(|seen| seen.bytes != bytes) {
                seen = Some(Seen { bytes, since: now, looked: false });
            }
            let Some(seen) = &mut seen else { continue };
            let silent = if inner.leases.is_silent(&key, lease) { SILENT_MAX } else { now - seen.since };
            match decide(lease, begun.elapsed(), silent, inner.config.wait_max) {
                // It would be the next wait for nothing.
                Decision::Wait(_) if inner.leases.is_vain(registry) => return None,
                Decision::Wait(next) => {
                    pause = next;
                    if silent >= LOOK_AFTER && !std::mem::replace(&mut seen.looked, true) {
                        match self.written().await {
                            Written::Yes(found) => return Some(found),
                            Written::No => {}
                            Written::Unusable => return None,
                        }
                    }
                }
                Decision::GiveUp => {
                    self.note_vain(lease, is_over);
                    return None;
                }
                Decision::TakeOver => {
                    inner.leases.note_silent(&key, lease);
                    match self.take_over(&seen.bytes).await {
                        TakenOver::Ended(found) => return found,
                        // It does not succeed: another node is always faster, or the store deletes nothing.
                        TakenOver::Renewed if begun.elapsed() >= inner.config.wait_max => {
                            self.note_vain(lease, true);
                            return None;
                        }
                        TakenOver::Renewed => {}
                    }
                }
            }
        }
    }

    /// What comes of a lease that is gone: its blob, or this node's own lease, unless the wait is over.
    async fn after_the_writer(&self, is_over: bool) -> TakenOver {
        match self.written().await {
            Written::Yes(found) => return TakenOver::Ended(Some(found)),
            Written::No if !is_over && self.inner.config.write => {}
            Written::No | Written::Unusable => return TakenOver::Ended(None),
        }
        // The writer gave up.
        self.claim_unless(|kind| matches!(kind, ErrorKind::Exists | ErrorKind::Throttled)).await
    }

    /// Deletes a silent lease and creates this node's. Where the blob is there after all, that one ends the wait.
    async fn take_over(&self, seen: &Bytes) -> TakenOver {
        let (inner, key) = (&self.inner, self.lease_key());
        // Its writer may be done, and not have been able to delete its lease.
        match self.written().await {
            Written::Yes(found) => return TakenOver::Ended(Some(found)),
            Written::No if inner.config.write => {}
            Written::No | Written::Unusable => return TakenOver::Ended(None),
        }
        // Another one may have been faster.
        match inner.leases.lease_at(&key).await {
            Ok(now) if now.as_ref().is_none_or(|(_, now)| now == seen) => {}
            Ok(_) => return TakenOver::Renewed,
            Err(_) => return TakenOver::Ended(None),
        }
        if inner.bucket.ensure_absent(&key).await.is_err() {
            return TakenOver::Ended(None);
        }
        self.claim_unless(|kind| kind == ErrorKind::Exists).await
    }

    /// Creates this node's lease, unless that fails as it does where there is another node's.
    async fn claim_unless(&self, is_renewed: impl Fn(ErrorKind) -> bool) -> TakenOver {
        match self.inner.claim(&self.registry, self.digest, self.size, &self.slot).await {
            Ok(claim) => {
                self.slot.hold(claim);
                TakenOver::Ended(None)
            }
            Err(error) if is_renewed(error.kind) => TakenOver::Renewed,
            Err(_) => TakenOver::Ended(None),
        }
    }

    async fn written(&self) -> Written {
        let Self { inner, registry, digest, size, .. } = self;
        match inner.look(registry, *digest, &inner.bucket.layout.blob(registry, *digest)).await {
            Lookup::Found(found) if found.size == *size => Written::Yes(found),
            Lookup::Absent => Written::No,
            Lookup::Found(_) | Lookup::Unavailable => Written::Unusable,
        }
    }

    /// Takes note of a wait that ended without the object, if the next one might, too: after an estimate alone it might
    /// not.
    fn note_vain(&self, lease: Lease, is_over: bool) {
        if lease.complete_for > 0 || is_over {
            self.inner.leases.note_vain(&self.registry);
        }
    }

    fn lease_key(&self) -> String {
        self.inner.bucket.layout.lease(&self.registry, self.digest)
    }
}

impl Inner {
    /// Creates this node's lease, unless the tier does not take what this node writes.
    pub(super) async fn claim(
        &self,
        registry: &Registry,
        digest: Digest,
        size: u64,
        slot: &ClaimSlot,
    ) -> Result<Claim, Error> {
        if self.health.writing.is_left_alone(Instant::now()) {
            return Err(Error::new(ErrorKind::GaveUp, "it does not take what it is given"));
        }
        self.leases.claim(registry, digest, size, slot).await
    }
}
