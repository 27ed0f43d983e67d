//! `larder import LAYOUT`: an image from a directory or archive, for machines that reach no registry.

mod archive;
mod docker_archive;
mod layout;
mod unpacked;

use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::credentials::pull_secrets;
use super::failure::Failure;
use super::output::{print_json, print_line};
use super::run_async::run_async;
use crate::admin::control::{self, ImportNames, Readers};
use crate::reference::{Digest, Image, Repository};
use crate::support::size;
use layout::Layout;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An OCI image layout or an archive of one, or what `docker save` or `skopeo copy ... docker-archive:FILE` wrote;
    /// archives may be compressed with gzip or zstd
    layout: PathBuf,
    /// Its name, where the layout gives none or another one
    #[arg(long = "as", value_name = "IMAGE")]
    name: Option<Image>,
    /// Every caller may read it
    #[arg(long, group = "readers")]
    public: bool,
    /// Every pod may read it, as long as the node has a credential for it
    #[arg(long, group = "readers")]
    node: bool,
    /// Pods with this pull secret may read it; may be repeated
    #[arg(long = "pull-secret", value_name = "FILE", group = "readers")]
    pull_secrets: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let readers = readers(arguments)?;
    let mut layout = Layout::open(&arguments.layout).map_err(Failure::Failed)?;
    let images = layout.images(arguments.name.as_ref()).map_err(Failure::Usage)?;
    // Those that follow are imported although the output is not read any more.
    let (mut done, mut shown) = (Vec::new(), Ok(()));
    for (image, root) in images {
        let bytes =
            run_async(async || send(&mut layout, &settings.admin.socket, &image, root, &readers).await)??;
        if !arguments.json && shown.is_ok() {
            shown = print_line(&format!("{image} is in the store: {}, {root}", size::shown(bytes)));
        }
        done.push(
            serde_json::json!({"image": image.to_string(), "digest": root.to_string(), "bytes": bytes}),
        );
    }
    if arguments.json { print_json(&done) } else { shown }
}

fn readers(arguments: &Arguments) -> Result<Readers, Failure> {
    if arguments.public {
        return Ok(Readers::Public);
    }
    if arguments.node {
        return Ok(Readers::Node);
    }
    if arguments.pull_secrets.is_empty() {
        return Err(Failure::usage(
            "say who may read it, since no registry can be asked: --public, --node, or --pull-secret FILE",
        ));
    }
    Ok(Readers::Secrets(pull_secrets(&arguments.pull_secrets)?))
}

/// Sends an image, its name last; returns its bytes.
async fn send(
    layout: &mut Layout,
    socket: &Path,
    image: &Image,
    root: Digest,
    readers: &Readers,
) -> Result<u64, Failure> {
    let repository = &image.repository;
    let contents = layout.contents(root).map_err(Failure::Failed)?;
    let mut total = 0;
    for digest in contents.blobs {
        let (reader, len) = layout.blob(&digest).map_err(Failure::Failed)?;
        let path = query(control::IMPORT_BLOB, repository, &digest, Some(len));
        control::put(socket, &path, reader, len).await.map_err(Failure::caused)?;
        total += len;
    }
    for (digest, bytes) in contents.manifests.into_iter().rev() {
        let len = bytes.len() as u64;
        let path = query(control::IMPORT_MANIFEST, repository, &digest, None);
        let reader = Box::new(std::io::Cursor::new(bytes));
        control::put(socket, &path, reader, len).await.map_err(Failure::caused)?;
        total += len;
    }
    let names = ImportNames { image: image.to_string(), digest: root.to_string(), readers: readers.clone() };
    control::send(socket, &names).await.map_err(Failure::caused)?;
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
