//! Manifest documents: what the bytes are that upstream sent under a manifest's name, as far as that is understood.
//!
//! A document is read to serve its client better, and not to judge it: its digest, or the registry's answer to a tag,
//! proves the bytes, and they are handed on unchanged. What is not understood (an unknown digest algorithm, a list that
//! is no list, schema 1) is left out of what Larder does with it by itself: the choice of a platform, and fetching
//! ahead. Refused is what two readers could take for two things, an index and an image at once, by its members or by
//! what its types say (CVE-2021-41190), and what is no manifest at all.

use super::MediaType;
use super::lenient_json::Part;
use super::outline::{Child, List, Outline};
use crate::support::short_text::shortened;
use crate::support::size;

/// Bytes at most of a manifest or index. containerd reads 8 MiB, distribution 4 MiB; larger ones were seen of
/// registries that keep a list of files in the annotations.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Manifests at most of one image that Larder reads or fetches of itself; real images have a few dozen.
pub const IMAGE_MANIFESTS_MAX: usize = 256;
/// Blobs at most of one image that are fetched ahead; nor are more digests known of one. Real images have dozens.
pub const IMAGE_BLOBS_MAX: usize = 4_096;
/// Characters at most of why bytes are no document: the parser quotes what it did not expect, which may be all of them.
const WHY_CHARS_MAX: usize = 200;
/// The annotation that names an image in a layout, by which skopeo and crane find it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A manifest document.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it must be served as.
    pub media_type: MediaType,
    /// Whether the document itself names that type.
    pub names_its_type: bool,
    /// What it is.
    pub kind: Kind,
    /// Descriptors that are not understood, and are missing in `kind`.
    pub omitted: usize,
}

/// What a document is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An index: manifests, usually one a platform.
    Index(Vec<Child>),
    /// An image: its config, then its layers.
    Image(Vec<Child>),
    /// Anything else that registries keep under `/manifests/`, and what is not understood; handed on as it is.
    Opaque,
}

/// Why bytes are no manifest that may be stored or served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Over the size limit.
    #[error("manifest larger than {}", size::shown(MANIFEST_BYTES_MAX as u64))]
    TooLarge,
    /// No JSON object, or one that nothing gives a type to: not what a tag can name.
    #[error("manifest is not a valid document: {0}")]
    Malformed(String),
    /// Index and image at once, or a member that is there twice.
    #[error("manifest has both {0:?} and {1:?}: it is ambiguous")]
    Ambiguous(&'static str, &'static str),
    /// `Content-Type` or its own `mediaType` says that it is an index and its content an image, or the other way round.
    #[error("manifest is said to be {says} but its content is {content}")]
    Disagrees {
        /// The type.
        says: MediaType,
        /// What its members make it.
        content: &'static str,
    },
}

impl Document {
    /// Reads `bytes`, which upstream sent as `sent_as` (absent where it said nothing).
    ///
    /// # Errors
    /// One reason why they may not be stored or served. [`DocumentError::Malformed`] concerns bytes that no digest
    /// proves; see [`Document::opaque`].
    pub fn parse(bytes: &[u8], sent_as: Option<&MediaType>) -> Result<Self, DocumentError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(DocumentError::TooLarge);
        }
        let malformed = |error| DocumentError::Malformed(shortened(&error, WHY_CHARS_MAX));
        let outline = Outline::of(bytes).map_err(malformed)?;
        let own: Option<MediaType> = outline.media_type.as_deref().and_then(|text| text.parse().ok());
        refuse_confusion(&outline, [sent_as, own.as_ref()])?;
        let named = own.clone().filter(|own| !own.is_useless());
        let sent = sent_as.filter(|sent| !sent.is_useless()).cloned();
        let by_content = || by_content(&outline).and_then(|text| text.parse().ok());
        let Some(media_type) = sent.or(named).or_else(by_content) else {
            return Err(DocumentError::Malformed("neither an index nor an image".to_owned()));
        };
        let (kind, omitted) = understood(outline, &media_type);
        Ok(Self { names_its_type: own.as_ref() == Some(&media_type), media_type, kind, omitted })
    }

    /// A document of which nothing is understood, and whose bytes are proved by their digest.
    pub fn opaque(sent_as: Option<MediaType>) -> Self {
        let media_type = sent_as.unwrap_or_else(MediaType::octet_stream);
        Self { media_type, names_its_type: false, kind: Kind::Opaque, omitted: 0 }
    }
}

fn refuse_confusion(outline: &Outline, said: [Option<&MediaType>; 2]) -> Result<(), DocumentError> {
    let Outline { manifests, layers, config, fs_layers, .. } = outline;
    if let Some(name) = outline.repeated {
        return Err(DocumentError::Ambiguous(name, name));
    }
    let of_image =
        [(layers.is_there(), "layers"), (config.is_there(), "config"), (fs_layers.is_there(), "fsLayers")];
    let of_image = of_image.iter().find(|(is_there, _)| *is_there).map(|(_, name)| *name);
    if let Some(name) = of_image.filter(|_| manifests.is_there()) {
        return Err(DocumentError::Ambiguous("manifests", name));
    }
    let disagrees = |says: &MediaType, content| Err(DocumentError::Disagrees { says: says.clone(), content });
    for says in said.into_iter().flatten() {
        if of_image.is_some() && says.is_index() {
            return disagrees(says, "an image");
        }
        if manifests.is_there() && says.is_image() {
            return disagrees(says, "an index");
        }
    }
    Ok(())
}

/// The type of a document that nothing names.
fn by_content(outline: &Outline) -> Option<&'static str> {
    let Outline { manifests, layers, config, fs_layers, .. } = outline;
    if fs_layers.is_there() || outline.is_version_1 {
        let signed = outline.has_signatures;
        Some(if signed { MediaType::DOCKER_SCHEMA_1_SIGNED } else { MediaType::DOCKER_SCHEMA_1 })
    } else if manifests.is_there() {
        Some(MediaType::OCI_INDEX)
    } else if layers.is_there() || config.is_there() {
        Some(MediaType::OCI_MANIFEST)
    } else {
        None
    }
}

/// What is listed in a document that is what its type says, and how many descriptors are missing in that.
fn understood(outline: Outline, media_type: &MediaType) -> (Kind, usize) {
    let Outline { manifests, layers, config, .. } = outline;
    match (manifests, config, layers) {
        (Part::Read(List { children, omitted }), ..) if media_type.is_index() => {
            (Kind::Index(children), omitted)
        }
        (Part::Absent, Part::Read(config), layers) if media_type.is_image() => {
            let List { children, omitted } = match layers {
                Part::Read(layers) => layers,
                Part::Absent => List::default(),
                Part::Unreadable => return (Kind::Opaque, 0),
            };
            // Runtimes ask their registry for a config, whatever addresses it has.
            let config = Child { is_foreign: false, is_read_whole: true, ..config };
            (Kind::Image(std::iter::once(config).chain(children).collect()), omitted)
        }
        _ => (Kind::Opaque, 0),
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
