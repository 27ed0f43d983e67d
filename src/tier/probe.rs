//! Whether the tier does what it is for: a real round trip with an object of no use, for `larder doctor`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::bucket::Bucket;
use super::error::{Error, ErrorKind};
use super::handle::Tier;
use super::objects::Replace;

/// How long each step may take: longer than a pull waits, so that it is said how slow it is.
const STEP_WAIT: Duration = Duration::from_secs(15);
/// What the object holds.
const CONTENT: &[u8] = b"larder doctor";

/// What a round trip found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// How long the credential took to be here; `None` where none has to be fetched.
    pub credential: Option<Duration>,
    /// How long the object took to be written and read, where both were tried.
    pub took: Duration,
    /// Whether an object can be created only if there is none: without that, every node downloads by itself what all
    /// want at once.
    pub creates_once: bool,
}

/// Why a round trip failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeFailure {
    /// The step that failed, as a verb.
    pub step: String,
    /// How.
    pub error: Error,
}

impl Tier {
    /// Writes, reads, creates again and deletes an object, as far as this node may. With an error, which step failed.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn probe(&self) -> Result<Probed, ProbeFailure> {
        let done = self.round_trip().await;
        done.map_err(|(step, error)| ProbeFailure { step: step.to_owned(), error })
    }

    async fn round_trip(&self) -> Result<Probed, (&'static str, Error)> {
        let Some(inner) = &self.0 else {
            return Err(("find a tier", Error::new(ErrorKind::Unsupported, "none is configured")));
        };
        let credential = match self.fetch_credential().await.transpose() {
            Ok(took) => took,
            Err(error) => return Err(("get a credential", error)),
        };
        let (bucket, config) = (&inner.bucket, &inner.config);
        if config.read {
            // A store that hides what is absent would be left alone after every miss.
            let absent = bucket.layout.probe();
            match step("look for an object that is not there", bucket.objects.get(&absent)).await {
                Err((_, error)) if error.kind == ErrorKind::NotFound => {}
                Err(failed) => return Err(failed),
                Ok(_) => {}
            }
        }
        // From here on: a connection is there, as it is for pulls.
        let (key, begun) = (bucket.layout.probe(), Instant::now());
        if !config.write {
            return match step("read", bucket.objects.get(&key)).await {
                Err((_, error)) if error.kind == ErrorKind::NotFound => {
                    Ok(Probed { credential, took: begun.elapsed(), creates_once: true })
                }
                Err(failed) => Err(failed),
                Ok(_) => Ok(Probed { credential, took: begun.elapsed(), creates_once: true }),
            };
        }
        let content = Bytes::from_static(CONTENT);
        step("write", bucket.objects.put(&key, content.clone(), Replace::Anything)).await?;
        let probed = bucket.probe_written(&key, content, begun, config.read).await;
        let deleted = step("delete", bucket.objects.delete(&key)).await;
        let probed = probed?;
        deleted.map(|()| Probed { credential, ..probed })
    }
}

impl Bucket {
    async fn probe_written(
        &self,
        key: &str,
        content: Bytes,
        begun: Instant,
        is_read: bool,
    ) -> Result<Probed, (&'static str, Error)> {
        if is_read {
            let mut object = step("read", self.objects.get(key)).await?;
            let read = step("read", async { object.body.next().await.transpose() }).await?;
            if read.as_deref() != Some(CONTENT) {
                return Err(("read", Error::new(ErrorKind::Unavailable, "it answered with other bytes")));
            }
        }
        let took = begun.elapsed();
        let again = step("create", self.objects.put(key, content, Replace::Nothing)).await;
        let creates_once = match again {
            Err((_, error)) if error.kind == ErrorKind::Exists => true,
            Ok(()) => false,
            Err((_, error)) if error.kind == ErrorKind::Unsupported => false,
            Err(failed) => return Err(failed),
        };
        Ok(Probed { credential: None, took, creates_once })
    }
}

async fn step<T>(
    name: &'static str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, (&'static str, Error)> {
    let answered = timeout(STEP_WAIT, request).await;
    answered.unwrap_or_else(|_| Err(Error::timed_out(STEP_WAIT))).map_err(|error| (name, error))
}
