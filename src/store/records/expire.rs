//! Expiry of records whose content has left the store: memberships, receipts, tags, and those of arch aliases.
//!
//! Content is evicted by the budget; without an end to its records, two small files for every blob that was ever pulled
//! would fill the disk. A record expires if its content is absent and the record has not been written or used for a
//! month. A missing record costs one request to upstream, which is needed for the content anyway.
//!
//! Not here: grants and pins, which are bounded and must not end by themselves.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{aliases, tags, walk};
use crate::reference::{Digest, Repository, Tag};
use crate::store::layout::{self, Layout};
use crate::support::clock::Timestamp;

/// How long a record stays after it was last written or used.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 86_400);
/// How long where the filesystem is short of inodes: content is written right after its records, in less than that.
pub(crate) const LIFE_WITHOUT_INODES: Duration = Duration::from_secs(3_600);

/// Removes records that are older than `life`, and returns how many there were; ends early once `is_stopping`. Blocks.
/// A record that cannot be removed stays until the next time.
pub(crate) fn remove(
    layout: &Layout,
    now: Timestamp,
    life: Duration,
    is_stopping: &dyn Fn() -> bool,
) -> usize {
    let remove_from = |directory: &Path, is_obsolete: &dyn Fn(&str) -> bool| -> usize {
        let may_go = |name: &String| is_old(&directory.join(name), now, life) && is_obsolete(name);
        let names = walk::files(directory).take_while(|_| !is_stopping());
        names.filter(|name| may_go(name) && fs::remove_file(directory.join(name)).is_ok()).count()
    };
    let is_absent = |digest: &Digest| !layout.blob(digest).exists();
    let names_absent = |name: &str| Digest::from_hex(name).is_ok_and(|digest| is_absent(&digest));
    let remove_marked = |marker, is_obsolete: &dyn Fn(&Repository, &str) -> bool| -> usize {
        let remove = |repository: Repository| {
            remove_from(&layout.marked(&repository, marker), &|name| is_obsolete(&repository, name))
        };
        let repositories = if is_stopping() { Vec::new() } else { walk::repositories_with(layout, marker) };
        repositories.into_iter().take_while(|_| !is_stopping()).map(remove).sum()
    };
    let registries = walk::registries(layout);
    let received =
        registries.iter().map(|r| remove_from(&layout.received_from(r), &names_absent)).sum::<usize>();
    let members = remove_marked(layout::MEMBERS, &|_, name| names_absent(name));
    let tags = remove_marked(layout::TAGS, &|repository, name| {
        let tag = name.parse::<Tag>();
        tag.is_ok_and(|tag| {
            tags::find(layout, repository, &tag).is_none_or(|record| is_absent(&record.digest))
        })
    });
    // A tag that upstream does not have has no content; its record is refreshed with every use of the alias.
    let absent = remove_marked(layout::ABSENT, &|_, name| name.parse::<Tag>().is_ok());
    let synthesized = remove_marked(layout::SYNTHESIZED, &|repository, name| {
        let index = Digest::from_hex(name).map(|digest| aliases::synthesized(layout, repository, &digest));
        index.is_ok_and(|index| {
            index.is_none_or(|index| index.images.iter().all(|(_, digest)| is_absent(digest)))
        })
    });
    received + members + tags + absent + synthesized
}

