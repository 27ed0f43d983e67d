//! Content digests: the only place that computes them.
//!
//! A [`Digest`] is a well-formed `sha256:<64 lower-case hex>` or `sha512:<128 lower-case hex>`: the algorithms that the
//! image specification registers and that clients compute. Others are refused by name, apart from what is no digest at
//! all: a registry may have such content, and Larder cannot prove it. The hex digits alone tell the algorithm by their
//! number. [`Hasher`] turns bytes into a digest.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Hex digits of the longest digest.
const HEX_DIGITS_MAX: usize = 128;
/// Bytes at most of the name of an algorithm that is quoted.
const NAME_BYTES_MAX: usize = 32;

/// How a digest is computed (image-spec, descriptor.md, "Registered algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// As it is written before the colon of a digest, and as the directory of an image layout.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A content digest (image-spec, descriptor.md, "Digests"). Ordered and hashed by its algorithm and bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Value);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

/// Why a text is no digest that Larder can serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// A digest of an algorithm that Larder does not compute.
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    Algorithm(String),
    /// It is not of the form of a digest, or has not the digits that its algorithm has.
    #[error("malformed digest: expected sha256: and 64, or sha512: and 128 lower-case hex digits")]
    Malformed,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::computed(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes` by `algorithm`.
    pub fn computed(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether it is that of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Self::computed(self.algorithm(), bytes) == *self
    }

    /// How it is computed.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Value::Sha256(_) => Algorithm::Sha256,
            Value::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// A hasher of no bytes yet, by the same algorithm.
    pub fn hasher(&self) -> Hasher {
        Hasher::new(self.algorithm())
    }

    /// Parses the part after the colon, as file names in the store have it.
    ///
    /// # Errors
    /// Anything but 64 or 128 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 64];
        let hex = hex.as_bytes();
        if hex.len() > 2 * bytes.len() || !hex.len().is_multiple_of(2) {
            return Err(DigestError::Malformed);
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Self::from_bytes(&bytes[..hex.len() / 2]).ok_or(DigestError::Malformed)
    }

    /// The hex digits without the algorithm: the file name in the store.
    pub fn hex(&self) -> String {
        let mut digits = [0; HEX_DIGITS_MAX];
        self.write_hex(&mut digits).to_owned()
    }

    /// The hex digits, in `digits`.
    fn write_hex<'a>(&self, digits: &'a mut [u8; HEX_DIGITS_MAX]) -> &'a str {
        let bytes = self.as_bytes();
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        std::str::from_utf8(&digits[..2 * bytes.len()]).unwrap_or_default()
    }

    /// Its 32 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Value::Sha256(bytes) => bytes,
            Value::Sha512(bytes) => bytes,
        }
    }

    /// The SHA-256 digest of these bytes.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(Value::Sha256(bytes))
    }

    /// The SHA-512 digest of these bytes, in two halves.
    pub fn from_sha512(first: [u8; 32], second: [u8; 32]) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&first);
        bytes[32..].copy_from_slice(&second);
        Self(Value::Sha512(bytes))
    }

    /// The digest of these bytes (as the index keeps them); `None` unless they are 32 or 64.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let value = match bytes.len() {
            32 => Value::Sha256(bytes.try_into().ok()?),
            _ => Value::Sha512(bytes.try_into().ok()?),
        };
        Some(Self(value))
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
        let (name, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let Some(algorithm) = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name) else {
            return Err(other_algorithm(name, encoded));
        };
        Self::from_hex(encoded)
            .ok()
            .filter(|digest| digest.algorithm() == algorithm)
            .ok_or(DigestError::Malformed)
    }
}

/// The error of a text that may be a digest by an algorithm that is not computed here (image-spec, descriptor.md,
/// "Digests": the grammar).
fn other_algorithm(name: &str, encoded: &str) -> DigestError {
    let component =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let is_name = name.len() <= NAME_BYTES_MAX && name.split(['+', '.', '_', '-']).all(component);
    let is_encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-');
    if is_name && !encoded.is_empty() && encoded.bytes().all(is_encoded) {
        DigestError::Algorithm(name.to_owned())
    } else {
        DigestError::Malformed
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().name())?;
        f.write_str(":")?;
        f.write_str(self.write_hex(&mut [0; HEX_DIGITS_MAX]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running hash; on the heap, so that what holds one stays small.
#[derive(Clone)]
pub struct Hasher(Box<Running>);

#[derive(Clone)]
enum Running {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher(..)")
    }
}

impl Hasher {
    /// Of no bytes yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(Box::new(match algorithm {
            Algorithm::Sha256 => Running::Sha256(Sha256::new()),
            Algorithm::Sha512 => Running::Sha512(Sha512::new()),
        }))
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut *self.0 {
            Running::Sha256(running) => running.update(bytes),
            Running::Sha512(running) => running.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        Digest(match *self.0 {
            Running::Sha256(running) => Value::Sha256(running.finalize().into()),
            Running::Sha512(running) => Value::Sha512(running.finalize().into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn the_digests_of_nothing_are_the_known_ones_and_round_trip() {
        for (algorithm, known) in Algorithm::ALL.into_iter().zip([EMPTY, EMPTY_512]) {
            let digest = Digest::computed(algorithm, b"");
            assert_eq!((digest.to_string(), digest.algorithm()), (known.to_owned(), algorithm));
            assert_eq!(known.parse(), Ok(digest));
            assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
            assert_eq!(Digest::from_bytes(digest.as_bytes()), Some(digest));
            assert_eq!(digest.hasher().finish(), digest);
            assert!(digest.is_of(b"") && !digest.is_of(b"x"));
        }
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(Digest::from_bytes(&[0; 48]), None);
    }

    #[test]
    fn nothing_that_could_name_a_path_is_a_digest() {
        let (hex, hex_512) = (&EMPTY[7..], &EMPTY_512[7..]);
        for text in [
            "",
            "sha256",
            "sha256:",
            ":",
            "sha256:../../../etc/passwd",
            "md5:../../../etc/passwd",
            "../md5:00",
            "md5:",
            "SHA256:00",
            "a..b:00",
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &EMPTY.to_uppercase(),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}\u{0663}", &hex[..62]),
            &format!("sha256:{hex_512}"),
            &format!("sha512:{hex}"),
            &EMPTY_512[..127],
            "sha512:00",
            hex,
            hex_512,
        ] {
            assert_eq!(text.parse::<Digest>(), Err(DigestError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_digest_of_another_algorithm_is_told_from_what_is_no_digest() {
        for (text, name) in
            [("md5:00", "md5"), ("blake3:0A=_-", "blake3"), ("multihash+base58:Qm", "multihash+base58")]
        {
            assert_eq!(text.parse::<Digest>(), Err(DigestError::Algorithm(name.into())));
        }
    }
}
