//! What is in the store of one image, platform by platform, for people: read from the files each time.
//!
//! Promises: however often an index names others, each of them is read once, and a bounded number of them
//! ([`ManifestWalk`]).
//!
//! Deliberately not here: who may read it.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::reference::{Child, Digest, IMAGE_BLOBS_MAX};
use crate::store::disk::calls::Call;
use crate::store::inventory::manifest_walk::{Found, ManifestKind, ManifestWalk, Met, bytes_of};
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// Platforms that are told of one image: indexes in use have a dozen.
const PLATFORMS_MAX: usize = 64;

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
        // Of each manifest that is no index: one may be named for several platforms.
        let mut known: HashMap<Digest, PlatformContents> = HashMap::new();
        let mut walk = ManifestWalk::from(root);
        while let Some(Met { digest, platform, found }) = walk.meet(|digest| manifest(layout, digest, call)) {
            contents.add_digest(&digest);
            contents.is_here |= digest == root && matches!(found, Found::Here(..));
            let blobs = match found {
                Found::NotLookedFor => None,
                Found::Here(_, ManifestKind::Index) => {
                    contents.is_index |= digest == root;
                    None
                }
                Found::Here(_, ManifestKind::Image(children, _)) => Some((true, children)),
                Found::Here(_, ManifestKind::Other) => Some((true, Vec::new())),
                Found::Absent => Some((false, Vec::new())),
            };
            if let Some((is_here, blobs)) = blobs {
                blobs.iter().for_each(|blob| contents.add_digest(&blob.digest));
                known.insert(digest, PlatformContents::look(layout, digest, is_here, &blobs, call));
            }
            if let Some(known) = known.get(&digest) {
                contents.push(PlatformContents { platform, ..known.clone() });
            }
        }
        contents
    }

    fn add_digest(&mut self, digest: &Digest) {
        if self.digests.len() < IMAGE_BLOBS_MAX {
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

    /// Looks for the blobs of a manifest. Blocks.
    fn look(layout: &Layout, manifest: Digest, is_here: bool, blobs: &[Child], call: &mut Call<'_>) -> Self {
        let mut contents = Self {
            platform: String::new(),
            manifest,
            is_here,
            blobs: blobs.len(),
            blobs_here: 0,
            bytes: 0,
            bytes_here: 0,
        };
        for blob in blobs {
            call.goes_on();
            contents.bytes = contents.bytes.saturating_add(blob.size);
            if fs::metadata(layout.blob(&blob.digest)).is_ok() {
                contents.blobs_here += 1;
                contents.bytes_here = contents.bytes_here.saturating_add(blob.size);
            }
        }
        contents
    }
}

/// The bytes of a manifest or index that is here, and their number. Blocks.
fn manifest(layout: &Layout, digest: &Digest, call: &mut Call<'_>) -> Option<(u64, Vec<u8>)> {
    call.goes_on();
    bytes_of(layout::open_sized(&layout.blob(digest)))
}
