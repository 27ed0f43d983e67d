//! `index.json`: the cached tags as an OCI image layout, so that other tools read the store directly.
//!
//! It follows the records of the tags and is rewritten as a whole a moment after they changed. A tag whose manifest is
//! not in the store is left out. Larder itself does not read it.

use std::collections::HashMap;
use std::fs;

use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndexBuilder};

use crate::reference::{Digest, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::records::members::{self, Member};
use crate::store::records::tags;

/// The annotation by which skopeo and crane find an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Writes `index.json` for the tags as they are now. Blocks.
///
/// # Errors
/// The disk.
pub(crate) fn write(layout: &Layout) -> Result<(), Error> {
    let path = layout.index_json();
    let tags = tags::all(layout);
    let described = tags
        .iter()
        .filter_map(|(repository, tag, record)| descriptor(layout, repository, tag, &record.digest));
    let mut manifests: Vec<Descriptor> = described.collect();
    manifests.sort_by_key(|d| d.annotations().as_ref().and_then(|a| a.get(REF_NAME)).cloned());
    let invalid = |e: oci_spec::OciSpecError| Error::io("encode", &path)(std::io::Error::other(e));
    let index =
        ImageIndexBuilder::default().schema_version(2_u32).manifests(manifests).build().map_err(invalid)?;
    let text = index.to_string().map_err(invalid)?;
    layout.write_small(&path, text.as_bytes())
}

fn descriptor(layout: &Layout, repository: &Repository, tag: &Tag, digest: &Digest) -> Option<Descriptor> {
    let Some(Member::Manifest(media_type)) = members::find(layout, repository, digest) else { return None };
    let size = fs::metadata(layout.blob(digest)).ok()?.len();
    DescriptorBuilder::default()
        .media_type(media_type.as_str())
        .digest(digest.to_string().parse::<oci_spec::image::Digest>().ok()?)
        .size(size)
        .annotations(HashMap::from([(REF_NAME.to_owned(), format!("{repository}:{tag}"))]))
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::MediaType;
    use crate::store::records::tags::TagRecord;
    use crate::support::clock::Timestamp;

    #[test]
    fn other_tools_find_a_tag_only_while_its_manifest_is_in_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        for directory in [layout.ingest(), layout.blobs()] {
            layout.make_directory(&directory).unwrap();
        }
        let app = Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap();
        let digest = Digest::of(b"{}");
        fs::write(layout.blob(&digest), b"{}").unwrap();
        let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
        members::add(&layout, &app, &digest, &member).unwrap();
        for (tag, digest) in [("v1", digest), ("evicted", Digest::of(b"evicted"))] {
            let record = TagRecord { digest, confirmed_at: Timestamp(1) };
            tags::set(&layout, &app, &tag.parse().unwrap(), record).unwrap();
        }
        write(&layout).unwrap();
        let text = fs::read(layout.index_json()).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(index["manifests"][0]["annotations"][REF_NAME], "reg.test/team/app:v1");
    }
}
