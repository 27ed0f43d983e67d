//! The images in the store by name: listed for an operator, and removed.
//!
//! Read from the files each time, several at a time; no request of a runtime waits for it. A damaged manifest counts as
//! absent here: the next pull finds and replaces it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::reference::{Digest, Document, Image, Kind, MANIFEST_BYTES_MAX, Reference, Repository, Tag};
use crate::store::blobs::Blobs;
use crate::store::blocking;
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::store::pins::Pins;
use crate::store::records::Records;
use crate::store::records::tags;
use crate::support::clock::Timestamp;

/// How deep indexes within indexes are followed.
pub(super) const DEPTH_MAX: usize = 4;
/// Images that are read at the same time: each is a few small files, and what takes long is to wait for the disk.
const READ_AT_ONCE: usize = 8;
/// Images from which that is worth the threads.
const READ_AT_ONCE_FROM: usize = 256;

/// An image in the store, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedImage {
    /// The repository with a tag, or with the digest that the image was pinned by.
    pub image: Image,
    /// The digest that the reference last had.
    pub digest: Digest,
    /// When upstream last confirmed the tag, to the hour; `None` for a digest, which needs no confirmation.
    pub confirmed_at: Option<Timestamp>,
    /// Bytes of the image that are in the store, those shared with other images included.
    pub bytes: u64,
    /// The platforms that are complete; an empty name for an image without a platform.
    pub platforms: Vec<String>,
    /// Whether the image is pinned.
    pub pinned: bool,
}

/// What was removed of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovedImage {
    /// Tags.
    pub tags: usize,
    /// Pins.
    pub pins: usize,
    /// Blobs that no other tag or pin needs.
    pub blobs: usize,
    /// Bytes of these blobs.
    pub bytes: u64,
}

/// Lists and removes images. Cheap to clone.
#[derive(Clone)]
pub(super) struct Inventory {
    layout: Layout,
    records: Records,
    pins: Pins,
    blobs: Arc<Blobs>,
}

impl Inventory {
    pub(super) fn new(layout: Layout, records: Records, pins: Pins, blobs: Arc<Blobs>) -> Self {
        Self { layout, records, pins, blobs }
    }

    /// Every tag, and every image that is pinned by its digest. Blocks.
    pub(super) fn list(&self) -> Vec<CachedImage> {
        let pins = self.pins.list();
        let pinned: HashSet<(&Repository, Digest)> =
            pins.iter().map(|pin| (&pin.repository, pin.root)).collect();
        let cached = |image: Image, digest, confirmed_at| {
            let content = Content::of(&self.layout, &digest);
            CachedImage {
                digest,
                confirmed_at,
                bytes: content.sizes.values().sum(),
                platforms: content.platforms.into_iter().collect(),
                pinned: pinned.contains(&(&image.repository, digest)),
                image,
            }
        };
        let tagged = |(repository, tag): &(Repository, Tag)| {
            let record = tags::find(&self.layout, repository, tag)?;
            let image = Image { repository: repository.clone(), reference: Reference::Tag(tag.clone()) };
            Some(cached(image, record.digest, Some(record.confirmed_at)))
        };
        let tags = read_all(&tags::names(&self.layout), tagged);
        let by_digest = pins.iter().filter(|pin| pin.reference == pin.root.to_string()).map(|pin| {
            let image = Image { repository: pin.repository.clone(), reference: Reference::Digest(pin.root) };
            cached(image, pin.root, None)
        });
        tags.into_iter().chain(by_digest).collect()
    }

    /// Removes a tag, the pins of the reference, and the blobs that no other tag or pin needs. Blobs that are being read
    /// stay until they are evicted.
    ///
    /// # Errors
    /// The disk; parts of the image may have been removed before.
    pub(super) async fn remove(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<RemovedImage, Error> {
        let mut removed = RemovedImage::default();
        let root = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(tag) => {
                let record = self.records.tag(repository, tag).await;
                if record.is_some() {
                    self.records.remove_tag(repository, tag).await?;
                    removed.tags = 1;
                }
                record.map(|record| record.digest)
            }
        };
        let this = self.clone();
        let repository = repository.clone();
        let reference = reference.to_string();
        blocking::run(move || {
            removed.pins = this.pins.remove_matching(&repository, &reference)?;
            if let Some(root) = root {
                this.remove_unneeded(&root, &mut removed)?;
            }
            Ok(removed)
        })
        .await
    }

