//! What is here, by name: for an operator who looks, and for one who cleans up.
//!
//! Read from the files each time; nothing that serves waits for it. A manifest that is damaged counts as not there: the
//! next pull finds that out properly.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::sync::Arc;

use super::error::Error;
use super::layout::{self, Layout};
use super::{Inner, Pin, Store, blocking, records::tags, records::walk};
use crate::reference::{Digest, Document, Image, Kind, MANIFEST_BYTES_MAX, Reference, Repository, Tag};
use crate::support::clock::Timestamp;

/// Indexes within indexes that are looked into.
const DEPTH_MAX: usize = 4;

/// An image by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedImage {
    /// Its name with its tag, or with its digest if that is how it was pinned.
    pub image: Image,
    /// What that last meant.
    pub digest: Digest,
    /// When upstream last said so, to the hour; a digest needs nobody to say it.
    pub confirmed_at: Option<Timestamp>,
    /// Bytes of it that are here, shared ones included.
    pub bytes: u64,
    /// The platforms of which everything is here; one without a name for an image that names none.
    pub platforms: Vec<String>,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovedImage {
    /// Names.
    pub tags: usize,
    /// Pins.
    pub pins: usize,
    /// Blobs that nothing else needs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// The digests of an image that are here, and the platforms that are complete.
#[derive(Default)]
struct Tree {
    sizes: HashMap<Digest, u64>,
    platforms: BTreeSet<String>,
}

impl Store {
    /// Every tag, and every image that is pinned by its digest.
    ///
    /// # Errors
    /// The disk.
    pub async fn inventory(&self) -> Result<Vec<CachedImage>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || Ok(inner.inventory())).await
    }

    /// Removes a name, its pin, and what nothing else that has a name or a pin needs. Blobs that are being read stay
    /// until they are evicted.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_image(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<RemovedImage, Error> {
        let (inner, repository, reference) = (Arc::clone(&self.0), repository.clone(), reference.clone());
        blocking(move || inner.remove_image(&repository, &reference)).await
    }

    /// Keeps an image: nothing of it is evicted from now on.
    ///
    /// # Errors
    /// The disk; an image of too many parts.
    pub async fn pin(&self, pin: Pin) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.space.pins().add(&inner.layout, pin)).await
    }

    /// Lets an image go; returns how many pins that ended.
    ///
    /// # Errors
    /// The disk.
    pub async fn unpin(&self, repository: &Repository, reference: &Reference) -> Result<usize, Error> {
        let (inner, repository, reference) = (Arc::clone(&self.0), repository.clone(), reference.to_string());
        blocking(move || {
            let pins = inner.space.pins().matching(&repository, &reference);
            pins.iter().try_for_each(|pin| inner.space.pins().remove(&inner.layout, pin))?;
            Ok(pins.len())
        })
        .await
    }

    /// Lets one pin go.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_pin(&self, pin: Pin) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.space.pins().remove(&inner.layout, &pin)).await
    }

    /// The images that are kept.
    pub fn pins(&self) -> Vec<Pin> {
        self.0.space.pins().all()
    }

    /// Makes room now, as far as the budget wants it; returns how many bytes that freed.
    ///
    /// # Errors
    /// The disk.
    pub async fn enforce_budget(&self) -> Result<u64, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let before = inner.metrics.bytes.get();
            inner.evict_what_is_missing(0);
            Ok(u64::try_from(before - inner.metrics.bytes.get()).unwrap_or(0))
        })
        .await
    }
}

