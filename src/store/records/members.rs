//! Memberships: the digests that a repository may serve, and the digests that a registry itself has sent.
//!
//! A [`Member`] says that the repository's own upstream delivered or confirmed a digest. It is a right without bytes:
//! they may have been evicted, and bytes without the right are not served.

use serde::{Deserialize, Serialize};

use super::file;
use crate::reference::{Digest, MediaType, Registry, Repository};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// What a digest is in a repository that may serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A config, a layer, any opaque content.
    Blob,
    /// A manifest or index, and the type it must be served as.
    Manifest(MediaType),
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum MemberFile {
    Blob,
    Manifest { media_type: String },
}

/// What `digest` is in `repository`; `None` if the repository may not serve it.
pub(crate) fn find(layout: &Layout, repository: &Repository, digest: &Digest) -> Option<Member> {
    match file::read(&layout.member(repository, digest))? {
        MemberFile::Blob => Some(Member::Blob),
        MemberFile::Manifest { media_type } => media_type.parse().ok().map(Member::Manifest),
    }
}

pub(crate) fn add(
    layout: &Layout,
    repository: &Repository,
    digest: &Digest,
    member: &Member,
) -> Result<(), Error> {
    let record = match member {
        Member::Blob => MemberFile::Blob,
        Member::Manifest(media_type) => MemberFile::Manifest { media_type: media_type.to_string() },
    };
    file::write(layout, &layout.member(repository, digest), &record)
}

pub(crate) fn remove(layout: &Layout, repository: &Repository, digest: &Digest) -> Result<(), Error> {
    layout.remove(&layout.member(repository, digest)).map(drop)
}

/// Whether `registry` itself has sent the bytes of `digest`.
pub(crate) fn is_received(layout: &Layout, registry: &Registry, digest: &Digest) -> bool {
    file::exists(&layout.received(registry, digest))
}

pub(crate) fn add_received(
    layout: &Layout,
    registry: &Registry,
    digest: &Digest,
    now: Timestamp,
) -> Result<(), Error> {
    let path = layout.received(registry, digest);
    if layout::refresh(&path, now) {
        return Ok(());
    }
    layout.write_small(&path, b"")
}
