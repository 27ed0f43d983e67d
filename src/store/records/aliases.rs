//! Arch aliases: the tags that upstream does not have, and the indexes that were synthesized in their place. Recorded
//! so that both are known while upstream is unreachable.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{file, tags};
use crate::reference::{Digest, MediaType, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// An index that no registry has: made of images of several repositories, one for each architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthesizedIndex {
    /// The index as it is served.
    pub bytes: Bytes,
    /// The type it is served as.
    pub media_type: MediaType,
    /// The images it names: repositories of one registry, each with the digest of its manifest.
    pub images: Vec<(Repository, Digest)>,
}

/// The names of the fields are those on disk.
#[derive(Serialize, Deserialize)]
struct IndexFile {
    index: String,
    media_type: String,
    parts: Vec<ImageEntry>,
}

#[derive(Serialize, Deserialize)]
struct ImageEntry {
    repository: String,
    digest: String,
}

/// Whether upstream was last known not to have `tag`, and no digest of the tag is known either.
pub(crate) fn is_absent(layout: &Layout, repository: &Repository, tag: &Tag) -> bool {
    file::exists(&layout.absent(repository, tag)) && tags::find(layout, repository, tag).is_none()
}

pub(crate) fn set_absent(
    layout: &Layout,
    repository: &Repository,
    tag: &Tag,
    now: Timestamp,
) -> Result<(), Error> {
    let path = layout.absent(repository, tag);
    if layout::refresh(&path, now) {
        return Ok(());
    }
    layout.write_small(&path, b"")
}

/// The synthesized index of that digest, if its record is intact: this one record is served as it is.
pub(crate) fn synthesized(
    layout: &Layout,
    repository: &Repository,
    digest: &Digest,
) -> Option<SynthesizedIndex> {
    let record: IndexFile = file::read(&layout.synthesized(repository, digest))?;
    let image = |entry: &ImageEntry| {
        let path = entry.repository.parse().ok()?;
        let repository = Repository::new(repository.registry().clone(), path).ok()?;
        Some((repository, entry.digest.parse().ok()?))
    };
    let images: Option<Vec<_>> = record.parts.iter().map(image).collect();
    let index = SynthesizedIndex {
        bytes: record.index.into(),
        media_type: record.media_type.parse().ok()?,
        images: images.filter(|images| !images.is_empty())?,
    };
    (Digest::of(&index.bytes) == *digest).then_some(index)
}

pub(crate) fn set_synthesized(
    layout: &Layout,
    repository: &Repository,
    index: &SynthesizedIndex,
    now: Timestamp,
) -> Result<(), Error> {
    let digest = Digest::of(&index.bytes);
    let path = layout.synthesized(repository, &digest);
    if synthesized(layout, repository, &digest).is_some() {
        layout::refresh(&path, now);
        return Ok(());
    }
    let entry = |(repository, digest): &(Repository, Digest)| ImageEntry {
        repository: repository.path().to_string(),
        digest: digest.to_string(),
    };
    let record = IndexFile {
        index: String::from_utf8_lossy(&index.bytes).into_owned(),
        media_type: index.media_type.to_string(),
        parts: index.images.iter().map(entry).collect(),
    };
    file::write(layout, &path, &record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::records::tags::TagRecord;

    const NOW: Timestamp = Timestamp(1_000);

    fn repository(path: &str) -> Repository {
        Repository::new("reg.test".parse().unwrap(), path.parse().unwrap()).unwrap()
    }

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path());
        layout.make_directory(&layout.ingest()).unwrap();
        layout
    }

    #[test]
    fn a_synthesized_index_survives_a_restart_and_is_served_only_if_its_digest_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let old = repository("team/old");
        let index = SynthesizedIndex {
            bytes: Bytes::from_static(br#"{"schemaVersion":2}"#),
            media_type: MediaType::OCI_INDEX.parse().unwrap(),
            images: vec![(repository("team/old-arm64"), Digest::of(b"x"))],
        };
        let digest = Digest::of(&index.bytes);
        set_synthesized(&layout(&directory), &old, &index, NOW).unwrap();
        let layout = layout(&directory);
        assert_eq!(synthesized(&layout, &old, &digest), Some(index));
        assert_eq!(synthesized(&layout, &repository("team/other"), &digest), None);
        let file = layout.synthesized(&old, &digest);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(":2", ":3")).unwrap();
        assert_eq!(synthesized(&layout, &old, &digest), None);
    }

    #[test]
    fn a_tag_is_absent_only_while_no_digest_of_it_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let old = repository("team/old");
        let tag = "v1".parse().unwrap();
        assert!(!is_absent(&layout, &old, &tag));
        set_absent(&layout, &old, &tag, NOW).unwrap();
        assert!(is_absent(&layout, &old, &tag));
        tags::set(&layout, &old, &tag, TagRecord { digest: Digest::of(b"x"), confirmed_at: NOW }).unwrap();
        assert!(!is_absent(&layout, &old, &tag), "upstream has it by now");
    }
}
