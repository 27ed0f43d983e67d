//! The events while images are fetched; `larder pull --json` prints these as they are.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The manifests of an image are in the store.
    Resolved {
        /// The image, normalised.
        image: String,
        /// The digest that its reference means.
        digest: String,
        /// The platforms that are fetched; an empty name for an image that names none.
        platforms: Vec<String>,
        /// Layers that are left out: their types or `urls` say that runtimes fetch them from elsewhere.
        #[serde(default)]
        foreign_layers: usize,
    },
    /// How far a blob of an image is.
    Blob {
        /// The image.
        image: String,
        /// The blob.
        digest: String,
        /// Bytes in the store so far.
        done_bytes: u64,
        /// Bytes of the whole blob, where that is known.
        size_bytes: Option<u64>,
        /// Whether it is being fetched.
        state: BlobState,
    },
    /// All of an image is in the store.
    Pulled {
        /// The image.
        image: String,
        /// The digest that its reference means.
        digest: String,
        /// Bytes of all its manifests and blobs.
        bytes: u64,
        /// Of those, bytes that were not in the store before.
        fetched_bytes: u64,
        /// Whether it is pinned now.
        pinned: bool,
    },
    /// An image could not be fetched; what has arrived of it stays in the store.
    Failed {
        /// The image.
        image: String,
        /// Why.
        error: String,
    },
    /// The end.
    Summary(Summary),
}

/// Whether a blob is being fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// It was in the store already.
    Present,
    /// It is being fetched.
    Fetching,
    /// It has been fetched.
    Fetched,
}

/// The result of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Images that are in the store.
    pub pulled: usize,
    /// Images that are not.
    pub failed: usize,
    /// Bytes of all images, each counted by itself.
    pub bytes: u64,
    /// Of those, bytes of blobs that several of these images share, counted once less than they occur.
    pub shared_bytes: u64,
    /// Bytes that were not in the store before.
    pub fetched_bytes: u64,
}