fn is_old(path: &Path, now: Timestamp, life: Duration) -> bool {
    let written = fs::symlink_metadata(path).ok().and_then(|found| u64::try_from(found.mtime()).ok());
    written.is_some_and(|at| Timestamp(at).age_at(now) >= life)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use bytes::Bytes;

    use super::*;
    use crate::reference::Algorithm;
    use crate::reference::MediaType;
    use crate::store::records::aliases::SynthesizedIndex;
    use crate::store::records::members::{self, Member};
    use crate::store::records::outages;
    use crate::store::records::tags::TagRecord;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: Timestamp = Timestamp(1_000);

    /// Records of one repository, and blobs as files without content.
    struct World {
        _directory: tempfile::TempDir,
        layout: Layout,
        app: Repository,
        tag: Tag,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let layout = Layout::new(directory.path());
            layout.make_directory(&layout.ingest()).unwrap();
            layout.make_directory(&layout.blobs(Algorithm::Sha256)).unwrap();
            let app = Repository::new("reg.test".parse().unwrap(), "team/app".parse().unwrap()).unwrap();
            Self { _directory: directory, layout, app, tag: "v1".parse().unwrap() }
        }

        /// A blob with its membership and receipt.
        fn put(&self, content: &[u8], now: Timestamp) -> Digest {
            let digest = Digest::of(content);
            fs::write(self.layout.blob(&digest), content).unwrap();
            members::add(&self.layout, &self.app, &digest, &Member::Blob).unwrap();
            members::add_received(&self.layout, self.app.registry(), &digest, now).unwrap();
            digest
        }

        fn evict(&self, digest: &Digest) {
            fs::remove_file(self.layout.blob(digest)).unwrap();
        }

        fn set_tag(&self, tag: &str, digest: Digest) {
            let record = TagRecord { digest, confirmed_at: START };
            tags::set(&self.layout, &self.app, &tag.parse().unwrap(), record).unwrap();
        }

        fn index_of(&self, image: Digest) -> SynthesizedIndex {
            SynthesizedIndex {
                bytes: Bytes::from(format!("of {image}")),
                media_type: MediaType::OCI_INDEX.parse().unwrap(),
                images: vec![(self.app.clone(), image)],
            }
        }

        fn expire(&self, now: Timestamp) -> usize {
            remove(&self.layout, now, LIFE, &|| false)
        }

        fn records(&self) -> Vec<String> {
            let mut found = Vec::new();
            let mut directories = vec![self.layout.refs()];
            while let Some(directory) = directories.pop() {
                for entry in fs::read_dir(directory).unwrap().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        directories.push(path);
                    } else {
                        found.push(path.strip_prefix(self.layout.refs()).unwrap().display().to_string());
                    }
                }
            }
            found.sort();
            found
        }

        /// Sets the modification time of every record, which is the machine's where it was written.
        fn date_all(&self, now: Timestamp) {
            for record in self.records() {
                let file = File::open(self.layout.refs().join(record)).unwrap();
                file.set_modified(now.to_system_time()).unwrap();
            }
        }
    }

    fn after(days: u64) -> Timestamp {
        Timestamp(START.0 + days * DAY.as_secs())
    }

    #[test]
    fn only_records_of_evicted_content_expire_and_only_after_a_month() {
        let world = World::new();
        let stays = world.put(b"stays", START);
        let goes = world.put(b"goes", START);
        world.set_tag("v1", goes);
        world.set_tag("stays", stays);
        aliases::set_absent(&world.layout, &world.app, &world.tag, START).unwrap();
        outages::set(&world.layout, world.app.registry(), Some(Timestamp(1))).unwrap();
        for image in [stays, goes] {
            aliases::set_synthesized(&world.layout, &world.app, &world.index_of(image), START).unwrap();
        }
        world.date_all(START);
        let before = world.records();
        world.evict(&goes);
        fs::write(world.layout.marked(&world.app, layout::MEMBERS).join("not-ours"), "").unwrap();
        assert_eq!(world.expire(after(0)), 0, "it may be being written");
        assert_eq!(world.expire(after(29)), 0);
        assert_eq!(remove(&world.layout, after(30), LIFE, &|| true), 0, "the daemon stops");
        assert_eq!(world.expire(after(30)), 5, "{:?}", world.records());
        let left: Vec<_> = world.records().into_iter().filter(|r| !r.ends_with("not-ours")).collect();
        let index = Digest::of(&world.index_of(goes).bytes);
        let expected: Vec<_> = before
            .into_iter()
            .filter(|r| !r.contains("_absent/") && !r.ends_with("_tags/v1"))
            .filter(|r| !r.contains(&goes.hex()) && !r.contains(&index.hex()))
            .collect();
        assert_eq!(left, expected);
        world.put(b"goes", after(30));
        assert!(members::find(&world.layout, &world.app, &goes).is_some());
        assert!(members::is_received(&world.layout, world.app.registry(), &goes), "all of it begins anew");
    }

    #[test]
    fn records_that_are_used_do_not_expire() {
        let world = World::new();
        for round in 0..4 {
            // Each is written again or refreshed at every use.
            let now = after(29 * round);
            let digest = world.put(b"evicted", now);
            aliases::set_absent(&world.layout, &world.app, &world.tag, now).unwrap();
            aliases::set_synthesized(&world.layout, &world.app, &world.index_of(digest), now).unwrap();
            world.evict(&digest);
            if round == 0 {
                world.date_all(START);
            }
            assert_eq!(world.expire(after(29 * (round + 1))), 0, "{:?}", world.records());
        }
    }

    #[test]
    fn a_filesystem_that_is_short_of_inodes_gets_those_of_records_without_content_back_sooner() {
        let world = World::new();
        let (stays, goes) = (world.put(b"stays", START), world.put(b"goes", START));
        world.date_all(START);
        world.evict(&goes);
        let expire = |now| remove(&world.layout, now, LIFE_WITHOUT_INODES, &|| false);
        assert_eq!(expire(Timestamp(START.0 + 3_599)), 0, "its content may be being written");
        assert_eq!(expire(Timestamp(START.0 + 3_600)), 2);
        assert!(members::find(&world.layout, &world.app, &stays).is_some());
    }
}
