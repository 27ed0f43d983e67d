//! Several ranges of a blob in one answer: `multipart/byteranges` (RFC 9110 section 14.6).
//!
//! Lazy snapshotters ask so for many small pieces of a large layer. Each part is read from the store or asked for by
//! itself, a few ahead of the one that leaves.

use std::fmt::Write as _;
use std::ops::Range;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

use crate::pull::{self, BlobBody};
use crate::support::body_chunk::BodyChunk;

/// Parts that are opened ahead of the one that leaves: what one client may have of a registry at once.
const AHEAD: usize = 4;
/// Hexadecimal digits of a boundary: no content has it in it, unless by one chance in 2^128.
const BOUNDARY_DIGITS: usize = 32;

/// How the parts of an answer are laid out.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    boundary: String,
    size: u64,
    parts: Vec<Range<u64>>,
    media_type: String,
}

impl Layout {
    /// These parts of a blob of `size` bytes and this type.
    pub(super) fn new(parts: Vec<Range<u64>>, size: u64, media_type: &str) -> Self {
        let mut boundary = String::with_capacity(BOUNDARY_DIGITS);
        for _ in 0..BOUNDARY_DIGITS {
            let _ = write!(boundary, "{:x}", fastrand::u8(..16));
        }
        Self { boundary, size, parts, media_type: media_type.to_owned() }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Bytes of the whole body.
    pub(super) fn content_length(&self) -> u64 {
        let parts = self.parts.iter().enumerate();
        let parts: u64 = parts.map(|(n, part)| self.head(n).len() as u64 + part.end - part.start).sum();
        parts + self.closing().len() as u64
    }

    /// What goes before part `n`.
    fn head(&self, n: usize) -> Bytes {
        let (Self { boundary, size, media_type, .. }, Range { start, end }) = (self, &self.parts[n]);
        let end_of_last = if n == 0 { "" } else { "\r\n" };
        let last = end - 1;
        format!("{end_of_last}--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {start}-{last}/{size}\r\n\r\n").into()
    }

    fn closing(&self) -> Bytes {
        format!("\r\n--{}--\r\n", self.boundary).into()
    }

    /// The body: `first` is that of the first part, and `open` opens another one.
    pub(super) fn body<F>(
        self,
        first: BlobBody,
        open: impl Fn(Range<u64>) -> F + Send + 'static,
    ) -> impl Stream<Item = Result<BodyChunk, pull::Error>> + Send + 'static
    where
        F: Future<Output = Result<BlobBody, pull::Error>> + Send + 'static,
    {
        let closing = stream::iter([Ok(BodyChunk::from(self.closing()))]);
        let more: Vec<_> = self.parts.iter().skip(1).cloned().collect();
        let bodies = stream::iter([Ok(first)]).chain(stream::iter(more).map(open).buffered(AHEAD));
        let parts = bodies.enumerate().flat_map(move |(n, body)| {
            let (head, body) = match body {
                Ok(body) => (Ok(BodyChunk::from(self.head(n))), Some(body)),
                Err(error) => (Err(error), None),
            };
            let chunks = stream::unfold(body, |body| async move {
                let mut body = body?;
                Some((body.next().await?, Some(body)))
            });
            stream::iter([head]).chain(chunks)
        });
        parts.chain(closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_is_sent() {
        let layout = Layout::new(vec![0..3, 10..11], 20, "a/b");
        let boundary = layout.content_type().split_once('=').unwrap().1.to_owned();
        assert_eq!(boundary.len(), BOUNDARY_DIGITS);
        let part =
            |range| format!("--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes {range}/20\r\n\r\n");
        let whole = format!("{}abc\r\n{}x\r\n--{boundary}--\r\n", part("0-2"), part("10-10"));
        assert_eq!(layout.content_length(), whole.len() as u64);
        assert_ne!(Layout::new(vec![0..1, 2..3], 4, "a/b").boundary, boundary);
    }
}