    /// Removes the blobs of `root` that neither a tag nor a pin needs. Blocks.
    fn remove_unneeded(&self, root: &Digest, removed: &mut RemovedImage) -> Result<(), Error> {
        let mut needed = self.pins.digests();
        for (_, _, record) in tags::all(&self.layout) {
            needed.extend(Content::of(&self.layout, &record.digest).sizes.into_keys());
        }
        for (digest, size) in Content::of(&self.layout, root).sizes {
            if !needed.contains(&digest) && self.blobs.remove_idle(&digest)? {
                removed.blobs += 1;
                removed.bytes += size;
            }
        }
        Ok(())
    }
}

/// What `read` finds of each of `names`, in their order: in as many parts at the same time as are worth it. Blocks.
fn read_all<N: Sync, T: Send>(names: &[N], read: impl Fn(&N) -> Option<T> + Sync) -> Vec<T> {
    let threads = if names.len() < READ_AT_ONCE_FROM { 1 } else { READ_AT_ONCE };
    let part = |names: &[N]| names.iter().filter_map(&read).collect::<Vec<T>>();
    let mut parts = names.chunks(names.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|names| (names, spawn(scope, || part(names)))).collect();
        let mut found = part(first);
        for (names, thread) in others {
            // Without a thread, and after a panic of one, they are read here.
            let read = thread.and_then(|thread| thread.join().ok());
            found.extend(read.unwrap_or_else(|| part(names)));
        }
        found
    })
}

/// A thread that reads a part; `None` if there are no more threads.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    read: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("larder-list".to_owned()).spawn_scoped(scope, read).ok()
}

/// The manifests and blobs of an image that are in the store, and the platforms that are complete.
#[derive(Default)]
struct Content {
    sizes: HashMap<Digest, u64>,
    platforms: BTreeSet<String>,
}

impl Content {
    fn of(layout: &Layout, root: &Digest) -> Self {
        let mut content = Self::default();
        content.add(layout, root, "", DEPTH_MAX);
        content
    }

    /// Adds a manifest or index and everything it names.
    fn add(&mut self, layout: &Layout, digest: &Digest, platform: &str, depth: usize) {
        let Some((size, bytes)) = manifest(layout, digest) else { return };
        self.sizes.insert(*digest, size);
        let Ok(document) = Document::parse(&bytes, None) else { return };
        match document.kind {
            Kind::Index(children) if depth > 0 => {
                for child in children {
                    let platform = child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
                    self.add(layout, &child.digest, &platform, depth - 1);
                }
            }
            Kind::Image(children) => {
                let mut is_complete = document.omitted == 0;
                for child in children {
                    match fs::metadata(layout.blob(&child.digest)) {
                        Ok(found) => drop(self.sizes.insert(child.digest, found.len())),
                        // Runtimes fetch a foreign layer from elsewhere.
                        Err(_) => is_complete &= child.is_foreign,
                    }
                }
                if is_complete {
                    self.platforms.insert(platform.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// The bytes of a manifest or index, and how many there are. Blocks.
pub(super) fn manifest(layout: &Layout, digest: &Digest) -> Option<(u64, Vec<u8>)> {
    let file = layout::open_regular(&layout.blob(digest)).ok()??;
    let size = file.metadata().ok()?.len();
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some((size, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_in_its_order_and_complete_however_many_threads_read_it() {
        for count in [0, 1, READ_AT_ONCE_FROM - 1, READ_AT_ONCE_FROM, READ_AT_ONCE_FROM + 1, 10_000] {
            let names: Vec<usize> = (0..count).collect();
            let found = read_all(&names, |name| (name % 3 != 0).then_some(*name));
            assert!(found.into_iter().eq((0..count).filter(|name| name % 3 != 0)), "{count}");
        }
    }
}
