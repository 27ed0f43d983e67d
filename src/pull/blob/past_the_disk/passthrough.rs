//! Passthrough: a blob from upstream to one client without the store: what the store does not take or give back, a
//! single range of what is not stored, and a range far ahead of a download.
//!
//! A whole body is still never complete and wrong: its bytes are hashed as they pass, on from the hash of what the fill
//! had written, and the last of them are withheld until the digest is verified, and more of what a mirror delivers, as
//! far as there is memory for it. A range is not verified, like every range of a blob that is not in the store. Wrong
//! content is followed by the next endpoint's, if that begins with what the client has.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::memory::{MemoryShare, joined};
use crate::pull::blob::body::refetch_places::REFETCH_WAIT_MAX;
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::{Tries, fault_of};
use crate::pull::blob::withheld_tail::Withheld;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store;

/// Bytes on their way from upstream to a client.
pub(crate) struct Passthrough {
    body: SourceBody,
    /// What a whole body is verified with; `None` for a range.
    whole: Option<Whole>,
    /// The client has the bytes before this offset: they are hashed and not returned.
    skip_until: u64,
    /// The offset of the next byte that is returned.
    returned_until: u64,
    /// When the first bytes must have come that the client does not have: it gets none until then.
    first_due: Option<Instant>,
    /// Bytes to be returned, each with the hash of everything up to its end where the body is verified.
    held: VecDeque<(Bytes, Option<Hasher>)>,
    held_bytes: u64,
    ended: bool,
}

/// How a whole body is verified as it passes.
struct Whole {
    digest: Digest,
    /// The hash of everything up to where the body is.
    hasher: Hasher,
    /// What is withheld until that has come to the digest, with the memory for it.
    withheld: Withheld,
    share: MemoryShare,
    /// The hash of everything before the next byte that is returned, where it is known; where content begins anew, it
    /// must come to the same there.
    returned: Option<Hasher>,
    /// How content must begin, because the client has bytes of it that cannot be read back.
    beginning: Option<HashedStart>,
    tries: Tries,
}

impl Passthrough {
    /// The rest of a blob of `size` bytes after those that `hasher` has seen, to the end: verified.
    pub(crate) fn rest(
        body: SourceBody,
        hasher: Hasher,
        digest: Digest,
        size: Option<u64>,
        share: MemoryShare,
    ) -> Self {
        let withheld = Withheld::of(size, body.trail()).past_the_disk();
        let (returned, beginning, tries) = (Some(hasher.clone()), None, Tries::default());
        let whole = Whole { digest, hasher, withheld, share, returned, beginning, tries };
        Self { whole: Some(whole), ..Self::range(body) }
    }

    /// The rest of a blob of `size` bytes for a client that has those before `at`: all of it is fetched again, because
    /// what the client has cannot be read back, and verified. What the client has was right, or it is how the
    /// `received` bytes begin: the content must begin with these too.
    pub(crate) fn again(
        body: SourceBody,
        digest: Digest,
        at: u64,
        received: Option<HashedStart>,
        size: Option<u64>,
        share: MemoryShare,
    ) -> Self {
        let mut again = Self::rest(body, digest.hasher(), digest, size, share);
        if let Some(whole) = &mut again.whole {
            (whole.returned, whole.beginning) = (None, received);
        }
        let first_due = Some(Instant::now() + REFETCH_WAIT_MAX);
        Self { skip_until: at, returned_until: at, first_due, ..again }
    }

    /// Bytes that end before the blob does, or begin after bytes that were not seen.
    pub(crate) fn range(body: SourceBody) -> Self {
        Self {
            skip_until: body.at(),
            returned_until: body.at(),
            body,
            whole: None,
            first_due: None,
            held: VecDeque::new(),
            held_bytes: 0,
            ended: false,
        }
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// Upstream, or content that is not what the digest says; then the last bytes have not been returned.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let Some(due) = self.first_due else { return self.next_in_time().await };
        let next = timeout_at(due, self.next_in_time()).await;
        self.first_due = None;
        next.unwrap_or(Some(Err(Error::SentBytesLost)))
    }

