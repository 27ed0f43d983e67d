//! What is in the store of one image, platform by platform, for people: read from the files each time.
//!
//! Deliberately not here: who may read it.

use std::collections::HashSet;
use std::fs;

use crate::reference::{Child, Digest, Document, Kind};
use crate::store::inventory::images::{DEPTH_MAX, manifest};
use crate::store::layout::Layout;
use crate::support::clock::Timestamp;

/// Platforms that are told of one image: indexes in use have a dozen.
const PLATFORMS_MAX: usize = 64;
/// Digests that are known to be of one image: as many blobs as a pre-pull fetches at the most.
const DIGESTS_MAX: usize = 4_096;

/// What is in the store of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageContents {
    /// The digest that the reference last had.
    pub root: Digest,
    /// When upstream last confirmed the tag, to the hour; `None` for a digest.
    pub confirmed_at: Option<Timestamp>,
    /// Whether the manifest or index itself is here.
    pub is_here: bool,
    /// Whether it is an index.
    pub is_index: bool,
    /// Its images: of an index one for each platform, the first 64.
    pub platforms: Vec<PlatformContents>,
    /// Its own digest, and those of the manifests and blobs that it names, here or not: the first 4,096.
    pub digests: HashSet<Digest>,
}

/// What is in the store of one platform's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformContents {
    /// Such as `linux/arm64`; empty where there is no name.
    pub platform: String,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Whether the manifest is here; if not, its blobs are not known.
    pub is_here: bool,
    /// Its config and layers, and how many of them are here.
    pub blobs: usize,
    /// How many of them are here.
    pub blobs_here: usize,
    /// Their bytes, as the manifest claims.
    pub bytes: u64,
    /// The bytes of those that are here.
    pub bytes_here: u64,
}

impl ImageContents {
    /// Of the image whose manifest or index is `root`. Blocks.
    pub(in crate::store) fn read(layout: &Layout, root: Digest, confirmed_at: Option<Timestamp>) -> Self {
        let mut contents = Self {
            root,
            confirmed_at,
            is_here: false,
            is_index: false,
            platforms: Vec::new(),
            digests: HashSet::new(),
        };
        contents.is_here = manifest(layout, &root).is_some();
        contents.is_index = contents.add(layout, &root, "", DEPTH_MAX);
        contents
    }

    /// Adds a manifest, or what an index names; returns whether it is an index.
    fn add(&mut self, layout: &Layout, digest: &Digest, platform: &str, depth: usize) -> bool {
        self.add_digest(digest);
        let document = manifest(layout, digest).map(|(_, bytes)| Document::parse(&bytes, None));
        match document.and_then(Result::ok).map(|document| document.kind) {
            Some(Kind::Index(children)) if depth > 0 => {
                for child in children {
                    let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.add(layout, &child.digest, &platform, depth - 1);
                }
                true
            }
            Some(Kind::Image(children)) => {
                children.iter().for_each(|child| self.add_digest(&child.digest));
                self.push(PlatformContents::of(layout, digest, platform, &children));
                false
            }
            _ => {
                let is_here = manifest(layout, digest).is_some();
                self.push(PlatformContents {
                    is_here,
                    ..PlatformContents::of(layout, digest, platform, &[])
                });
                false
            }
        }
    }

    fn add_digest(&mut self, digest: &Digest) {
        if self.digests.len() < DIGESTS_MAX {
            self.digests.insert(*digest);
        }
    }

    fn push(&mut self, platform: PlatformContents) {
        if self.platforms.len() < PLATFORMS_MAX {
            self.platforms.push(platform);
        }
    }
}

impl PlatformContents {
    fn of(layout: &Layout, manifest: &Digest, platform: &str, children: &[Child]) -> Self {
        let is_here = |child: &&Child| fs::metadata(layout.blob(&child.digest)).is_ok();
        let here: Vec<&Child> = children.iter().filter(is_here).collect();
        let bytes = |children: &mut dyn Iterator<Item = &Child>| {
            children.fold(0_u64, |sum, child| sum.saturating_add(child.size))
        };
        Self {
            platform: platform.to_owned(),
            manifest: *manifest,
            is_here: true,
            blobs: children.len(),
            blobs_here: here.len(),
            bytes: bytes(&mut children.iter()),
            bytes_here: bytes(&mut here.into_iter()),
        }
    }

    /// Whether a runtime finds all of it here.
    pub fn is_complete(&self) -> bool {
        self.is_here && self.blobs_here == self.blobs
    }
}
