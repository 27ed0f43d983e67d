//! The gate: a header that every request must carry, whose value only those know who can read root's `hosts.toml`.
//!
//! Promises: the value is compared in a time that says nothing about where it differs, is in no `Debug`, log or error,
//! and is not taken from a file that every user of the machine can read. Deliberately not here: which requests must
//! carry it (`handler`).

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName};

use crate::credentials::{Keys, Secret};
use crate::support::secret_file::{SecretFileError, read_secret};

/// Bytes of the value. A shorter one can be guessed.
const BYTES: RangeInclusive<usize> = 16..=1_024;
/// How the daemon of the systemd unit gets a file that is root's alone.
const UNIT: &str =
    "; the systemd unit is handed the file by LoadCredential= (docs/credentials-and-access.md)";

/// Where the gate's value is, and which header carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    /// The name of the header.
    pub header: HeaderName,
    /// The file that holds the value, and that no other user can read; white space around it does not count.
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
    /// The file cannot be read, or is not used, since others can read it too.
    #[error("{}: {source}{}", path.display(), remedy(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: SecretFileError,
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
fn value(path: &Path) -> Result<Secret, SecretFileError> {
    let content = read_secret(path, 2 * *BYTES.end() as u64)?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"))?;
    Ok(text.trim().to_owned().into())
}

/// What is done about a file that only root can read, or everybody: the unit's daemon is neither.
fn remedy(error: &SecretFileError) -> &'static str {
    match error {
        SecretFileError::Open => UNIT,
        SecretFileError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => UNIT,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(content: &str) -> Result<Gate, GateError> {
        read_of(content, 0o600)
    }

    fn read_of(content: &str, mode: u32) -> Result<Gate, GateError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gate");
        std::fs::write(&file, content).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        Gate::read(&GateConfig { header: HeaderName::from_static("x-node-key"), file })
    }

    #[test]
    fn a_value_that_every_local_user_can_read_opens_the_gate_to_none_of_them() {
        for (mode, is_used) in [(0o400, true), (0o600, true), (0o640, true), (0o440, true)]
            .into_iter()
            .chain([(0o644, false), (0o444, false), (0o660, false)])
        {
            let read = read_of("0123456789abcdef", mode);
            assert_eq!(read.is_ok(), is_used, "{mode:o}");
            if let Err(error) = read {
                let text = error.to_string();
                assert!(text.contains("LoadCredential=") && !text.contains("0123"), "{text}");
            }
        }
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
