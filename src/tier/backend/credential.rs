//! Key files, each in the format that its platform has for them: an AWS credentials file, an Azure connection string, the
//! key of a Google service account.
//!
//! Promises: a key file that every user of the machine can read or change, or its group can change, is not used.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::support::open_file::{Links, open_at_once};
use crate::tier::error::BuildError;

/// How often a key file is read again: a key that was replaced counts within that time.
const READ_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a key file at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The permissions that a key file must not have: any of other users, and that of its group to change it. Its group may
/// read it, as it may the cluster's key: a credential of systemd (`LoadCredential=`) and a
/// mounted Secret with `fsGroup` are readable by a group.
const OPEN: u32 = 0o027;

/// An AWS credentials file, of which the profile `default` counts, or the first one.
pub(super) struct AwsKeyFile {
    path: PathBuf,
    read: Mutex<(Instant, Arc<AwsCredential>)>,
}

impl AwsKeyFile {
    /// Blocks while the file is read.
    ///
    /// # Errors
    /// A file that cannot be read, or has no key.
    pub(super) fn open(path: &Path) -> Result<Self, BuildError> {
        let credential = Arc::new(aws_credential(path)?);
        Ok(Self { path: path.to_owned(), read: Mutex::new((Instant::now(), credential)) })
    }
}

impl fmt::Debug for AwsKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeyFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CredentialProvider for AwsKeyFile {
    type Credential = AwsCredential;

    // As `async_trait` writes it.
    fn get_credential<'s, 'f>(
        &'s self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let (at, before) = self.read.lock().clone();
            if at.elapsed() < READ_EVERY {
                return Ok(before);
            }
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || aws_credential(&path)).await;
            let now = match read {
                Ok(Ok(credential)) => Arc::new(credential),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the key of the shared tier that was read before is used");
                    before
                }
                Err(_) => before,
            };
            *self.read.lock() = (Instant::now(), Arc::clone(&now));
            Ok(now)
        })
    }
}

fn is_open(mode: u32) -> bool {
    mode & OPEN != 0
}

/// The text of a key file. Blocks.
///
/// # Errors
/// A file that cannot be read, is too large, or is open to other users.
pub(super) fn text_of(path: &Path) -> Result<Zeroizing<String>, BuildError> {
    let failed = |why: String| BuildError::File { path: path.to_owned(), why };
    let file = open_at_once(path, Links::Followed).map_err(|error| failed(error.to_string()))?;
    let found = file.metadata().map_err(|error| failed(error.to_string()))?;
    if !found.is_file() || found.len() > FILE_BYTES_MAX {
        return Err(failed("it is no key file, or larger than any".to_owned()));
    }
    if is_open(found.mode()) {
        let why = "any user can read it, or its group can change it: chmod 600 (of a mounted Secret: defaultMode: 0400)";
        return Err(failed(why.to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    Ok(text)
}

fn aws_credential(path: &Path) -> Result<AwsCredential, BuildError> {
    let text = text_of(path)?;
    let missing = |name| BuildError::File { path: path.to_owned(), why: format!("there is no {name} in it") };
    let value = |name: &str| aws_value(&text, name).map(str::to_owned);
    Ok(AwsCredential {
        key_id: value("aws_access_key_id").ok_or_else(|| missing("aws_access_key_id"))?,
        secret_key: value("aws_secret_access_key").ok_or_else(|| missing("aws_secret_access_key"))?,
        token: value("aws_session_token"),
    })
}

/// A value of the profile `default`, or of the first profile where there is none of that name.
fn aws_value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let has_default = lines().any(|line| line == "[default]");
    let (mut profiles, mut counts) = (0, true);
    for line in lines() {
        if line.starts_with('[') {
            profiles += 1;
            counts = if has_default { line == "[default]" } else { profiles == 1 };
        } else if let Some((key, value)) = line.split_once('=')
            && counts
            && key.trim() == name
        {
            return Some(value.trim());
        }
    }
    None
}

/// What an Azure connection string says.
pub(super) struct AccountKey {
    pub(super) account: String,
    pub(super) key: Option<Zeroizing<String>>,
    pub(super) signature: Option<Zeroizing<String>>,
}

/// Reads a connection string as Azure's portal shows it.
///
/// # Errors
/// A file that cannot be read, or names no account.
pub(super) fn account_key(path: &Path) -> Result<AccountKey, BuildError> {
    let text = text_of(path)?;
    let value = |name: &str| {
        let mut fields = text.trim().split(';').filter_map(|field| field.split_once('='));
        fields
            .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    };
    let why = "there is no AccountName in it: expected a connection string of a storage account";
    let account = value("AccountName")
        .ok_or_else(|| BuildError::File { path: path.to_owned(), why: why.to_owned() })?;
    let secret = |name| value(name).map(Zeroizing::new);
    Ok(AccountKey { account, key: secret("AccountKey"), signature: secret("SharedAccessSignature") })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_that_every_user_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "aws_access_key_id = A\naws_secret_access_key = hunter2\n").unwrap();
        for (mode, is_used) in
            [(0o400, true), (0o600, true), (0o640, true), (0o660, false), (0o644, false), (0o602, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let opened = AwsKeyFile::open(&path);
            assert_eq!(opened.is_ok(), is_used, "{mode:o}");
            if let Err(error) = opened {
                let text = error.to_string();
                assert!(text.contains("chmod 600") && !text.contains("hunter2"), "{text}");
            }
        }
    }

    #[test]
    fn the_key_of_another_profile_is_not_used() {
        let text = "# x\n[other]\naws_access_key_id = A\naws_secret_access_key = B\n[default]\naws_access_key_id=C\n";
        assert_eq!(aws_value(text, "aws_access_key_id"), Some("C"));
        assert_eq!(aws_value(text, "aws_secret_access_key"), None);
        assert_eq!(aws_value("aws_access_key_id = A\n", "aws_access_key_id"), Some("A"));
        assert_eq!(aws_value("[p]\nk = A\n[q]\nk = B\nj = C", "j"), None);
    }

    #[test]
    fn no_part_of_a_key_is_in_an_error_or_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "[default]\naws_secret_access_key = hunter2\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let error = AwsKeyFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("aws_access_key_id") && !error.contains("hunter2"), "{error}");
        fs::write(&path, "aws_access_key_id = A\naws_secret_access_key = hunter2\n").unwrap();
        assert!(!format!("{:?}", AwsKeyFile::open(&path).unwrap()).contains("hunter2"));
        fs::write(&path, "AccountName=acc;AccountKey=a2V5==;EndpointSuffix=x").unwrap();
        let key = account_key(&path).unwrap();
        assert_eq!((key.account.as_str(), key.key.unwrap().as_str()), ("acc", "a2V5=="));
    }
}
