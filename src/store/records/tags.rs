//! Tags: the digest that each last had, and when upstream last confirmed it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{file, walk};
use crate::reference::{Digest, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{self, Directory, Layout};
use crate::support::clock::Timestamp;

/// How old the record of a tag must be to be written again with the same digest: a pull must not cost a sync.
pub(crate) const RENEWAL: Duration = Duration::from_secs(3_600);

/// The digest that a tag last had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagRecord {
    /// Of the manifest or index.
    pub digest: Digest,
    /// When upstream last confirmed it, to the hour.
    pub confirmed_at: Timestamp,
}

impl TagRecord {
    /// Whether `newer` would say the same, but for a time that need not be recorded.
    pub(crate) fn says(&self, newer: &Self) -> bool {
        self.digest == newer.digest && self.confirmed_at.age_at(newer.confirmed_at) < RENEWAL
    }
}

#[derive(Serialize, Deserialize)]
struct TagFile {
    digest: String,
    confirmed_at: Timestamp,
}

impl TagFile {
    fn record(self) -> Option<TagRecord> {
        Some(TagRecord { digest: self.digest.parse().ok()?, confirmed_at: self.confirmed_at })
    }
}

pub(crate) fn find(layout: &Layout, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
    file::read::<TagFile>(&layout.tag(repository, tag))?.record()
}

/// As [`find`], in the directory of the repository's tags.
pub(crate) fn find_in(directory: &Directory, tag: &Tag) -> Option<TagRecord> {
    file::read_in::<TagFile>(directory, tag.as_str())?.record()
}

/// The name of a tag whose record may be on the disk.
#[derive(Debug, Clone)]
pub(crate) struct TagName {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    /// The number of its record's inode, for [`walk::numbered_files`]'s reason.
    pub(crate) inode: u64,
}

/// The names of all tags, in the order of the repositories' names and then of their own; records may be missing or
/// unreadable. Those of one repository are in memory at a time.
pub(crate) fn names(layout: &Layout) -> impl Iterator<Item = TagName> + use<'_> {
    let repositories = walk::repositories_with(layout, layout::TAGS).into_iter();
    repositories.flat_map(move |repository| {
        let tags = names_of(layout, &repository).into_iter();
        tags.map(move |(tag, inode)| TagName { repository: repository.clone(), tag, inode })
    })
}

fn names_of(layout: &Layout, repository: &Repository) -> Vec<(Tag, u64)> {
    let names = walk::numbered_files(&layout.tags(repository));
    let mut tags: Vec<(Tag, u64)> =
        names.filter_map(|(name, inode)| Some((name.parse().ok()?, inode))).collect();
    tags.sort_unstable();
    tags
}

/// The tags of a repository, in their order.
pub(crate) fn of(layout: &Layout, repository: &Repository) -> impl Iterator<Item = (Tag, TagRecord)> {
    let tags = names_of(layout, repository);
    tags.into_iter().filter_map(|(tag, _)| find(layout, repository, &tag).map(|record| (tag, record)))
}

pub(crate) fn set(
    layout: &Layout,
    repository: &Repository,
    tag: &Tag,
    record: TagRecord,
) -> Result<(), Error> {
    let content = TagFile { digest: record.digest.to_string(), confirmed_at: record.confirmed_at };
    file::write(layout, &layout.tag(repository, tag), &content)
}

pub(crate) fn remove(layout: &Layout, repository: &Repository, tag: &Tag) -> Result<(), Error> {
    layout.remove(&layout.tag(repository, tag)).map(drop)
}
