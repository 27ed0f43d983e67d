//! The images in the store by name, read from the files of their tags and manifests.
//!
//! Promises: what is in memory is a batch of tags and the names of one repository, however many tags there are; of a
//! batch the record of each tag is opened once, each manifest once by each thread that reads a part of the batch, and
//! each blob once while it knows no more than 65,536; by their names in directories that are open. A damaged manifest
//! counts as absent: the next pull finds and replaces it. What an image costs is bounded by its
//! [`ManifestWalk`], whatever its indexes name and how often.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use crate::reference::{Algorithm, Child, Digest, Repository};
use crate::store::inventory::manifest_walk::{Found, ManifestKind, ManifestWalk, Met, bytes_of};
use crate::store::layout::{Directory, Layout};
use crate::store::records::tags::{self, TagName, TagRecord};

/// Blobs whose sizes a reader remembers: those of a batch of some hundred images.
const KNOWN_BLOBS_MAX: usize = 65_536;
/// Tags of a batch: enough to keep the threads busy, and a few megabytes of names and sizes.
const BATCH: usize = 4_096;
/// Parts of a batch that are read at the same time: each tag is a few small files, and what takes long is to wait for
/// the disk.
const READ_AT_ONCE: usize = 8;
/// Tags from which that is worth the threads.
const READ_AT_ONCE_FROM: usize = 256;

/// A tag that has a record, and what is in the store of the image that it names.
pub(in crate::store) struct TaggedImage {
    pub(in crate::store) name: TagName,
    pub(in crate::store) record: TagRecord,
    pub(in crate::store) content: Arc<ImageContent>,
}

/// The manifests and blobs of an image that are in the store, and the platforms that are complete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct ImageContent {
    pub(in crate::store) sizes: HashMap<Digest, u64>,
    /// An empty name for an image without a platform.
    pub(in crate::store) platforms: BTreeSet<String>,
}

/// All tags, in the order of the repositories' names and then of their own: a batch at a time. Blocks.
pub(in crate::store) fn batches(layout: &Layout) -> impl Iterator<Item = Vec<TaggedImage>> {
    let mut names = tags::names(layout);
    std::iter::from_fn(move || {
        let batch: Vec<TagName> = names.by_ref().take(BATCH).collect();
        (!batch.is_empty()).then(|| read(layout, batch))
    })
}

/// What is in the store of one image. Blocks.
pub(in crate::store) fn content_of(layout: &Layout, root: Digest) -> Arc<ImageContent> {
    ImageReader::new(layout).content_of(root)
}

/// Reads a batch in the order in which its records lie on the disk; the images are in the order of `names`.
fn read(layout: &Layout, names: Vec<TagName>) -> Vec<TaggedImage> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_unstable_by_key(|&at| names[at].inode);
    let mut found = read_all(&order, |part| {
        let mut reader = ImageReader::new(layout);
        let read = part.iter().filter_map(|&at| {
            let record = reader.record_of(&names[at])?;
            Some((at, record, reader.content_of(record.digest)))
        });
        read.collect()
    });
    found.sort_unstable_by_key(|(at, ..)| *at);
    let mut found = found.into_iter().peekable();
    let tagged = names.into_iter().enumerate().filter_map(|(at, name)| {
        let (_, record, content) = found.next_if(|(of, ..)| *of == at)?;
        Some(TaggedImage { name, record, content })
    });
    tagged.collect()
}

/// What `read` finds of parts of `all`, in their order: as many at the same time as are worth it. Blocks.
fn read_all<N: Sync, T: Send>(all: &[N], read: impl Fn(&[N]) -> Vec<T> + Sync) -> Vec<T> {
    let threads = if all.len() < READ_AT_ONCE_FROM { 1 } else { READ_AT_ONCE };
    let mut parts = all.chunks(all.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| (part, spawn(scope, || read(part)))).collect();
        let mut found = read(first);
        for (part, thread) in others {
            // Without a thread, and after a panic of one, they are read here.
            let there = thread.and_then(|thread| thread.join().ok());
            found.extend(there.unwrap_or_else(|| read(part)));
        }
        found
    })
}

