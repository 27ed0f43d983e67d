//! The node's own keys: one seals the tokens that Larder issues, one makes the fingerprints of principals.
//!
//! Two files of 32 random bytes in `keys/` of the state directory, readable by their owner alone. They are made once
//! and survive restarts; deleting them invalidates every token and every caller's grant, and nothing else. All
//! cryptography that is not TLS is here, and all of it is ring's.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::reference::{Principal, PrincipalKind};
use crate::support::open_file::{Links, open_at_once};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key file cannot be read or made.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A key file that Larder did not write, or that others can read.
    #[error("{} is not a key: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        why: &'static str,
    },
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
}

/// The keys. Their `Debug` shows nothing.
pub struct Keys {
    seal: LessSafeKey,
    fingerprint: hmac::Key,
    random: SystemRandom,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Reads the keys in `directory`, making what is missing. Blocks for a moment.
    ///
    /// # Errors
    /// [`KeysError`]; a key that others than its owner can read is refused.
    pub fn open(directory: &Path) -> Result<Self, KeysError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| KeysError::Io { what: "make directory", path: directory.to_owned(), source })?;
        let random = SystemRandom::new();
        let seal = key(&directory.join("seal"), &random)?;
        let fingerprint = key(&directory.join("fingerprint"), &random)?;
        Self::new(&seal, &fingerprint, random)
    }

    /// Keys that are not written down: for commands that issue no tokens.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn ephemeral() -> Result<Self, KeysError> {
        let random = SystemRandom::new();
        let mut both = Zeroizing::new([0; 2 * KEY_BYTES]);
        random.fill(&mut both[..]).map_err(|Unspecified| KeysError::Random)?;
        Self::new(&both[..KEY_BYTES], &both[KEY_BYTES..], random)
    }

    fn new(seal: &[u8], fingerprint: &[u8], random: SystemRandom) -> Result<Self, KeysError> {
        let seal = UnboundKey::new(&CHACHA20_POLY1305, seal).map_err(|Unspecified| KeysError::Random)?;
        let fingerprint = hmac::Key::new(hmac::HMAC_SHA256, fingerprint);
        Ok(Self { seal: LessSafeKey::new(seal), fingerprint, random })
    }

    /// The principal of `kind` that `parts` identify. Equal parts give equal principals, on this node alone.
    pub(super) fn principal(&self, kind: PrincipalKind, parts: &[&str]) -> Principal {
        let mut hash = hmac::Context::with_key(&self.fingerprint);
        for part in [kind.label()].iter().chain(parts) {
            // The length keeps ("ab", "c") apart from ("a", "bc").
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let tag = hash.sign();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&tag.as_ref()[..16]);
        Principal::new(kind, fingerprint)
    }

    /// Whether two secrets are equal, in a time that does not depend on where they differ.
    pub fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        let tag = hmac::sign(&self.fingerprint, a);
        hmac::verify(&self.fingerprint, b, tag.as_ref()).is_ok()
    }

    /// Encrypts and authenticates a text with this node's key; the result is safe in a header.
    pub(super) fn seal(&self, purpose: &'static str, plain: &[u8]) -> Result<String, KeysError> {
        // 96 random bits: after 2^32 tokens, a hundred years at one a second, a repetition is still unlikely.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|Unspecified| KeysError::Random)?;
        let mut sealed = Vec::with_capacity(plain.len() + CHACHA20_POLY1305.tag_len());
        sealed.extend_from_slice(plain);
        let aad = Aad::from(purpose.as_bytes());
        let done = self.seal.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        done.map_err(|Unspecified| KeysError::Random)?;
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// What [`Keys::seal`] sealed for the same purpose; `None` for anything else.
    pub(super) fn unseal(&self, purpose: &'static str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
        let mut whole = Zeroizing::new(URL_SAFE_NO_PAD.decode(sealed).ok()?);
        let (nonce, body) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let plain = self.seal.open_in_place(nonce, Aad::from(purpose.as_bytes()), body).ok()?;
        Some(Zeroizing::new(plain.to_vec()))
    }
}

