//! Manifests in memory: small, immutable, and asked for by every pod that starts.
//!
//! What is here was verified when it was read, and its repository may hand it out; whether the caller may have it is
//! asked each time. Bounded in bytes; the manifest that was used longest ago goes first. A large one is here only if it
//! could not be stored, and not for long: it would cost upstream a request each time.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::reference::{Digest, MediaType, Repository};
use crate::store::WriteWhen;
use crate::support::clock::{Moment, Timestamp};
use crate::support::sized_map::SizedMap;

/// Bytes of all manifests at most.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of one: larger ones are rare, and would push out many.
const ONE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of all larger ones at most: two of the largest there are.
const LARGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a larger one that could not be stored is kept: a runtime asks for what it resolved within that time.
const LARGE_KEPT: Duration = Duration::from_secs(60);
/// Manifests at most, however small: their keys take memory too.
const MANIFESTS_MAX: usize = 8_192;

/// The manifests.
pub(crate) struct MemoryCache(Mutex<Cached>);

struct Cached {
    manifests: SizedMap<(Repository, Digest), Manifest>,
    /// Large ones, and until when they are kept.
    large: SizedMap<(Repository, Digest), (MediaType, Bytes, Instant)>,
}

struct Manifest {
    media_type: MediaType,
    bytes: Bytes,
    on_disk: OnDisk,
}

/// Whether a manifest is on disk too. What leaves the store is counted: since that number the manifest itself may have
/// left it.
#[derive(Debug, Clone, Copy)]
enum OnDisk {
    /// It is not known to be. One that could not be written is not tried again for a while.
    No { tried_at: Option<Moment> },
    /// By a task that began when so many blobs had left the store.
    BeingWritten { removals: u64 },
    /// It was when so many blobs had left the store.
    Yes { removals: u64 },
}

/// A manifest that is in memory.
pub(crate) struct Found {
    pub(crate) media_type: MediaType,
    pub(crate) bytes: Bytes,
    /// How many blobs had left the store when it was on disk; `None` if it is not known to be.
    pub(crate) on_disk_at: Option<u64>,
}

/// How long a manifest that could not be written, because there was no room, is used without another try.
const WRITE_PAUSE: Duration = Duration::from_secs(10);

impl Default for MemoryCache {
    fn default() -> Self {
        let manifests = SizedMap::new(MANIFESTS_MAX, BYTES_MAX);
        let large = SizedMap::new(LARGE_BYTES_MAX / ONE_BYTES_MAX, LARGE_BYTES_MAX);
        Self(Mutex::new(Cached { manifests, large }))
    }
}

impl MemoryCache {
    /// A manifest of a repository.
    pub(crate) fn find(&self, repository: &Repository, digest: Digest) -> Option<Found> {
        let mut cached = self.0.lock();
        let key = (repository.clone(), digest);
        if let Some(Manifest { media_type, bytes, on_disk }) = cached.manifests.get(&key) {
            let on_disk_at = match on_disk {
                OnDisk::Yes { removals } => Some(*removals),
                OnDisk::No { .. } | OnDisk::BeingWritten { .. } => None,
            };
            return Some(Found { media_type: media_type.clone(), bytes: bytes.clone(), on_disk_at });
        }
        let (media_type, bytes, until) = cached.large.get(&key)?;
        (*until > Instant::now()).then(|| Found {
            media_type: media_type.clone(),
            bytes: bytes.clone(),
            on_disk_at: None,
        })
    }

    /// Whether a manifest is to be written to disk, by the caller: it is not there, or may have left, and is not being
    /// written. `removals` says how many blobs have left the store, `may_have_left` whether this one may be among those
    /// since there were so many.
    pub(crate) fn begin_write(
        &self,
        repository: &Repository,
        digest: Digest,
        removals: u64,
        may_have_left: impl FnOnce(u64) -> bool,
        now: Timestamp,
    ) -> Option<WriteWhen> {
        let mut cached = self.0.lock();
        let found = cached.manifests.get(&(repository.clone(), digest))?;
        let write = match found.on_disk {
            OnDisk::No { tried_at } if tried_at.is_some_and(|at| at.age_at(now) < WRITE_PAUSE) => {
                return None;
            }
            OnDisk::No { .. } => WriteWhen::Always,
            OnDisk::Yes { removals: before } if may_have_left(before) => WriteWhen::IfGone,
            OnDisk::BeingWritten { .. } | OnDisk::Yes { .. } => return None,
        };
        found.on_disk = OnDisk::BeingWritten { removals };
        Some(write)
    }

