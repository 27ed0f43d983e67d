//! `index.json`: the cached tags as an OCI image layout, so that other tools read the store directly.
//!
//! It follows the records of the tags a moment after they changed. A tag whose manifest is not in the store is left
//! out. Each image is a line of the file, in the order of the names, so that a change of a few tags is merged into the
//! file that is there, line by line, without reading the records of all tags. Larder itself does not read it otherwise.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};

use oci_spec::image::{Descriptor, DescriptorBuilder};

use crate::reference::{Digest, REF_NAME, Repository, Tag};
use crate::store::error::Error;
use crate::store::layout::{Layout, TAGS};
use crate::store::records::changed_tags::TagChanges;
use crate::store::records::members::{self, Member};
use crate::store::records::{tags, walk};

/// The lines around those of the images.
const FIRST_LINE: &str = r#"{"schemaVersion":2,"manifests":["#;
const LAST_LINE: &str = "]}";

/// Writes `index.json` after these changes of tags. Blocks.
///
/// # Errors
/// The disk.
pub(crate) fn write(layout: &Layout, changes: &TagChanges) -> Result<(), Error> {
    let path = layout.index_json();
    let is_merged = match changes {
        TagChanges::Some(changed) => layout.write_stream(&path, |out| merge(layout, changed, out))?,
        TagChanges::Any => false,
    };
    if !is_merged {
        layout.write_stream(&path, |out| all(layout, out).map(|()| true))?;
    }
    Ok(())
}

/// The file as it is written: a line at a time, so that no more of it is in memory.
struct Images<'a> {
    out: &'a mut dyn Write,
    are_some: bool,
}

impl<'a> Images<'a> {
    fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        writeln!(out, "{FIRST_LINE}")?;
        Ok(Self { out, are_some: false })
    }

    fn add(&mut self, line: Option<&str>) -> io::Result<()> {
        let Some(line) = line else { return Ok(()) };
        if std::mem::replace(&mut self.are_some, true) {
            self.out.write_all(b",\n")?;
        }
        self.out.write_all(line.as_bytes())
    }

    fn end(self) -> io::Result<()> {
        write!(self.out, "\n{LAST_LINE}\n")
    }
}

/// The lines of all images, from the records, in the order of their whole names.
fn all(layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
    let mut images = Images::begin(out)?;
    let mut repositories = walk::repositories_with(layout, TAGS);
    repositories.sort_by_cached_key(|repository| format!("{repository}:"));
    for repository in repositories {
        for (tag, record) in tags::of(layout, &repository) {
            images.add(line(layout, &repository, &tag, &record.digest).as_deref())?;
        }
    }
    images.end()
}

/// The lines of the file that is there, with those of the tags that changed in their places; without those whose
/// manifest has left the store. `false` if the file is none that was written here.
fn merge(
    layout: &Layout,
    changed: &BTreeMap<String, (Repository, Tag)>,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let file = match File::open(layout.index_json()) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut lines = file.lines();
    if lines.next().transpose()?.as_deref() != Some(FIRST_LINE) {
        return Ok(false);
    }
    let mut images = Images::begin(out)?;
    let mut changed = changed.iter().peekable();
    let current = |(_, (repository, tag)): (&String, &(Repository, Tag))| {
        line(layout, repository, tag, &tags::find(layout, repository, tag)?.digest)
    };
    loop {
        let Some(text) = lines.next().transpose()? else { return Ok(false) };
        if text == LAST_LINE {
            break;
        }
        if text.is_empty() {
            continue;
        }
        let text = text.trim_end_matches(',');
        let Some((name, digest)) = read_line(text) else { return Ok(false) };
        while let Some(before) = changed.next_if(|(changed, _)| **changed < name) {
            images.add(current(before).as_deref())?;
        }
        match changed.next_if(|(changed, _)| **changed == name) {
            Some(same) => images.add(current(same).as_deref())?,
            None if layout.blob(&digest).exists() => images.add(Some(text))?,
            None => {}
        }
    }
    for after in changed {
        images.add(current(after).as_deref())?;
    }
    images.end()?;
    Ok(true)
}

/// An image as a line.
fn line(layout: &Layout, repository: &Repository, tag: &Tag, digest: &Digest) -> Option<String> {
    let Some(Member::Manifest(media_type)) = members::find(layout, repository, digest) else { return None };
    let size = fs::metadata(layout.blob(digest)).ok()?.len();
    let descriptor = DescriptorBuilder::default()
        .media_type(media_type.as_str())
        .digest(digest.to_string().parse::<oci_spec::image::Digest>().ok()?)
        .size(size)
        .annotations(HashMap::from([(REF_NAME.to_owned(), format!("{repository}:{tag}"))]))
        .build()
        .ok()?;
    serde_json::to_string(&descriptor).ok()
}

