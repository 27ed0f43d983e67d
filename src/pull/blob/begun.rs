//! Blobs of which a client has received parts: an outage of upstream is waited through for the rest of them.
//!
//! containerd asks for the parts of a layer one by one, in parallel, and has nowhere else to turn in the middle of it:
//! one part that fails ends the pull. A request that continues such a blob waits for upstream as long as its client
//! waits for an answer.
//!
//! What one caller received in one repository makes no other wait, and a request for a blob from its first byte on does
//! not wait either: its client has nothing yet, and may ask the registry itself.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::parts::byte_range::BlobRange;
use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::{Digest, Principal, Repository};
use crate::support::bounded_map::BoundedMap;
use crate::upstream;

/// Blobs remembered: a node has a few hundred layers under way at most.
const BLOBS_MAX: usize = 1_024;
/// How long after a part was received the rest of the blob may still be asked for by the same pull.
const BEGUN_FOR: Duration = Duration::from_secs(10 * 60);
/// Before upstream is asked again; then twice as long each time. Each question may cost several requests.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest of these pauses.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// Kept free of the time that the client waits, for the answer itself.
const RESERVE: Duration = Duration::from_secs(1);

/// Which blobs are begun. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Begun(Arc<Mutex<BoundedMap<Key, Instant>>>);

/// The principal is that of the caller's own credential; without one it shares what all such callers received.
type Key = (Repository, Option<Principal>, Digest);

impl Default for Begun {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(BLOBS_MAX))))
    }
}

impl Begun {
    /// The client of the pull was given a part of a blob.
    pub(crate) fn record(&self, context: &PullContext, digest: Digest) {
        self.0.lock().insert(key(context, digest), Instant::now());
    }

    /// Waits before upstream is asked for `wanted` again after `error`, the one after `waits` such waits; returns
    /// whether it should be.
    pub(crate) async fn waits_through(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
        error: &Error,
        waits: u32,
    ) -> bool {
        if error.fault() != Fault::Outage || !continues(wanted) || !self.is_begun(context, digest) {
            return false;
        }
        let Some(pause) = pause_after(context, error, waits) else { return false };
        tracing::debug!(repository = %context.repository(), %digest, %error, "an outage of upstream is waited through");
        tokio::time::sleep(pause).await;
        true
    }

    fn is_begun(&self, context: &PullContext, digest: Digest) -> bool {
        self.0.lock().get(&key(context, digest)).is_some_and(|at| at.elapsed() < BEGUN_FOR)
    }
}

fn key(context: &PullContext, digest: Digest) -> Key {
    (context.repository().clone(), context.caller().principal(), digest)
}

/// Whether a client that asks for this has what comes before it. One that reads the end of a blob first has nothing.
fn continues(wanted: BlobRange) -> bool {
    match wanted {
        BlobRange::From(start) | BlobRange::Bytes { start, .. } => start > 0,
        BlobRange::Whole | BlobRange::Last(_) => false,
    }
}

/// The pause before the next question, whose answer the client still waits for; `None` if there is no time for one. A
/// registry that says when it may be asked again is not asked before.
fn pause_after(context: &PullContext, error: &Error, waits: u32) -> Option<Duration> {
    let left = context.deadline()?.checked_duration_since(Instant::now())?.checked_sub(RESERVE)?;
    let least = match error {
        Error::Upstream(upstream::Error::RateLimited { retry_after: Some(wait), .. }) => PAUSE.max(*wait),
        _ => PAUSE,
    };
    let pause = PAUSE.saturating_mul(2_u32.saturating_pow(waits)).min(PAUSE_MAX).min(left);
    (least < left).then_some(pause.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::context::Caller;
    use crate::pull::for_tests::Parts;
    use crate::upstream::ConnectStage;

    const REST: BlobRange = BlobRange::From(5);

    fn unreachable() -> Error {
        let (host, why) = ("reg.test".to_owned(), "refused".to_owned());
        upstream::Error::Unreachable { host, stage: ConnectStage::Connect, why }.into()
    }

    fn pull(repository: &str) -> PullContext {
        PullContext::new(repository.parse().unwrap(), None, Caller::Anonymous)
            .answered_within(Duration::from_secs(25))
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_through_for_blobs_that_are_begun_and_no_longer_than_the_client_waits() {
        let (begun, digest) = (Begun::default(), Digest::of(b"x"));
        let context = || pull("reg.test/app");
        let waits =
            async |digest, error: &Error| begun.waits_through(&context(), digest, REST, error, 0).await;
        assert!(!waits(digest, &unreachable()).await, "nothing was received of it");
        begun.record(&context(), digest);
        assert!(!waits(Digest::of(b"y"), &unreachable()).await);
        assert!(!waits(digest, &Error::NotStored(None)).await, "no trouble of upstream");
        let (waiting, since, mut times) = (context(), Instant::now(), 0);
        while begun.waits_through(&waiting, digest, REST, &unreachable(), times).await {
            times += 1;
        }
        assert_eq!(since.elapsed(), Duration::from_secs(24) - PAUSE);
        assert!(times < 10, "upstream is asked {times} times more");
        let limited = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            upstream::Error::RateLimited { host: "reg.test".to_owned(), retry_after }.into()
        };
        assert!(!waits(digest, &limited(60)).await, "it would not help");
        let since = Instant::now();
        assert!(waits(digest, &limited(5)).await);
        assert_eq!(since.elapsed(), Duration::from_secs(5));
        tokio::time::advance(BEGUN_FOR).await;
        assert!(!waits(digest, &unreachable()).await, "another pull");
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_tenant_received_makes_no_other_wait_and_no_first_request() {
        let (begun, digest) = (Begun::default(), Digest::of(b"x"));
        let app = pull("reg.test/app");
        begun.record(&app, digest);
        let waits = async |context: &PullContext, wanted| {
            begun.waits_through(context, digest, wanted, &unreachable(), 0).await
        };
        let part = BlobRange::Bytes { start: 5, end: 10 };
        assert!(waits(&app, REST).await && waits(&app, part).await);
        for first in [BlobRange::Whole, BlobRange::From(0), BlobRange::Bytes { start: 0, end: 10 }] {
            assert!(!waits(&app, first).await, "its client has nothing yet: {first:?}");
        }
        assert!(!waits(&pull("reg.test/other"), REST).await, "another repository");
        let ann = Parts::new().pull_as("ann", app.repository()).answered_within(Duration::from_secs(25));
        assert!(!waits(&ann, REST).await, "another caller");
    }
}
