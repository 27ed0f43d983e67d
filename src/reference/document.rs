//! Manifest documents: what upstream sent under a manifest's name, checked before anything believes it.
//!
//! A [`Document`] is proof that the bytes are one unambiguous manifest within the limits: one JSON object, either an
//! index or an image and never both (CVE-2021-41190), its own `mediaType` agreeing with the `Content-Type` it came
//! with, every descriptor well formed. The bytes themselves are never rewritten; a changed byte is another digest.

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Digest, MediaType, Platform};

/// Bytes at most of a manifest or index. containerd refuses more than about this; distribution has the same limit.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Descriptors at most in one document; real ones have dozens.
const DESCRIPTORS_MAX: usize = 2_000;
/// Bytes at most that one descriptor may promise: 1 TiB.
const DESCRIPTOR_SIZE_MAX: u64 = 1 << 40;

/// A checked manifest document.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it must be served as.
    pub media_type: MediaType,
    /// What it is.
    pub kind: Kind,
}

/// What a document is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An index: manifests, usually one a platform.
    Index(Vec<Child>),
    /// An image: its config, then its layers.
    Image(Vec<Child>),
    /// Some other artifact that registries keep under `/manifests/`; handed on as it is.
    Other,
}

/// A descriptor inside a document. That it is named here proves nothing about who may read it.
#[derive(Debug, Clone)]
pub struct Child {
    /// The content.
    pub digest: Digest,
    /// Its bytes, as claimed.
    pub size: u64,
    /// For whom, in an index.
    pub platform: Option<Platform>,
}

/// Why bytes are no manifest that may be stored or served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Over the size limit.
    #[error("manifest larger than {MANIFEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Not a JSON object of the expected shape.
    #[error("manifest is not a valid document: {0}")]
    Malformed(String),
    /// Index and image at once.
    #[error("manifest has both {0:?} and {1:?}: it is ambiguous")]
    Ambiguous(&'static str, &'static str),
    /// `mediaType` or the content disagrees with `Content-Type`.
    #[error("manifest was sent as {sent} but its content is {content}")]
    Disagrees {
        /// The `Content-Type`.
        sent: MediaType,
        /// What the document is or says it is.
        content: String,
    },
    /// Schema 1, whose digest does not cover its bytes.
    #[error("schema 1 manifests are not supported: push the image again with a current client")]
    Schema1,
    /// Too many descriptors.
    #[error("manifest has more than {DESCRIPTORS_MAX} descriptors")]
    TooMany,
    /// A descriptor that cannot be.
    #[error("manifest has a bad descriptor: {0}")]
    Descriptor(String),
}

/// The members that decide what a document is; a member given twice is refused by the parser.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Checks `bytes`, which upstream sent as `sent_as` (absent where it said nothing useful).
    ///
    /// # Errors
    /// One reason why they may not be stored or served.
    pub fn parse(bytes: &[u8], sent_as: Option<&MediaType>) -> Result<Self, DocumentError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(DocumentError::TooLarge);
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(malformed)?;
        shape.refuse_confusion(sent_as)?;
        let media_type = shape.media_type(sent_as)?;
        let kind = if media_type.is_index() {
            let index: ImageIndex = serde_json::from_slice(bytes).map_err(malformed)?;
            Kind::Index(children(index.manifests().iter())?)
        } else if media_type.is_image() {
            let image: ImageManifest = serde_json::from_slice(bytes).map_err(malformed)?;
            Kind::Image(children(std::iter::once(image.config()).chain(image.layers()))?)
        } else {
            Kind::Other
        };
        Ok(Self { media_type, kind })
    }
}

fn malformed(error: serde_json::Error) -> DocumentError {
    DocumentError::Malformed(error.to_string())
}

impl Shape {
    fn refuse_confusion(&self, sent_as: Option<&MediaType>) -> Result<(), DocumentError> {
        if self.manifests.is_some() {
            for (present, name) in
                [(&self.layers, "layers"), (&self.config, "config"), (&self.fs_layers, "fsLayers")]
            {
                if present.is_some() {
                    return Err(DocumentError::Ambiguous("manifests", name));
                }
            }
        }
        let old = self.fs_layers.is_some() || self.schema_version == Some(1);
        if old || sent_as.is_some_and(MediaType::is_schema1) {
            return Err(DocumentError::Schema1);
        }
        Ok(())
    }

    /// The type by `Content-Type`, `mediaType` and content; all that are there must agree.
    fn media_type(&self, sent_as: Option<&MediaType>) -> Result<MediaType, DocumentError> {
        let own: Option<MediaType> = match &self.media_type {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| DocumentError::Malformed("mediaType is not a media type".to_owned()))?,
            ),
            None => None,
        };
        let by_content = if self.manifests.is_some() {
            Some(MediaType::OCI_INDEX)
        } else if self.layers.is_some() && self.config.is_some() {
            Some(MediaType::OCI_MANIFEST)
        } else {
            None
        };
        let sent_as = sent_as.filter(|sent| !says_nothing(sent));
        let decided = match (sent_as, own) {
            (Some(sent), Some(own)) if *sent != own => {
                return Err(DocumentError::Disagrees { sent: sent.clone(), content: own.to_string() });
            }
            (Some(sent), _) => sent.clone(),
            (None, Some(own)) => own,
            (None, None) => by_content
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| DocumentError::Malformed("neither an index nor an image".to_owned()))?,
        };
        let fits = match by_content {
            Some(MediaType::OCI_INDEX) => !decided.is_image(),
            Some(_) => !decided.is_index(),
            None => !decided.is_index() && !decided.is_image(),
        };
        if fits {
            Ok(decided)
        } else {
            let content = by_content.unwrap_or("neither an index nor an image").to_owned();
            Err(DocumentError::Disagrees { sent: decided, content })
        }
    }
}

/// Types that a careless server puts on anything.
fn says_nothing(sent: &MediaType) -> bool {
    matches!(sent.as_str(), "application/json" | "text/plain" | "text/html" | MediaType::OCTET_STREAM)
}

fn children<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Result<Vec<Child>, DocumentError> {
    let mut children = Vec::new();
    for descriptor in descriptors {
        if children.len() == DESCRIPTORS_MAX {
            return Err(DocumentError::TooMany);
        }
        if descriptor.size() > DESCRIPTOR_SIZE_MAX {
            return Err(DocumentError::Descriptor(format!("size {} is over 1 TiB", descriptor.size())));
        }
        let digest = descriptor.digest().to_string();
        children.push(Child {
            digest: digest
                .parse()
                .map_err(|e: super::DigestError| DocumentError::Descriptor(e.to_string()))?,
            size: descriptor.size(),
            platform: descriptor.platform().as_ref().map(|p| {
                Platform::new(&p.os().to_string(), &p.architecture().to_string(), p.variant().as_deref())
            }),
        });
    }
    Ok(children)
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
