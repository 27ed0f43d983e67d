//! Passthrough: a blob from upstream to a client without the store, when the disk failed.
//!
//! A whole body is still never complete and wrong: its bytes are hashed as they pass, on from the hash of what the fill
//! had written, and the last of them are withheld until the digest is verified. A range is not verified, like every
//! range of a blob that is not in the store.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::source::UpstreamBody;
use super::withheld_tail::TAIL;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store;

/// Bytes on their way from upstream to a client.
pub(crate) struct Passthrough {
    body: UpstreamBody,
    /// The hash of everything up to where the body is, and the digest that it must become; `None` for a range.
    check: Option<(Hasher, Digest)>,
    /// Bytes that are hashed and not returned, because the client has them.
    skip: u64,
    /// Bytes of the blob, where they are known, and its digest: with more it is another blob.
    size: Option<(u64, Digest)>,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    ended: bool,
}

impl Passthrough {
    /// The rest of a blob of `size` bytes after those that `hasher` has seen, to the end: verified.
    pub(crate) fn rest(body: UpstreamBody, hasher: Hasher, digest: Digest, size: Option<u64>) -> Self {
        let size = size.map(|size| (size, digest));
        Self { check: Some((hasher, digest)), size, ..Self::range(body) }
    }

    /// The rest of a blob of `size` bytes for a client that has those before `at`: all of it is fetched again, because
    /// what the client has cannot be read back, and verified.
    pub(crate) fn again(body: UpstreamBody, digest: Digest, at: u64, size: Option<u64>) -> Self {
        Self { skip: at, ..Self::rest(body, Hasher::default(), digest, size) }
    }

    /// Bytes that end before the blob does, or begin after bytes that were not seen.
    pub(crate) fn range(body: UpstreamBody) -> Self {
        Self { body, check: None, skip: 0, size: None, held: VecDeque::new(), held_bytes: 0, ended: false }
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// Upstream, or content that is not what the digest says; then the last bytes have not been returned.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            let withheld = if self.check.is_some() && !self.ended { TAIL } else { 0 };
            if let Some(first) = self.held.front()
                && self.held_bytes - first.len() as u64 >= withheld
            {
                self.held_bytes -= first.len() as u64;
                return self.held.pop_front().map(Ok);
            }
            if self.ended {
                return None;
            }
            match self.body.next().await {
                Some(Ok(mut bytes)) => {
                    if let Some((size, digest)) = self.size
                        && self.body.at() > size
                    {
                        // What is held back is dropped with the body: nothing asks again after an error.
                        return Some(Err(store::Error::TooLong { digest, limit: size }.into()));
                    }
                    if let Some((hasher, _)) = &mut self.check {
                        hasher.update(&bytes);
                    }
                    let skipped = self.skip.min(bytes.len() as u64);
                    self.skip -= skipped;
                    bytes.advance(skipped as usize);
                    if !bytes.is_empty() {
                        self.held_bytes += bytes.len() as u64;
                        self.held.push_back(bytes);
                    }
                }
                Some(Err(error)) => return Some(Err(error.into())),
                None => {
                    if let Some(error) = self.mismatch() {
                        self.held.clear();
                        return Some(Err(error.into()));
                    }
                    self.ended = true;
                }
            }
        }
    }

    fn mismatch(&self) -> Option<store::Error> {
        let (hasher, expected) = self.check.as_ref()?;
        let actual = hasher.clone().finish();
        (actual != *expected).then_some(store::Error::Mismatch { expected: *expected, actual })
    }
}
