//! The commands of the control socket and their replies, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admin::explain::Explanation;
use crate::admin::report::StatusReport;
use crate::credentials::{PullSecretError, PullSecrets};
use crate::prepull::{Order, PinOwner, Platforms, RequestedImage, merge_duplicates};
use crate::reference::{ImageError, Platform, PlatformError};
use crate::support::clock::Timestamp;

/// A command with one reply.
pub trait ControlCommand: Serialize {
    /// The path that the command is posted to.
    const PATH: &'static str;
    /// How long it may take.
    const WAIT: Duration = Duration::from_secs(60);
    /// What comes back.
    type Reply: Serialize + for<'a> Deserialize<'a>;
}

/// Ends the rights to a repository.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// `registry/path`; absent: every repository.
    pub repository: Option<String>,
}

/// The rights that ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// How many.
    pub revoked: usize,
}

impl ControlCommand for Revoke {
    const PATH: &'static str = "/v1/revoke";
    type Reply = Revoked;
}

/// Lists the images in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListImages {}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name with its tag, or with its digest if it is in the store only because it is pinned.
    pub image: String,
    /// The digest that the name means.
    pub digest: String,
    /// When upstream last confirmed that, to the hour; absent for a digest.
    pub confirmed_at: Option<Timestamp>,
    /// Bytes of it that are in the store, shared ones included.
    pub bytes: u64,
    /// The platforms of which everything is in the store; one without a name for an image that names none.
    pub platforms: Vec<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

impl ControlCommand for ListImages {
    const PATH: &'static str = "/v1/images";
    type Reply = Vec<ImageRow>;
}

/// Asks for the whole report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetReport {}

impl ControlCommand for GetReport {
    const PATH: &'static str = "/v1/report";
    type Reply = StatusReport;
}

/// Asks how a pull of an image would go now.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// As in a pod.
    pub image: String,
    /// The pull secrets of the pod that it is asked for.
    pub secrets: Vec<PullSecret>,
}

impl ControlCommand for Explain {
    const PATH: &'static str = "/v1/explain";
    type Reply = Explanation;
}

/// Removes an image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// As in a pod.
    pub image: String,
}

/// What a removal removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removed {
    /// Tags.
    pub tags: usize,
    /// Pins.
    pub pins: usize,
    /// Blobs that nothing else needs.
    pub blobs: usize,
    /// Bytes of those blobs.
    pub bytes: u64,
}

impl ControlCommand for Remove {
    const PATH: &'static str = "/v1/remove";
    type Reply = Removed;
}

/// Ends the pin of an image, so that it may be evicted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpin {
    /// As in a pod.
    pub image: String,
}

/// The pins that ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unpinned {
    /// How many.
    pub unpinned: usize,
}

impl ControlCommand for Unpin {
    const PATH: &'static str = "/v1/unpin";
    type Reply = Unpinned;
}

/// Evicts blobs now, as far as the budget requires it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectGarbage {}

/// What an eviction freed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Collected {
    /// Bytes.
    pub freed_bytes: u64,
}

impl ControlCommand for CollectGarbage {
    const PATH: &'static str = "/v1/gc";
    type Reply = Collected;
}

/// Gives an image a name after its manifests and blobs were put, and says who may read it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportNames {
    /// As in a pod.
    pub image: String,
    /// The digest that the name means.
    pub digest: String,
    /// Who may read it.
    pub readers: Readers,
}

/// Who may read an image about which no registry can be asked.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readers {
    /// Every caller.
    Public,
    /// Every pod, as the callers that may use the node's credentials.
    Node,
    /// Callers with one of these pull secrets.
    Secrets(Vec<PullSecret>),
}

/// The manifest, blob or name is in the store.
#[derive(Debug, Serialize, Deserialize)]
pub struct Imported {}

/// What came of putting a manifest or a blob, at the end of an answer that is written to often.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PutOutcome {
    /// It is in the store.
    Stored,
    /// It is not, and why.
    Refused(String),
}

