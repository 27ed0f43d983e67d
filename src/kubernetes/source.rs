//! What the watch of pods is built from: sources of pods, of secrets, and of what the runtime has.
//!
//! Each is a trait, so that the decisions are tested without an API server, kubelet or runtime. A source says what it
//! sees and degrades to nothing: what it cannot do is told by [`PodEvent::Lost`], and stops nothing else.

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::pod::Pod;
use crate::reference::Image;
use crate::support::shutdown::Shutdown;

/// What a source of pods sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodEvent {
    /// A list of all pods of this node begins.
    ListBegins,
    /// A pod is there, or is another than before.
    Applied(Pod),
    /// The list has ended: pods that were not in it are gone. From now on the source tells of every change.
    ListEnds,
    /// A pod is gone.
    Deleted {
        /// Its UID.
        uid: String,
    },
    /// The source sees nothing at present, for this reason; it goes on trying. A list that was under way may go on.
    Lost(String),
    /// The source sees pods again, from where it was lost: it missed nothing.
    Resumed,
}

/// A source of this node's pods.
pub trait PodSource: Send + Sync {
    /// The name of the source, for the log and metrics.
    fn name(&self) -> &'static str;

    /// Says what is seen, until `shutdown` or until the receiver is gone. Never returns for a failure: it is told, and
    /// what failed is tried again.
    fn run(&self, events: mpsc::Sender<PodEvent>, shutdown: Shutdown) -> BoxFuture<'_, ()>;
}

/// Why a pull secret cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is none of that name. Kubelet passes it over.
    #[error("there is no such secret")]
    Missing,
    /// The identity may not read it.
    #[error("the identity may not read it")]
    Forbidden,
    /// The API server does not answer.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
}

/// A pull secret, as the API server has it.
#[derive(Clone)]
pub struct Secret {
    /// The manifest, as JSON.
    pub manifest: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// A source of pull secrets.
pub trait SecretSource: Send + Sync {
    /// The secret of a name.
    fn secret<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<Secret, SecretError>>;
}

/// Says whether the runtime has an image.
pub trait ImagePresence: Send + Sync {
    /// Whether the runtime is known to have the image; `false` also where it is not known.
    fn has<'a>(&'a self, image: &'a Image) -> BoxFuture<'a, bool>;

    /// Why it does not say, if its last answer was none.
    fn problem(&self) -> Option<String> {
        None
    }
}
