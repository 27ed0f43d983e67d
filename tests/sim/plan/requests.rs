//! What clients ask for and how, and what of which upstream a fault is about.

use serde::{Deserialize, Serialize};

use super::{Repo, Who, is_default};

/// What a client is like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Manner {
    /// Names the registry by `ns`, as a runtime that goes there by itself if it is refused.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mirror: bool,
    /// Speaks HTTP/1.0.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) old: bool,
    /// Reads so many bytes each 100 ms; as fast as it can if 0.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pace: usize,
    /// Pauses so long after the first bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_ms: u64,
    /// Hangs up after so many bytes of a body.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) leaves_after: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pull {
    pub(crate) who: Who,
    pub(crate) repo: Repo,
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) manner: Manner,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Get {
    pub(crate) who: Who,
    pub(crate) repo: Repo,
    pub(crate) what: What,
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) head: bool,
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) range: Option<(u64, u64)>,
    #[serde(default)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) manner: Manner,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Tag,
    /// The manifest that the repository's tag first meant.
    Manifest,
    /// A layer of it, by its place.
    Layer(u8),
    /// A layer of another repository's image.
    Others(Repo, u8),
    Tags,
    Referrers,
}

/// Machines upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Host {
    /// reg.corp
    Reg,
    /// mirror.corp
    Mirror,
    /// hub.example
    Hub,
    /// store.corp
    Store,
    /// objects.corp: where store.corp redirects to
    Objects,
    /// evil.example
    Evil,
    /// bucket.corp: the object store of the shared tier
    Bucket,
}

/// What of a host's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    Any,
    Manifest,
    Blob,
    Tags,
    Token,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    Any,
    Head,
    Get,
    /// What changes something: of the bucket alone.
    Put,
}
