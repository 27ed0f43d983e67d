//! Key files, each in the format that its platform has for them: an AWS credentials file, an Azure connection string,
//! the key of a Google service account.
//!
//! Promises: a key file that others can read or change is not used (`support::secret_file`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::support::secret_file::read_secret;
use crate::tier::error::BuildError;

/// How often a key file is read again: a key that was replaced counts within that time.
const READ_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a key file at most.
const FILE_BYTES_MAX: u64 = 64 * 1024;

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

/// The text of a key file. Blocks.
///
/// # Errors
/// A file that cannot be read, is too large, or is open to other users.
pub(super) fn text_of(path: &Path) -> Result<Zeroizing<String>, BuildError> {
    let failed = |why: String| BuildError::File { path: path.to_owned(), why };
    let content = read_secret(path, FILE_BYTES_MAX).map_err(|error| failed(error.to_string()))?;
    let text = std::str::from_utf8(&content).map_err(|_| failed("it is no text".to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
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
pub(super) struct Account {
    pub(super) name: String,
    pub(super) secret: AccountSecret,
    /// Where it is, if that is not in the public cloud.
    pub(super) endpoint: Option<String>,
}

/// What requests of an account are signed or marked with.
pub(super) enum AccountSecret {
    Key(Zeroizing<String>),
    Signature(Zeroizing<String>),
}

/// Reads a connection string as Azure's portal shows it, with a key or a shared access signature.
///
/// # Errors
/// A file that cannot be read, names no account, or has neither a key nor a signature.
pub(super) fn account_key(path: &Path) -> Result<Account, BuildError> {
    let text = text_of(path)?;
    let failed = |why: &str| BuildError::File { path: path.to_owned(), why: why.to_owned() };
    let value = |name: &str| {
        let mut fields = text.trim().split(';').filter_map(|field| field.split_once('='));
        let found = fields.find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    };
    let blobs = value("BlobEndpoint").map(|url| url.trim_end_matches('/'));
    let name = value("AccountName").or_else(|| blobs.and_then(account_of)).ok_or_else(|| {
        failed("there is no AccountName in it: expected a connection string of a storage account")
    })?;
    let secret = |name| value(name).map(|value| Zeroizing::new(value.to_owned()));
    let key = secret("AccountKey").map(AccountSecret::Key);
    let secret = key
        .or_else(|| secret("SharedAccessSignature").map(AccountSecret::Signature))
        .ok_or_else(|| failed("there is no AccountKey and no SharedAccessSignature in it"))?;
    let by_suffix = || value("EndpointSuffix").map(|suffix| format!("https://{name}.blob.{suffix}"));
    let endpoint = blobs.map(str::to_owned).or_else(by_suffix);
    Ok(Account { name: name.to_owned(), secret, endpoint })
}

/// The account that a URL such as `https://account.blob.core.windows.net` is of.
fn account_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (account, rest) = rest.split_once('.')?;
    rest.starts_with("blob.").then_some(account)
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
        for (mode, is_used) in [(0o400, true), (0o640, true), (0o660, false), (0o644, false)] {
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
    }

    #[test]
    fn a_connection_string_of_another_cloud_is_not_asked_for_in_the_public_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            let Account { name, secret, endpoint } = account_key(&path)?;
            let (is_key, secret) = match secret {
                AccountSecret::Key(key) => (true, key),
                AccountSecret::Signature(signature) => (false, signature),
            };
            Ok::<_, BuildError>((name, is_key, secret.to_string(), endpoint.unwrap_or_default()))
        };
        let of = |name: &str, is_key, secret: &str, endpoint: &str| {
            (name.to_owned(), is_key, secret.to_owned(), endpoint.to_owned())
        };
        let key = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.chinacloudapi.cn";
        assert_eq!(read(key).unwrap(), of("acc", true, "a2V5==", "https://acc.blob.core.chinacloudapi.cn"));
        let signed = "BlobEndpoint=https://acc.blob.core.usgovcloudapi.net/;QueueEndpoint=https://acc.queue.x/;SharedAccessSignature=sv=2022&sig=hunter2";
        let endpoint = "https://acc.blob.core.usgovcloudapi.net";
        assert_eq!(read(signed).unwrap(), of("acc", false, "sv=2022&sig=hunter2", endpoint));
        assert_eq!(read("AccountName=acc;AccountKey=a2V5").unwrap(), of("acc", true, "a2V5", ""));
        for text in ["AccountKey=hunter2", "AccountName=acc;X=hunter2", "hunter2"] {
            let error = read(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
