//! Records that have outlived what they speak of: who might hand out content that is not here any more, and names of it.
//!
//! Content comes and goes with the budget; without an end to them, two small files for every blob that was ever pulled
//! would fill the disk beside it. One goes if what it speaks of is not here and it has not been written for a month. What
//! follows from a missing record is a question to upstream, which has to be asked for the content anyway.
//!
//! Deliberately not here: grants and pins. Those are bounded, and somebody may count on them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::reference::{Digest, Repository, Tag};
use crate::store::layout::{self, Layout};
use crate::store::{records::aliases, records::tags, records::walk};
use crate::support::clock::Timestamp;

/// How long a record is kept after it was written or of use.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Removes them and returns how many there were. Blocks. What cannot be removed stays, and is tried again the next time.
pub(crate) fn remove(layout: &Layout, now: Timestamp) -> usize {
    let gone = |digest: &Digest| !layout.blob(digest).exists();
    let gone_by_name = |name: &str| Digest::from_hex(name).is_ok_and(|digest| gone(&digest));
    let of = |marker, outlived: &dyn Fn(&Repository, &str) -> bool| -> usize {
        let remove = |repository: Repository| {
            remove_from(&layout.marked(&repository, marker), now, |name| outlived(&repository, name))
        };
        walk::repositories_with(layout, marker).into_iter().map(remove).sum()
    };
    let received = walk::registries(layout);
    let received = received.iter().map(|r| remove_from(&layout.received_of(r), now, gone_by_name));
    received.sum::<usize>()
        + of(layout::MEMBERS, &|_, name| gone_by_name(name))
        + of(layout::TAGS, &|repository, name| {
            let tag = name.parse::<Tag>();
            tag.is_ok_and(|tag| tags::tag(layout, repository, &tag).is_none_or(|record| gone(&record.digest)))
        })
        // Of use is what was answered by another form of the name.
        + of(layout::ABSENT, &|_, name| name.parse::<Tag>().is_ok())
        + of(layout::COMPOSED, &|repository, name| {
            let composed = Digest::from_hex(name).map(|digest| aliases::read(layout, repository, &digest));
            composed.is_ok_and(|known| {
                known.is_none_or(|known| known.images.iter().all(|(_, digest)| gone(digest)))
            })
        })
}

fn remove_from(directory: &Path, now: Timestamp, outlived: impl Fn(&str) -> bool) -> usize {
    let names = walk::files(directory).into_iter();
    let removed = names.filter(|name| {
        let path = directory.join(name);
        is_old(&path, now) && outlived(name) && fs::remove_file(path).is_ok()
    });
    removed.count()
}

/// Whether it was neither written nor of use for long.
fn is_old(path: &Path, now: Timestamp) -> bool {
    let written = fs::symlink_metadata(path).ok().and_then(|found| u64::try_from(found.mtime()).ok());
    written.is_some_and(|at| Timestamp(at).age_at(now) >= KEPT)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use bytes::Bytes;

    use super::*;
    use crate::reference::MediaType;
    use crate::store::tests::{open, repository};
    use crate::store::{Member, Store, SynthesizedIndex};

    const DAY: Duration = Duration::from_secs(86_400);

    fn records(store: &Store) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![store.0.layout.refs()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.push(path.strip_prefix(store.0.layout.refs()).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    /// Dates every record by the store's clock.
    fn date(store: &Store) {
        for record in records(store) {
            let file = File::open(store.0.layout.refs().join(record)).unwrap();
            file.set_modified(store.clock().now().to_system_time()).unwrap();
        }
    }

    fn removed(store: &Store) -> usize {
        remove(&store.0.layout, store.clock().now())
    }

    #[tokio::test]
    async fn what_speaks_of_content_that_has_gone_goes_too_after_a_month_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).unwrap();
        let (app, tag) = (repository("reg.test/team/app"), "v1".parse::<Tag>().unwrap());
        let put = |content: &'static [u8]| {
            let (store, app) = (store.clone(), app.clone());
            async move {
                let digest = Digest::of(content);
                store.put(&app, digest, Bytes::from_static(content), Member::Blob).await.unwrap();
                digest
            }
        };
        let (stays, goes) = (put(b"stays").await, put(b"goes").await);
        store.confirm_tag(&app, &tag, goes).await.unwrap();
        store.confirm_tag(&app, &"stays".parse().unwrap(), stays).await.unwrap();
        store.set_absent_upstream(&app, &tag).await.unwrap();
        store.set_outage(app.registry(), Some(Timestamp(1))).await.unwrap();
        let compose = |part| SynthesizedIndex {
            bytes: Bytes::from(format!("of {part}")),
            media_type: MediaType::OCI_INDEX.parse().unwrap(),
            images: vec![(app.clone(), part)],
        };
        for part in [stays, goes] {
            store.set_synthesized_index(&app, &compose(part)).await.unwrap();
        }
        date(&store);
        let before = records(&store);
        fs::remove_file(store.0.layout.blob(&goes)).unwrap();
        fs::write(store.0.layout.marked(&app, layout::MEMBERS).join("not-ours"), "").unwrap();
        assert_eq!(removed(&store), 0, "it may be being written");
        store.clock().advance(KEPT - DAY);
        assert_eq!(removed(&store), 0);
        store.clock().advance(DAY);
        assert_eq!(removed(&store), 5, "{:?}", records(&store));
        let left: Vec<_> = records(&store).into_iter().filter(|r| !r.ends_with("not-ours")).collect();
        let composed = Digest::of(&compose(goes).bytes);
        let expected: Vec<_> = before
            .into_iter()
            .filter(|r| !r.contains("_absent/") && !r.ends_with("_tags/v1"))
            .filter(|r| !r.contains(&goes.hex()) && !r.contains(&composed.hex()))
            .collect();
        assert_eq!(left, expected);
        assert_eq!(put(b"goes").await, goes, "and all begins anew");
        assert!(store.member(&app, goes).await.is_some() && store.received_from(app.registry(), goes).await);
    }

    #[tokio::test]
    async fn what_is_of_use_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).unwrap();
        let (app, tag) = (repository("reg.test/team/app"), "v1".parse::<Tag>().unwrap());
        let digest = Digest::of(b"evicted");
        let put = || store.put(&app, digest, Bytes::from_static(b"evicted"), Member::Blob);
        let composed = SynthesizedIndex {
            bytes: Bytes::from_static(b"index"),
            media_type: MediaType::OCI_INDEX.parse().unwrap(),
            images: vec![(app.clone(), digest)],
        };
        for round in 0..4 {
            // What is written anew at each use, or dated anew.
            put().await.unwrap();
            store.set_absent_upstream(&app, &tag).await.unwrap();
            store.set_synthesized_index(&app, &composed).await.unwrap();
            fs::remove_file(store.0.layout.blob(&digest)).unwrap();
            if round == 0 {
                date(&store);
            }
            store.clock().advance(KEPT - DAY);
            assert_eq!(removed(&store), 0, "{:?}", records(&store));
        }
    }
}
