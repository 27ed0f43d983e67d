//! Files that hold a secret which the operator hands over: a key, a credential.
//!
//! Promises: a file that every user of the machine can read or change, or that its group can change, is not read. Its
//! group may read it: a credential of systemd (`LoadCredential=`) and a mounted Secret with `fsGroup` are readable by a
//! group. What was read is wiped from memory once it is dropped, and no error holds a part of it.
//!
//! Deliberately not here: what the secret means, and the files that the daemon makes itself (`credentials::keys`).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::open_file::{Links, open_at_once};

/// The permissions that such a file must not have: any of other users, and that of its group to change it.
const OPEN: u32 = 0o027;

/// Why a file with a secret is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a directory, a pipe or a device, or larger than any such secret.
    #[error("it is no regular file of at most {bytes_max} bytes")]
    NoSecret {
        /// Bytes of such a secret at most.
        bytes_max: u64,
    },
    /// Others may read or change it.
    #[error(
        "any user can read it, or its group can change it: chmod 600 (of a mounted Secret: defaultMode: 0400)"
    )]
    Open,
}

/// The content of a file of at most `bytes_max` bytes. Links are followed: mounted Secrets are links. Blocks.
///
/// # Errors
/// A file that cannot be read, is larger, or is open to others.
pub fn read_secret(path: &Path, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let file = open_at_once(path, Links::Followed)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > bytes_max {
        return Err(SecretFileError::NoSecret { bytes_max });
    }
    if found.mode() & OPEN != 0 {
        return Err(SecretFileError::Open);
    }
    read_whole(file, bytes_max)
}

fn read_whole(file: File, bytes_max: u64) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    // Room for all of it from the start, and for the end of the file: a buffer that grows leaves copies behind.
    let room = usize::try_from(bytes_max).unwrap_or(0) + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(SecretFileError::NoSecret { bytes_max });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_or_change_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "hunter2").unwrap();
        for (mode, is_used) in [
            (0o400, true),
            (0o600, true),
            (0o440, true),
            (0o640, true),
            (0o660, false),
            (0o620, false),
            (0o644, false),
            (0o604, false),
            (0o602, false),
            (0o601, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = read_secret(&path, 7);
            assert_eq!(read.is_ok(), is_used, "{mode:o}");
            if let Err(error) = read {
                let text = error.to_string();
                assert!(text.contains("chmod 600") && !text.contains("hunter2"), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("key"), "hunter2").unwrap();
        fs::set_permissions(at("key"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(at("key"), at("link")).unwrap();
        assert_eq!(**read_secret(&at("link"), 7).unwrap(), *b"hunter2");
        for (name, bytes_max) in [("key", 6), ("", 100), ("none", 100)] {
            assert!(read_secret(&at(name), bytes_max).is_err(), "{name}");
        }
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(read_secret(&at("pipe"), 100).is_err(), "it is not waited for");
    }
}
