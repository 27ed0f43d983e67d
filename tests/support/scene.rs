//! A registry `reg.test` with blobs, and a daemon before it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use larder::reference::Digest;

use super::client;
use super::image::noise;
use super::registry::FakeRegistry;
use super::world::{Larder, files_under};

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

    /// A blob of so many bytes, and its path without the registry.
    pub fn blob_of(&self, len: usize) -> (Bytes, String) {
        let bytes = Bytes::from(noise(len, 9));
        let digest = self.registry.put_blob("team/app", bytes.clone());
        (bytes, format!("/v2/team/app/blobs/{digest}"))
    }

    /// The statuses of a request as a mirror client and as a direct client.
    pub async fn both(&self, path: &str) -> (StatusCode, StatusCode) {
        let mirror = self.larder.get(&format!("{path}?ns=reg.test")).await;
        let strict = [("x-larder-mode", "strict"), client::ANONYMOUS];
        let strict =
            client::send(self.larder.address, http::Method::GET, &format!("{path}?ns=reg.test"), &strict)
                .await;
        let direct = self.larder.get(&path.replacen("/v2/", "/v2/reg.test/", 1)).await;
        assert_eq!(direct.status, strict.status, "strict mode tells a mirror client the truth");
        for reply in [&mirror, &direct] {
            if !reply.status.is_success() {
                assert!(!reply.error_code().is_empty(), "{:?}", reply.body);
            }
        }
        (mirror.status, direct.status)
    }

    pub fn blobs_stored(&self) -> usize {
        files_under(&self.directory.path().join("larder/store/blobs")).len()
    }

    /// Waits, because a right that was proved meanwhile is recorded in the background.
    pub async fn nothing_is_being_written(&self) {
        let ingest = self.directory.path().join("larder/store/ingest");
        for _ in 0..1_000 {
            if files_under(&ingest).is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} is left behind", files_under(&ingest));
    }
}
