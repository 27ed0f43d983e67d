//! `index.json`: the cached tags as an OCI image layout, so that other tools read the store directly.
//!
//! It follows the tag files and is rewritten as a whole, a moment after they changed. A tag whose manifest is not
//! on disk is left out. Nothing in Larder reads it.

use std::collections::HashMap;
use std::fs;

use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndexBuilder};

use crate::reference::{Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{self, Layout};
use crate::store::records::tags::{self, Member};
use crate::store::records::walk;

/// The annotation by which skopeo and crane find an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Writes `index.json` for the tags as they are now. Blocks.
pub(crate) fn write(layout: &Layout) -> Result<(), Error> {
    let path = layout.index_json();
    let mut manifests = Vec::new();
    for repository in walk::repositories_with(layout, layout::TAGS) {
        let tags = walk::files(&layout.tags(&repository));
        manifests.extend(tags.iter().filter_map(|tag| descriptor(layout, &repository, tag)));
    }
    manifests.sort_by_key(|d| d.annotations().as_ref().and_then(|a| a.get(REF_NAME)).cloned());
    let invalid =
        |e: oci_spec::OciSpecError| Error::io("encode", &path)(std::io::Error::other(e.to_string()));
    let index =
        ImageIndexBuilder::default().schema_version(2_u32).manifests(manifests).build().map_err(invalid)?;
    let text = index.to_string().map_err(invalid)?;
    layout.write_small(&path, text.as_bytes())
}

fn descriptor(layout: &Layout, repository: &Repository, tag: &str) -> Option<Descriptor> {
    let tag: Tag = tag.parse().ok()?;
    let record = tags::tag(layout, repository, &tag)?;
    let Some(Member::Manifest(media_type)) = tags::member(layout, repository, &record.digest) else {
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