impl Inner {
    fn inventory(&self) -> Vec<CachedImage> {
        let pins = self.space.pins().all();
        let pinned: HashSet<(&Repository, Digest)> =
            pins.iter().map(|pin| (&pin.repository, pin.root)).collect();
        let cached = |image: Image, digest, confirmed_at| {
            let tree = Tree::of(&self.layout, &digest);
            CachedImage {
                digest,
                confirmed_at,
                bytes: tree.sizes.values().sum(),
                platforms: tree.platforms.into_iter().collect(),
                pinned: pinned.contains(&(&image.repository, digest)),
                image,
            }
        };
        let tags = self.tags().into_iter().map(|(repository, tag, record)| {
            let image = Image { repository, reference: Reference::Tag(tag) };
            cached(image, record.digest, Some(record.confirmed_at))
        });
        let by_digest = pins.iter().filter(|pin| pin.reference == pin.root.to_string()).map(|pin| {
            let image = Image { repository: pin.repository.clone(), reference: Reference::Digest(pin.root) };
            cached(image, pin.root, None)
        });
        tags.chain(by_digest).collect()
    }

    fn tags(&self) -> Vec<(Repository, Tag, tags::TagRecord)> {
        let mut found = Vec::new();
        for repository in walk::repositories_with(&self.layout, layout::TAGS) {
            let mut tags: Vec<Tag> =
                walk::files(&self.layout.tags(&repository)).iter().filter_map(|t| t.parse().ok()).collect();
            tags.sort();
            for tag in tags {
                if let Some(record) = tags::tag(&self.layout, &repository, &tag) {
                    found.push((repository.clone(), tag, record));
                }
            }
        }
        found
    }

    fn remove_image(&self, repository: &Repository, reference: &Reference) -> Result<RemovedImage, Error> {
        let mut removed = RemovedImage::default();
        let root = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => {
                let record = tags::tag(&self.layout, repository, tag);
                if record.is_some() {
                    tags::remove_tag(&self.layout, repository, tag)?;
                    self.tags_changed.notify_one();
                    removed.tags = 1;
                }
                record.map(|record| record.digest)
            }
        };
        for pin in self.space.pins().matching(repository, &reference.to_string()) {
            self.space.pins().remove(&self.layout, &pin)?;
            removed.pins += 1;
        }
        let Some(root) = root else { return Ok(removed) };
        let mut needed = self.space.pins().digests();
        for (_, _, record) in self.tags() {
            needed.extend(Tree::of(&self.layout, &record.digest).sizes.into_keys());
        }
        for (digest, size) in Tree::of(&self.layout, &root).sizes {
            if !needed.contains(&digest) && !self.space.is_used(&digest) {
                self.remove_blob(&digest)?;
                (removed.blobs, removed.bytes) = (removed.blobs + 1, removed.bytes + size);
            }
        }
        Ok(removed)
    }

    /// The index first, so that no row speaks of a blob that is gone.
    fn remove_blob(&self, digest: &Digest) -> Result<(), Error> {
        self.opens.forget(digest);
        self.index.remove(*digest);
        let path = self.layout.blob(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
            _ => {}
        }
        let _ = fs::remove_file(self.layout.checks_of(digest));
        Ok(())
    }
}

impl Tree {
    fn of(layout: &Layout, root: &Digest) -> Self {
        let mut tree = Self::default();
        tree.add(layout, root, "", DEPTH_MAX);
        tree
    }

    /// Adds a manifest and what it needs; whether all of an image is here.
    fn add(&mut self, layout: &Layout, digest: &Digest, platform: &str, depth: usize) -> bool {
        let Some((size, bytes)) = manifest(layout, digest) else { return false };
        self.sizes.insert(*digest, size);
        let Ok(document) = Document::parse(&bytes, None) else { return false };
        match document.kind {
            Kind::Index(children) if depth > 0 => {
                for child in children {
                    let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.add(layout, &child.digest, &platform, depth - 1);
                }
                false
            }
            Kind::Image(children) => {
                let mut complete = true;
                for child in children {
                    match fs::metadata(layout.blob(&child.digest)) {
                        Ok(found) => drop(self.sizes.insert(child.digest, found.len())),
                        Err(_) => complete = false,
                    }
                }
                if complete {
                    self.platforms.insert(platform.to_owned());
                }
                complete
            }
            _ => false,
        }
    }
}

fn manifest(layout: &Layout, digest: &Digest) -> Option<(u64, Vec<u8>)> {
    let file = layout::open_regular(&layout.blob(digest)).ok()??;
    let size = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some((size, bytes))
}
