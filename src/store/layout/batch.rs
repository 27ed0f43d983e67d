//! Files that get their names together, with few syncs.
//!
//! Written one by one, each small file costs two syncs, of its bytes and of its directory, and each directory of a new
//! repository one more, one after the other. A batch writes all files first, syncs their bytes, gives them their names
//! in order, and syncs each directory once; on a slow disk at the same time (`sync_pace`): a batch takes the time of
//! three syncs, whatever is in it.
//!
//! Promises: no file has its name before its bytes are durable; files get their names in the order in which they were
//! staged, those of one group after those of the group before; but what names another file gets its name after that one
//! is durable, whichever batch wrote it, and none without it. A group of which a file cannot be synced gets no names.
//! What is told as durable survives a power cut.
//!
//! Not here: what is written, and when (`write_behind`).

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::disk::failpoints;
use crate::store::error::Error;
use crate::store::layout::staged::{Earlier, Staged};
use crate::store::layout::unsynced::Failed;
use crate::store::layout::{self, Layout};

/// What became of a group.
#[derive(Debug, Clone)]
pub(in crate::store) enum Outcome {
    /// Its files have their names, and a power cut takes none of them.
    Durable,
    /// Its files have their names; a power cut may take them.
    Fragile(Error),
    /// What it names is not in the store, or a power cut may take that: none of its files has its name.
    NamesNothing,
    /// Its files do not have their names, or not all of them.
    Failed(Error),
}

/// Writes the files of a group by the layout that it is given, and returns what is to be told the outcome.
pub(in crate::store) type Write = Box<dyn FnOnce(&Layout) -> (Result<(), Error>, End) + Send>;
/// Is told what became of a group.
pub(in crate::store) type End = Box<dyn FnOnce(Outcome) + Send>;

/// Files that belong together.
struct Group {
    staged: Staged,
    failed: Option<Error>,
}

/// Writes each group and publishes all of them. Blocks.
pub(in crate::store) fn write(layout: &Layout, writes: Vec<Write>) {
    // Until the ends were told: the store is not closed in between. A store that is closed refuses each write by
    // itself.
    let _change = layout.change().ok();
    let (mut groups, mut ends, earlier) = (Vec::new(), Vec::new(), Earlier::default());
    for write in writes {
        let (staging, staged) = layout.staging(Arc::clone(&earlier));
        let written = catch_unwind(AssertUnwindSafe(|| write(&staging)));
        let (result, end) = written.unwrap_or_else(|_| {
            tracing::error!("a write of the store panicked; what it should have written is not there");
            let panicked = Error::io("write", layout.root())(std::io::Error::other("a panic"));
            (Err(panicked), Box::new(|_| ()))
        });
        let staged = std::mem::take(&mut *staged.lock());
        if result.is_ok() {
            earlier.lock().extend(staged.files.iter().map(|file| file.path.clone()));
        }
        groups.push(Group { staged, failed: result.err() });
        ends.push(end);
    }
    for (outcome, end) in publish(layout, groups).into_iter().zip(ends) {
        if catch_unwind(AssertUnwindSafe(|| end(outcome))).is_err() {
            tracing::error!("what follows a write of the store panicked");
        }
    }
}

/// Writes one group by the layout that `write` is given, and publishes it. Blocks.
pub(in crate::store) fn write_one(
    layout: &Layout,
    write: impl FnOnce(&Layout) -> Result<(), Error>,
) -> Outcome {
    let (staging, staged) = layout.staging(Earlier::default());
    let failed = write(&staging).err();
    let group = Group { staged: std::mem::take(&mut staged.lock()), failed };
    publish(layout, vec![group]).pop().unwrap_or(Outcome::Durable)
}

fn publish(layout: &Layout, groups: Vec<Group>) -> Vec<Outcome> {
    publish_by(layout, groups, &layout::sync_directory)
}

/// Makes the names in a directory durable.
type SyncDirectory<'a> = &'a (dyn Fn(&Path) -> Result<(), Error> + Sync);

