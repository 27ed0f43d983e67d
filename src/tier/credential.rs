//! The credential of the store, kept at hand while the daemon runs, so that no pull waits for the service that gives it
//! out.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use crate::support::shutdown::Shutdown;

/// How often it is looked at whether the credential has to be fetched again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Tier {
    /// Fetches the credential and keeps it fresh until `shutdown`; returns at once where none has to be fetched. What
    /// failed for want of it is tried again as soon as it is here.
    pub async fn keep_credential(self, mut shutdown: Shutdown) {
        let Some(inner) = &self.0 else { return };
        let keep = async {
            let mut fails = false;
            while let Some(fetched) = inner.bucket.objects.credential() {
                match fetched.await {
                    Ok(()) if std::mem::take(&mut fails) => inner.credential_came(),
                    Ok(()) => {}
                    Err(error) => {
                        if !std::mem::replace(&mut fails, true) {
                            tracing::warn!(%error, "registries are asked instead");
                        }
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = keep => {}
            () = shutdown.requested() => {}
        }
    }

    /// How long the credential took to be here; `None` where none has to be fetched.
    pub(super) async fn fetch_credential(&self) -> Option<Result<Duration, Error>> {
        let (inner, begun) = (self.0.as_ref()?, Instant::now());
        let fetched = inner.bucket.objects.credential()?.await;
        Some(fetched.map(|()| begun.elapsed()))
    }
}

impl Inner {
    fn credential_came(&self) {
        self.health.forgive_all(ErrorKind::NoCredential);
        tracing::info!("the shared tier has its credential");
    }
}
