//! What is said over the control socket.

use serde::{Deserialize, Serialize};

use crate::credentials::PullSecrets;
use crate::prepull::{Order, PinOwner, Platforms, RequestedImage, merge_duplicates};
use crate::reference::{Image, Platform};
use crate::support::clock::Timestamp;

/// A command with one small answer.
pub trait Command: Serialize {
    /// Where it is posted to.
    const PATH: &'static str;
    /// What comes back.
    type Answer: for<'a> Deserialize<'a>;
}

/// Ends rights.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// `registry/path`; all repositories if it is not there.
    pub repository: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// Rights that have ended.
    pub revoked: usize,
}

impl Command for Revoke {
    const PATH: &'static str = "/v1/revoke";
    type Answer = Revoked;
}

/// Lists the images that are here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListImages {}

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name with its tag, or with its digest if it is here only because it is pinned.
    pub image: String,
    /// What the name means.
    pub digest: String,
    /// When upstream last said so, to the hour; absent for a digest.
    pub confirmed_at: Option<Timestamp>,
    /// Bytes of it that are here, shared ones included.
    pub bytes: u64,
    /// The platforms of which everything is here; one without a name for an image that names none.
    pub platforms: Vec<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

impl Command for ListImages {
    const PATH: &'static str = "/v1/images";
    type Answer = Vec<ImageRow>;
}

/// Asks how the daemon stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskReport {}

impl Command for AskReport {
    const PATH: &'static str = "/v1/report";
    type Answer = crate::admin::Report;
}

/// Removes an image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// As in a pod.
    pub image: String,
}

/// What that removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    /// Names.
    pub tags: usize,
    /// Pins.
    pub pins: usize,
    /// Blobs that nothing else needs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Command for Remove {
    const PATH: &'static str = "/v1/remove";
    type Answer = Removed;
}

/// Lets an image be evicted again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpin {
    /// As in a pod.
    pub image: String,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unpinned {
    /// Pins that have ended.
    pub unpinned: usize,
}

impl Command for Unpin {
    const PATH: &'static str = "/v1/unpin";
    type Answer = Unpinned;
}

/// Makes room now, as far as the budget wants it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MakeRoom {}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Room {
    /// Bytes that were freed.
    pub freed_bytes: u64,
}

impl Command for MakeRoom {
    const PATH: &'static str = "/v1/gc";
    type Answer = Room;
}

/// Says what the name of an image means whose parts were put before, and who may read it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportNames {
    /// As in a pod.
    pub image: String,
    /// What it means.
    pub digest: String,
    /// Who may read it.
    pub readers: Readers,
}

/// Who may read an image that no registry was asked about.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readers {
    /// Whoever asks.
    Anybody,
    /// Whoever may use the node's credentials.
    Node,
    /// Whoever has one of these pull secrets.
    Secrets(Vec<PullSecret>),
}

/// It was taken in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Imported {}

impl Command for ImportNames {
    const PATH: &'static str = "/v1/import/names";
    type Answer = Imported;
}

/// Fetches images; answered by a stream of [`crate::prepull::Event`], one a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// Which.
    pub images: Vec<PullImage>,
    /// Pull secrets, as they were in their files.
    pub secrets: Vec<PullSecret>,
    /// For which platforms; none means the node's own.
    pub platforms: Vec<String>,
    /// For all platforms.
    pub all_platforms: bool,
    /// Whether they are pinned.
    pub pin: bool,
}

impl Pull {
    /// Where it is posted to.
    pub const PATH: &'static str = "/v1/pull";
}

/// An image that is wanted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// As in a pod.
    pub image: String,
    /// Which of the secrets may be used for it.
    pub secrets: Vec<usize>,
}

/// A pull secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSecret {
    /// The file that it is from, for error texts.
    pub file: String,
    /// Its content.
    pub content: String,
}

impl Pull {
    /// What it means.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn order(&self, concurrency: usize) -> Result<Order, String> {
        let secrets: Vec<PullSecrets> = self
            .secrets
            .iter()
            .map(|PullSecret { file, content }| {
                let mut secrets = PullSecrets::default();
                secrets.add(file.as_ref(), content.as_bytes()).map_err(|e| e.to_string())?;
                Ok(secrets)
            })
            .collect::<Result<_, String>>()?;
        let mut images: Vec<RequestedImage> = Vec::new();
        for PullImage { image, secrets: used } in &self.images {
            let image: Image = image.parse().map_err(|e| format!("{image:?}: {e}"))?;
            let mut merged = PullSecrets::default();
            for at in used {
                merged.merge(secrets.get(*at).ok_or("a secret that was not sent")?);
            }
            images.push(RequestedImage { image, secrets: merged });
        }
        let platforms: Vec<Platform> =
            self.platforms.iter().map(|p| p.parse().map_err(|e| format!("{e}"))).collect::<Result<_, _>>()?;
        let platforms = if self.all_platforms { Platforms::All } else { Platforms::of(platforms) };
        let images = merge_duplicates(images);
        Ok(Order { images, platforms, pin: self.pin.then_some(PinOwner::Command), concurrency })
    }
}