fn publish_by(layout: &Layout, mut groups: Vec<Group>, sync: SyncDirectory<'_>) -> Vec<Outcome> {
    failpoints::reached("batch written");
    sync_bytes(layout, &mut groups);
    failpoints::reached("batch synced");
    // A record that a power cut leaves names what it leaves too.
    let (mut names, mut others): (Vec<_>, Vec<_>) =
        groups.iter_mut().enumerate().partition(|(_, group)| group.staged.names.is_some());
    let (mut outcomes, mut fragile) = name_and_sync(layout, &mut others, &Failed::new(), sync);
    if !names.is_empty() {
        fragile.extend(layout.unsynced().retry(sync));
    }
    outcomes.extend(name_and_sync(layout, &mut names, &fragile, sync).0);
    outcomes.into_values().collect()
}

/// Gives files their names and makes these durable; the outcomes are by the number of the group. A group that names
/// what is in a `fragile` directory gets none.
fn name_and_sync(
    layout: &Layout,
    groups: &mut [(usize, &mut Group)],
    fragile: &Failed,
    sync: SyncDirectory<'_>,
) -> (BTreeMap<usize, Outcome>, Failed) {
    let named: Vec<Result<(), Outcome>> =
        groups.iter_mut().map(|(_, group)| give_names(layout, group, fragile)).collect();
    let directories: BTreeSet<PathBuf> = groups.iter().flat_map(|(_, group)| group.directories()).collect();
    let directories: Vec<PathBuf> = directories.into_iter().collect();
    let synced = layout.sync_pace().run(&directories, |directory| sync(directory));
    failpoints::reached("directories synced");
    let failed: Failed = directories
        .into_iter()
        .zip(synced)
        .filter_map(|(directory, synced)| Some((directory, synced.err()?)))
        .collect();
    layout.unsynced().add(&failed);
    let durable = |group: &Group| match group.directories().find_map(|at| failed.get(&at)) {
        Some(error) => Outcome::Fragile(error.clone()),
        None => Outcome::Durable,
    };
    let outcomes = groups.iter().zip(named);
    let outcomes = outcomes
        .map(|((number, group), named)| (*number, named.err().unwrap_or_else(|| durable(group))))
        .collect();
    (outcomes, failed)
}

impl Group {
    /// The directories in which something has got a name.
    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let of_files = self.staged.files.iter().filter_map(|file| file.directory().map(Path::to_owned));
        self.staged.made_in.iter().cloned().chain(of_files)
    }
}

/// Makes the bytes of all files durable; a group of which that fails has failed.
fn sync_bytes(layout: &Layout, groups: &mut [Group]) {
    let sound = groups.iter().enumerate().filter(|(_, group)| group.failed.is_none());
    let files = sound.flat_map(|(number, group)| group.staged.files.iter().map(move |file| (number, file)));
    let files: Vec<_> = files.filter(|(_, file)| file.needs_sync()).collect();
    let sync = |(_, file): &(usize, &layout::staged::StagedFile)| {
        file.sync().map_err(Error::io("sync", &file.temporary))
    };
    let synced = layout.sync_pace().run(&files, sync);
    let numbers: Vec<usize> = files.iter().map(|(number, _)| *number).collect();
    for (number, result) in numbers.into_iter().zip(synced) {
        if let Err(error) = result {
            groups[number].failed.get_or_insert(error);
        }
    }
}

/// Gives the files of a group their names; those that got none are removed, and do not count as its files any more.
fn give_names(layout: &Layout, group: &mut Group, fragile: &Failed) -> Result<(), Outcome> {
    let is_missing =
        |path: &PathBuf| fragile.keys().any(|directory| path.starts_with(directory)) || !path.exists();
    let mut outcome = match group.failed.take() {
        Some(error) => Err(Outcome::Failed(error)),
        None if group.staged.names.as_ref().is_some_and(is_missing) => Err(Outcome::NamesNothing),
        None => Ok(()),
    };
    let mut named = 0;
    for file in &group.staged.files {
        if outcome.is_ok() {
            outcome = layout.rename(&file.temporary, &file.path).map_err(Outcome::Failed);
        }
        if outcome.is_ok() {
            named += 1;
        } else {
            layout.remove_temporary(&file.temporary);
        }
    }
    group.staged.files.truncate(named);
    outcome
}

