//! Walking the names: which repositories have something under `refs/`.

use std::fs;
use std::path::Path;

use super::layout::Layout;
use crate::reference::{Registry, Repository};

/// Components of a repository's name at most, and its registry.
const DEPTH_MAX: usize = 130;

/// The registries that anything is known of.
pub(super) fn registries(layout: &Layout) -> Vec<Registry> {
    folders(&layout.refs()).iter().filter_map(|name| name.parse().ok()).collect()
}

/// The repositories that have a folder `marker` (`_tags`, `_pins`), in the order of their names. What is no name is
/// passed over.
pub(super) fn repositories_with(layout: &Layout, marker: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    for registry in folders(&layout.refs()) {
        collect(&layout.refs().join(&registry), (&registry, ""), marker, DEPTH_MAX, &mut found);
    }
    found.sort();
    found
}

fn collect(
    folder: &Path,
    (registry, path): (&str, &str),
    marker: &str,
    depth: usize,
    found: &mut Vec<Repository>,
) {
    for name in folders(folder) {
        if name == marker {
            let repository = registry.parse().ok().zip(path.parse().ok()).map(|(r, p)| Repository::new(r, p));
            found.extend(repository.and_then(Result::ok));
        } else if !name.starts_with('_') && depth > 0 {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            collect(&folder.join(&name), (registry, &below), marker, depth - 1, found);
        }
    }
}

fn folders(path: &Path) -> Vec<String> {
    names(path, fs::FileType::is_dir)
}

/// The names of the files in a folder; none if there is no folder.
pub(super) fn files(path: &Path) -> Vec<String> {
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
