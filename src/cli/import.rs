//! `larder import LAYOUT`: an image from a directory or archive, for machines that reach no registry.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::{Failure, print_json, run_async, settings};
use crate::admin::control::{self, ControlError, ImportNames, PullSecret, Readers};
use crate::config::Environment;
use crate::credentials;
use crate::reference::{Digest, Document, Image, Kind, MANIFEST_BYTES_MAX, Repository};
use crate::support::size;

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// And the one that containerd and Docker write.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Indexes within indexes that are followed.
const DEPTH_MAX: usize = 4;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An OCI image layout: a directory, or a tar archive of one (`skopeo copy ... oci-archive:FILE`, `docker save`)
    layout: PathBuf,
    /// Its name, where the layout does not say or says it otherwise
    #[arg(long = "as", value_name = "IMAGE")]
    name: Option<Image>,
    /// Every caller may read it
    #[arg(long, group = "readers")]
    public: bool,
    /// Whoever may use the node's credentials may read it: every pod, as long as the node has one for it
    #[arg(long, group = "readers")]
    node: bool,
    /// Whoever has this pull secret may read it; may be repeated
    #[arg(long = "pull-secret", value_name = "FILE", group = "readers")]
    pull_secrets: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let settings = settings(file, environment)?;
    let readers = readers(arguments)?;
    let mut layout = Layout::open(&arguments.layout).map_err(Failure::Failed)?;
    let images = layout.images(arguments.name.as_ref()).map_err(Failure::Usage)?;
    let mut done = Vec::new();
    for (image, root) in images {
        let bytes = run_async(send(&mut layout, &settings.admin.socket, &image, root, &readers))?
            .map_err(Failure::Failed)?;
        if !arguments.json {
            println!("{image} is here: {}, {root}", size::shown(bytes));
        }
        done.push(
            serde_json::json!({"image": image.to_string(), "digest": root.to_string(), "bytes": bytes}),
        );
    }
    if arguments.json { print_json(&done) } else { Ok(()) }
}

fn readers(arguments: &Arguments) -> Result<Readers, Failure> {
    if arguments.public {
        return Ok(Readers::Public);
    }
    if arguments.node {
        return Ok(Readers::Node);
    }
    if arguments.pull_secrets.is_empty() {
        let why = "who may read it? Say --public, --node, or --pull-secret FILE: no registry can be asked";
        return Err(Failure::Usage(why.to_owned()));
    }
    let contents =
        credentials::pull_secret_files(&arguments.pull_secrets).map_err(|e| Failure::Usage(e.to_string()))?;
    let secrets = contents
        .into_iter()
        .map(|(file, content)| PullSecret {
            file: file.display().to_string(),
            content: String::from_utf8_lossy(&content).into_owned(),
        })
        .collect();
    Ok(Readers::Secrets(secrets))
}

/// Sends an image part by part, its names last; returns its bytes.
async fn send(
    layout: &mut Layout,
    socket: &Path,
    image: &Image,
    root: Digest,
    readers: &Readers,
) -> Result<u64, String> {
    let repository = &image.repository;
    let refused = |error: ControlError| error.to_string();
    let (mut blobs, mut manifests) = (Vec::new(), Vec::new());
    layout.collect(root, DEPTH_MAX, &mut blobs, &mut manifests, &mut HashSet::new())?;
    let mut total = 0;
    for digest in blobs {
        let (reader, len) = layout.blob(&digest)?;
        let path = query(control::IMPORT_BLOB, repository, &digest, Some(len));
        control::put(socket, &path, reader, len).await.map_err(refused)?;
        total += len;
    }
    for (digest, bytes) in manifests.into_iter().rev() {
        let len = bytes.len() as u64;
        let path = query(control::IMPORT_MANIFEST, repository, &digest, None);
        control::put(socket, &path, Box::new(std::io::Cursor::new(bytes)), len).await.map_err(refused)?;
        total += len;
    }
    let names = ImportNames { image: image.to_string(), digest: root.to_string(), readers: readers.clone() };
    control::send(socket, &names).await.map_err(refused)?;
    Ok(total)
}

fn query(path: &str, repository: &Repository, digest: &Digest, size: Option<u64>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(format!("{path}?"));
    query.append_pair("repository", &repository.to_string()).append_pair("digest", &digest.to_string());
    if let Some(size) = size {
        query.append_pair("size", &size.to_string());
    }
    query.finish()
}

/// An image layout, in a directory or in an archive that is read in place.
enum Layout {
    Directory(PathBuf),
    /// Where each file begins, and how long it is.
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
    fn open(path: &Path) -> Result<Self, String> {
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

    /// A file of it, and how long it is.
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

    fn blob(&mut self, digest: &Digest) -> Result<(Box<dyn Read + Send>, u64), String> {
        self.file(&format!("blobs/sha256/{}", digest.hex()))
    }

    /// The images in it by their names, or the only one under the name that is given.
    fn images(&mut self, named: Option<&Image>) -> Result<Vec<(Image, Digest)>, String> {
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

    /// What an image needs: its manifests, parents first, and its blobs. Platforms that are not there are left out.
    fn collect(
        &mut self,
        digest: Digest,
        depth: usize,
        blobs: &mut Vec<Digest>,
        manifests: &mut Vec<(Digest, Vec<u8>)>,
        seen: &mut HashSet<Digest>,
    ) -> Result<(), String> {
        let bytes = self.small(&format!("blobs/sha256/{}", digest.hex()))?;
        let document = Document::parse(&bytes, None).map_err(|error| format!("{digest}: {error}"))?;
        manifests.push((digest, bytes));
        match document.kind {
            Kind::Image(children) => {
                blobs.extend(children.iter().map(|child| child.digest).filter(|digest| seen.insert(*digest)));
            }
            Kind::Index(children) if depth > 0 => {
                for child in children {
                    let there = self.blob(&child.digest).is_ok();
                    if there && seen.insert(child.digest) {
                        self.collect(child.digest, depth - 1, blobs, manifests, seen)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
