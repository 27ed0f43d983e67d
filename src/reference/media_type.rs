//! Media types of manifests, and the `Accept` list that Larder sends upstream.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Sent with every manifest request, whatever the client sent: without the full list Docker Hub answers with a
/// schema 1 document, and one answer must fit every client.
pub const UPSTREAM_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// Bytes at most; RFC 6838 allows 127 for type and subtype each.
const LENGTH_MAX: usize = 255;

/// A media type without parameters, in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

/// The text is not a media type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed media type")]
pub struct MediaTypeError;

impl MediaType {
    /// What blobs are served as.
    pub const OCTET_STREAM: &str = "application/octet-stream";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// The retired Docker image manifest, schema 1.
    pub const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";
    /// The same with its signatures in it.
    pub const DOCKER_SCHEMA_1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An index or a manifest list.
    pub fn is_index(&self) -> bool {
        matches!(self.as_str(), Self::OCI_INDEX | Self::DOCKER_LIST)
    }

    /// An image manifest.
    pub fn is_image(&self) -> bool {
        matches!(self.as_str(), Self::OCI_MANIFEST | Self::DOCKER_MANIFEST)
    }

    /// Whether a document of this type lists other content: an index, an image, or one of schema 1.
    pub fn lists_content(&self) -> bool {
        let old = matches!(self.as_str(), Self::DOCKER_SCHEMA_1 | Self::DOCKER_SCHEMA_1_SIGNED);
        old || self.is_index() || self.is_image()
    }

    /// Whether a layer of this type must not be distributed, in Docker's words or in OCI's.
    pub fn is_foreign(&self) -> bool {
        let types = [
            "application/vnd.docker.image.rootfs.foreign.",
            "application/vnd.oci.image.layer.nondistributable.",
        ];
        types.iter().any(|start| self.0.starts_with(start))
    }

    /// Whether runtimes download a layer of this type as a whole to unpack it, in Docker's words or in OCI's.
    pub fn is_unpacked(&self) -> bool {
        let types =
            ["application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"];
        types.iter().any(|start| self.0.starts_with(start))
    }

    /// Whether it says nothing of a manifest: what careless servers and object stores put on anything.
    pub fn is_useless(&self) -> bool {
        let (kind, sub) = self.0.split_once('/').unwrap_or_default();
        kind == "text" || matches!(sub, "octet-stream" | "json" | "unknown" | "x-www-form-urlencoded")
    }

    /// What content is sent as of which nothing is known.
    pub fn octet_stream() -> Self {
        Self(Self::OCTET_STREAM.into())
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Parameters after `;` are dropped: manifests are pushed without any.
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        match essence.split_once('/') {
            Some((kind, sub)) if essence.len() <= LENGTH_MAX && token(kind) && token(sub) => {
                Ok(Self(essence.to_ascii_lowercase().into()))
            }
            _ => Err(MediaTypeError),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_make_another_type() {
        let parsed: MediaType = "Application/vnd.oci.image.index.v1+JSON; charset=utf-8".parse().unwrap();
        assert_eq!(parsed.as_str(), MediaType::OCI_INDEX);
        assert!(parsed.is_index() && !parsed.is_image() && !parsed.is_useless());
        for useless in ["binary/octet-stream", "Application/Octet-Stream", "text/plain; charset=utf-8"] {
            assert!(useless.parse::<MediaType>().unwrap().is_useless(), "{useless}");
        }
        for bad in ["", "text", "/", "a/", "a/b/c", "a b/c", "a/b\r\nX: y"] {
            assert!(bad.parse::<MediaType>().is_err(), "{bad:?}");
        }
    }
}
