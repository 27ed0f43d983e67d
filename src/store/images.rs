//! Images of the store: what is there by name, and pins.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Store;
use crate::reference::{Digest, Image, Reference, Repository};
use crate::store::disk::blocking;
use crate::store::disk::calls::Call;
use crate::store::error::Error;
use crate::store::inventory::contents::ImageContents;
use crate::store::inventory::{CachedImage, RemovedImage};
use crate::store::records::pins::Pin;

impl Store {
    /// Hands every tag, and every image that is pinned by its digest, to `each` in batches of a few thousand, until it
    /// breaks off; `each` may block.
    ///
    /// # Errors
    /// A panic of the listing; a disk that hangs.
    pub async fn list_images(
        &self,
        each: impl FnMut(Vec<CachedImage>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<(), Error> {
        self.flush_for_a_while().await;
        let inventory = self.0.inventory.clone();
        let list = move |call: &mut Call<'_>| {
            inventory.list(each, call);
            Ok(())
        };
        blocking::look(self.0.layout.calls(), list).await
    }

    /// What is in the store of one image; `None` of a tag that upstream never confirmed.
    ///
    /// # Errors
    /// A panic of the reading; a disk that hangs.
    pub async fn contents(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<ImageContents>, Error> {
        self.flush_for_a_while().await;
        let (root, confirmed_at) = match reference {
            Reference::Digest(digest) => (*digest, None),
            Reference::Tag(tag) => match self.records().tag(repository, tag).await {
                Some(record) => (record.digest, Some(record.confirmed_at)),
                None => return Ok(None),
            },
        };
        let layout = self.0.layout.clone();
        let read =
            move |call: &mut Call<'_>| Ok(Some(ImageContents::read(&layout, root, confirmed_at, call)));
        blocking::look(self.0.layout.calls(), read).await
    }

    /// The digests of the manifests and blobs of these images that are in the store, as far as they are known: `max` at
    /// most.
    ///
    /// # Errors
    /// The disk hangs: what there is, is not known.
    pub async fn digests_of(&self, images: &HashSet<Image>, max: usize) -> Result<HashSet<Digest>, Error> {
        self.flush_for_a_while().await;
        let mut digests = HashSet::new();
        for image in images {
            let root = match &image.reference {
                Reference::Digest(digest) => Some(*digest),
                Reference::Tag(tag) => {
                    self.records().tag(&image.repository, tag).await.map(|record| record.digest)
                }
            };
            let Some(root) = root else { continue };
            let layout = self.0.layout.clone();
            // A manifest may name thousands that are not here, and never were.
            let read = blocking::look(self.0.layout.calls(), move |call| {
                let mut named = ImageContents::read(&layout, root, None, call).digests;
                named.retain(|digest| {
                    call.goes_on();
                    std::fs::metadata(layout.blob(digest)).is_ok()
                });
                Ok(named)
            });
            for digest in read.await? {
                if digests.len() >= max {
                    return Ok(digests);
                }
                digests.insert(digest);
            }
        }
        Ok(digests)
    }

    /// Removes a tag, the pins of the reference, and the blobs that no other tag or pin needs. Blobs that are being
    /// read stay until they are evicted.
    ///
    /// # Errors
    /// The disk, also that it hangs; parts of the image may have been removed before, or are once it goes on.
    pub async fn remove_image(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<RemovedImage, Error> {
        self.flush_for_a_while().await;
        self.0.inventory.remove(repository, reference).await
    }

    /// Pins an image: nothing of it is evicted from now on.
    ///
    /// # Errors
    /// The disk; an image with more than 800 manifests and blobs.
    pub async fn pin(&self, pin: Pin) -> Result<(), Error> {
        let pins = self.0.pins.clone();
        blocking::record(self.0.layout.calls(), move || pins.add(pin)).await
    }

    /// Ends the pins that were made for a reference, or for the digest it had; returns how many there were.
    ///
    /// # Errors
    /// The disk; some pins may have ended before.
    pub async fn unpin(&self, repository: &Repository, reference: &Reference) -> Result<usize, Error> {
        let pins = self.0.pins.clone();
        let repository = repository.clone();
        let reference = reference.to_string();
        let remove = move || pins.remove_matching(&repository, &reference);
        blocking::record(self.0.layout.calls(), remove).await
    }

    /// Ends one pin.
    ///
    /// # Errors
    /// The disk.
    pub async fn remove_pin(&self, pin: Pin) -> Result<(), Error> {
        let pins = self.0.pins.clone();
        blocking::record(self.0.layout.calls(), move || pins.remove(&pin)).await
    }

    /// From now on these blobs are evicted only where nothing else may be, and never ahead of need; until the next
    /// call. The budget holds as ever.
    pub fn protect(&self, digests: HashSet<Digest>) {
        self.0.pins.protect(digests);
    }

    /// How many blobs are protected.
    pub fn protected(&self) -> usize {
        self.0.pins.protected().len()
    }

    /// The images that are pinned.
    pub fn pins(&self) -> Vec<Pin> {
        self.0.pins.list()
    }
}
