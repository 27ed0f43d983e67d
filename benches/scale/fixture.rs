//! A store of many small blobs, written in the format of docs/on-disk-format.md as a daemon leaves it after a kill.

use std::fs;
use std::path::Path;

use larder::reference::Digest;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The repository that may serve all of them.
pub(crate) const REPOSITORY: &str = "warm/app";
const REGISTRY: &str = "reg.test";
/// Bytes of every blob: one block of a file system, and all of one size, so that at the budget a cold blob replaces as many
/// others in a small store as in a large one.
const BLOB_BYTES: usize = 4_000;

/// The repository of a large blob, and its bytes, all zero.
pub(crate) const LARGE_REPOSITORY: &str = "large/app";
pub(crate) const LARGE_BYTES: usize = 1 << 30;

pub(crate) const LARGE_DIGEST: &str =
    "sha256:49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14";

/// Where the last 1,000 bytes of a small blob begin.
pub(crate) const fn small_range_max() -> usize {
    BLOB_BYTES - 1_000
}

/// The content of blob number `n` of the store.
pub(crate) fn warm_blob(n: usize) -> Vec<u8> {
    let mut content = format!("blob number {n}").into_bytes();
    content.resize(BLOB_BYTES, b'.');
    content
}

/// The content of a blob that is not in the store.
pub(crate) fn cold_blob(n: usize) -> Vec<u8> {
    let mut content = format!("cold blob number {n}").into_bytes();
    content.resize(BLOB_BYTES, b'.');
    content
}

/// Writes `blobs` blobs and `tags` tags, each of which names one of the blobs as its manifest.
pub(crate) fn write(store: &Path, blobs: usize, tags: usize) {
    let repository = store.join("refs").join(REGISTRY).join(REPOSITORY);
    let directories = [
        store.join("blobs/sha256"),
        store.join("checks/sha256"),
        store.join("refs").join(REGISTRY).join("_received"),
        repository.join("_members"),
        repository.join("_tags"),
    ];
    for directory in &directories {
        fs::create_dir_all(directory).unwrap();
    }
    let [blob_files, checks, received, members, tag_files] = directories;
    fs::write(store.join("format"), "larder store 1\n").unwrap();
    for n in 0..blobs {
        let content = warm_blob(n);
        let digest = Digest::of(&content);
        let hex = digest.hex();
        fs::write(blob_files.join(&hex), &content).unwrap();
        fs::write(checks.join(&hex), checksums(&content)).unwrap();
        fs::write(received.join(&hex), "").unwrap();
        let is_manifest = n < tags;
        let member = if is_manifest {
            format!(r#"{{"kind":"manifest","media_type":"{MEDIA_TYPE}"}}"#)
        } else {
            r#"{"kind":"blob"}"#.to_owned()
        };
        fs::write(members.join(&hex), member).unwrap();
        if is_manifest {
            let record = format!(r#"{{"digest":"{digest}","confirmed_at":1700000000}}"#);
            fs::write(tag_files.join(format!("v{n}")), record).unwrap();
        }
    }
}

/// The file of checksums of a blob of one chunk.
fn checksums(content: &[u8]) -> Vec<u8> {
    let mut out = b"LDRCHK1\n".to_vec();
    out.extend_from_slice(&(64 * 1024_u32).to_le_bytes());
    out.extend_from_slice(&(content.len() as u64).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
    let own = crc32c::crc32c(&out);
    out.extend_from_slice(&own.to_le_bytes());
    out
}
