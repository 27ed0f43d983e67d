//! The walk over an image's manifests that are in the store: from its root through its indexes to its images.
//!
//! Promises: a manifest is met as often as it is named, in the order of the index that names it, and what an index
//! names comes right after it. Each is read once, and a bounded number of them, whatever indexes name and how often.
//! What is damaged is met as something that names nothing: the next pull finds and replaces it.
//!
//! Deliberately not here: how a manifest is opened, which the caller says at each step; whether blobs are here. A
//! pre-pull does not walk like this (`prepull/tree`): it fetches what it chose for its platforms, and refuses an image
//! beyond the same bound.

use std::collections::HashSet;
use std::fs::File;
use std::{io, vec};

use crate::reference::{
    Child, Digest, Document, IMAGE_BLOBS_MAX, IMAGE_MANIFESTS_MAX, Kind, MANIFEST_BYTES_MAX,
};
use crate::store::layout;

/// How deep indexes within indexes are followed.
const DEPTH_MAX: usize = 4;
/// Bytes of an image's manifests together, the last one aside: those of real images take a megabyte.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Manifests of one image that are looked for, here or not: as many digests as are known of one image.
const LOOKED_FOR_MAX: usize = IMAGE_BLOBS_MAX;

/// A walk under way.
pub(super) struct ManifestWalk {
    /// Until it is met.
    root: Option<Digest>,
    /// What each index on the way to here names and was not met yet, the innermost last.
    indexes: Vec<vec::IntoIter<Child>>,
    looked_for: HashSet<Digest>,
    read: usize,
    bytes: u64,
}

/// A manifest or index, where it is named.
pub(super) struct Met {
    pub(super) digest: Digest,
    /// The platform that it is named for; empty where there is no name.
    pub(super) platform: String,
    pub(super) found: Found,
}

/// What was found of a manifest.
pub(super) enum Found {
    /// It was looked for before, or as many were as may be.
    NotLookedFor,
    Absent,
    /// It is here, and has so many bytes.
    Here(u64, ManifestKind),
}

/// What a manifest is.
pub(super) enum ManifestKind {
    /// An index: what it names is met next.
    Index,
    /// An image: its config and layers, and how many more it has that are not understood.
    Image(Vec<Child>, usize),
    /// What names nothing: of another kind, not understood, or an index too deep within others.
    Other,
}

impl ManifestWalk {
    pub(super) fn from(root: Digest) -> Self {
        Self { root: Some(root), indexes: Vec::new(), looked_for: HashSet::new(), read: 0, bytes: 0 }
    }

    /// Meets the next manifest. `read` gives its bytes and their number, as [`bytes_of`], if it is here.
    pub(super) fn meet(&mut self, read: impl FnOnce(&Digest) -> Option<(u64, Vec<u8>)>) -> Option<Met> {
        let (digest, platform) = self.next_named()?;
        let found = if !self.may_look_for(&digest) {
            Found::NotLookedFor
        } else if let Some((size, bytes)) = read(&digest) {
            self.read += 1;
            self.bytes += size;
            Found::Here(size, self.content(&bytes))
        } else {
            Found::Absent
        };
        Some(Met { digest, platform, found })
    }

    fn next_named(&mut self) -> Option<(Digest, String)> {
        if let Some(root) = self.root.take() {
            return Some((root, String::new()));
        }
        while let Some(index) = self.indexes.last_mut() {
            if let Some(child) = index.next() {
                let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                return Some((child.digest, platform));
            }
            self.indexes.pop();
        }
        None
    }

    /// Whether this one may be looked for, which is then known.
    fn may_look_for(&mut self, manifest: &Digest) -> bool {
        let may_go_on = self.read < IMAGE_MANIFESTS_MAX
            && self.bytes < BYTES_MAX
            && self.looked_for.len() < LOOKED_FOR_MAX;
        may_go_on && self.looked_for.insert(*manifest)
    }

    /// What these bytes are; an index is entered.
    fn content(&mut self, bytes: &[u8]) -> ManifestKind {
        let Ok(document) = Document::parse(bytes, None) else { return ManifestKind::Other };
        match document.kind {
            Kind::Index(children) if self.indexes.len() < DEPTH_MAX => {
                self.indexes.push(children.into_iter());
                ManifestKind::Index
            }
            Kind::Image(children) => ManifestKind::Image(children, document.omitted),
            _ => ManifestKind::Other,
        }
    }
}

/// How many bytes a manifest has that was opened, and the bytes, as far as a manifest has them. Blocks.
pub(super) fn bytes_of(opened: io::Result<Option<(File, u64)>>) -> Option<(u64, Vec<u8>)> {
    let (file, size) = opened.ok()??;
    let bytes = layout::read_whole(&file, size, MANIFEST_BYTES_MAX as u64).ok()?;
    Some((size, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index of these, and its digest.
    fn index(entries: &[Digest]) -> (Digest, Vec<u8>) {
        let entry = |digest: &Digest| serde_json::json!({"digest": digest.to_string(), "size": 1});
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let bytes =
            serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap();
        (Digest::of(&bytes), bytes)
    }

    #[test]
    fn an_index_too_deep_within_others_leads_nowhere_and_what_comes_after_it_is_met() {
        let last = Digest::of(b"a manifest that comes last");
        let mut indexes = vec![index(&[Digest::of(b"a manifest that is too deep")])];
        for depth in (0..DEPTH_MAX).rev() {
            let (inner, _) = indexes[indexes.len() - 1];
            indexes.push(if depth == 0 { index(&[inner, last]) } else { index(&[inner]) });
        }
        let (root, _) = indexes[DEPTH_MAX];
        let mut walk = ManifestWalk::from(root);
        let read = |digest: &Digest| {
            let (_, bytes) = indexes.iter().find(|(of, _)| of == digest)?;
            Some((bytes.len() as u64, bytes.clone()))
        };
        let mut met = Vec::new();
        while let Some(Met { digest, found, .. }) = walk.meet(read) {
            met.push((digest, matches!(found, Found::Here(_, ManifestKind::Index))));
        }
        let mut expected: Vec<_> = indexes.iter().rev().map(|(digest, _)| (*digest, true)).collect();
        expected[DEPTH_MAX].1 = false;
        expected.push((last, false));
        assert_eq!(met, expected);
    }
}
