//! What a registry has: manifests and blobs by path, in memory or computed when they are read.

use std::ops::Range;
use std::sync::Arc;

/// Bytes that are random by themselves: a range is computed from the seed and its place.
const BLOCK: usize = 4 * 1024;

/// What a registry answers with.
pub(crate) trait Content: Send + Sync + 'static {
    /// What is at a path, which has no query; `None` is answered with 404.
    fn find(&self, path: &str) -> Option<Found>;
}

/// A manifest or a blob.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) media_type: &'static str,
    /// The digest as a header says it.
    pub(crate) digest: String,
    pub(crate) bytes: Bytes,
}

/// The bytes of a manifest or a blob.
#[derive(Clone)]
pub(crate) enum Bytes {
    InMemory(Arc<Vec<u8>>),
    /// So many, and how a range of them is computed.
    Computed(usize, Arc<dyn Fn(Range<usize>) -> Vec<u8> + Send + Sync>),
}

impl Bytes {
    /// So many random bytes; another seed makes others.
    pub(crate) fn noise(len: usize, seed: u64) -> Self {
        Self::Computed(len, Arc::new(move |range| noise(range, seed)))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::InMemory(bytes) => bytes.len(),
            Self::Computed(len, _) => *len,
        }
    }

    pub(crate) fn read(&self, range: Range<usize>) -> Vec<u8> {
        match self {
            Self::InMemory(bytes) => bytes[range].to_vec(),
            Self::Computed(_, compute) => compute(range),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::InMemory(Arc::new(bytes))
    }
}

fn noise(range: Range<usize>, seed: u64) -> Vec<u8> {
    let (first, end) = (range.start / BLOCK, range.end.div_ceil(BLOCK));
    let mut bytes = vec![0; (end - first) * BLOCK];
    for (at, block) in (first..end).zip(bytes.chunks_mut(BLOCK)) {
        fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64).fill(block);
    }
    bytes.drain(..range.start - first * BLOCK);
    bytes.truncate(range.len());
    bytes
}
