//! Archives as `docker save` wrote them before Docker 25, and as skopeo writes `docker-archive:`: a `manifest.json`
//! that names a config and layers, and no manifest of a registry.
//!
//! A manifest is made for each image: of the config and the layers as they are in the archive, byte for byte. Its
//! digest is therefore not that of the image in its registry, of which the archive knows nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use serde::Deserialize;
use serde_json::{Value, json};

use super::archive::Archive;
use crate::reference::{Algorithm, Digest, Hasher, MANIFEST_BYTES_MAX};

/// The annotation with which containerd and Docker name an image in a layout.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The file that names the images.
pub(super) const MANIFEST: &str = "manifest.json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// Bytes that are hashed together.
const CHUNK_BYTES: usize = 256 * 1024;

/// An image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Makes an image layout of the archive: manifests and an index in memory, and for each config and layer where it is.
pub(super) fn into_layout(archive: &mut Archive) -> Result<(), String> {
    let saved = archive.small(MANIFEST)?;
    let saved: Vec<SavedImage> = serde_json::from_slice(&saved)
        .map_err(|error| format!("{MANIFEST} is not that of docker save: {error}"))?;
    let (mut entries, mut known) = (Vec::new(), HashMap::new());
    for image in saved {
        let mut layers = Vec::new();
        for layer in image.layers.unwrap_or_default() {
            layers.push(descriptor(archive, &layer, None, &mut known)?);
        }
        let config = descriptor(archive, &image.config, Some(CONFIG_TYPE), &mut known)?;
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": layers});
        let manifest = manifest.to_string().into_bytes();
        if manifest.len() > MANIFEST_BYTES_MAX {
            return Err(format!("{}: too many layers for a manifest", image.config));
        }
        let (digest, size) = (Digest::of(&manifest), manifest.len());
        archive.made.insert(blob(&digest), manifest);
        let tags = image.repo_tags.unwrap_or_default();
        let names: Vec<Value> =
            if tags.is_empty() { vec![Value::Null] } else { tags.into_iter().map(Value::from).collect() };
        for name in names {
            let annotations = if name.is_null() { json!({}) } else { json!({IMAGE_NAME: name}) };
            entries.push(json!({"mediaType": MANIFEST_TYPE, "digest": digest.to_string(), "size": size, "annotations": annotations}));
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    archive.made.insert("index.json".to_owned(), index.to_string().into_bytes());
    Ok(())
}

/// The descriptor of a file of the archive, which is a blob of the layout from now on.
fn descriptor(
    archive: &mut Archive,
    name: &str,
    media_type: Option<&str>,
    known: &mut HashMap<(u64, u64), (Digest, String)>,
) -> Result<Value, String> {
    let (at, len) = archive.place(name).ok_or_else(|| format!("{name} is not in the archive"))?;
    let (digest, found) = match known.get(&(at, len)) {
        Some(found) => found.clone(),
        None => {
            let found = hashed(&mut archive.file, at, len).map_err(|error| format!("{name}: {error}"))?;
            known.insert((at, len), found.clone());
            found
        }
    };
    archive.files.insert(blob(&digest), (at, len));
    Ok(json!({"mediaType": media_type.unwrap_or(&found), "digest": digest.to_string(), "size": len}))
}

/// The digest of a file, and its media type as a layer, by how it begins.
fn hashed(file: &mut File, at: u64, len: u64) -> std::io::Result<(Digest, String)> {
    file.seek(SeekFrom::Start(at))?;
    let (mut hasher, mut left, mut first) = (Hasher::new(Algorithm::Sha256), len, Vec::new());
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let read = file.read(chunk.get_mut(..wanted).unwrap_or_default())?;
        let bytes = chunk.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first.is_empty() {
            first.extend(bytes.iter().take(4));
        }
        hasher.update(bytes);
        left -= read as u64;
    }
    let suffix = super::unpacked::compression(&first).map_or("", |compression| compression.suffix());
    Ok((hasher.finish(), format!("{LAYER_TYPE}{suffix}")))
}

fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
