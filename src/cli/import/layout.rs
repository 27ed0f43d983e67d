//! An OCI image layout on disk: its images by name, and what each of them needs.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::archive::{Archive, whole};
use super::docker_archive::{self, IMAGE_NAME};
use super::unpacked;
use crate::reference::{Digest, Document, Image, Kind, REF_NAME};

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
    /// An archive.
    Archive(Archive),
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
        let file = unpacked::open(path).map_err(failed)?;
        let mut archive = Archive::read(file).map_err(failed)?;
        let is_layout = archive.files.contains_key("index.json");
        if !is_layout && archive.place(docker_archive::MANIFEST).is_some() {
            docker_archive::into_layout(&mut archive).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        Ok(Self::Archive(archive))
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
            Self::Archive(archive) => archive.open(name),
        }
    }

    fn small(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let (reader, _) = self.file(name)?;
        whole(name, reader)
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
            // One image may be there under several names.
            (Some(image), [(_, digest), rest @ ..]) if rest.iter().all(|(_, other)| other == digest) => {
                Ok(vec![(image.clone(), *digest)])
            }
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
        self.gather(root, DEPTH_MAX, &mut contents)?;
        Ok(contents)
    }

    fn gather(&mut self, digest: Digest, depth: usize, contents: &mut Contents) -> Result<(), String> {
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
                        self.gather(child.digest, depth - 1, contents)?;
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

    /// An archive as `docker save` wrote it: a second layer that is a link to the first, and two names.
    fn saved(gzipped_layer: bool) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut put = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content).unwrap();
        };
        let mut layer = b"a layer".to_vec();
        if gzipped_layer {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &layer).unwrap();
            layer = encoder.finish().unwrap();
        }
        put("aaa/layer.tar", &layer);
        put("config.json", b"{\"architecture\":\"amd64\",\"os\":\"linux\"}");
        let manifest = r#"[{"Config":"config.json","RepoTags":["reg.test/app:v1","reg.test/app:v2"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]"#;
        put("manifest.json", manifest.as_bytes());
        put("repositories", b"{}");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "bbb/layer.tar", "../aaa/layer.tar").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_of_docker_save_is_read_compressed_too_and_its_layers_keep_their_bytes() {
        let zstd = |bytes: &[u8]| {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        };
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, bytes).unwrap();
            encoder.finish().unwrap()
        };
        for gzipped in [false, true] {
            let plain = saved(gzipped);
            let mut roots = HashSet::new();
            for packed in [plain.clone(), gzip(&plain), zstd(&plain)] {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.tar");
                fs::write(&path, packed).unwrap();
                let mut layout = Layout::open(&path).unwrap();
                let images = layout.images(None).unwrap();
                let names: Vec<String> = images.iter().map(|(image, _)| image.to_string()).collect();
                assert_eq!(names, ["reg.test/app:v1", "reg.test/app:v2"]);
                let root = images[0].1;
                assert_eq!(layout.images(Some(&images[1].0)).unwrap().len(), 1, "one image, two names");
                let contents = layout.contents(root).unwrap();
                assert_eq!(
                    (contents.manifests.len(), contents.blobs.len()),
                    (1, 2),
                    "the layer is sent once"
                );
                let manifest: serde_json::Value = serde_json::from_slice(&contents.manifests[0].1).unwrap();
                let expected =
                    format!("application/vnd.oci.image.layer.v1.tar{}", if gzipped { "+gzip" } else { "" });
                assert_eq!(manifest["layers"][1]["mediaType"], expected);
                for digest in contents.blobs {
                    let (mut reader, len) = layout.blob(&digest).unwrap();
                    let mut bytes = Vec::new();
                    reader.read_to_end(&mut bytes).unwrap();
                    assert!(digest.is_of(&bytes) && bytes.len() as u64 == len);
                }
                roots.insert(root);
                assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
            }
            assert_eq!(roots.len(), 1, "the same image, however it is packed");
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_or_names_what_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &saved(false)).unwrap();
        let gzip = gzip.finish().unwrap();
        let lost = String::from_utf8(saved(false))
            .unwrap()
            .replace("\"Config\":\"config.json\"", "\"Config\":\"configX.jso\"");
        for content in [&gzip[..gzip.len() - 20], lost.as_bytes(), b"\x28\xb5\x2f\xfdno", b""] {
            fs::write(&path, content).unwrap();
            let opened = Layout::open(&path).and_then(|mut layout| layout.images(None));
            assert!(opened.is_err(), "{}", content.len());
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
