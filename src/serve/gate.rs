//! The gate: a header that every request must carry, whose value only those know who can read root's `hosts.toml`.
//!
//! Promises: the value is compared in a time that says nothing about where it differs, and is in no `Debug`, log or
//! error. Deliberately not here: which requests must carry it (`handler`).

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName};

use crate::credentials::{Keys, Secret};
use crate::support::open_file::{self, read_regular};

/// Bytes of the value. A shorter one can be guessed.
const BYTES: RangeInclusive<usize> = 16..=1_024;

/// Where the gate's value is, and which header carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    /// The name of the header.
    pub header: HeaderName,
    /// The file that holds the value; white space around it does not count.
    pub file: PathBuf,
}

/// A gate whose value has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    header: HeaderName,
    value: Secret,
}

/// Why a gate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in the file is no value for a gate.
    #[error("{}: expected {} to {} visible ASCII characters", path.display(), BYTES.start(), BYTES.end())]
    Unfit {
        /// The file.
        path: PathBuf,
    },
}

impl Gate {
    /// Reads the value. Blocks for a moment.
    ///
    /// # Errors
    /// The file cannot be read, or holds no value for a gate.
    pub fn read(config: &GateConfig) -> Result<Self, GateError> {
        let path = || config.file.clone();
        let value = value(&config.file).map_err(|source| GateError::Unreadable { path: path(), source })?;
        let fits =
            BYTES.contains(&value.reveal().len()) && value.reveal().bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err(GateError::Unfit { path: path() });
        }
        Ok(Self { header: config.header.clone(), value })
    }

    /// The name of the header.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The value that the header must have.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// Whether a request with these headers may pass. A header that is there twice does not count.
    pub(super) fn admits(&self, headers: &HeaderMap, keys: &Keys) -> bool {
        let mut given = headers.get_all(&self.header).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        keys.equal(value.as_bytes(), self.value.reveal().as_bytes())
    }
}

/// The file without the white space around it, as far as a value may go with some room for that.
fn value(path: &Path) -> io::Result<Secret> {
    let bytes_max = 2 * *BYTES.end() as u64;
    let content = read_regular(path, bytes_max)?.ok_or_else(|| io::Error::other("it is no regular file"))?;
    let whole = Secret::from(open_file::text(content)?);
    Ok(whole.reveal().trim().to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Gate, GateError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gate");
        std::fs::write(&file, content).unwrap();
        Gate::read(&GateConfig { header: HeaderName::from_static("x-node-key"), file })
    }

    #[test]
    fn a_value_that_can_be_guessed_is_refused_and_never_shown() {
        assert_eq!(read(" 0123456789abcdef\n").unwrap().value().reveal(), "0123456789abcdef");
        for unfit in ["0123456789abcde", "0123456789abcde\u{fc}", "0123456789 abcdef", &"x".repeat(1_025)] {
            let error = read(unfit).unwrap_err();
            assert!(matches!(error, GateError::Unfit { .. }), "{error}");
            assert!(!format!("{error}{error:?}").contains("0123"), "{error:?}");
        }
        let config = GateConfig { header: HeaderName::from_static("x"), file: "/nonexistent/gate".into() };
        assert!(Gate::read(&config).unwrap_err().to_string().starts_with("/nonexistent/gate: "));
    }
}
