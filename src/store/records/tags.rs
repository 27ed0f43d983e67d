//! What is remembered of names: small files that are the truth about tags and about who may hand out what.
//!
//! A [`Member`] says that a repository's own upstream delivered or confirmed a digest. It is a right, not a
//! possession: the bytes may have been evicted, and bytes alone give no membership. A file that cannot be read or
//! understood counts as absent: the worst that follows is one question to upstream.

use serde::{Deserialize, Serialize};

use crate::reference::{Digest, MediaType, Registry, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// What a digest is in a repository that may hand it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A config, a layer, any opaque content.
    Blob,
    /// A manifest or index, and the type it must be served as.
    Manifest(MediaType),
}

/// What a tag last meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// When upstream last said so.
    pub confirmed_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum MemberFile {
    Blob,
    Manifest { media_type: String },
}

#[derive(Serialize, Deserialize)]
struct TagFile {
    digest: String,
    confirmed_at: Timestamp,
}

pub(crate) fn member(layout: &Layout, repository: &Repository, digest: &Digest) -> Option<Member> {
    match read(&layout.member(repository, digest))? {
        MemberFile::Blob => Some(Member::Blob),
        MemberFile::Manifest { media_type } => media_type.parse().ok().map(Member::Manifest),
    }
}

pub(crate) fn add_member(
    layout: &Layout,
    repository: &Repository,
    digest: &Digest,
    member: &Member,
) -> Result<(), Error> {
    let file = match member {
        Member::Blob => MemberFile::Blob,
        Member::Manifest(media_type) => MemberFile::Manifest { media_type: media_type.to_string() },
    };
    write(layout, &layout.member(repository, digest), &file)
}

pub(crate) fn received(layout: &Layout, registry: &Registry, digest: &Digest) -> bool {
    matches!(layout::open_regular(&layout.received(registry, digest)), Ok(Some(_)))
}

pub(crate) fn add_received(
    layout: &Layout,
    registry: &Registry,
    digest: &Digest,
    now: Timestamp,
) -> Result<(), Error> {
    let path = layout.received(registry, digest);
    if layout::renew(&path, now) {
        return Ok(());
    }
    layout.write_small(&path, b"")
}

pub(crate) fn outage(layout: &Layout, registry: &Registry) -> Option<Timestamp> {
    read(&layout.outage(registry))
}

pub(crate) fn set_outage(
    layout: &Layout,
    registry: &Registry,
    since: Option<Timestamp>,
) -> Result<(), Error> {
    let path = layout.outage(registry);
    match since {
        // Of a registry that never delivered anything nothing is served in an outage, and nothing is kept: strangers may ask
        // for ever new ones.
        Some(_) if !path.parent().is_some_and(std::path::Path::is_dir) => Ok(()),
        Some(since) => write(layout, &path, &since),
        None => match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
            _ => Ok(()),
        },
    }
}

pub(crate) fn tag(layout: &Layout, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
    let file: TagFile = read(&layout.tag(repository, tag))?;
    Some(TagRecord { digest: file.digest.parse().ok()?, confirmed_at: file.confirmed_at })
}

pub(crate) fn set_tag(
    layout: &Layout,
    repository: &Repository,
    tag: &Tag,
    record: TagRecord,
) -> Result<(), Error> {
    let file = TagFile { digest: record.digest.to_string(), confirmed_at: record.confirmed_at };
    write(layout, &layout.tag(repository, tag), &file)
}

pub(crate) fn remove_tag(layout: &Layout, repository: &Repository, tag: &Tag) -> Result<(), Error> {
    let path = layout.tag(repository, tag);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &std::path::Path) -> Option<T> {
    match layout::read_small(path) {
        Ok(content) => serde_json::from_slice(&content?)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "unreadable record, taken as absent"),
            )
            .ok(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "unreadable record, taken as absent");
            None
        }
    }
}

pub(crate) fn write<T: Serialize>(layout: &Layout, path: &std::path::Path, value: &T) -> Result<(), Error> {
    let content = serde_json::to_vec(value).map_err(|e| Error::io("encode", path)(e.into()))?;
    layout.write_small(path, &content)
}
