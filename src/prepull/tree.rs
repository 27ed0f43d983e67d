//! The manifests and blobs of an image, as they become known: pure.
//!
//! It shares its bounds with the walk over manifests that are stored (`store/inventory/manifest_walk`), and no more: of
//! an index only what its platforms want is followed, and what is beyond a bound refuses the image.

use std::collections::{HashMap, HashSet};

use super::plan::{Choice, NoPlatform, Platforms};
use crate::pull::{AnswerSource, ManifestAnswer};
use crate::reference::{Child, Digest, Document, IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, Kind, MediaType};

/// Why an image cannot be fetched, whatever its registry answers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// What belongs to the image is not known.
    #[error("a manifest of type {0} is not understood: it is served to clients, and cannot be fetched ahead")]
    NotUnderstood(MediaType),
    /// Some of what belongs to the image cannot be named.
    #[error(
        "its manifest has {0} descriptors that are not understood: it is served to clients, and cannot be fetched ahead"
    )]
    Omitted(usize),
    /// A platform is missing.
    #[error(transparent)]
    NoPlatform(#[from] NoPlatform),
    /// The work would not be bounded.
    #[error("it lists more than {IMAGE_MANIFESTS_MAX} manifests")]
    TooManyManifests,
    /// The work would not be bounded.
    #[error("it has more than {IMAGE_BLOBS_MAX} blobs")]
    TooManyBlobs,
}

/// What is known of an image.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Bytes of each manifest.
    pub(super) manifests: HashMap<Digest, u64>,
    /// Each blob once, with its bytes as its manifest has them: in the order of the manifest, in which runtimes ask.
    pub(super) blobs: Vec<(Digest, u64)>,
    /// The names of the platforms that the manifests are for.
    pub(super) platforms: Vec<String>,
    /// Bytes of manifests that were not in the store before.
    pub(super) fetched_bytes: u64,
    /// Layers that are left out: runtimes fetch them from where the image says, and registries need not have them.
    pub(super) foreign: HashSet<Digest>,
    chosen: HashSet<Digest>,
    named: HashSet<Digest>,
}

impl Tree {
    /// Adds a manifest that was fetched for `platforms`; `name` is what its index calls it. Returns the manifests that
    /// it lists and that are to be fetched.
    pub(super) fn add(
        &mut self,
        answer: &ManifestAnswer,
        platforms: &Platforms,
        name: String,
    ) -> Result<Vec<Choice>, TreeError> {
        let bytes = answer.bytes.len() as u64;
        self.chosen.insert(answer.digest);
        self.manifests.insert(answer.digest, bytes);
        if answer.source == AnswerSource::Fill {
            self.fetched_bytes += bytes;
        }
        let Ok(document) = Document::parse(&answer.bytes, Some(&answer.media_type)) else {
            // Its digest proves it, and nothing in it is understood.
            return Err(TreeError::NotUnderstood(answer.media_type.clone()));
        };
        match document.kind {
            Kind::Index(children) => self.choose(platforms, &children),
            Kind::Image(_) if document.omitted > 0 => Err(TreeError::Omitted(document.omitted)),
            Kind::Image(children) => {
                self.platforms.push(name);
                for Child { digest, size, is_foreign, .. } in children {
                    if is_foreign {
                        self.foreign.insert(digest);
                    } else if self.named.insert(digest) {
                        self.blobs.push((digest, size));
                    }
                }
                if self.blobs.len() + self.foreign.len() > IMAGE_BLOBS_MAX {
                    Err(TreeError::TooManyBlobs)
                } else {
                    Ok(Vec::new())
                }
            }
            Kind::Opaque if answer.media_type.lists_content() => {
                Err(TreeError::NotUnderstood(answer.media_type.clone()))
            }
            Kind::Opaque => {
                self.platforms.push(name);
                Ok(Vec::new())
            }
        }
    }

    fn choose(&mut self, platforms: &Platforms, children: &[Child]) -> Result<Vec<Choice>, TreeError> {
        let mut choices = platforms.choose(children)?;
        choices.retain(|choice| self.chosen.insert(choice.digest));
        if self.chosen.len() > IMAGE_MANIFESTS_MAX { Err(TreeError::TooManyManifests) } else { Ok(choices) }
    }

