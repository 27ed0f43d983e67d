//! The names of things, as types: registry, repository, tag, digest, platform, media type, manifest document,
//! principal.
//!
//! Every string that an untrusted party sends (a client's path, an upstream's header, a descriptor inside a manifest)
//! is parsed here, once, at the edge; a value of these types is the proof that the grammar held. Paths on disk and URLs
//! are built from these types alone.
//!
//! This layer knows nothing of HTTP, of disks or of time.

mod digest;
mod document;
mod domain;
mod image;
mod lenient_json;
mod media_type;
mod name;
mod outline;
mod platform;
mod principal;
mod schema1;
mod tag;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use document::{
    Document, DocumentError, IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, Kind, MANIFEST_BYTES_MAX, REF_NAME,
};
pub use domain::registered_domain;
pub use image::{Image, ImageError, Reference};
pub use media_type::{MediaType, MediaTypeError, UPSTREAM_ACCEPT};
pub use name::{DOCKER_HUB, NameError, Registry, Repository, RepositoryPath};
pub use outline::Child;
pub use platform::{Platform, PlatformError};
pub use principal::{Principal, PrincipalError, PrincipalKind};
pub use schema1::{is_manifest_of, manifest_digest};
pub use tag::{Tag, TagError};
