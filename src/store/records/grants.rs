//! Grants as files: whom upstream let read a repository, and when it last said so. No secret is in them: a principal
//! is known by a keyed hash.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::reference::{Principal, Repository};
use crate::store::error::Error;
use crate::store::layout::{self, GRANTS, Layout};
use crate::store::records::tags::{read, write};
use crate::support::clock::Timestamp;

/// Grants of one repository at most: with more, the one that was proved longest ago makes room. Short-lived tokens
/// make a new principal with each.
const GRANTS_MAX: usize = 256;
/// Directories within directories at most: a repository's name has 255 bytes.
const DEPTH_MAX: usize = 130;

#[derive(Serialize, Deserialize)]
struct GrantFile {
    proved_at: Timestamp,
}

pub(crate) fn all(layout: &Layout, repository: &Repository) -> Vec<(Principal, Timestamp)> {
    let Ok(entries) = fs::read_dir(layout.grants(repository)) else {
        return Vec::new();
    };
    let of_entry = |entry: fs::DirEntry| {
        let principal: Principal = entry.file_name().to_str()?.parse().ok()?;
        let file: GrantFile = read(&entry.path())?;
        Some((principal, file.proved_at))
    };
    entries.flatten().filter_map(of_entry).collect()
}

pub(crate) fn set(
    layout: &Layout,
    repository: &Repository,
    principal: &Principal,
    proved_at: Timestamp,
) -> Result<(), Error> {
    let path = layout.grant(repository, principal);
    if matches!(layout::open_regular(&path), Ok(None)) {
        let mut there = all(layout, repository);
        if there.len() >= GRANTS_MAX {
            there.sort_by_key(|(_, at)| *at);
            for (oldest, _) in &there[..=there.len() - GRANTS_MAX] {
                remove(layout, repository, oldest)?;
            }
        }
    }
    write(layout, &path, &GrantFile { proved_at })
}

pub(crate) fn remove(layout: &Layout, repository: &Repository, principal: &Principal) -> Result<(), Error> {
    let path = layout.grant(repository, principal);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        // A right that has ended must not come back after a power cut.
        Ok(()) => layout::sync_directory(&layout.grants(repository)),
        Err(_) => Ok(()),
    }
}

/// Ends all rights to a repository; returns how many there were.
pub(crate) fn remove_of(layout: &Layout, repository: &Repository) -> Result<usize, Error> {
    empty(&layout.grants(repository))
}

/// Ends all rights to all repositories.
pub(crate) fn remove_all(layout: &Layout) -> Result<usize, Error> {
    walk(&layout.refs(), DEPTH_MAX)
}

fn walk(directory: &Path, depth: usize) -> Result<usize, Error> {
    let mut count = 0;
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))?.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let name = entry.file_name();
        if !is_directory || depth == 0 {
            continue;
        }
        if name == GRANTS {
            count += empty(&entry.path())?;
        } else if !name.to_string_lossy().starts_with('_') {
            count += walk(&entry.path(), depth - 1)?;
        }
    }
    Ok(count)
}

fn empty(directory: &Path) -> Result<usize, Error> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(Error::io("list", directory))?,
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        count += 1;
    }
    layout::sync_directory(directory)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::PrincipalKind;

    #[test]
    fn rights_are_remembered_bounded_and_ended() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.make_directory(&layout.ingest()).unwrap();
        let at = |name: &str| Repository::new("reg.test".parse().unwrap(), name.parse().unwrap()).unwrap();
        let who = |n: u8| Principal::new(PrincipalKind::Caller, [n; 16]);
        let (app, deep) = (at("team/app"), at("team/app/deeper"));
        set(&layout, &app, &who(1), Timestamp(5)).unwrap();
        set(&layout, &app, &who(1), Timestamp(9)).unwrap();
        set(&layout, &deep, &who(2), Timestamp(7)).unwrap();
        fs::write(layout.grants(&app).join("rubbish"), "x").unwrap();
        fs::write(layout.grant(&app, &who(3)), "{broken").unwrap();
        assert_eq!(all(&layout, &app), [(who(1), Timestamp(9))]);
        remove(&layout, &app, &who(1)).unwrap();
        remove(&layout, &app, &who(1)).unwrap();
        assert_eq!(all(&layout, &app), []);

        for n in 0..=255 {
            set(&layout, &app, &who(n), Timestamp(u64::from(n) + 100)).unwrap();
        }
        let other = Principal::new(PrincipalKind::Node, [0; 16]);
        set(&layout, &app, &other, Timestamp(1_000)).unwrap();
        let left = all(&layout, &app);
        assert_eq!(left.len(), GRANTS_MAX);
        assert!(left.contains(&(other, Timestamp(1_000))) && !left.iter().any(|(p, _)| *p == who(0)));

        assert!(remove_of(&layout, &app).unwrap() >= GRANTS_MAX);
        assert_eq!(all(&layout, &deep).len(), 1);
        assert_eq!(remove_all(&layout).unwrap(), 1);
        assert!(all(&layout, &app).is_empty() && all(&layout, &deep).is_empty());
    }
}
