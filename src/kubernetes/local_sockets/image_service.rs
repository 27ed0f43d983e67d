//! What the runtime has already: the image service of its container runtime interface (CRI), gRPC on a local socket.
//!
//! Promises: only the runtime's own yes counts. A question takes [`ASK_MAX`] at most; a runtime that failed is not
//! asked again for [`FAILED_FOR`], so that a pod of many images does not wait for each. That it fails is logged when it
//! begins and when it ends, and told as the [`ImagePresence::problem`] meanwhile, with when it was asked last: no image
//! may be asked about for days. Not here: pulling. A process
//! that may connect to a runtime's socket may do everything with it; Larder asks this one question, and only where the
//! operator names the socket.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;

use super::grpc::{Connection, LocalError};
use crate::kubernetes::source::ImagePresence;
use crate::reference::Image;
use crate::support::causes::with_causes;

/// How long an answer may take. containerd answers from memory.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Bytes of an answer at most: an image's names.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a runtime that failed is not asked.
const FAILED_FOR: Duration = Duration::from_secs(10);

const IMAGE_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageStatusRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(super) image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) image: Option<ImageFound>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageFound {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

/// The image service of a runtime.
#[derive(Debug)]
pub struct ImageService {
    socket: PathBuf,
    failure: Mutex<Option<Failure>>,
}

/// The last question had no answer.
#[derive(Debug)]
struct Failure {
    at: Instant,
    why: String,
}

impl ImageService {
    /// The service at this socket, for example `/run/containerd/containerd.sock`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, failure: Mutex::new(None) }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the runtime has an image.
    ///
    /// # Errors
    /// As the runtime or its socket refuse.
    pub async fn status(&self, image: &Image) -> Result<bool, LocalError> {
        let connection = Connection::open(&self.socket, ANSWER_BYTES_MAX).await?;
        let question = ImageStatusRequest { image: Some(ImageSpec { image: image.to_string() }) };
        let answer: ImageStatusResponse = connection.ask(IMAGE_STATUS, question, ASK_MAX).await?;
        Ok(answer.image.is_some_and(|image| !image.id.is_empty()))
    }

    fn failed_lately(&self) -> bool {
        self.failure.lock().as_ref().is_some_and(|failure| failure.at.elapsed() < FAILED_FOR)
    }

    fn answered(&self) {
        if self.failure.lock().take().is_some() {
            tracing::info!(socket = %self.socket.display(), "the runtime says again which images it has");
        }
    }

    fn failed(&self, error: &LocalError) {
        let why = with_causes(error);
        let failure = Failure { at: Instant::now(), why: format!("{}: {why}", self.socket.display()) };
        if self.failure.lock().replace(failure).is_none() {
            tracing::warn!(
                socket = %self.socket.display(),
                why,
                "the runtime does not say which images it has; what it has may be fetched ahead again"
            );
        }
    }
}

/// A time for people: seconds, and from a minute on whole minutes.
fn shown(time: Duration) -> impl Display {
    let seconds = time.as_secs();
    let shown = if seconds < 60 { seconds } else { seconds - seconds % 60 };
    humantime::format_duration(Duration::from_secs(shown))
}

impl ImagePresence for ImageService {
    fn has<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            if self.failed_lately() {
                return false;
            }
            match self.status(image).await {
                Ok(has) => {
                    self.answered();
                    has
                }
                Err(error) => {
                    self.failed(&error);
                    false
                }
            }
        })
    }

    fn problem(&self) -> Option<String> {
        self.failure
            .lock()
            .as_ref()
            .map(|Failure { at, why }| format!("{why} (asked last {} ago)", shown(at.elapsed())))
    }
}
