//! The copy of a blob for the shared tier, made while it is downloaded and completed once it is verified.
//!
//! Promises: a pull never waits for its copy: the copy reads the growing file by itself, and what it cannot read or write
//! ends the copy alone. Only content that was verified, and that the registry itself says the repository has, becomes an
//! object.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::flight::Flight;
use super::flight_content::FlightContent;
use super::tiered::Share;
use crate::reference::{Digest, Registry};
use crate::support::tasks::Tasks;
use crate::tier::{ClaimSlot, Tier, Upload};

/// How often it is looked at whether there is more to copy: a part takes longer to arrive.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes that are read at a time.
const READ: u64 = 1024 * 1024;

/// Copies under way at most, most of which wait for a place among the uploads: each keeps its file from being evicted.
const COPIES_MAX: usize = 64;

/// Makes copies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedCopies {
    places: Arc<Semaphore>,
    tier: Tier,
    tasks: Tasks,
}

/// A copy under way. Dropped, it is thrown away.
pub(crate) struct SharedCopy(oneshot::Sender<u64>);

impl SharedCopy {
    /// The content of `size` bytes is verified, and may be shared.
    pub(crate) fn complete(self, size: u64) {
        let _ = self.0.send(size);
    }
}

/// What is copied.
struct Source {
    content: FlightContent,
    registry: Registry,
    digest: Digest,
    /// This node's lease. It is given back when the copy has ended.
    claim: ClaimSlot,
    /// Whether there is nothing to copy without one: another node writes the blob.
    needs_claim: bool,
}

impl SharedCopies {
    pub(crate) fn new(tier: Tier, tasks: Tasks) -> Self {
        Self { places: Arc::new(Semaphore::new(COPIES_MAX)), tier, tasks }
    }

    /// Begins to copy `content` of a flight, of `size` bytes where the registry said so; `None` if the tier does not want it.
    pub(crate) fn begin(
        &self,
        flight: &Arc<Flight>,
        digest: Digest,
        content: &FlightContent,
        size: Option<u64>,
        share: Share,
    ) -> Option<SharedCopy> {
        let (claim, needs_claim) = match share {
            Share::No => return None,
            Share::Yes(claim) => (claim, false),
            Share::OnceClaimed(claim) => (claim, true),
        };
        let registry = flight.context().repository().registry().clone();
        if !self.tier.wants(&registry, digest, size.unwrap_or(0)) {
            return None;
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        claim.tells({
            let content = content.clone();
            move || content.written()
        });
        let (sender, verified) = oneshot::channel();
        let source = Source { content: content.clone(), registry, digest, claim, needs_claim };
        let tier = self.tier.clone();
        self.tasks.spawn_detached(async move {
            source.copy(&tier, size, verified).await;
            source.claim.release();
            drop(place);
        });
        Some(SharedCopy(sender))
    }
}

impl Source {
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
        let Some(mut upload) = tier.begin_upload(&self.registry, self.digest, size, &self.claim).await else {
            return;
        };
        let mut at = 0;
        loop {
            // Also what is withheld from readers: nothing is an object before it is verified.
            let until = end.unwrap_or_else(|| self.content.written());
            if at < until {
                match self.add(&mut upload, at, until).await {
                    Some(now) => at = now,
                    None => return,
                }
            } else if end.is_some() {
                let _ = upload.complete().await;
                return;
            } else {
                match tokio::time::timeout(LOOK_EVERY, &mut verified).await {
                    Ok(Ok(size)) => end = Some(size),
                    Ok(Err(_)) => return upload.abort(),
                    Err(_) => {}
                }
            }
        }
    }

    /// Adds the bytes from `at` on, some of them; returns up to where. `None` if that is not possible.
    async fn add(&self, upload: &mut Upload, at: u64, until: u64) -> Option<u64> {
        let chunk = match self.content.read(at, until.min(at + READ)).await {
            Ok(chunk) if !chunk.is_empty() => chunk,
            _ => return None,
        };
        let bytes = tokio::task::spawn_blocking(move || chunk.read()).await.ok()?.ok()?;
        let now = at + bytes.len() as u64;
        if let Err(error) = upload.add(bytes).await {
            upload.failed(&error);
            return None;
        }
        Some(now)
    }
}
