//! Where the shared tier is, and what this node may do there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::network::Reach;
use super::registries::Registries;
use crate::support::proxies::ProxyVariables;

/// Parts of layers that are in memory and on their way at the same time, where the configuration does not say: 3 parts
/// of 8 MiB are 24 MiB, about as much as the rest of the daemon. With a fifth of a second for each (42 MB/s for a
/// request) they carry 126 MB/s, which is what a gigabit link brings.
pub const UPLOADS: u32 = 3;

/// The settings of the shared tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The object store.
    pub location: Location,
    /// The URL of the store's interface, where it is not the platform's own.
    pub endpoint: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
    /// Whether the bucket is named in the path of a URL (S3).
    pub path_style: bool,
    /// Certificate authorities besides the system's, in a PEM file.
    pub ca: Option<PathBuf>,
    /// The file with the credential, in the platform's own format.
    pub key_file: Option<PathBuf>,
    /// Whether this node reads from the tier.
    pub read: bool,
    /// Whether this node writes to the tier.
    pub write: bool,
    /// Of which registries content is shared.
    pub registries: Registries,
    /// The file of the key that names are shared with; without one none are.
    pub cluster_key: Option<PathBuf>,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take.
    pub head_timeout: Duration,
    /// The longest pause within a body.
    pub idle_timeout: Duration,
    /// The longest wait for a blob that another node is writing.
    pub wait_max: Duration,
    /// Parts of layers that are in memory and on their way at the same time.
    pub uploads: u32,
    /// The proxies of the environment.
    pub proxy: ProxyVariables,
    /// The network that connections are opened through; not a setting of the configuration.
    pub reach: Reach,
}

impl Config {
    /// A tier at `location` with the defaults.
    pub fn at(location: Location) -> Self {
        Self {
            location,
            endpoint: None,
            region: None,
            path_style: false,
            ca: None,
            key_file: None,
            read: true,
            write: true,
            registries: Registries::default(),
            cluster_key: None,
            connect_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(5),
            wait_max: Duration::from_secs(40),
            uploads: UPLOADS,
            proxy: ProxyVariables::default(),
            reach: Reach::default(),
        }
    }
}

/// Which kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// S3, and what speaks its interface.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
    /// A directory.
    Directory,
}

/// The place of the tier: a bucket and a prefix within it, or a directory. Its text form is a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    platform: Platform,
    /// The bucket or container; empty for a directory.
    bucket: String,
    /// Without slashes at its ends; for a directory its absolute path.
    path: String,
}

/// Why a text is not the place of a tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a URL such as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///srv/larder: {0}"
)]
pub struct LocationError(&'static str);

impl Location {
    /// Which kind of object store.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The bucket or container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The directory, with its absolute path; empty for others.
    pub fn directory(&self) -> &str {
        if self.platform == Platform::Directory { &self.path } else { "" }
    }

    /// What every key begins with, without a slash at its end; may be empty.
    pub fn prefix(&self) -> &str {
        if self.platform == Platform::Directory { "" } else { &self.path }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let (scheme, rest) = text.split_once("://").ok_or(LocationError("it has no scheme"))?;
        let platform = match scheme {
            "s3" => Platform::S3,
            "gs" => Platform::Google,
            "az" => Platform::Azure,
            "file" => Platform::Directory,
            _ => return Err(LocationError("its scheme is none of these")),
        };
        if rest.contains(['?', '#', '@', '\\']) || rest.chars().any(char::is_control) {
            return Err(LocationError("a query, fragment or credential has no place in it"));
        }
        if rest.split('/').any(|part| part == "." || part == "..") {
            return Err(LocationError("its path has a dot segment"));
        }
        if platform == Platform::Directory {
            let path = rest.trim_end_matches('/');
            if !rest.starts_with('/') || path.is_empty() {
                return Err(LocationError("a directory has an absolute path: file:///srv/larder"));
            }
            return Ok(Self { platform, bucket: String::new(), path: path.to_owned() });
        }
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(LocationError("it names no bucket"));
        }
        Ok(Self { platform, bucket: bucket.to_owned(), path: path.trim_matches('/').to_owned() })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { platform, bucket, path } = self;
        let scheme = match platform {
            Platform::S3 => "s3",
            Platform::Google => "gs",
            Platform::Azure => "az",
            Platform::Directory => return write!(f, "file://{path}"),
        };
        write!(f, "{scheme}://{bucket}")?;
        if path.is_empty() { Ok(()) } else { write!(f, "/{path}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_and_a_prefix_and_nothing_else() {
        for (text, platform, bucket, prefix, directory) in [
            ("s3://b/a/c/", Platform::S3, "b", "a/c", ""),
            ("gs://b", Platform::Google, "b", "", ""),
            ("az://c/p", Platform::Azure, "c", "p", ""),
            ("file:///srv/larder/", Platform::Directory, "", "", "/srv/larder"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.platform(), platform);
            assert_eq!((location.bucket(), location.prefix()), (bucket, prefix));
            assert_eq!(location.directory(), directory);
            assert_eq!(location.to_string().parse::<Location>().unwrap(), location);
        }
        for text in [
            "bucket",
            "s3:/b",
            "s3://",
            "s3:///p",
            "http://b/p",
            "file://srv",
            "file:///",
            "s3://b/../c",
            "s3://key:secret@b/p",
            "s3://b/p?token=x",
        ] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
