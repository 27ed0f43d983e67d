//! Pre-pull: images are fetched before anybody asks for them, into Larder's own store and nowhere else.
//!
//! Promises: everything is fetched as somebody who may read it (a pull secret, the node, or nobody in particular), so
//! that afterwards exactly those may read it whom the registry lets; the platform is the one that containerd would
//! choose; one image that fails stops no other; whatever a hostile index lists, the work is bounded; pods go first.
//!
//! Deliberately not here: the runtime's own store. An image that is put there is open to every pod under kubelet's
//! default policy (KEP-2535); what is here is asked for like any other pull.

mod fetch;
mod kubernetes;
mod list;
pub mod metrics;
mod plan;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use fetch::{Fetcher, run};
pub use kubernetes::{Found, KubernetesError, SecretManifest, read};
pub use list::{List, ListStatus};
pub use plan::Platforms;

use crate::credentials::PullSecrets;
use crate::reference::{Image, Platform};

/// Images at a time.
const CONCURRENCY: usize = 2;

/// `[prepull]`: what the daemon keeps by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// These images.
    pub images: Vec<Image>,
    /// Those of the Kubernetes manifests in this directory or file.
    pub manifests: Option<PathBuf>,
    /// For these platforms; none means the node's own.
    pub platforms: Vec<Platform>,
    /// How often they are looked at again.
    pub interval: Duration,
    /// Images at a time.
    pub concurrency: usize,
    /// Whether they are pinned.
    pub pin: bool,
    /// Files and directories of pull secrets with which they may be fetched.
    pub pull_secrets: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            manifests: None,
            platforms: Vec::new(),
            interval: Duration::from_secs(3_600),
            concurrency: CONCURRENCY,
            pin: true,
            pull_secrets: Vec::new(),
        }
    }
}

/// An image that is wanted, and the pull secrets that may be used for it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which.
    pub image: Image,
    /// With these, merged as kubelet merges those of a pod.
    pub secrets: PullSecrets,
}

/// Each image once, with the secrets of all its mentions.
pub fn once(all: Vec<Wanted>) -> Vec<Wanted> {
    let mut each: Vec<Wanted> = Vec::new();
    for wanted in all {
        match each.iter_mut().find(|before| before.image == wanted.image) {
            Some(before) => before.secrets.merge(&wanted.secrets),
            None => each.push(wanted),
        }
    }
    each
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Order {
    /// Images, each once.
    pub images: Vec<Wanted>,
    /// For which platforms.
    pub platforms: Platforms,
    /// Whether they are pinned, and for whom.
    pub pin: Option<PinnedFor>,
    /// Images at a time.
    pub concurrency: usize,
}

/// For whom an image is pinned: what the list pins, the list lets go again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinnedFor {
    /// A command.
    Command,
    /// `[prepull]`.
    List,
}

impl PinnedFor {
    /// As it is written down.
    pub fn owner(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::List => "list",
        }
    }
}

/// Something that happened; `larder pull --json` prints these as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It is known what an image is.
    Resolved {
        /// The image, as it is normalised.
        image: String,
        /// What its reference means.
        digest: String,
        /// The platforms that are fetched; empty for an image that names none.
        platforms: Vec<String>,
    },
    /// A part of an image came nearer.
    Blob {
        /// The image.
        image: String,
        /// The part.
        digest: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes of all of it, where that is known.
        size: Option<u64>,
        /// How it is coming.
        state: BlobState,
    },
    /// All of an image is there.
    Pulled {
        /// The image.
        image: String,
        /// What its reference means.
        digest: String,
        /// Bytes of all its parts.
        bytes: u64,
        /// Of those, bytes that were not here before.
        fetched_bytes: u64,
        /// Whether it is pinned now.
        pinned: bool,
    },
    /// An image could not be fetched; what came of it before stays.
    Failed {
        /// The image.
        image: String,
        /// Why.
        error: String,
    },
    /// The end.
    Summary(Summary),
}

/// How a part of an image is coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobState {
    /// It is here already.
    Present,
    /// It is being fetched.
    Fetching,
    /// It has been fetched.
    Fetched,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Images that are there.
    pub pulled: usize,
    /// Images that are not.
    pub failed: usize,
    /// Bytes of all images, each counted by itself.
    pub bytes: u64,
    /// Of those, bytes of parts that several of these images share, counted once less than they occur.
    pub shared_bytes: u64,
    /// Bytes that were not here before.
    pub fetched_bytes: u64,
}
