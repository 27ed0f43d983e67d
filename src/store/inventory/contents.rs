//! What is in the store of one image, platform by platform, for people: read from the files each time.
//!
//! Promises: however often an index names others, each of them is read once, and a bounded number of them ([`Walk`]).
//!
//! Deliberately not here: who may read it.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::reference::{Child, Digest, Document, Kind};
use crate::store::disk::calls::Call;
use crate::store::inventory::images::{DEPTH_MAX, Walk, manifest};
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
    /// Of the image whose manifest or index is `root`; `call` is told of each file that was looked at. Blocks.
    pub(in crate::store) fn read(
        layout: &Layout,
        root: Digest,
        confirmed_at: Option<Timestamp>,
        call: &mut Call<'_>,
    ) -> Self {
        let mut contents = Self {
            root,
            confirmed_at,
            is_here: false,
            is_index: false,
            platforms: Vec::new(),
            digests: HashSet::new(),
        };
        let mut reading = Reading { layout, call, walk: Walk::default(), known: HashMap::new() };
        contents.is_index = contents.add(&mut reading, &root, "", DEPTH_MAX);
        contents.is_here = contents.is_index || reading.known.get(&root).is_some_and(|known| known.is_here);
        contents
    }

    /// Adds a manifest, or what an index names; returns whether it is an index.
    fn add(&mut self, reading: &mut Reading<'_, '_>, digest: &Digest, platform: &str, depth: usize) -> bool {
        self.add_digest(digest);
        if let Some(known) = reading.known.get(digest) {
            self.push(PlatformContents { platform: platform.to_owned(), ..known.clone() });
            return false;
        }
        if !reading.walk.may_look_for(digest) {
            return false;
        }
        let read = reading.manifest(digest);
        let is_here = read.is_some();
        let document = read.and_then(|bytes| Document::parse(&bytes, None).ok());
        let children = match document.map(|document| document.kind) {
            Some(Kind::Index(children)) if depth > 0 => {
                for child in children {
                    let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.add(reading, &child.digest, &platform, depth - 1);
                }
                return true;
            }
            Some(Kind::Image(children)) => children,
            _ => Vec::new(),
        };
        children.iter().for_each(|child| self.add_digest(&child.digest));
        let contents = PlatformContents { is_here, ..reading.platform(digest, platform, &children) };
        reading.known.insert(*digest, contents.clone());
        self.push(contents);
        false
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
    /// Whether a runtime finds all of it here.
    pub fn is_complete(&self) -> bool {
        self.is_here && self.blobs_here == self.blobs
    }
}

/// The reading of one image.
struct Reading<'a, 'c> {
    layout: &'a Layout,
    call: &'a mut Call<'c>,
    walk: Walk,
    /// What was found of each manifest that is no index.
    known: HashMap<Digest, PlatformContents>,
}

impl Reading<'_, '_> {
    /// The bytes of a manifest or index that is here.
    fn manifest(&mut self, digest: &Digest) -> Option<Vec<u8>> {
        self.call.goes_on();
        let (size, bytes) = manifest(self.layout, digest)?;
        self.walk.has_read(size);
        Some(bytes)
    }

    fn platform(&mut self, manifest: &Digest, platform: &str, children: &[Child]) -> PlatformContents {
        let mut contents = PlatformContents {
            platform: platform.to_owned(),
            manifest: *manifest,
            is_here: true,
            blobs: children.len(),
            blobs_here: 0,
            bytes: 0,
            bytes_here: 0,
        };
        for child in children {
            self.call.goes_on();
            contents.bytes = contents.bytes.saturating_add(child.size);
            if fs::metadata(self.layout.blob(&child.digest)).is_ok() {
                contents.blobs_here += 1;
                contents.bytes_here = contents.bytes_here.saturating_add(child.size);
            }
        }
        contents
    }
}
