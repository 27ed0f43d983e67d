//! A registry `reg.test` with blobs, and a daemon before it.

use bytes::Bytes;
use larder::reference::Digest;

use super::image::noise;
use super::registry::FakeRegistry;
use super::world::Larder;

pub struct Scene {
    pub registry: FakeRegistry,
    pub larder: Larder,
    pub directory: tempfile::TempDir,
}

/// A blob that the registry has.
pub struct Blob {
    pub bytes: Bytes,
    pub digest: Digest,
    /// Where a mirror client asks for it.
    pub path: String,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With more lines of configuration.
    pub async fn with(config: &str) -> Self {
        let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], config);
        Self { registry, larder, directory }
    }

    /// Puts a blob of so many bytes into `team/app`; another seed makes other bytes.
    pub fn blob(&self, len: usize, seed: u64) -> Blob {
        let bytes = Bytes::from(noise(len, seed));
        let digest = self.registry.put_blob("team/app", bytes.clone());
        Blob { bytes, digest, path: format!("/v2/team/app/blobs/{digest}?ns=reg.test") }
    }
}