/// The name and the digest of an image.
fn read_line(text: &str) -> Option<(String, Digest)> {
    let descriptor: Descriptor = serde_json::from_str(text).ok()?;
    let name = descriptor.annotations().as_ref()?.get(REF_NAME)?.clone();
    Some((name, descriptor.digest().to_string().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::MediaType;
    use crate::store::for_tests::Tree;

    struct World {
        tree: Tree,
        app: Repository,
    }

    impl World {
        fn new() -> Self {
            let app = Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap();
            Self { tree: Tree::new(), app }
        }

        /// A tag whose manifest is in the store.
        fn tag(&self, tag: &str, content: &[u8]) {
            let digest = self.tree.put(content);
            let member = Member::Manifest(MediaType::OCI_MANIFEST.parse().unwrap());
            members::add(&self.tree.layout, &self.app, &digest, &member).unwrap();
            self.tree.tag(&self.app, tag, digest);
        }

        fn changes(&self, tags: &[&str]) -> TagChanges {
            let named =
                |tag: &&str| (format!("{}:{tag}", self.app), (self.app.clone(), tag.parse().unwrap()));
            TagChanges::Some(tags.iter().map(named).collect())
        }

        /// The images of the file: their tags and sizes.
        fn images(&self) -> Vec<(String, u64)> {
            let text = fs::read(self.tree.layout.index_json()).unwrap();
            let index: oci_spec::image::ImageIndex = serde_json::from_slice(&text).unwrap();
            let image = |descriptor: &Descriptor| {
                let name = descriptor.annotations().as_ref().unwrap()[REF_NAME].clone();
                (name.strip_prefix("reg.test/team/app:").unwrap().to_owned(), descriptor.size())
            };
            index.manifests().iter().map(image).collect()
        }
    }

    #[test]
    fn other_tools_find_a_tag_only_while_its_manifest_is_in_the_store() {
        let world = World::new();
        world.tag("v1", b"{}");
        world.tree.tag(&world.app, "evicted", Digest::of(b"evicted"));
        write(&world.tree.layout, &TagChanges::Any).unwrap();
        assert_eq!(world.images(), [("v1".to_owned(), 2)]);
    }

    #[test]
    fn changes_are_merged_in_their_order_and_the_records_of_other_tags_are_not_read() {
        let world = World::new();
        for (tag, content) in [("b", "{}"), ("d", "{} "), ("f", "{}  ")] {
            world.tag(tag, content.as_bytes());
        }
        write(&world.tree.layout, &TagChanges::Any).unwrap();
        for (tag, content) in [("a", "[    ]"), ("d", "[     ]"), ("e", "[      ]"), ("z", "[       ]")] {
            world.tag(tag, content.as_bytes());
        }
        tags::remove(&world.tree.layout, &world.app, &"f".parse().unwrap()).unwrap();
        // A merge that read all records would drop this one.
        tags::remove(&world.tree.layout, &world.app, &"b".parse().unwrap()).unwrap();
        write(&world.tree.layout, &world.changes(&["a", "d", "e", "f", "z"])).unwrap();
        let expected = [("a", 6), ("b", 2), ("d", 7), ("e", 8), ("z", 9)];
        assert_eq!(world.images(), expected.map(|(tag, size)| (tag.to_owned(), size)));

        fs::remove_file(world.tree.layout.blob(&Digest::of(b"[    ]"))).unwrap();
        write(&world.tree.layout, &world.changes(&[])).unwrap();
        assert_eq!(world.images()[0].0, "b", "a manifest that has left the store is left out");
    }

    #[test]
    fn a_file_that_was_not_written_here_is_made_anew() {
        let world = World::new();
        world.tag("v1", b"{}");
        for text in [
            "",
            "{\"schemaVersion\":2,\"manifests\":[]}",
            &format!("{FIRST_LINE}\n{{}}\n{LAST_LINE}\n"),
            &format!("{FIRST_LINE}\n"),
        ] {
            fs::write(world.tree.layout.index_json(), text).unwrap();
            write(&world.tree.layout, &world.changes(&[])).unwrap();
            assert_eq!(world.images(), [("v1".to_owned(), 2)], "{text}");
        }
    }
}
