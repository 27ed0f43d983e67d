//! The files that an operator means by a path: the one it names, or those in the directory it names.
//!
//! Symbolic links are followed, since that is how kubelet lays out what it mounts; so the depth is bounded. What is in
//! the files is the caller's business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was found in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A file of that name.
    File(&'a str),
    /// A directory of that name.
    Directory(&'a str),
}

/// The file at `path`, or the files in it, in the order of their names, `depth` directories deep at most. What is found
/// in a directory counts if `wanted` says so; a path that was named counts in any case. Blocks.
///
/// # Errors
/// The first that cannot be looked at.
pub fn files(path: &Path, depth: usize, wanted: impl Fn(Entry<'_>) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(path, depth, &|_| true, &wanted, &mut found)?;
    Ok(found)
}

fn collect(
    path: &Path,
    depth: usize,
    this: &dyn Fn(Entry<'_>) -> bool,
    wanted: &dyn Fn(Entry<'_>) -> bool,
    found: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let kind = fs::metadata(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if kind.is_file() && this(Entry::File(&name)) {
        found.push(path.to_owned());
    } else if kind.is_dir() && depth > 0 && this(Entry::Directory(&name)) {
        let entries = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path()));
        let mut inside: Vec<PathBuf> = entries.collect::<Result<_, _>>()?;
        inside.sort();
        for path in inside {
            collect(&path, depth - 1, wanted, wanted, found)?;
        }
    }
    Ok(())
}