/// A thread that reads a part; `None` if there are no more threads.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    read: impl FnOnce() -> T + Send + 'scope,
) -> Option<ScopedJoinHandle<'scope, T>> {
    thread::Builder::new().name("larder-list".to_owned()).spawn_scoped(scope, read).ok()
}

/// Reads images, each once, and looks for their blobs.
struct ImageReader<'a> {
    layout: &'a Layout,
    /// The directory of the tags of the repository that was read last, once a second tag of it is read.
    tags: Option<(&'a Repository, Option<Directory>)>,
    /// The directories of blobs, as far as they are there.
    directories: Vec<(Algorithm, Option<Directory>)>,
    images: HashMap<Digest, Arc<ImageContent>>,
    /// Bytes of the blobs that were looked for; `None` of one that is not here.
    blobs: HashMap<Digest, Option<u64>>,
}

impl<'a> ImageReader<'a> {
    fn new(layout: &'a Layout) -> Self {
        Self { layout, tags: None, directories: Vec::new(), images: HashMap::new(), blobs: HashMap::new() }
    }

    fn record_of(&mut self, name: &'a TagName) -> Option<TagRecord> {
        match &mut self.tags {
            Some((repository, directory)) if **repository == name.repository => {
                let tags = || Directory::open(&self.layout.tags(repository)).ok();
                if directory.is_none() {
                    *directory = tags();
                }
                tags::find_in(directory.as_ref()?, &name.tag)
            }
            _ => {
                self.tags = Some((&name.repository, None));
                tags::find(self.layout, &name.repository, &name.tag)
            }
        }
    }

    /// The directory of the blobs of an algorithm.
    fn blobs_by(&mut self, algorithm: Algorithm) -> Option<&Directory> {
        let at = match self.directories.iter().position(|(of, _)| *of == algorithm) {
            Some(at) => at,
            None => {
                self.directories.push((algorithm, Directory::open(&self.layout.blobs(algorithm)).ok()));
                self.directories.len() - 1
            }
        };
        self.directories[at].1.as_ref()
    }

    fn content_of(&mut self, root: Digest) -> Arc<ImageContent> {
        if let Some(known) = self.images.get(&root) {
            return Arc::clone(known);
        }
        let content = Arc::new(self.read_content(root));
        self.images.insert(root, Arc::clone(&content));
        content
    }

    fn read_content(&mut self, root: Digest) -> ImageContent {
        let mut image = ImageContent::default();
        // The manifests of which all is here: an index may list one for several platforms.
        let mut complete = HashSet::new();
        let mut walk = ManifestWalk::from(root);
        while let Some(Met { digest, platform, found }) = walk.meet(|digest| self.manifest(digest)) {
            if let Found::Here(size, content) = found {
                image.sizes.insert(digest, size);
                if let ManifestKind::Image(children, omitted) = content
                    && self.add_blobs(&mut image, children)
                    && omitted == 0
                {
                    complete.insert(digest);
                }
            }
            if complete.contains(&digest) {
                image.platforms.insert(platform);
            }
        }
        image
    }

    /// The bytes of a manifest or index that is here, and their number.
    fn manifest(&mut self, digest: &Digest) -> Option<(u64, Vec<u8>)> {
        bytes_of(self.blobs_by(digest.algorithm())?.open_sized(&digest.hex()))
    }

    /// Adds those that are here; returns whether all are that a runtime asks for.
    fn add_blobs(&mut self, image: &mut ImageContent, children: Vec<Child>) -> bool {
        let mut are_all_here = true;
        for child in children {
            match self.size_of(child.digest) {
                Some(size) => drop(image.sizes.insert(child.digest, size)),
                // Runtimes fetch a foreign layer from elsewhere.
                None => are_all_here &= child.is_foreign,
            }
        }
        are_all_here
    }

