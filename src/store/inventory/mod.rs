//! The images in the store by name: listed for an operator, and removed.
//!
//! Read from the files each time (`images`, and of one image `contents`; both by a `manifest_walk`). No request of a
//! runtime waits for it.

pub(super) mod contents;
pub(super) mod images;
mod manifest_walk;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::reference::{Digest, Image, Reference, Repository};
use crate::store::blobs::Blobs;
use crate::store::disk::blocking;
use crate::store::disk::calls::Call;
use crate::store::error::Error;
use crate::store::inventory::images::{ImageContent, TaggedImage};
use crate::store::layout::Layout;
use crate::store::records::Records;
use crate::store::records::pins::Pins;
use crate::support::clock::Timestamp;

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

    /// Hands every tag, and every image that is pinned by its digest, to `each` in batches until it breaks off. Blocks.
    pub(super) fn list(
        &self,
        mut each: impl FnMut(Vec<CachedImage>) -> ControlFlow<()>,
        call: &mut Call<'_>,
    ) {
        let pins = self.pins.list();
        let pinned: HashSet<(&Repository, Digest)> =
            pins.iter().map(|pin| (&pin.repository, pin.root)).collect();
        let cached = |image: Image, digest, confirmed_at, content: &ImageContent| CachedImage {
            digest,
            confirmed_at,
            bytes: content.sizes.values().sum(),
            platforms: content.platforms.iter().cloned().collect(),
            pinned: pinned.contains(&(&image.repository, digest)),
            image,
        };
        let tagged = |TaggedImage { name, record, content }: TaggedImage| {
            let image = Image { repository: name.repository, reference: Reference::Tag(name.tag) };
            cached(image, record.digest, Some(record.confirmed_at), &content)
        };
        for batch in images::batches(&self.layout) {
            if call.apart(|| each(batch.into_iter().map(tagged).collect())).is_break() {
                return;
            }
        }
        let by_digest = pins.iter().filter(|pin| pin.reference == pin.root.to_string()).map(|pin| {
            let image = Image { repository: pin.repository.clone(), reference: Reference::Digest(pin.root) };
            cached(image, pin.root, None, &images::content_of(&self.layout, pin.root))
        });
        let last = by_digest.collect();
        let _ = call.apart(|| each(last));
    }

    /// Removes a tag, the pins of the reference, and the blobs that no other tag or pin needs. Blobs that are being
    /// read stay until they are evicted. Of an image of more than 256 manifests the others are not looked for: its
    /// blobs may be removed with those of another image, and are fetched again with its next pull.
    ///
    /// # Errors
    /// The disk, also that it hangs; parts of the image may have been removed before, or are once it goes on.
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
        let remove = move |call: &mut Call<'_>| {
            removed.pins = this.pins.remove_matching(&repository, &reference)?;
            if let Some(root) = root {
                this.remove_unneeded(&root, &mut removed, call)?;
            }
            Ok(removed)
        };
        blocking::command(self.layout.calls(), remove).await
    }

    /// Removes the blobs of `root` that neither a tag nor a pin needs. Blocks.
    fn remove_unneeded(
        &self,
        root: &Digest,
        removed: &mut RemovedImage,
        call: &mut Call<'_>,
    ) -> Result<(), Error> {
        let mut unneeded = images::content_of(&self.layout, *root).sizes.clone();
        unneeded.retain(|digest, _| !self.pins.contains(digest));
        for image in images::batches(&self.layout).flatten() {
            unneeded.retain(|digest, _| !image.content.sizes.contains_key(digest));
            call.goes_on();
        }
        for (digest, size) in unneeded {
            call.goes_on();
            if self.blobs.remove_idle(&digest)? {
                removed.blobs += 1;
                removed.bytes += size;
            }
        }
        Ok(())
    }
}
