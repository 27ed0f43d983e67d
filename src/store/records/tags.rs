//! Tags: the digest that each last had, and when upstream last confirmed it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{file, walk};
use crate::reference::{Digest, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
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

pub(crate) fn find(layout: &Layout, repository: &Repository, tag: &Tag) -> Option<TagRecord> {
    let record: TagFile = file::read(&layout.tag(repository, tag))?;
    Some(TagRecord { digest: record.digest.parse().ok()?, confirmed_at: record.confirmed_at })
}

/// Every tag, in the order of the repositories' names and then of their own.
pub(crate) fn all(layout: &Layout) -> impl Iterator<Item = (Repository, Tag, TagRecord)> {
    let found = names(layout).into_iter();
    found.filter_map(|(repository, tag)| {
        let record = find(layout, &repository, &tag)?;
        Some((repository, tag, record))
    })
}

/// The names of all tags, in the same order; records may be missing or unreadable.
pub(crate) fn names(layout: &Layout) -> Vec<(Repository, Tag)> {
    let mut found = Vec::new();
    for repository in walk::repositories_with(layout, layout::TAGS) {
        found.extend(names_of(layout, &repository).into_iter().map(|tag| (repository.clone(), tag)));
    }
    found
}

fn names_of(layout: &Layout, repository: &Repository) -> Vec<Tag> {
    let names = walk::files(&layout.tags(repository));
    let mut tags: Vec<Tag> = names.filter_map(|name| name.parse().ok()).collect();
    tags.sort();
    tags
}

/// The tags of a repository, in their order.
pub(crate) fn of(layout: &Layout, repository: &Repository) -> impl Iterator<Item = (Tag, TagRecord)> {
    let tags = names_of(layout, repository);
    tags.into_iter().filter_map(|tag| find(layout, repository, &tag).map(|record| (tag, record)))
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
