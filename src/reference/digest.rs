//! Content digests: the only place that computes SHA-256.
//!
//! A [`Digest`] is always a well-formed `sha256:<64 lower-case hex>`. Other algorithms are refused by name: neither
//! kubelet nor containerd registers them, and the store has one tree. [`Hasher`] turns bytes into a digest.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A SHA-256 content digest (image-spec, descriptor.md, "Digests"). Ordered and hashed by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no digest that Larder can serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm before the colon is none that Larder stores.
    #[error("digest algorithm {0:?} is not supported: use sha256")]
    Algorithm(String),
    /// The part after the colon is not 64 lower-case hex digits, or there is no colon.
    #[error("malformed digest: expected sha256: and 64 lower-case hex digits")]
    Malformed,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Parses the part after `sha256:`, as file names in the store have it.
    ///
    /// # Errors
    /// Anything but 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return Err(DigestError::Malformed);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// The 64 hex digits without the algorithm: the file name in the store.
    pub fn hex(&self) -> String {
        self.digits().iter().copied().map(char::from).collect()
    }

    fn digits(&self) -> [u8; 64] {
        std::array::from_fn(|at| {
            let byte = self.0[at / 2];
            HEX[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })]
        })
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest whose 32 bytes these are (as the index keeps them).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Malformed),
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if let Some(hex) = text.strip_prefix(PREFIX) {
            return Self::from_hex(hex);
        }
        match text.split_once(':') {
            Some((algorithm, _))
                if algorithm.bytes().all(|b| b.is_ascii_alphanumeric()) && algorithm.len() < 32 =>
            {
                Err(DigestError::Algorithm(algorithm.to_owned()))
            }
            _ => Err(DigestError::Malformed),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        // Hex digits are ASCII.
        f.write_str(std::str::from_utf8(&self.digits()).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Hasher {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one_and_round_trips() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(digest));
        assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
    }

    #[test]
    fn nothing_that_could_name_a_path_or_another_algorithm_is_a_digest() {
        let hex = &EMPTY[7..];
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../../etc/passwd",
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &EMPTY.to_uppercase(),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}\u{0663}", &hex[..62]),
            hex,
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
        assert_eq!("sha512:00".parse::<Digest>(), Err(DigestError::Algorithm("sha512".into())));
        assert_eq!("md5:00".parse::<Digest>(), Err(DigestError::Algorithm("md5".into())));
    }
}
