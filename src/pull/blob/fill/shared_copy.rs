//! The copy of a blob for the shared tier, made while it is downloaded and completed once it is verified.
//!
//! Promises: a pull never waits for its copy: the copy reads the growing file by itself, a part once all of it is
//! there, and what it cannot read or write ends the copy alone. Only content that was verified, and that the registry
//! itself says the repository has, becomes an object. Slow downloads of one registry keep no other registry's blobs
//! from the tier.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::Instant;

use crate::pull::blob::flight::Flight;
use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::places::{Places, Shares};
use crate::pull::blob::priority::Foreground;
use crate::pull::blob::source::tiered::TierCopy;
use crate::pull::config::Config;
use crate::reference::{Digest, Registry};
use crate::support::live::Live;
use crate::support::tasks::Tasks;
use crate::tier::{ClaimSlot, Progress, Tier, Upload};

/// How often a copy looks whether its next part is there: a part takes longer to arrive.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Copies under way at most, most of which wait for their next part or for its permit: each keeps its file from being
/// evicted. The lease of one more is given back at once, so that another node downloads and writes the blob. A copy
/// takes at least as long as its download, so that registries have shares of them.
const COPIES: Shares = Shares::of_few(64);

/// How long parts of a verified blob are sent: no other node waits for it any more, and its file cannot be evicted.
const SEND_MAX: Duration = Duration::from_secs(1_800);

/// Makes copies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedCopies {
    places: Places,
    tier: Tier,
    foreground: Foreground,
    tasks: Tasks,
}

/// A copy under way. Dropped, it is thrown away, and the lease is given back at once: this node's next try, or another
/// node, would wait for it as long as a part takes.
pub(crate) struct SharedCopy {
    verified: Option<oneshot::Sender<u64>>,
    claim: ClaimSlot,
}

impl SharedCopy {
    /// The content of `size` bytes is verified, and may be shared.
    pub(crate) fn complete(mut self, size: u64) {
        if let Some(verified) = self.verified.take() {
            let _ = verified.send(size);
        }
    }
}

impl Drop for SharedCopy {
    fn drop(&mut self) {
        if self.verified.is_some() {
            self.claim.release();
        }
    }
}

/// What is copied.
struct CopiedBlob {
    content: FlightContent,
    registry: Registry,
    digest: Digest,
    /// This node's lease. It is given back when the copy has ended.
    claim: ClaimSlot,
    /// Whether there is nothing to copy without one: another node writes the blob.
    needs_claim: bool,
}

impl SharedCopies {
    pub(crate) fn new(tier: Tier, config: Live<Config>, foreground: Foreground, tasks: Tasks) -> Self {
        Self { places: Places::new(COPIES, config), tier, foreground, tasks }
    }

    /// Begins to copy `content` of a flight, of `size` bytes where the registry said so; `None` if the tier does not
    /// want it.
    pub(crate) fn begin(
        &self,
        flight: &Arc<Flight>,
        digest: Digest,
        content: &FlightContent,
        size: Option<u64>,
        tier_copy: TierCopy,
    ) -> Option<SharedCopy> {
        let (claim, needs_claim) = match tier_copy {
            TierCopy::No => return None,
            TierCopy::Yes(claim) => (claim, false),
            TierCopy::OnceClaimed(claim) => (claim, true),
        };
        let registry = flight.context().repository().registry().clone();
        if !self.tier.wants(&registry, digest, size.unwrap_or(0)) {
            return None;
        }
        let place = self.places.take(&registry)?;
        claim.report({
            // A download whose blob is stored is over, however long its copy takes: others wait for its end.
            let (content, flight, foreground) =
                (content.clone(), Arc::downgrade(flight), self.foreground.clone());
            move || {
                let yields = flight.upgrade().is_some_and(|flight| foreground.is_yielding(&flight));
                Progress { received: content.written(), yields }
            }
        });
        let (sender, verified) = oneshot::channel();
        let copy = SharedCopy { verified: Some(sender), claim: claim.clone() };
        let source = CopiedBlob { content: content.clone(), registry, digest, claim, needs_claim };
        let tier = self.tier.clone();
        self.tasks.spawn_detached(async move {
            source.copy(&tier, size, verified).await;
            source.claim.release();
            drop(place);
        });
        Some(copy)
    }
}

impl CopiedBlob {
    async fn copy(&self, tier: &Tier, size: Option<u64>, mut verified: oneshot::Receiver<u64>) {
        let mut end = None;
        while self.needs_claim && !self.claim.is_held() {
            match tokio::time::timeout(LOOK_EVERY, &mut verified).await {
                // The tier has it.
                Ok(_) if !self.claim.is_held() => return,
                Ok(Ok(size)) => end = Some(size),
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
        // How large its parts are depends on the size.
        let size = match size.or(end) {
            Some(size) => size,
            None => match (&mut verified).await {
                Ok(size) => *end.insert(size),
                Err(_) => return,
            },
        };
        let Some(upload) = tier.begin_upload(&self.registry, self.digest, size).await else { return };
        self.upload(upload, end, verified).await;
    }

    /// Sends the parts, each once it is whole in the file; the last one once all of it is verified, which `end` or
    /// `verified` says.
    async fn upload(&self, mut upload: Upload, mut end: Option<u64>, mut verified: oneshot::Receiver<u64>) {
        let mut verified_at = None;
        loop {
            if end.is_none() {
                match verified.try_recv() {
                    Ok(size) => end = Some(size),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Closed) => return upload.abort(),
                }
            }
            let is_there = match end {
                Some(size) if size != upload.size() => return upload.abort(),
                Some(_) => true,
                // Also what is withheld from readers: nothing is an object before it is verified.
                None => !upload.is_last_part() && self.content.written() >= upload.next_part().end,
            };
            if !is_there {
                match tokio::time::timeout(LOOK_EVERY, &mut verified).await {
                    Ok(Ok(size)) => end = Some(size),
                    Ok(Err(_)) => return upload.abort(),
                    Err(_) => {}
                }
                continue;
            }
            if end.is_some() && verified_at.get_or_insert_with(Instant::now).elapsed() >= SEND_MAX {
                return upload.abort();
            }
            let Some(mut permit) = upload.permit().await else { return };
            let Some(content) = self.read(upload.next_part(), permit.memory()).await else { return };
            if upload.is_last_part() {
                let _ = upload.complete(content, permit).await;
                return;
            }
            if let Err(error) = upload.send(content, permit).await {
                return upload.failed(&error);
            }
        }
    }

    /// The bytes of a part; `None` if they cannot be read, or are not what was received. Those that are returned were
    /// compared in memory: read once more, the disk might give others.
    async fn read(&self, part: Range<u64>, memory: Vec<u8>) -> Option<Vec<u8>> {
        self.content.copy_all(part.start, part.end, memory).await.ok()
    }
}