    /// A manifest was written to disk, or could not be.
    pub(crate) fn end_write(&self, repository: &Repository, digest: Digest, is_stored: bool, now: Timestamp) {
        if let Some(found) = self.0.lock().manifests.get(&(repository.clone(), digest)) {
            found.on_disk = match found.on_disk {
                OnDisk::BeingWritten { removals } if is_stored => OnDisk::Yes { removals },
                _ => OnDisk::No { tried_at: Some(Moment::recorded(now)) },
            };
        }
    }

    /// Adds a large manifest that could not be stored, for a while.
    pub(crate) fn insert_large(
        &self,
        repository: &Repository,
        digest: Digest,
        media_type: &MediaType,
        bytes: &Bytes,
    ) {
        let value = (media_type.clone(), bytes.clone(), Instant::now() + LARGE_KEPT);
        self.0.lock().large.insert((repository.clone(), digest), value, bytes.len());
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
        let value =
            Manifest { media_type: media_type.clone(), bytes, on_disk: OnDisk::No { tried_at: None } };
        self.0.lock().manifests.insert((repository.clone(), digest), value, len);
        true
    }

    /// Removes a manifest.
    pub(crate) fn remove(&self, repository: &Repository, digest: Digest) {
        self.0.lock().manifests.remove(&(repository.clone(), digest));
    }

    /// Removes all manifests.
    pub(crate) fn clear(&self) {
        let mut cached = self.0.lock();
        cached.manifests.clear();
        cached.large.clear();
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
            assert!(cache.0.lock().manifests.bytes() <= BYTES_MAX);
        }
        let [first, last] = [0_u32, 199].map(|n| Digest::of(&n.to_le_bytes()));
        assert!(cache.find(&one, last).is_some() && cache.find(&other, last).is_none());
        assert!(cache.find(&one, first).is_none());
        cache.insert(&other, last, &media_type, &Bytes::from(vec![0; ONE_BYTES_MAX + 1]));
        assert!(cache.find(&other, last).is_none());
        let bytes = cache.0.lock().manifests.bytes();
        cache.insert(&one, last, &media_type, &Bytes::from(vec![0; 100_000]));
        assert_eq!(
            cache.0.lock().manifests.bytes(),
            bytes,
            "a manifest that is inserted again is counted twice"
        );
        cache.remove(&one, last);
        cache.remove(&one, last);
        assert_eq!(cache.0.lock().manifests.bytes(), bytes - 100_000);
        cache.clear();
        assert_eq!(cache.0.lock().manifests.bytes(), 0);
    }

    #[test]
    fn a_manifest_that_could_not_be_written_or_that_may_have_left_the_disk_is_to_be_written_again() {
        let (cache, digest) = (MemoryCache::default(), Digest::of(b"x"));
        let (app, media_type) = ("a.test/r".parse().unwrap(), MediaType::OCI_MANIFEST.parse().unwrap());
        let left = |removals| move |before| before < removals;
        let begin = |removals, at| cache.begin_write(&app, digest, removals, left(removals), Timestamp(at));
        let end = |is_stored, at| cache.end_write(&app, digest, is_stored, Timestamp(at));
        assert_eq!(begin(0, 1_000), None);
        cache.insert(&app, digest, &media_type, &Bytes::from_static(b"x"));
        assert_eq!(begin(0, 1_000), Some(WriteWhen::Always));
        assert_eq!(begin(0, 1_000), None, "it is being written");
        end(false, 1_000);
        assert_eq!(begin(0, 1_009), None, "there is no room: not with each request");
        assert_eq!(begin(0, 1_010), Some(WriteWhen::Always));
        end(true, 1_010);
        assert_eq!(begin(0, 1_010), None);
        assert_eq!(begin(1, 1_010), Some(WriteWhen::IfGone), "it left the store meanwhile");
        end(true, 1_010);
        assert_eq!(begin(1, 1_010), None);
        assert_eq!(begin(2, 1_010), Some(WriteWhen::IfGone));
    }

    #[tokio::test(start_paused = true)]
    async fn large_manifests_that_could_not_be_stored_are_kept_for_a_while_and_within_a_bound() {
        let cache = MemoryCache::default();
        let (app, media_type) = ("a.test/r".parse().unwrap(), MediaType::OCI_MANIFEST.parse().unwrap());
        let bytes = Bytes::from(vec![0; 3 * 1024 * 1024]);
        for n in 0..10_u8 {
            cache.insert_large(&app, Digest::of(&[n]), &media_type, &bytes);
            assert!(cache.0.lock().large.bytes() <= LARGE_BYTES_MAX);
        }
        assert!(cache.find(&app, Digest::of(&[9])).is_some() && cache.find(&app, Digest::of(&[0])).is_none());
        tokio::time::advance(LARGE_KEPT).await;
        assert!(cache.find(&app, Digest::of(&[9])).is_none());
    }
}
