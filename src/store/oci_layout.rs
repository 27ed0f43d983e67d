//! `index.json`: the cached tags as an OCI image layout, so that other tools read the store directly.
//!
//! It follows the tag files and is rewritten as a whole, a moment after they changed. A tag whose manifest is not
//! on disk is left out. Nothing in Larder reads it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndexBuilder};

use super::error::Error;
use super::layout::Layout;
use super::refs::{self, Member};
use crate::reference::{Repository, Tag};

/// The annotation by which skopeo and crane find an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Writes `index.json` for the tags as they are now. Blocks.
pub(super) fn write(layout: &Layout) -> Result<(), Error> {
    let path = layout.index_json();
    let mut manifests = Vec::new();
    for registry in folders(&layout.refs()) {
        collect(layout, &layout.refs().join(&registry), &registry, "", &mut manifests);
    }
    manifests.sort_by_key(|d| d.annotations().as_ref().and_then(|a| a.get(REF_NAME)).cloned());
    let invalid =
        |e: oci_spec::OciSpecError| Error::io("encode", &path)(std::io::Error::other(e.to_string()));
    let index =
        ImageIndexBuilder::default().schema_version(2_u32).manifests(manifests).build().map_err(invalid)?;
    let text = index.to_string().map_err(invalid)?;
    layout.write_small(&path, text.as_bytes())
}

fn collect(layout: &Layout, folder: &Path, registry: &str, path: &str, into: &mut Vec<Descriptor>) {
    for name in folders(folder) {
        if name == "_tags" {
            let repository = registry.parse().ok().zip(path.parse().ok()).map(|(r, p)| Repository::new(r, p));
            if let Some(Ok(repository)) = repository {
                into.extend(
                    files(&folder.join(name)).iter().filter_map(|tag| descriptor(layout, &repository, tag)),
                );
            }
        } else if !name.starts_with('_') {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            collect(layout, &folder.join(&name), registry, &below, into);
        }
    }
}

fn descriptor(layout: &Layout, repository: &Repository, tag: &str) -> Option<Descriptor> {
    let tag: Tag = tag.parse().ok()?;
    let record = refs::tag(layout, repository, &tag)?;
    let Some(Member::Manifest(media_type)) = refs::member(layout, repository, &record.digest) else {
        return None;
    };
    let size = fs::metadata(layout.blob(&record.digest)).ok()?.len();
    DescriptorBuilder::default()
        .media_type(media_type.as_str())
        .digest(record.digest.to_string().parse::<oci_spec::image::Digest>().ok()?)
        .size(size)
        .annotations(HashMap::from([(REF_NAME.to_owned(), format!("{repository}:{tag}"))]))
        .build()
        .ok()
}

fn folders(path: &Path) -> Vec<String> {
    names(path, fs::FileType::is_dir)
}

fn files(path: &Path) -> Vec<String> {
    names(path, fs::FileType::is_file)
}

fn names(path: &Path, wanted: fn(&fs::FileType) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| wanted(&kind)))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
