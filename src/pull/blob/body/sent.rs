//! What the client of a body has of its blob, and what it is still to get.
//!
//! Wherever the next bytes come from, they must belong to what was sent before: content that begins anew is compared
//! with it, and what completes a whole body is hashed on from it, so that the whole is verified as a whole.
//! Deliberately not here: where the next bytes come from (`body`).

use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::withheld_tail::TAIL;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store::Blob;

/// What the client was told and sent, and up to where it is to be sent more.
#[derive(Debug)]
pub(super) struct Sent {
    /// The offset of the next byte.
    at: u64,
    /// The offset at which the body ends; `None` at the end of a blob of unknown size.
    end: Option<u64>,
    /// Whether the client is sent the blob from its first byte on.
    from_start: bool,
    /// Whether the client is sent the blob up to its last byte.
    to_end: bool,
    /// The size of the blob in the head of the answer.
    size: Option<u64>,
    /// The content of a flight that bytes were sent of, which one that begins anew must agree with.
    content: Option<FlightContent>,
    /// The stored blob that it was read from until a chunk was found damaged, or the disk did not give it.
    lost: Option<Blob>,
}

impl Sent {
    /// Nothing yet, of a blob whose size in the head of the answer is `size`; all of it is to be sent.
    pub(super) fn nothing(size: Option<u64>) -> Self {
        Self { at: 0, end: size, from_start: true, to_end: true, size, content: None, lost: None }
    }

    /// Only the bytes from `start` up to, not including, `end` are to be sent.
    pub(super) fn narrow(&mut self, start: u64, end: u64) {
        self.at = start;
        self.from_start = start == 0;
        self.to_end = self.end.is_some_and(|size| end >= size);
        self.end = Some(self.end.map_or(end, |size| size.min(end)));
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The offset at which the body ends; `None` at the end of a blob of unknown size.
    pub(super) fn end(&self) -> Option<u64> {
        self.end
    }

    /// The size of the blob in the head of the answer.
    pub(super) fn announced(&self) -> Option<u64> {
        self.size
    }

    /// The content of a flight that bytes were sent of; `None` if none were, or they were right.
    pub(super) fn content(&self) -> Option<&FlightContent> {
        self.content.as_ref()
    }

    /// Whether the client is sent the blob up to its last byte.
    pub(super) fn is_to_end(&self) -> bool {
        self.to_end
    }

    /// Whether the client is sent the whole blob.
    pub(super) fn is_whole(&self) -> bool {
        self.from_start && self.to_end
    }

    /// Whether all was sent.
    pub(super) fn is_over(&self) -> bool {
        self.end.is_some_and(|end| self.at >= end)
    }

    /// So many bytes more were sent.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }

    /// Nothing more is to be sent.
    pub(super) fn cut_off(&mut self) {
        self.end = Some(self.at);
    }

    /// The disk does not give the rest of the stored blob that bytes were sent of. They were verified: right content
    /// begins like that.
    pub(super) fn lose(&mut self, blob: Blob) {
        self.lost = Some(blob);
        self.content = None;
    }

    /// The next bytes come from `content`, of a blob of `size` bytes.
    ///
    /// # Errors
    /// They do not belong to what was sent before.
    pub(super) fn goes_on_with(&mut self, content: &FlightContent, size: Option<u64>) -> Result<(), Error> {
        let same_size = self.size.is_none() || size.is_none() || self.size == size;
        if !same_size || !self.is_beginning_of(Some(content)) {
            return Err(Error::ContentReplaced);
        }
        if self.content.as_ref().is_none_or(|before| !content.is_same(before)) {
            self.content = Some(content.clone());
        }
        Ok(())
    }

    /// Whether what was sent is how `content` begins, which is written up to there.
    pub(super) fn is_beginning_of(&self, content: Option<&FlightContent>) -> bool {
        let goes_on = |before| content.is_some_and(|content| content.continues(before, self.at));
        self.content.as_ref().is_none_or(goes_on)
    }

    /// Up to where bytes of content of unverified `size` may be sent: never all that the head of the answer announced.
    pub(super) fn limit(&self, size: Option<u64>) -> u64 {
        let announced = self.size.filter(|_| size.is_none());
        announced.map_or(u64::MAX, |announced| announced.saturating_sub(TAIL))
    }

    /// The hash of what the client of a whole body has of the blob `digest`, read back from where it was sent from, or
    /// from `growing`; `None` if that cannot be read any more. A blob that was damaged further on was right up to here.
    pub(super) async fn hash(&self, digest: Digest, growing: Option<&FlightContent>) -> Option<Hasher> {
        if self.at == 0 {
            return Some(digest.hasher());
        }
        if let Some(growing) = growing
            && let Ok(hasher) = growing.hash_until(self.at).await
        {
            return Some(hasher);
        }
        // Bytes of a later download are not those of the blob that was damaged.
        let lost = self.lost.as_ref().filter(|_| self.content.is_none())?;
        lost.hash_until(self.at).await.ok()
    }
}
