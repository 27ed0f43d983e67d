//! Manifests that were read a moment ago, in memory: small, immutable, and asked for by every pod that starts.
//!
//! What is here was checked when it was read, and belongs to a repository that may hand it out; whether the caller may
//! have it is asked each time. Bounded; when it is full it begins anew.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use bytes::Bytes;

use crate::reference::{Digest, MediaType, Repository};

/// Bytes of all manifests at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one: larger ones are rare, and would push out many.
const ONE_BYTES_MAX: usize = 128 * 1024;

/// The manifests.
#[derive(Default)]
pub(crate) struct Recent(RwLock<Kept>);

#[derive(Default)]
struct Kept {
    manifests: HashMap<(Repository, Digest), (MediaType, Bytes)>,
    bytes: usize,
}

impl Recent {
    pub(crate) fn find(&self, repository: &Repository, digest: Digest) -> Option<(MediaType, Bytes)> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .manifests
            .get(&(repository.clone(), digest))
            .cloned()
    }

    pub(crate) fn keep(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) {
        if bytes.len() > ONE_BYTES_MAX {
            return;
        }
        let mut kept = self.lock();
        if kept.bytes + bytes.len() > BYTES_MAX {
            *kept = Kept::default();
        }
        // A copy of its own: a slice would keep a whole read buffer from being used again.
        let value = (media_type.clone(), Bytes::copy_from_slice(bytes));
        if kept.manifests.insert((repository.clone(), digest), value).is_none() {
            kept.bytes += bytes.len();
        }
    }

    /// Forgets all of it.
    pub(crate) fn clear(&self) {
        *self.lock() = Kept::default();
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Kept> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_small_and_tells_repositories_apart() {
        let (recent, media_type) = (Recent::default(), MediaType::OCI_MANIFEST.parse().unwrap());
        let (one, other): (Repository, Repository) =
            ("a.test/r".parse().unwrap(), "b.test/r".parse().unwrap());
        for n in 0..200_u32 {
            let bytes = Bytes::from(vec![n as u8; 100_000]);
            recent.keep(&one, Digest::of(&n.to_le_bytes()), &media_type, &bytes);
            assert!(recent.lock().bytes <= BYTES_MAX);
        }
        let last = Digest::of(&199_u32.to_le_bytes());
        assert!(recent.find(&one, last).is_some() && recent.find(&other, last).is_none());
        recent.keep(&other, last, &media_type, &Bytes::from(vec![0; ONE_BYTES_MAX + 1]));
        assert!(recent.find(&other, last).is_none());
    }
}
