//! A tier that is a directory, written to by a command of root: whose are the directories that it makes?

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::config::{Location, Platform};
use super::layout::Layout;

/// The permission of others than the owner to write.
const WRITTEN_BY_OTHERS: u32 = 0o022;

impl Location {
    /// A directory of the tier to which another user than root may write, if there is one: what root makes there would
    /// be root's, and a daemon with a user of its own could not write to it. `None` for a bucket. Blocks for a moment.
    pub fn directory_of_another_user(&self) -> Option<PathBuf> {
        if self.platform() != Platform::Directory {
            return None;
        }
        let mut at = PathBuf::from(self.directory());
        let mut all = vec![at.clone()];
        for name in Layout::new(self.prefix()).probes().split('/').filter(|name| !name.is_empty()) {
            at.push(name);
            all.push(at.clone());
        }
        all.into_iter().find(|directory| {
            fs::metadata(directory).is_ok_and(|found| !is_of_root_alone(found.uid(), found.mode()))
        })
    }
}

fn is_of_root_alone(owner: u32, mode: u32) -> bool {
    owner == 0 && mode & WRITTEN_BY_OTHERS == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_another_user_writes_to_is_not_roots_to_write_to() {
        assert!(is_of_root_alone(0, 0o040_755) && is_of_root_alone(0, 0o040_700));
        for (owner, mode) in [(62_000, 0o040_755), (0, 0o042_775), (0, 0o041_777)] {
            assert!(!is_of_root_alone(owner, mode), "{owner} {mode:o}");
        }
        let directory = tempfile::tempdir().unwrap();
        let location = format!("file://{}", directory.path().display()).parse::<Location>().unwrap();
        let below = directory.path().join("larder/v1");
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(&below, fs::Permissions::from_mode(0o777)).unwrap();
        let found = location.directory_of_another_user();
        // Where the tests are not root's, the first one is another user's already.
        let is_root = fs::metadata(directory.path()).unwrap().uid() == 0;
        assert_eq!(found, Some(if is_root { below } else { directory.path().to_owned() }));
        assert_eq!("s3://bucket/prefix".parse::<Location>().unwrap().directory_of_another_user(), None);
    }
}