    /// Every manifest and blob.
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.manifests.keys().copied().chain(self.blobs.iter().map(|(digest, _)| *digest)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn answer(media_type: &str, document: &serde_json::Value, source: AnswerSource) -> ManifestAnswer {
        let bytes = serde_json::to_vec(document).unwrap();
        let media_type: MediaType = media_type.parse().unwrap();
        ManifestAnswer { digest: Digest::of(&bytes), media_type, bytes: bytes.into(), source, stale: None }
    }

    fn descriptor(media_type: &str, n: usize) -> serde_json::Value {
        let digest = Digest::of(format!("{n}").as_bytes()).to_string();
        json!({"mediaType": media_type, "digest": digest, "size": n + 1})
    }

    fn image(layers: std::ops::Range<usize>) -> ManifestAnswer {
        let layers: Vec<_> = layers.map(|n| descriptor(LAYER, n)).collect();
        let config = descriptor("application/vnd.oci.image.config.v1+json", 0);
        let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        answer(MANIFEST, &document, AnswerSource::Fill)
    }

    fn index(children: Vec<serde_json::Value>) -> ManifestAnswer {
        let document = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
        answer(INDEX, &document, AnswerSource::Hit)
    }

    #[test]
    fn a_hostile_index_bounds_the_work_and_names_no_manifest_twice() {
        let listed = |count| index((0..count).map(|n| descriptor(MANIFEST, n)).collect());
        let mut tree = Tree::default();
        assert_eq!(tree.add(&listed(200), &Platforms::All, String::new()).unwrap().len(), 200);
        assert_eq!(tree.add(&listed(220), &Platforms::All, String::new()).unwrap().len(), 20);
        let more = tree.add(&listed(300), &Platforms::All, String::new());
        assert_eq!(more.unwrap_err(), TreeError::TooManyManifests);
        let mut tree = Tree::default();
        let mut add = |layers| tree.add(&image(layers), &Platforms::All, String::new());
        assert!(add(1..1_900).is_ok() && add(1_900..3_800).is_ok() && add(1..IMAGE_BLOBS_MAX / 3).is_ok());
        assert_eq!(add(3_800..IMAGE_BLOBS_MAX + 1).unwrap_err(), TreeError::TooManyBlobs);
    }

    #[test]
    fn a_layer_that_its_registry_need_not_have_is_neither_fetched_nor_pinned() {
        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1);
        let mut elsewhere = descriptor(LAYER, 2);
        elsewhere["urls"] = json!(["https://elsewhere.example/layer"]);
        let config = descriptor("application/vnd.oci.image.config.v1+json", 0);
        let document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [foreign, elsewhere, descriptor(LAYER, 3)]});
        let mut tree = Tree::default();
        tree.add(&answer(MANIFEST, &document, AnswerSource::Fill), &Platforms::All, String::new()).unwrap();
        assert_eq!((tree.blobs.len(), tree.foreign.len(), tree.digests().len()), (2, 2, 3));
    }

    #[test]
    fn blobs_come_in_the_order_in_which_a_runtime_asks_for_them() {
        let mut tree = Tree::default();
        tree.add(&image(1..40), &Platforms::All, String::new()).unwrap();
        tree.add(&image(20..50), &Platforms::All, String::new()).unwrap();
        // The config has one byte, and each layer one more than the one before.
        assert_eq!(
            tree.blobs.iter().map(|(_, size)| *size).collect::<Vec<_>>(),
            (1..=50).collect::<Vec<_>>()
        );
    }

    #[test]
    fn only_what_was_fetched_counts_as_fetched() {
        let mut tree = Tree::default();
        let (list, image) = (index(vec![descriptor(MANIFEST, 7)]), image(1..3));
        let choices = tree.add(&list, &Platforms::All, String::new()).unwrap();
        assert_eq!(choices.len(), 1);
        assert!(tree.add(&image, &Platforms::All, "linux/arm64".to_owned()).unwrap().is_empty());
        assert_eq!(tree.fetched_bytes, image.bytes.len() as u64);
        assert_eq!((tree.manifests.len(), tree.blobs.len(), tree.digests().len()), (2, 3, 5));
        assert_eq!(tree.platforms, ["linux/arm64"]);
    }
}
