//! Grants: which principals upstream let read a repository, and when it last did. A principal is known by a keyed hash;
//! no secret is in a grant.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{file, walk};
use crate::reference::{Principal, Repository};
use crate::store::error::Error;
use crate::store::layout::{self, GRANTS, Layout};
use crate::support::clock::Timestamp;

/// Grants of one repository at most; a further one replaces the one that was proved longest ago. Every short-lived
/// token is a new principal.
pub(super) const GRANTS_MAX: usize = 256;

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
        let record: GrantFile = file::read(&entry.path())?;
        Some((principal, record.proved_at))
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
        let mut grants = all(layout, repository);
        if grants.len() >= GRANTS_MAX {
            grants.sort_by_key(|(_, at)| *at);
            for (oldest, _) in &grants[..=grants.len() - GRANTS_MAX] {
                remove(layout, repository, oldest)?;
            }
        }
    }
    file::write(layout, &path, &GrantFile { proved_at })
}

/// Ends a grant durably: a revoked one must not return after a power cut.
pub(crate) fn remove(layout: &Layout, repository: &Repository, principal: &Principal) -> Result<(), Error> {
    layout.remove_durably(&layout.grant(repository, principal)).map(drop)
}

/// Ends all grants of a repository; returns how many there were.
pub(crate) fn remove_of(layout: &Layout, repository: &Repository) -> Result<usize, Error> {
    let _change = layout.change()?;
    empty(&layout.grants(repository))
}

/// Ends all grants of all repositories; returns how many there were.
pub(crate) fn remove_all(layout: &Layout) -> Result<usize, Error> {
    let _change = layout.change()?;
    remove_below(&layout.refs(), walk::DEPTH_MAX)
}

/// Every directory of grants, of names that are no valid repository too: a grant that cannot be listed must not
/// survive.
fn remove_below(directory: &Path, depth: usize) -> Result<usize, Error> {
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
            count += remove_below(&entry.path(), depth - 1)?;
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
    fn grants_are_recorded_bounded_and_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        layout.make_directory(&layout.ingest()).unwrap();
        let at = |name: &str| Repository::new("reg.test".parse().unwrap(), name.parse().unwrap()).unwrap();
        let who = |n: u8| Principal::new(PrincipalKind::Caller, [n; 16]);
        let app = at("team/app");
        let deep = at("team/app/deeper");
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
