//! An OCI image layout on disk: its images by name, and what each of them needs.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::{Digest, Document, Image, Kind, MANIFEST_BYTES_MAX};

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with which containerd and Docker name one.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Indexes within indexes that are followed.
const DEPTH_MAX: usize = 4;

/// Everything that an image needs.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) blobs: Vec<Digest>,
    /// The manifests, parents first.
    pub(super) manifests: Vec<(Digest, Vec<u8>)>,
    seen: HashSet<Digest>,
}

/// An image layout, in a directory or in an archive that is read in place.
pub(super) enum Layout {
    /// The root directory.
    Directory(PathBuf),
    /// The archive, and of each file in it the offset and the length in bytes.
    Archive(File, HashMap<String, (u64, u64)>),
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Layout {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut archive = tar::Archive::new(File::open(path).map_err(failed)?);
        let mut files = HashMap::new();
        for entry in archive.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.header().entry_type().is_file() {
                let name =
                    entry.path().map_err(failed)?.to_string_lossy().trim_start_matches("./").to_owned();
                files.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(Self::Archive(File::open(path).map_err(failed)?, files))
    }

    /// A file of it, and its bytes.
    fn file(&mut self, name: &str) -> Result<(Box<dyn Read + Send>, u64), String> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(name);
                let file = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let len = file.metadata().map_err(|e| format!("{}: {e}", path.display()))?.len();
                Ok((Box::new(file), len))
            }
            Self::Archive(file, files) => {
                let (at, len) = *files.get(name).ok_or_else(|| format!("{name} is not in the archive"))?;
                let mut file = file.try_clone().map_err(|e| e.to_string())?;
                file.seek(SeekFrom::Start(at)).map_err(|e| e.to_string())?;
                Ok((Box::new(file.take(len)), len))
            }
        }
    }

    fn small(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let (reader, _) = self.file(name)?;
        let mut bytes = Vec::new();
        reader
            .take(MANIFEST_BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("{name}: {e}"))?;
        Ok(bytes)
    }

    /// A blob of it, and its bytes.
    pub(super) fn blob(&mut self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), String> {
        self.file(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))
    }

    /// The images in it by their names, or the only one under the name that is given.
    pub(super) fn images(&mut self, named: Option<&Image>) -> Result<Vec<(Image, Digest)>, String> {
        let index: Index = serde_json::from_slice(&self.small("index.json")?)
            .map_err(|error| format!("index.json is not that of an image layout: {error}"))?;
        let mut found = Vec::new();
        for entry in &index.manifests {
            let digest: Digest = entry.digest.parse().map_err(|e| format!("index.json: {e}"))?;
            let name = [IMAGE_NAME, REF_NAME].iter().find_map(|key| entry.annotations.get(*key));
            // A tag alone says nothing about where it belongs.
            let image = name
                .filter(|name| name.contains('/') || name.contains(':'))
                .and_then(|name| name.parse().ok());
            found.push((image, digest));
        }
        match (named, found.as_slice()) {
            (_, []) => Err("there is no image in it".to_owned()),
            (Some(image), [(_, digest)]) => Ok(vec![(image.clone(), *digest)]),
            (Some(_), _) => Err("there are several images in it, and --as names one".to_owned()),
            (None, _) => found
                .into_iter()
                .map(|(image, digest)| {
                    let why = format!("{digest} has no full name in the layout; say it with --as");
                    Ok((image.ok_or(why)?, digest))
                })
                .collect(),
        }
    }

    /// Everything that an image needs. Platforms that are not in the layout are left out.
    pub(super) fn contents(&mut self, root: Digest) -> Result<Contents, String> {
        let mut contents = Contents::default();
        self.collect(root, DEPTH_MAX, &mut contents)?;
        Ok(contents)
    }

    fn collect(&mut self, digest: Digest, depth: usize, contents: &mut Contents) -> Result<(), String> {
        let bytes = self.small(&format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()))?;
        let document = Document::parse(&bytes, None).map_err(|error| format!("{digest}: {error}"))?;
        contents.manifests.push((digest, bytes));
        match document.kind {
            Kind::Image(_) if document.omitted > 0 => {
                let omitted = document.omitted;
                return Err(format!("{digest}: {omitted} of its descriptors are not understood"));
            }
            Kind::Image(children) => {
                for child in children {
                    // A foreign layer is in few layouts, and runtimes fetch it from where its image says.
                    let is_here = !child.is_foreign || self.blob(&child.digest).is_ok();
                    if is_here && contents.seen.insert(child.digest) {
                        contents.blobs.push(child.digest);
                    }
                }
            }
            Kind::Index(children) if depth > 0 => {
                for child in children {
                    let there = self.blob(&child.digest).is_ok();
                    if there && contents.seen.insert(child.digest) {
                        self.collect(child.digest, depth - 1, contents)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Algorithm;

    /// Writes a layout with an index of two platforms, of which the second is missing.
    fn write(directory: &Path, algorithm: Algorithm, name: &str) -> Digest {
        let blobs = directory.join("blobs").join(algorithm.name());
        fs::create_dir_all(&blobs).unwrap();
        let put = |content: &[u8]| {
            let digest = Digest::computed(algorithm, content);
            fs::write(blobs.join(digest.hex()), content).unwrap();
            (digest, content.len())
        };
        let descriptor = |media_type: &str, (digest, size): (Digest, usize)| serde_json::json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar", put(b"layer"));
        let config = descriptor("application/vnd.oci.image.config.v1+json", put(b"{}"));
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let image = serde_json::json!(
            {"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [layer.clone(), layer]}
        );
        let image = descriptor(manifest, put(image.to_string().as_bytes()));
        let missing = descriptor(manifest, (Digest::of(b"missing"), 7));
        let list = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": list, "manifests": [image, missing]});
        let (root, size) = put(index.to_string().as_bytes());
        let mut entry = descriptor(list, (root, size));
        entry["annotations"] = serde_json::json!({REF_NAME: name});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(directory.join("index.json"), index.to_string()).unwrap();
        root
    }

    #[test]
    fn a_platform_that_is_missing_is_left_out_and_a_layer_that_occurs_twice_is_sent_once() {
        for algorithm in Algorithm::ALL {
            is_read_by(algorithm);
        }
    }

    fn is_read_by(algorithm: Algorithm) {
        let directory = tempfile::tempdir().unwrap();
        let root = write(directory.path(), algorithm, "reg.test/app:v1");
        let archive = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(archive.reopen().unwrap());
        builder.append_dir_all(".", directory.path()).unwrap();
        builder.finish().unwrap();
        for path in [directory.path(), archive.path()] {
            let mut layout = Layout::open(path).unwrap();
            let images = layout.images(None).unwrap();
            assert_eq!(images, [("reg.test/app:v1".parse().unwrap(), root)]);
            let contents = layout.contents(root).unwrap();
            assert_eq!((contents.manifests.len(), contents.blobs.len()), (2, 2), "{}", path.display());
            assert_eq!(contents.manifests[0].0, root, "parents first");
        }
    }

    #[test]
    fn a_tag_alone_is_not_taken_for_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let root = write(directory.path(), Algorithm::Sha256, "v1");
        let mut layout = Layout::open(directory.path()).unwrap();
        assert!(layout.images(None).unwrap_err().contains("--as"));
        let image: Image = "reg.test/app:v2".parse().unwrap();
        assert_eq!(layout.images(Some(&image)).unwrap(), [(image, root)]);
    }
}