#[cfg(test)]
mod tests {
    use std::fs;

    use parking_lot::Mutex;

    use super::*;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path());
        layout.make_directory(&layout.ingest()).unwrap();
        layout
    }

    /// Writes `content` to `path` when it is its turn, and notes the outcome.
    fn write_of(path: PathBuf, content: &'static [u8], seen: &Seen) -> Write {
        let seen = seen.clone();
        Box::new(move |staging| {
            let written = staging.write_small(&path, content);
            let there_before = path.exists();
            (written, Box::new(move |outcome| seen.0.lock().push((there_before, path.exists(), outcome))))
        })
    }

    /// Whether a file was there when it was written, and when its outcome was told.
    #[derive(Clone, Default)]
    struct Seen(std::sync::Arc<Mutex<Vec<(bool, bool, Outcome)>>>);

    #[test]
    fn files_of_a_batch_get_their_names_when_all_are_written_and_each_directory_is_synced_once() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, seen) = (layout(&directory), Seen::default());
        let at = |name: &str| layout.root().join("refs/a.test/b").join(name);
        let writes = ["1", "2", "3"].map(|name| write_of(at(name), b"x", &seen));
        write(&layout, writes.into());
        let seen = seen.0.lock();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|found| matches!(found, (false, true, Outcome::Durable))), "{seen:?}");
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_cannot_be_written_keeps_no_other_from_its_name_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, seen) = (layout(&directory), Seen::default());
        let [first, last] = ["first", "last"].map(|name| layout.root().join(name));
        let bad: Write = Box::new({
            let path = layout.root().join("half");
            move |staging| {
                staging.write_small(&path, b"half").unwrap();
                let failed = Error::io("write", &path)(std::io::ErrorKind::StorageFull.into());
                (Err(failed), Box::new(|outcome| assert!(matches!(outcome, Outcome::Failed(_)))))
            }
        });
        write(&layout, vec![write_of(first, b"1", &seen), bad, write_of(last, b"2", &seen)]);
        assert!(seen.0.lock().iter().all(|found| matches!(found, (false, true, Outcome::Durable))));
        assert!(!layout.root().join("half").exists());
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn what_names_a_file_is_published_after_it_and_not_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let (layout, seen) = (layout(&directory), Seen::default());
        let content = layout.root().join("content");
        let name = |path: &str, of: &str| -> Write {
            let (path, content) = (layout.root().join(path), layout.root().join(of));
            let write = write_of(path, b"content", &seen);
            Box::new(move |staging| {
                staging.names(content);
                write(staging)
            })
        };
        let writes = vec![
            name("without it", "nothing"),
            name("before it", "content"),
            write_of(content, b"x", &seen),
            name("after it", "content"),
        ];
        write(&layout, writes);
        let outcomes: Vec<_> =
            seen.0.lock().iter().map(|(_, is_there, outcome)| (*is_there, outcome.clone())).collect();
        assert!(
            matches!(
                outcomes.as_slice(),
                [
                    (false, Outcome::NamesNothing),
                    (true, Outcome::Durable),
                    (true, Outcome::Durable),
                    (true, Outcome::Durable)
                ]
            ),
            "{outcomes:?}"
        );
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }

    #[test]
    fn what_names_a_file_that_a_power_cut_may_take_gets_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let [blob, other] = ["blobs/sha256/x", "other/x"].map(|path| layout.root().join(path));
        for unsynced in ["blobs/sha256", "blobs", "elsewhere"] {
            let group = |path: &str, names: Option<&PathBuf>| {
                let (staging, staged) = layout.staging(Earlier::default());
                names.into_iter().for_each(|names| staging.names(names.clone()));
                staging.write_small(&layout.root().join(path), b"x").unwrap();
                Group { staged: std::mem::take(&mut staged.lock()), failed: None }
            };
            let groups = vec![
                group("blobs/sha256/x", None),
                group("other/x", None),
                group("tags/of-blob", Some(&blob)),
                group("tags/of-other", Some(&other)),
            ];
            let failing = layout.root().join(unsynced);
            let outcomes = publish_by(&layout, groups, &|at| {
                if at == failing { Err(Error::Closed) } else { layout::sync_directory(at) }
            });
            let is_fragile = unsynced != "elsewhere";
            assert_eq!(matches!(outcomes[2], Outcome::NamesNothing), is_fragile, "{unsynced} {outcomes:?}");
            assert!(matches!(outcomes[3], Outcome::Durable) && blob.exists(), "{unsynced} {outcomes:?}");
            assert_eq!(layout.root().join("tags/of-blob").exists(), !is_fragile, "{unsynced}");
            fs::remove_dir_all(layout.root().join("blobs")).unwrap();
        }
    }

    #[test]
    fn what_an_earlier_batch_could_not_make_durable_gets_no_name_in_a_later_one_either() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let blob = layout.root().join("blobs/sha256/x");
        let group = |path: &str, names: Option<&PathBuf>| {
            let (staging, staged) = layout.staging(Earlier::default());
            names.into_iter().for_each(|names| staging.names(names.clone()));
            staging.write_small(&layout.root().join(path), b"x").unwrap();
            Group { staged: std::mem::take(&mut staged.lock()), failed: None }
        };
        let blobs = layout.root().join("blobs/sha256");
        let failing = |at: &Path| if at == blobs { Err(Error::Closed) } else { layout::sync_directory(at) };
        let outcomes = publish_by(&layout, vec![group("blobs/sha256/x", None)], &failing);
        assert!(matches!(outcomes[..], [Outcome::Fragile(_)]) && blob.exists(), "{outcomes:?}");
        let outcomes = publish_by(&layout, vec![group("tags/t", Some(&blob))], &failing);
        assert!(matches!(outcomes[..], [Outcome::NamesNothing]), "{outcomes:?}");
        assert!(!layout.root().join("tags/t").exists());
        // The disk works again, and what is named is durable by then.
        let outcomes = publish_by(&layout, vec![group("tags/t", Some(&blob))], &layout::sync_directory);
        assert!(matches!(outcomes[..], [Outcome::Durable]), "{outcomes:?}");
        let outcomes = publish_by(&layout, vec![group("tags/u", Some(&blob))], &failing);
        assert!(matches!(outcomes[..], [Outcome::Durable]), "it is not synced for ever: {outcomes:?}");
    }

    #[test]
    fn a_file_whose_bytes_a_power_cut_may_take_gets_no_name_and_nor_does_the_rest_of_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let group = |names: [&str; 2]| {
            let (staging, staged) = layout.staging(Earlier::default());
            names.iter().for_each(|name| staging.write_small(&layout.root().join(name), b"x").unwrap());
            Group { staged: std::mem::take(&mut staged.lock()), failed: None }
        };
        let (mut bad, good) = (group(["a/1", "a/2"]), group(["b/1", "b/2"]));
        let last = bad.staged.files.pop().unwrap();
        bad.staged.files.push(last.that_cannot_be_synced());
        let outcomes = publish(&layout, vec![bad, good]);
        assert!(matches!(outcomes[..], [Outcome::Failed(_), Outcome::Durable]), "{outcomes:?}");
        let is_there = |name: &str| layout.root().join(name).exists();
        assert!(!is_there("a/1") && !is_there("a/2") && is_there("b/1") && is_there("b/2"));
        assert_eq!(fs::read_dir(layout.ingest()).unwrap().count(), 0);
    }
}
