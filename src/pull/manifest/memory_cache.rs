//! Manifests in memory: small, immutable, and asked for by every pod that starts.
//!
//! What is here was verified when it was read, and its repository may hand it out; whether the caller may have it is
//! asked each time. Bounded in bytes; the manifest that was used longest ago goes first.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::reference::{Digest, MediaType, Repository};
use crate::support::bounded_map::BoundedMap;

/// Bytes of all manifests at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one: larger ones are rare, and would push out many.
const ONE_BYTES_MAX: usize = 128 * 1024;
/// Manifests at most, however small: their keys take memory too.
const MANIFESTS_MAX: usize = 8_192;

/// The manifests.
pub(crate) struct MemoryCache(Mutex<Cached>);

struct Cached {
    manifests: BoundedMap<(Repository, Digest), Manifest>,
    bytes: usize,
}

struct Manifest {
    media_type: MediaType,
    bytes: Bytes,
    on_disk: OnDisk,
}

/// Whether a manifest is on disk too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDisk {
    No,
    BeingWritten,
    Yes,
}

impl Default for MemoryCache {
    fn default() -> Self {
        Self(Mutex::new(Cached { manifests: BoundedMap::new(MANIFESTS_MAX), bytes: 0 }))
    }
}

impl MemoryCache {
    /// A manifest of a repository.
    pub(crate) fn find(&self, repository: &Repository, digest: Digest) -> Option<(MediaType, Bytes)> {
        let mut cached = self.0.lock();
        let found = cached.manifests.get(&(repository.clone(), digest))?;
        Some((found.media_type.clone(), found.bytes.clone()))
    }

    /// Whether a manifest is to be written to disk, by the caller: it is not there, and is not being written.
    pub(crate) fn begin_write(&self, repository: &Repository, digest: Digest) -> bool {
        let mut cached = self.0.lock();
        let Some(found) = cached.manifests.get(&(repository.clone(), digest)) else { return false };
        let begins = found.on_disk == OnDisk::No;
        if begins {
            found.on_disk = OnDisk::BeingWritten;
        }
        begins
    }

    /// A manifest was written to disk, or could not be.
    pub(crate) fn end_write(&self, repository: &Repository, digest: Digest, is_stored: bool) {
        if let Some(found) = self.0.lock().manifests.get(&(repository.clone(), digest)) {
            found.on_disk = if is_stored { OnDisk::Yes } else { OnDisk::No };
        }
    }

    /// Adds a manifest that is not on disk as far as is known; `false` if it is too large.
    pub(crate) fn insert(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> bool {
        if bytes.len() > ONE_BYTES_MAX {
            return false;
        }
        // A copy of its own: a slice would keep a whole read buffer from being used again.
        let bytes = Bytes::copy_from_slice(bytes);
        let len = bytes.len();
        let value = Manifest { media_type: media_type.clone(), bytes, on_disk: OnDisk::No };
        let mut cached = self.0.lock();
        cached.bytes += len;
        if let Some((_, replaced)) = cached.manifests.insert((repository.clone(), digest), value) {
            cached.bytes -= replaced.bytes.len();
        }
        while cached.bytes > BYTES_MAX {
            let Some((_, oldest)) = cached.manifests.remove_oldest() else { break };
            cached.bytes -= oldest.bytes.len();
        }
        true
    }

    /// Removes a manifest.
    pub(crate) fn remove(&self, repository: &Repository, digest: Digest) {
        let mut cached = self.0.lock();
        if let Some(removed) = cached.manifests.remove(&(repository.clone(), digest)) {
            cached.bytes -= removed.bytes.len();
        }
    }

    /// Removes all manifests.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Self::default().0.into_inner();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_small_and_tells_repositories_apart() {
        let cache = MemoryCache::default();
        let media_type = MediaType::OCI_MANIFEST.parse().unwrap();
        let [one, other]: [Repository; 2] = ["a.test/r", "b.test/r"].map(|name| name.parse().unwrap());
        for n in 0..200_u32 {
            let bytes = Bytes::from(vec![n as u8; 100_000]);
            cache.insert(&one, Digest::of(&n.to_le_bytes()), &media_type, &bytes);
            assert!(cache.0.lock().bytes <= BYTES_MAX);
        }
        let [first, last] = [0_u32, 199].map(|n| Digest::of(&n.to_le_bytes()));
        assert!(cache.find(&one, last).is_some() && cache.find(&other, last).is_none());
        assert!(cache.find(&one, first).is_none());
        cache.insert(&other, last, &media_type, &Bytes::from(vec![0; ONE_BYTES_MAX + 1]));
        assert!(cache.find(&other, last).is_none());
        let bytes = cache.0.lock().bytes;
        cache.insert(&one, last, &media_type, &Bytes::from(vec![0; 100_000]));
        assert_eq!(cache.0.lock().bytes, bytes, "a manifest that is inserted again is counted twice");
        cache.remove(&one, last);
        cache.remove(&one, last);
        assert_eq!(cache.0.lock().bytes, bytes - 100_000);
        cache.clear();
        assert_eq!(cache.0.lock().bytes, 0);
    }

    #[test]
    fn a_manifest_that_could_not_be_written_is_to_be_written_again_and_one_that_was_is_not() {
        let (cache, digest) = (MemoryCache::default(), Digest::of(b"x"));
        let (app, media_type) = ("a.test/r".parse().unwrap(), MediaType::OCI_MANIFEST.parse().unwrap());
        assert!(!cache.begin_write(&app, digest));
        cache.insert(&app, digest, &media_type, &Bytes::from_static(b"x"));
        for is_stored in [false, true] {
            assert!(cache.begin_write(&app, digest));
            assert!(!cache.begin_write(&app, digest), "it is being written");
            cache.end_write(&app, digest, is_stored);
        }
        assert!(!cache.begin_write(&app, digest));
    }
}
