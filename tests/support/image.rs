//! Small multi-arch images, generated: real gzipped tar layers, configs, manifests and an index.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use larder::reference::{Digest, MediaType};
use serde_json::json;

pub use super::noise::noise;
use super::registry::FakeRegistry;

/// The digests of one platform's image.
pub struct PlatformImage {
    pub platform: &'static str,
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

impl PlatformImage {
    /// The layers and the config.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        self.layers.iter().chain([&self.config])
    }
}

/// A multi-arch image as it was pushed.
pub struct Image {
    pub index: Digest,
    pub index_bytes: Bytes,
    pub platforms: Vec<PlatformImage>,
}

/// Pushes an image for `linux/amd64` and `linux/arm64` with layers of about `layer_bytes` each.
pub fn push(registry: &FakeRegistry, repository: &str, tag: &str, layer_bytes: usize) -> Image {
    let shared = layer("etc/shared", layer_bytes, 1);
    let platforms: Vec<PlatformImage> = [("linux/amd64", 2), ("linux/arm64", 3)]
        .into_iter()
        .map(|(platform, seed)| {
            let layers = [shared.clone(), layer("bin/app", layer_bytes, seed)];
            push_platform(registry, repository, platform, &layers)
        })
        .collect();
    let manifests: Vec<_> = platforms
        .iter()
        .map(|image| {
            let (os, arch) = image.platform.split_once('/').unwrap();
            let size = registry.size(repository, image.manifest);
            json!({"mediaType": MediaType::OCI_MANIFEST, "digest": image.manifest.to_string(), "size": size,
                   "platform": {"os": os, "architecture": arch}})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests});
    let index_bytes = Bytes::from(serde_json::to_vec_pretty(&index).unwrap());
    let index = registry.put_manifest(repository, Some(tag), MediaType::OCI_INDEX, index_bytes.clone());
    Image { index, index_bytes, platforms }
}

/// Uploads an image without a platform that has these layers, and returns their digests.
pub fn push_layers(registry: &FakeRegistry, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Vec<Digest> {
    let pushed: Vec<Digest> =
        layers.iter().map(|layer| registry.put_blob(repository, layer.clone())).collect();
    let config = registry.put_blob(repository, &b"{}"[..]);
    let described: Vec<_> = pushed
        .iter()
        .zip(layers)
        .map(|(digest, layer)| json!({"mediaType": "x/y", "digest": digest.to_string(), "size": layer.len()}))
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "layers": described,
                          "config": {"mediaType": "x/y", "digest": config.to_string(), "size": 2}});
    registry.put_manifest(repository, Some(tag), MediaType::OCI_MANIFEST, manifest.to_string());
    pushed
}

fn push_platform(
    registry: &FakeRegistry,
    repository: &str,
    platform: &'static str,
    layers: &[Bytes],
) -> PlatformImage {
    let (os, arch) = platform.split_once('/').unwrap();
    let pushed: Vec<Digest> =
        layers.iter().map(|layer| registry.put_blob(repository, layer.clone())).collect();
    let config = json!({"os": os, "architecture": arch, "config": {"Cmd": ["/bin/app"]},
                        "rootfs": {"type": "layers", "diff_ids": []}});
    let config_bytes = Bytes::from(serde_json::to_vec(&config).unwrap());
    let config = registry.put_blob(repository, config_bytes.clone());
    let described: Vec<_> = pushed
        .iter()
        .zip(layers)
        .map(|(digest, layer)| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest.to_string(),
                   "size": layer.len()})
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "layers": described,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(),
                   "size": config_bytes.len()}});
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let manifest = registry.put_manifest(repository, None, MediaType::OCI_MANIFEST, bytes);
    PlatformImage { platform, manifest, config, layers: pushed }
}

/// A gzipped tar with one file of `len` bytes that do not compress.
fn layer(name: &str, len: usize, seed: u64) -> Bytes {
    let content = noise(len, seed);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    archive.append_data(&mut header, name, &content[..]).unwrap();
    let mut gzip = archive.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap().into()
}
