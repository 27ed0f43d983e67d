//! What was fetched: of one image, and summed up over an order.

use std::collections::{HashMap, HashSet};

use super::event::{Event, Summary};
use crate::reference::{Digest, Image};

/// An image that is in the store.
#[derive(Debug)]
pub struct Fetched {
    pub(super) root: Digest,
    /// Bytes of each manifest and blob.
    pub(super) sizes: HashMap<Digest, u64>,
    pub(super) fetched_bytes: u64,
    pub(super) is_whole: bool,
}

impl Fetched {
    /// Whether all of it is in the store. What is fetched ahead leaves out what the store passes by: a layer too large
    /// to take the place of others at its first pull.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Bytes that were not in the store before.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }
}

/// The sums over an order.
#[derive(Default)]
pub(super) struct Totals {
    summary: Summary,
    seen: HashSet<Digest>,
}

impl Totals {
    pub(super) fn summary(self) -> Summary {
        self.summary
    }

    /// Counts the result of one image, and says it; of one that failed, why.
    pub(super) fn add(&mut self, image: &Image, result: Result<Fetched, String>, pinned: bool) -> Event {
        let image = image.to_string();
        let Fetched { root, sizes, fetched_bytes, .. } = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                self.summary.failed += 1;
                return Event::Failed { image, error };
            }
        };
        let bytes = sizes.values().sum();
        self.summary.pulled += 1;
        self.summary.bytes += bytes;
        self.summary.fetched_bytes += fetched_bytes;
        for (digest, size) in sizes {
            if !self.seen.insert(digest) {
                self.summary.shared_bytes += size;
            }
        }
        Event::Pulled { image, digest: root.to_string(), bytes, fetched_bytes, pinned }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_images_share_are_counted_as_shared_once_less_than_they_occur() {
        let image: Image = "nginx".parse().unwrap();
        let fetched = |blobs: &[(&[u8], u64)], fetched_bytes| Fetched {
            root: Digest::of(b"root"),
            sizes: blobs.iter().map(|(blob, size)| (Digest::of(blob), *size)).collect(),
            fetched_bytes,
            is_whole: true,
        };
        let mut totals = Totals::default();
        totals.add(&image, Ok(fetched(&[(b"base", 100), (b"a", 1)], 101)), false);
        totals.add(&image, Ok(fetched(&[(b"base", 100), (b"b", 2)], 2)), false);
        totals.add(&image, Ok(fetched(&[(b"base", 100)], 0)), false);
        let event = totals.add(&image, Err("refused".to_owned()), true);
        assert!(matches!(event, Event::Failed { .. }));
        let expected = Summary { pulled: 3, failed: 1, bytes: 303, shared_bytes: 200, fetched_bytes: 103 };
        assert_eq!(totals.summary, expected);
    }
}
