//! What is told of this node's pods: numbers for all, names for the owner of the daemon alone.

use serde::{Deserialize, Serialize};

/// The sources and the pods, for the owner of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodsStatus {
    /// The sources of pods; none where `[kubernetes]` is not used.
    pub sources: Vec<SourceStatus>,
    /// Pods of this node that are known.
    pub pods: usize,
    /// Images that are being fetched for them.
    pub fetching: usize,
    /// Blobs that are evicted after all others.
    pub protected_blobs: usize,
    /// Images that could not be fetched, and why: the last ones.
    pub failed: Vec<(String, String)>,
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
