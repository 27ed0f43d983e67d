//! The repositories and registries that have records, found in the directories under `refs/`.

use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;

use crate::reference::{Registry, Repository};
use crate::store::layout::Layout;

/// Components of a repository's name at most: it has 255 bytes.
pub(super) const DEPTH_MAX: usize = 130;

/// The registries of which there are records.
pub(crate) fn registries(layout: &Layout) -> Vec<Registry> {
    directories(&layout.refs()).iter().filter_map(|name| name.parse().ok()).collect()
}

/// The repositories that have the directory `marker` (`_tags`, `_pins`), in the order of their names. Directories that
/// are not named like a repository are skipped.
pub(crate) fn repositories_with(layout: &Layout, marker: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    for registry in directories(&layout.refs()) {
        collect(&layout.refs().join(&registry), (&registry, ""), marker, DEPTH_MAX, &mut found);
    }
    found.sort();
    found
}

/// The names of the files in a directory; none if there is no directory. Read as they are asked for: a registry may
/// have a record for each of a million blobs.
pub(crate) fn files(path: &Path) -> impl Iterator<Item = String> + use<> {
    numbered_files(path).map(|(name, _)| name)
}

/// The same, each with the number of its inode: files that were written one after the other have numbers near to each
/// other, and are read from a disk the sooner in their order.
pub(crate) fn numbered_files(path: &Path) -> impl Iterator<Item = (String, u64)> + use<> {
    names(path, fs::FileType::is_file)
}

fn collect(
    directory: &Path,
    (registry, path): (&str, &str),
    marker: &str,
    depth: usize,
    found: &mut Vec<Repository>,
) {
    for name in directories(directory) {
        if name == marker {
            let repository = registry.parse().ok().zip(path.parse().ok()).map(|(r, p)| Repository::new(r, p));
            found.extend(repository.and_then(Result::ok));
        } else if !name.starts_with('_') && depth > 0 {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            collect(&directory.join(&name), (registry, &below), marker, depth - 1, found);
        }
    }
}

fn directories(path: &Path) -> Vec<String> {
    names(path, fs::FileType::is_dir).map(|(name, _)| name).collect()
}

fn names(path: &Path, wanted: fn(&fs::FileType) -> bool) -> impl Iterator<Item = (String, u64)> + use<> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(move |entry| entry.file_type().is_ok_and(|kind| wanted(&kind)))
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.ino())))
}
