//! The key that the nodes of a cluster share: it names and seals the records that they share in an object store.
//!
//! Promises: without the key a record's name says nothing of what it is about, its content cannot be read, and none can
//! be made; a record that was moved to the place of another one is refused. Each record is sealed with a key of its
//! own, so that nonces of different records never meet. What is not promised: that a record is the newest of its place;
//! it says by itself how old it is.

use std::fmt;
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::support::secret_file::{SecretFileError, read_secret};

/// Bytes of the key file.
const KEY_BYTES: usize = 32;

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cluster key {}: {why}", path.display())]
pub struct ClusterKeyError {
    /// The file.
    path: PathBuf,
    /// What is wrong with the file.
    why: String,
}

/// The key of a cluster.
pub struct ClusterKey {
    naming: hmac::Key,
    sealing: hmac::Key,
    random: SystemRandom,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey")
    }
}

impl ClusterKey {
    /// Reads a key file: 32 bytes that not every user can read, nor any but its owner change (`support::secret_file`).
    /// Blocks.
    ///
    /// # Errors
    /// A file that is not like that.
    pub fn read(path: &Path) -> Result<Self, ClusterKeyError> {
        let failed = |why: String| ClusterKeyError { path: path.to_owned(), why };
        let of_size = || failed(format!("it is not a file of {KEY_BYTES} bytes"));
        let key = read_secret(path, KEY_BYTES as u64).map_err(|error| match error {
            SecretFileError::NoSecret { .. } => of_size(),
            other => failed(other.to_string()),
        })?;
        if key.len() != KEY_BYTES {
            return Err(of_size());
        }
        Ok(Self::new(&key))
    }

    fn new(key: &[u8]) -> Self {
        let whole = hmac::Key::new(hmac::HMAC_SHA256, key);
        let derived =
            |purpose: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&whole, purpose).as_ref());
        let (naming, sealing) = (derived(b"larder names"), derived(b"larder records"));
        Self { naming, sealing, random: SystemRandom::new() }
    }

    /// The name of the record about `parts`, in hexadecimal digits.
    pub fn name(&self, parts: &[&str]) -> String {
        let tag = tag_of(&self.naming, parts);
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals the record about `parts`; `None` without randomness.
    pub fn seal(&self, parts: &[&str], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let place = tag_of(&self.naming, parts);
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key_of(parts)?.seal_in_place_append_tag(unique, Aad::from(place.as_ref()), &mut sealed).ok()?;
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Some(whole)
    }

    /// What was sealed as the record about `parts`; `None` for anything else.
    pub fn open(&self, parts: &[&str], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut whole = sealed.to_vec();
        let (nonce, body) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let place = tag_of(&self.naming, parts);
        let plain = self.key_of(parts)?.open_in_place(nonce, Aad::from(place.as_ref()), body).ok()?;
        Some(plain.to_vec())
    }

    fn key_of(&self, parts: &[&str]) -> Option<LessSafeKey> {
        let key = tag_of(&self.sealing, parts);
        UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok().map(LessSafeKey::new)
    }
}

fn tag_of(key: &hmac::Key, parts: &[&str]) -> hmac::Tag {
    let mut hash = hmac::Context::with_key(key);
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.sign()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_that_was_changed_moved_or_made_without_the_key_is_refused() {
        let (key, other) = (ClusterKey::new(&[1; 32]), ClusterKey::new(&[2; 32]));
        let (here, there) = (["tag", "reg.test/app", "v1"], ["tag", "reg.test/app", "v2"]);
        let sealed = key.seal(&here, b"text").unwrap();
        assert_eq!(key.open(&here, &sealed).unwrap(), b"text");
        assert_eq!(key.open(&there, &sealed), None, "moved");
        assert_eq!(other.open(&here, &sealed), None, "another cluster's");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&here, &changed), None, "{at}");
        }
        for bad in [&b""[..], &[0; 12], &[0; 100]] {
            assert_eq!(key.open(&here, bad), None);
        }
        assert_ne!(key.name(&here), key.name(&there));
        assert_ne!(key.name(&here), other.name(&here));
        assert_ne!(key.name(&["ab", "c"]), key.name(&["a", "bc"]));
        assert!(!key.name(&here).contains("app"));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, [7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = ClusterKey::read(&path).unwrap_err().to_string();
        assert!(error.contains("any user can read it") && error.contains("cluster key"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        let key = ClusterKey::read(&path).unwrap();
        assert_eq!(key.name(&["x"]), ClusterKey::new(&[7; 32]).name(&["x"]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for other in [31, 33] {
            fs::write(&path, vec![7; other]).unwrap();
            assert!(ClusterKey::read(&path).unwrap_err().to_string().contains("32 bytes"));
        }
    }
}