    async fn next_in_time(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if let Some(bytes) = self.releasable() {
                return Some(Ok(bytes));
            }
            if self.ended {
                return None;
            }
            let taken = match self.body.next().await {
                Some(Ok(bytes)) => self.take(bytes),
                Some(Err(error)) => Err(error.into()),
                None => self.end(),
            };
            if let Err(error) = taken
                && let Err(error) = self.begin_anew(error).await
            {
                // What is held back is dropped with the body: nothing asks again after an error.
                self.held.clear();
                return Some(Err(error));
            }
        }
    }

    /// The next bytes that may be returned now.
    fn releasable(&mut self) -> Option<Bytes> {
        let first = self.held.front()?.0.len() as u64;
        if self.returned_until + first > self.readable() {
            return None;
        }
        let (bytes, hasher) = self.held.pop_front()?;
        self.held_bytes -= first;
        self.returned_until += first;
        if let Some(whole) = &mut self.whole {
            whole.returned = hasher;
        }
        Some(bytes)
    }

    /// Up to which byte may be returned now.
    fn readable(&self) -> u64 {
        match &self.whole {
            Some(whole) if !self.ended => whole.withheld.readable(self.body.at()),
            _ => u64::MAX,
        }
    }

    fn take(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        let (begin, end) = (self.body.at() - bytes.len() as u64, self.body.at());
        let had = bytes.split_to(self.skip_until.clamp(begin, end).saturating_sub(begin) as usize);
        if let Some(whole) = &mut self.whole {
            whole.check_size(end)?;
            whole.hash(&had, begin)?;
            if !had.is_empty() && end >= self.skip_until {
                whole.compare_with_returned()?;
            }
            whole.hash(&bytes, end - bytes.len() as u64)?;
        }
        if !bytes.is_empty() {
            self.held_bytes += bytes.len() as u64;
            self.keep(bytes);
        }
        if let Some(whole) = &mut self.whole {
            whole.hold(self.held_bytes);
        }
        Ok(())
    }

    /// Keeps bytes that are to be returned, small ones together with those before them.
    fn keep(&mut self, bytes: Bytes) {
        let hasher = self.whole.as_ref().map(|whole| whole.hasher.clone());
        if let Some(last) = self.held.back_mut()
            && let Some(joined) = joined(&last.0, &bytes)
        {
            *last = (joined, hasher);
        } else {
            self.held.push_back((bytes, hasher));
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        if let Some(whole) = &self.whole {
            whole.verify(self.body.at(), self.skip_until)?;
        }
        self.ended = true;
        Ok(())
    }

    /// Begins anew after wrong content, from an endpoint that has not delivered it.
    ///
    /// # Errors
    /// `error`, if there is none, or if content was not why it failed.
    async fn begin_anew(&mut self, error: Error) -> Result<(), Error> {
        let trail = self.body.trail().clone();
        let (Some(whole), Some(fault)) = (&mut self.whole, fault_of(&error, &trail)) else {
            return Err(error);
        };
        if self.body.begun_at() > 0 {
            // Only the rest is of these endpoints.
            trail.record_ranges();
        }
        let another = self.body.record_wrong_content(fault);
        if !whole.tries.failed(&trail, another) {
            return Err(error);
        }
        let body = match self.body.begin_anew().await {
            Ok(body) if !whole.tries.is_repeated_by(body.endpoint()) => body,
            Ok(_) => return Err(error),
            Err(failed) => {
                tracing::info!(%failed, "wrong content cannot be had from elsewhere");
                return Err(error);
            }
        };
        whole.hasher = whole.digest.hasher();
        whole.withheld = whole.withheld.anew(body.trail());
        self.body = body;
        self.held.clear();
        (self.held_bytes, self.skip_until) = (0, self.returned_until);
        Ok(())
    }
}

impl Whole {
    /// # Errors
    /// The body has come further than the blob is long: it is another blob.
    fn check_size(&self, at: u64) -> Result<(), Error> {
        match self.withheld.size() {
            Some(size) if at > size => Err(store::Error::TooLong { digest: self.digest, limit: size }.into()),
            _ => Ok(()),
        }
    }

    /// Takes the bytes at `offset` into the hash; where the beginning ends, it must be what was received.
    fn hash(&mut self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        let mut rest = bytes;
        if let Some(received) = &self.beginning
            && (offset..=offset + bytes.len() as u64).contains(&received.len())
        {
            let beginning;
            (beginning, rest) = bytes.split_at((received.len() - offset) as usize);
            self.hasher.update(beginning);
            if !received.is_seen_by(&self.hasher) {
                return Err(Error::ContentReplaced);
            }
        }
        self.hasher.update(rest);
        Ok(())
    }

    /// Content that began anew has come to where the client is: what it has must be the same.
    fn compare_with_returned(&mut self) -> Result<(), Error> {
        let hash = |hasher: &Hasher| hasher.clone().finish();
        match &self.returned {
            Some(returned) if hash(returned) != hash(&self.hasher) => Err(Error::ContentReplaced),
            _ => {
                self.returned = Some(self.hasher.clone());
                Ok(())
            }
        }
    }

    /// So many bytes are held back: the tail and two chunks always, more where there is memory.
    fn hold(&mut self, bytes: u64) {
        if !self.share.resize(usize::try_from(bytes).unwrap_or(usize::MAX)) {
            self.withheld.withhold_tail_alone();
        }
    }

    /// The body ends at `at`; its client has the bytes before `had`.
    fn verify(&self, at: u64, had: u64) -> Result<(), Error> {
        let received = self.beginning.as_ref().map_or(0, HashedStart::len);
        if at < received.max(had) {
            // Right content that ends before what the client has is not how that content began.
            return Err(Error::ContentReplaced);
        }
        let actual = self.hasher.clone().finish();
        if actual == self.digest {
            return Ok(());
        }
        Err(store::Error::Mismatch { expected: self.digest, actual: actual.into() }.into())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};

    use super::*;
    use crate::pull::for_tests::{self, Parts};

    /// More than the tail that is withheld.
    static LAYER: [u8; 100_000] = [7; 100_000];

    #[tokio::test]
    async fn what_is_withheld_of_a_body_that_comes_a_byte_at_a_time_costs_no_hash_for_each_byte() {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let digest = parts.registry.push(&app, None, &LAYER);
        parts.registry.change_bodies(|_, body| {
            Box::pin(body.flat_map(|chunk| {
                let bytes = chunk.unwrap();
                stream::iter((0..bytes.len()).map(move |at| Ok(bytes.slice(at..=at))))
            }))
        });
        let (context, blobs, size) = (for_tests::pull(&app), &parts.blobs.0, Some(LAYER.len() as u64));
        let body = blobs.source.open(&context, digest, 0, None).await.unwrap();
        let mut rest = Passthrough::rest(body, digest.hasher(), digest, size, blobs.memory.share());
        let mut got = Vec::new();
        while let Some(bytes) = rest.next().await {
            got.extend_from_slice(&bytes.unwrap());
            assert!(rest.held.len() <= 100, "{} pieces of {} bytes", rest.held.len(), rest.held_bytes);
        }
        assert!(got == LAYER);
    }
}
