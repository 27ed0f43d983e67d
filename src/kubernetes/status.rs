//! What is told of this node's pods: numbers for all, names for the owner of the daemon alone.

use serde::{Deserialize, Serialize};

/// The pods of this node in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNumbers {
    /// Pods that are known.
    pub known: usize,
    /// Images that are being fetched for them.
    pub fetching: usize,
    /// Images that a runtime asked for when all of them was here, fetched ahead.
    pub found_all: u64,
    /// Images that a runtime asked for while they were being fetched ahead.
    pub found_part: u64,
    /// Blobs that are evicted after all others.
    pub protected_blobs: usize,
}

/// The sources of pods, for the owner of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodsStatus {
    /// The sources; none where `[kubernetes]` is not used.
    pub sources: Vec<SourceStatus>,
    /// Images that could not be fetched, and why: the last ones.
    pub failed: Vec<(String, String)>,
    /// Registries of which nothing is fetched ahead, because no runtime asked for the last images of them.
    #[serde(default)]
    pub unused: Vec<String>,
    /// Why the runtime does not say which images it has; `None` where it does, or was not asked.
    #[serde(default)]
    pub runtime_problem: Option<String>,
}

/// A source of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Whether it tells of pods now.
    pub connected: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// A pod that wants an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodOutlook {
    /// Namespace and name.
    pub pod: String,
    /// The names of its pull secrets.
    pub pull_secrets: Vec<String>,
    /// What became of the image for it: a sentence.
    pub state: String,
}