    fn size_of(&mut self, blob: Digest) -> Option<u64> {
        if let Some(known) = self.blobs.get(&blob) {
            return *known;
        }
        let size = self.blobs_by(blob.algorithm()).and_then(|blobs| blobs.len_of(&blob.hex()));
        if self.blobs.len() >= KNOWN_BLOBS_MAX {
            self.blobs.clear();
        }
        self.blobs.insert(blob, size);
        size
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::reference::MediaType;
    use crate::store::for_tests::Tree;
    use crate::support::open_file::opened_by_this_thread;

    /// An image of a config of its own and of these layers, here or not.
    fn image_of(tree: &Tree, config: &str, layers: &[Digest]) -> Digest {
        let config = tree.put(config.as_bytes());
        let layer = |digest: &Digest| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.to_string(), "size": 1});
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.to_string(), "size": 1},
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        tree.put(manifest.to_string().as_bytes())
    }

    #[test]
    fn a_tag_costs_one_file_and_a_manifest_of_many_tags_one_more() {
        let tree = Tree::new();
        let layer = tree.put(b"a layer of all of them");
        let absent = Digest::of(b"a layer that is not here");
        let image = |n| image_of(&tree, &format!("config {n}"), &[if n == 0 { absent } else { layer }]);
        let images: Vec<Digest> = (0..10).map(image).collect();
        let repositories = ["reg.test/team/app", "reg.test/b"].map(|name| name.parse().unwrap());
        for n in 0..READ_AT_ONCE_FROM - 1 {
            tree.tag(&repositories[n % 2], &format!("v{n}"), images[n % 10]);
        }
        let before = opened_by_this_thread();
        let found: Vec<TaggedImage> = batches(&tree.layout).flatten().collect();
        let opened = opened_by_this_thread() - before;
        assert_eq!(opened, READ_AT_ONCE_FROM - 1 + images.len(), "a record for each tag, and each manifest");
        let names: Vec<(&Repository, _)> =
            found.iter().map(|image| (&image.name.repository, &image.name.tag)).collect();
        assert!(names.len() == READ_AT_ONCE_FROM - 1 && names.is_sorted(), "{names:?}");
        for TaggedImage { record, content, .. } in &found {
            assert_eq!(*content, content_of(&tree.layout, record.digest));
            assert_eq!(content.platforms.is_empty(), record.digest == images[0]);
            assert_eq!(content.sizes.contains_key(&layer), record.digest != images[0]);
        }
    }

    #[test]
    fn what_is_listed_is_in_its_order_and_complete_however_many_threads_read_it() {
        for count in [0, 1, READ_AT_ONCE_FROM - 1, READ_AT_ONCE_FROM, READ_AT_ONCE_FROM + 1, 10_000] {
            let names: Vec<usize> = (0..count).collect();
            let found = read_all(&names, |part| part.iter().copied().filter(|name| name % 3 != 0).collect());
            assert!(found.into_iter().eq((0..count).filter(|name| name % 3 != 0)), "{count}");
        }
    }

    #[test]
    fn no_tag_is_lost_between_two_batches_and_one_without_a_readable_record_is_left_out() {
        let tree = Tree::new();
        let image = image_of(&tree, "config", &[]);
        let count = BATCH + READ_AT_ONCE_FROM;
        for n in 0..count {
            let repository: Repository = "reg.test/team/app".parse().unwrap();
            let path = tree.layout.tag(&repository, &format!("v{n}").parse().unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let record =
                if n == 7 { String::new() } else { format!(r#"{{"digest":"{image}","confirmed_at":1}}"#) };
            fs::write(path, record).unwrap();
        }
        let batches: Vec<Vec<TaggedImage>> = batches(&tree.layout).collect();
        assert!(batches.iter().all(|batch| batch.len() <= BATCH) && batches.len() == 2);
        let mut found: Vec<String> =
            batches.iter().flatten().map(|image| image.name.tag.as_str().to_owned()).collect();
        assert!(found.is_sorted());
        found.dedup();
        assert_eq!((found.len(), found.contains(&"v7".to_owned())), (count - 1, false));
    }
}
