//! Names that are answered by another form of theirs (`arch_suffix`): that upstream does not have them, and the indexes
//! that were composed for them. So that both are still known when upstream cannot be asked.
//!
//! Records as in [`crate::store::records::access`]: an unreadable one counts as absent, and upstream is asked again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::reference::{Digest, MediaType, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::{Store, blocking, layout, records::tags};

/// An index that no registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthesizedIndex {
    /// It.
    pub bytes: Bytes,
    /// The type it is served as.
    pub media_type: MediaType,
    /// Where its images are: repositories of one registry.
    pub images: Vec<(Repository, Digest)>,
}

#[derive(Serialize, Deserialize)]
struct File {
    index: String,
    media_type: String,
    parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Part {
    repository: String,
    digest: String,
}

impl Store {
    /// Whether upstream was last known not to have `tag`, and nothing else of it is known.
    pub async fn is_absent_upstream(&self, repository: &Repository, tag: &Tag) -> bool {
        let (inner, repository, tag) = (Arc::clone(&self.0), repository.clone(), tag.clone());
        let known = blocking(move || {
            let layout = &inner.layout;
            Ok(is_there(layout, &repository, &tag) && tags::tag(layout, &repository, &tag).is_none())
        });
        known.await.unwrap_or(false)
    }

    /// Remembers that upstream does not have `tag`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_absent_upstream(&self, repository: &Repository, tag: &Tag) -> Result<(), Error> {
        let (inner, repository, tag) = (Arc::clone(&self.0), repository.clone(), tag.clone());
        blocking(move || {
            let path = inner.layout.absent(&repository, &tag);
            if layout::renew(&path, inner.clock.now()) {
                return Ok(());
            }
            inner.layout.write_small(&path, b"")
        })
        .await
    }

    /// The index `digest` that was composed for `repository`.
    pub async fn synthesized_index(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<SynthesizedIndex> {
        let (inner, repository) = (Arc::clone(&self.0), repository.clone());
        blocking(move || Ok(read(&inner.layout, &repository, &digest))).await.ok().flatten()
    }

    /// Remembers an index that was composed for `repository`.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_synthesized_index(
        &self,
        repository: &Repository,
        composed: &SynthesizedIndex,
    ) -> Result<(), Error> {
        let (inner, repository, composed) = (Arc::clone(&self.0), repository.clone(), composed.clone());
        blocking(move || {
            let digest = Digest::of(&composed.bytes);
            let path = inner.layout.composed(&repository, &digest);
            if read(&inner.layout, &repository, &digest).is_some() {
                layout::renew(&path, inner.clock.now());
                return Ok(());
            }
            let part = |(repository, digest): &(Repository, Digest)| Part {
                repository: repository.path().to_string(),
                digest: digest.to_string(),
            };
            let file = File {
                index: String::from_utf8_lossy(&composed.bytes).into_owned(),
                media_type: composed.media_type.to_string(),
                parts: composed.images.iter().map(part).collect(),
            };
            tags::write(&inner.layout, &path, &file)
        })
        .await
    }
}

fn is_there(layout: &Layout, repository: &Repository, tag: &Tag) -> bool {
    matches!(layout::open_regular(&layout.absent(repository, tag)), Ok(Some(_)))
}

pub(crate) fn read(layout: &Layout, repository: &Repository, digest: &Digest) -> Option<SynthesizedIndex> {
    let file: File = tags::read(&layout.composed(repository, digest))?;
    let parts: Option<Vec<_>> = file
        .parts
        .iter()
        .map(|part| {
            let path = part.repository.parse().ok()?;
            Some((Repository::new(repository.registry().clone(), path).ok()?, part.digest.parse().ok()?))
        })
        .collect();
    let composed = SynthesizedIndex {
        bytes: file.index.into(),
        media_type: file.media_type.parse().ok()?,
        images: parts.filter(|parts| !parts.is_empty())?,
    };
    // The one record that is handed out: it has to be what its name says.
    (Digest::of(&composed.bytes) == *digest).then_some(composed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{open, repository};

    #[tokio::test]
    async fn what_was_composed_outlives_a_restart_and_is_what_its_name_says() {
        let directory = tempfile::tempdir().unwrap();
        let (old, part) = (repository("reg.test/team/old"), repository("reg.test/team/old-arm64"));
        let composed = SynthesizedIndex {
            bytes: Bytes::from_static(br#"{"schemaVersion":2}"#),
            media_type: MediaType::OCI_INDEX.parse().unwrap(),
            images: vec![(part, Digest::of(b"x"))],
        };
        let digest = Digest::of(&composed.bytes);
        let store = open(directory.path()).unwrap();
        store.set_synthesized_index(&old, &composed).await.unwrap();
        drop(store);
        let store = open(directory.path()).unwrap();
        assert_eq!(store.synthesized_index(&old, digest).await, Some(composed));
        assert_eq!(store.synthesized_index(&repository("reg.test/team/other"), digest).await, None);
        let file = store.0.layout.composed(&old, &digest);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(":2", ":3")).unwrap();
        assert_eq!(store.synthesized_index(&old, digest).await, None);
    }

    #[tokio::test]
    async fn a_name_is_absent_only_while_nothing_else_is_known_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let (store, old, tag) =
            (open(directory.path()).unwrap(), repository("reg.test/team/old"), "v1".parse().unwrap());
        assert!(!store.is_absent_upstream(&old, &tag).await);
        store.set_absent_upstream(&old, &tag).await.unwrap();
        assert!(store.is_absent_upstream(&old, &tag).await);
        store.confirm_tag(&old, &tag, Digest::of(b"x")).await.unwrap();
        assert!(!store.is_absent_upstream(&old, &tag).await, "it came to be");
    }
}
