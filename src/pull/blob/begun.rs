//! Blobs of which a client has received parts: an outage of upstream is waited through for them.
//!
//! containerd asks for the parts of a layer one by one, in parallel, and has nowhere else to turn in the middle of it:
//! one part that fails ends the pull. A request for such a blob waits for upstream as long as its client waits for an
//! answer.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pull::context::PullContext;
use crate::pull::error::{Error, Fault};
use crate::reference::{Digest, Registry};
use crate::support::bounded_map::BoundedMap;
use crate::upstream;

/// Blobs remembered: a node has a few hundred layers under way at most.
const BLOBS_MAX: usize = 1_024;
/// How long after a part was received the rest of the blob may still be asked for by the same pull.
const BEGUN_FOR: Duration = Duration::from_secs(10 * 60);
/// Between two questions; most of them are answered without a request, since the endpoint is known to fail.
const PAUSE: Duration = Duration::from_millis(500);
/// Kept free of the time that the client waits, for the answer itself.
const RESERVE: Duration = Duration::from_secs(1);

/// Which blobs are begun. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Begun(Arc<Mutex<BoundedMap<(Registry, Digest), Instant>>>);

impl Default for Begun {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(BoundedMap::new(BLOBS_MAX))))
    }
}

impl Begun {
    /// A client was given a part of a blob of the pull's registry.
    pub(crate) fn record(&self, context: &PullContext, digest: Digest) {
        self.0.lock().insert((context.repository().registry().clone(), digest), Instant::now());
    }

    /// Waits before upstream is asked again after `error`; returns whether it should be.
    pub(crate) async fn waits_through(&self, context: &PullContext, digest: Digest, error: &Error) -> bool {
        let pause = pause_after(error);
        let in_time = context.deadline().is_some_and(|deadline| Instant::now() + pause + RESERVE < deadline);
        if error.fault() != Fault::Outage || !in_time || !self.is_begun(context, digest) {
            return false;
        }
        tracing::debug!(repository = %context.repository(), %digest, %error, "an outage of upstream is waited through");
        tokio::time::sleep(pause).await;
        true
    }

    fn is_begun(&self, context: &PullContext, digest: Digest) -> bool {
        let key = (context.repository().registry().clone(), digest);
        self.0.lock().get(&key).is_some_and(|at| at.elapsed() < BEGUN_FOR)
    }
}

/// A registry that says when it may be asked again is not asked before.
fn pause_after(error: &Error) -> Duration {
    match error {
        Error::Upstream(upstream::Error::RateLimited { retry_after: Some(wait), .. }) => PAUSE.max(*wait),
        _ => PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::context::Caller;
    use crate::upstream::ConnectStage;

    fn unreachable() -> Error {
        let (host, why) = ("reg.test".to_owned(), "refused".to_owned());
        upstream::Error::Unreachable { host, stage: ConnectStage::Connect, why }.into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_waited_through_for_blobs_that_are_begun_and_no_longer_than_the_client_waits() {
        let (begun, digest) = (Begun::default(), Digest::of(b"x"));
        let context = || {
            PullContext::new("reg.test/app".parse().unwrap(), None, Caller::Anonymous)
                .answered_within(Duration::from_secs(25))
        };
        assert!(!begun.waits_through(&context(), digest, &unreachable()).await, "nothing was received of it");
        begun.record(&context(), digest);
        assert!(!begun.waits_through(&context(), Digest::of(b"y"), &unreachable()).await);
        assert!(
            !begun.waits_through(&context(), digest, &Error::NotStored(None)).await,
            "no trouble of upstream"
        );
        let (waiting, since) = (context(), Instant::now());
        while begun.waits_through(&waiting, digest, &unreachable()).await {}
        assert_eq!(since.elapsed(), Duration::from_secs(24) - PAUSE);
        let limited = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            upstream::Error::RateLimited { host: "reg.test".to_owned(), retry_after }.into()
        };
        assert!(!begun.waits_through(&context(), digest, &limited(60)).await, "it would not help");
        let since = Instant::now();
        assert!(begun.waits_through(&context(), digest, &limited(5)).await);
        assert_eq!(since.elapsed(), Duration::from_secs(5));
        tokio::time::advance(BEGUN_FOR).await;
        assert!(!begun.waits_through(&context(), digest, &unreachable()).await, "another pull");
    }
}