/// A key file; made if it is missing. Of two processes that make it at the same time one wins and both use it.
fn key(path: &Path, random: &SystemRandom) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let io = |what: &'static str| {
        let path = path.to_owned();
        move |source| KeysError::Io { what, path, source }
    };
    if let Some(found) = read(path)? {
        return Ok(found);
    }
    let mut fresh = Zeroizing::new(vec![0; KEY_BYTES]);
    random.fill(&mut fresh).map_err(|Unspecified| KeysError::Random)?;
    let temporary = path.with_extension(format!("{:016x}", fastrand::u64(..)));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut f| {
            f.write_all(&fresh)?;
            f.sync_all()?;
            match fs::hard_link(&temporary, path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
                _ => path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all()),
            }
        });
    let _ = fs::remove_file(&temporary);
    written.map_err(io("make"))?;
    read(path)?.ok_or_else(|| io("read")(io::ErrorKind::NotFound.into()))
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
    let io = |source| KeysError::Io { what: "read", path: path.to_owned(), source };
    let unusable = |why| Err(KeysError::Unusable { path: path.to_owned(), why });
    let file = match open_at_once(path, Links::Refused) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let found = file.metadata().map_err(io)?;
    if !found.is_file() || found.len() != KEY_BYTES as u64 {
        return unusable("it is not a file of 32 bytes; remove it, and a new one is made");
    }
    if found.mode() & 0o077 != 0 {
        return unusable("others can read it; remove it, and a new one is made that only its owner can read");
    }
    let mut key = Zeroizing::new(Vec::with_capacity(KEY_BYTES));
    file.take(KEY_BYTES as u64).read_to_end(&mut key).map_err(io)?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_survive_the_process_and_only_their_owner_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("keys");
        let first = Keys::open(&at).unwrap();
        let sealed = first.seal("a", b"text").unwrap();
        let again = Keys::open(&at).unwrap();
        assert_eq!(again.unseal("a", &sealed).unwrap().as_slice(), b"text");
        let kind = PrincipalKind::Caller;
        assert_eq!(first.principal(kind, &["u", "p"]), again.principal(kind, &["u", "p"]));
        for (path, mode) in [(at.clone(), 0o700), (at.join("seal"), 0o600), (at.join("fingerprint"), 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(&at).unwrap().count(), 2);

        fs::set_permissions(at.join("seal"), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Keys::open(&at).unwrap_err().to_string().contains("others can read it"));
        fs::remove_file(at.join("seal")).unwrap();
        fs::write(at.join("seal"), "short").unwrap();
        assert!(Keys::open(&at).unwrap_err().to_string().contains("32 bytes"));
        fs::remove_file(at.join("seal")).unwrap();
        let other = Keys::open(&at).unwrap();
        assert!(other.unseal("a", &sealed).is_none(), "a new key opens no old token");
    }

    #[test]
    fn a_token_that_was_changed_or_sealed_for_another_purpose_does_not_open() {
        let keys = Keys::ephemeral().unwrap();
        let sealed = keys.seal("a", b"text").unwrap();
        assert!(keys.unseal("b", &sealed).is_none());
        assert_ne!(sealed, keys.seal("a", b"text").unwrap());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(keys.unseal("a", std::str::from_utf8(&changed).unwrap()).is_none(), "{at}");
        }
        for bad in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAA", "ö", " "] {
            assert!(keys.unseal("a", bad).is_none(), "{bad}");
        }
        assert!(keys.equal(b"x", b"x") && !keys.equal(b"x", b"y") && !keys.equal(b"x", b"xx"));
    }

    #[test]
    fn parts_that_read_the_same_when_joined_are_two_principals() {
        let keys = Keys::ephemeral().unwrap();
        let of = |parts: &[&str]| keys.principal(PrincipalKind::Caller, parts);
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["u", "p"]), keys.principal(PrincipalKind::Node, &["u", "p"]));
    }
}