impl ControlCommand for ImportNames {
    const PATH: &'static str = "/v1/import/names";
    type Reply = Imported;
}

/// Fetches images; answered by a stream of [`crate::prepull::Event`], one a line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The images.
    pub images: Vec<PullImage>,
    /// Pull secrets, as they were in their files.
    pub secrets: Vec<PullSecret>,
    /// The platforms to fetch them for; none means the node's own.
    pub platforms: Vec<String>,
    /// Whether they are fetched for every platform.
    pub all_platforms: bool,
    /// Whether they are pinned.
    pub pin: bool,
}

impl Pull {
    /// The path that the command is posted to.
    pub const PATH: &'static str = "/v1/pull";
}

/// An image to fetch.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// As in a pod.
    pub image: String,
    /// The secrets that may be used for it, by their place in the list.
    pub secrets: Vec<usize>,
}

/// A pull secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSecret {
    /// Its file, for error texts.
    pub file: String,
    /// Its content.
    pub content: String,
}

/// A pull command that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    #[error(transparent)]
    Secret(#[from] PullSecretError),
    #[error("{name:?}: {source}")]
    Image { name: String, source: ImageError },
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error("an image refers to a secret that was not sent")]
    MissingSecret,
}

impl Pull {
    /// The order that the command means, with this many images at a time.
    ///
    /// # Errors
    /// The first value that cannot be understood.
    pub(super) fn order(&self, concurrency: usize) -> Result<Order, OrderError> {
        let mut secrets = Vec::new();
        for PullSecret { file, content } in &self.secrets {
            let mut one = PullSecrets::default();
            one.add(file.as_ref(), content.as_bytes())?;
            secrets.push(one);
        }
        let mut images = Vec::new();
        for PullImage { image, secrets: used } in &self.images {
            let name = image.parse();
            let image = name.map_err(|source| OrderError::Image { name: image.clone(), source })?;
            let mut merged = PullSecrets::default();
            for at in used {
                merged.merge(secrets.get(*at).ok_or(OrderError::MissingSecret)?);
            }
            images.push(RequestedImage { image, secrets: merged });
        }
        let platforms: Vec<Platform> = self.platforms.iter().map(|p| p.parse()).collect::<Result<_, _>>()?;
        Ok(Order {
            images: merge_duplicates(images),
            platforms: if self.all_platforms { Platforms::All } else { Platforms::of(platforms) },
            pin: self.pin.then_some(PinOwner::Command),
            concurrency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{self, Keychain, Keys, NodeFiles};

    #[test]
    fn a_secret_is_used_for_the_images_that_name_it_and_one_that_was_not_sent_is_an_error() {
        let config = r#"{"auths":{"reg.test":{"username":"ann","password":"p"}}}"#;
        let command = |used: Vec<usize>| Pull {
            images: vec![
                PullImage { image: "reg.test/a".to_owned(), secrets: used },
                PullImage { image: "reg.test/b".to_owned(), secrets: Vec::new() },
            ],
            secrets: vec![PullSecret { file: "x".to_owned(), content: config.to_owned() }],
            platforms: Vec::new(),
            all_platforms: true,
            pin: true,
        };
        let order = command(vec![0]).order(3).unwrap();
        assert_eq!(
            (order.pin, order.platforms, order.concurrency),
            (Some(PinOwner::Command), Platforms::All, 3)
        );
        let none = credentials::Config {
            node: NodeFiles::Named(Vec::new()),
            providers: None,
            helper_dir: None,
            pull_secrets: Vec::new(),
        };
        let keychain = Keychain::build(&none, Keys::ephemeral().unwrap().into()).unwrap();
        let found = |n: usize| {
            let RequestedImage { image, secrets } = &order.images[n];
            keychain.pull_secret_credentials(secrets, &image.repository).len()
        };
        assert_eq!((found(0), found(1)), (1, 0));
        assert!(matches!(command(vec![1]).order(3), Err(OrderError::MissingSecret)));
    }
}
