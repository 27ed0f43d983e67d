//! `[prepull]`: the images that the daemon fetches by itself.

use std::path::PathBuf;
use std::time::Duration;

use crate::reference::{Image, Platform};

/// Images at a time.
const CONCURRENCY: usize = 2;
/// Spreads a fleet that starts together, and is short beside the time in which a new node gets its pods.
const JITTER: Duration = Duration::from_secs(60);

/// The images that the daemon fetches by itself, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Images by name.
    pub images: Vec<Image>,
    /// A file or directory of Kubernetes manifests, whose images are fetched too.
    pub manifests: Option<PathBuf>,
    /// The platforms to fetch them for; none means the node's own.
    pub platforms: Vec<Platform>,
    /// How often every image is checked again.
    pub interval: Duration,
    /// At most this much is added at random to the start and to each interval, and never more than the interval.
    pub jitter: Duration,
    /// Images at a time.
    pub concurrency: usize,
    /// Whether the images are pinned.
    pub pin: bool,
    /// Files and directories of pull secrets that may be used for them.
    pub pull_secrets: Vec<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            images: Vec::new(),
            manifests: None,
            platforms: Vec::new(),
            interval: Duration::from_secs(3_600),
            jitter: JITTER,
            concurrency: CONCURRENCY,
            pin: true,
            pull_secrets: Vec::new(),
        }
    }
}
