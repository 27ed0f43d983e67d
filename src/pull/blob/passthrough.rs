//! Passing a blob through without storing it: when our disk fails, and for ranges that no fill would reach in time.
//!
//! A whole body is still never complete and wrong: its bytes are hashed as they pass, from wherever the fill had got
//! with the same hash, and the last of them stay back until the digest is verified. A range is upstream's word, as is
//! every range of a blob that has not landed.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::pull::blob::fill::TAIL;
use crate::pull::blob::source::UpstreamBody;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store;

/// Bytes on their way through.
pub(crate) struct Through {
    source: UpstreamBody,
    /// Of everything up to where the source is; `None` for a range.
    check: Option<(Hasher, Digest)>,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    ended: bool,
}

impl Through {
    /// The rest of a blob after bytes that `hasher` has seen, to the end: verified.
    pub(crate) fn rest(source: UpstreamBody, hasher: Hasher, digest: Digest) -> Self {
        Self { check: Some((hasher, digest)), ..Self::range(source) }
    }

    /// Bytes that end before the blob does, or begin after unseen ones.
    pub(crate) fn range(source: UpstreamBody) -> Self {
        Self { source, check: None, held: VecDeque::new(), held_bytes: 0, ended: false }
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// Upstream, or content that is not what the digest says; then the last bytes have not been handed out.
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
            match self.source.next().await {
                Some(Ok(bytes)) => {
                    if let Some((hasher, _)) = &mut self.check {
                        hasher.update(&bytes);
                    }
                    self.held_bytes += bytes.len() as u64;
                    self.held.push_back(bytes);
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
