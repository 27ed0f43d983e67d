//! The store of a configuration. Credentials come from the key file, else from where the platform's own programs find
//! them: environment variables, the identity of the machine or the pod.

use std::fmt::Display;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureConfigKey, AzureCredential, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, CredentialProvider, ObjectStore, RetryConfig};

use super::credential::{AccountSecret, AwsKeyFile, account_key, text_of};
use super::file_threads::FileThreads;
use super::kept_credential::{AtHand, KeptCredential};
use super::store::{Base, Store};
use crate::tier::config::{Config, Platform};
use crate::tier::error::BuildError;
use crate::tier::http::StoreClient;

/// Times that a part of an upload is sent again.
const PART_RETRIES: usize = 2;
/// How long a part is sent again for.
const PART_RETRY_TIME: Duration = Duration::from_secs(30);

/// The store.
///
/// # Errors
/// What cannot be used of the configuration.
pub(super) fn store(config: &Config) -> Result<Store, BuildError> {
    let make = match config.location.platform() {
        Platform::S3 => s3,
        Platform::Google => google,
        Platform::Azure => azure,
        Platform::Directory => return directory(config),
    };
    make(config, StoreClient::new(config)?)
}

/// Sends each request once.
fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

/// Sends a part, or a question for a credential, again where that may help.
fn again() -> RetryConfig {
    RetryConfig { max_retries: PART_RETRIES, retry_timeout: PART_RETRY_TIME, ..RetryConfig::default() }
}

/// What the builders of the platforms' stores have in common.
trait StoreBuilder: Clone {
    type Store: ObjectStore;
    type Credential: Send + Sync + 'static;

    fn build_store(self) -> object_store::Result<Self::Store>;
    fn credentials_of(store: &Self::Store) -> Credentials<Self::Credential>;
    fn with_provider(self, credentials: Credentials<Self::Credential>) -> Self;
    fn repeating(self, retry: RetryConfig) -> Self;
}

type Credentials<C> = Arc<dyn CredentialProvider<Credential = C>>;

macro_rules! store_builder {
    ($builder:ty => $store:ty, $credential:ty) => {
        impl StoreBuilder for $builder {
            type Store = $store;
            type Credential = $credential;

            fn build_store(self) -> object_store::Result<$store> {
                self.build()
            }

            fn credentials_of(store: &$store) -> Credentials<$credential> {
                Arc::clone(store.credentials())
            }

            fn with_provider(self, credentials: Credentials<$credential>) -> Self {
                self.with_credentials(credentials)
            }

            fn repeating(self, retry: RetryConfig) -> Self {
                self.with_retry(retry)
            }
        }
    };
}

store_builder!(AmazonS3Builder => AmazonS3, AwsCredential);
store_builder!(GoogleCloudStorageBuilder => GoogleCloudStorage, GcpCredential);
store_builder!(MicrosoftAzureBuilder => MicrosoftAzure, AzureCredential);

/// The credential that a platform gives to its machines and pods.
enum FromPlatform {
    /// It is kept at hand.
    Kept,
    /// There is a credential of the configuration, or requests are not signed.
    NotNeeded,
}

/// The store of a builder, which sends parts of an upload again and all else once.
fn store_of<B: StoreBuilder>(mut builder: B, credential: FromPlatform) -> Result<Store, BuildError> {
    let mut kept: Option<Arc<dyn AtHand>> = None;
    if let FromPlatform::Kept = credential {
        let platform = builder.clone().build_store().map_err(settings)?;
        let credential = Arc::new(KeptCredential::new(B::credentials_of(&platform)));
        builder = builder.with_provider(Arc::clone(&credential) as _);
        kept = Some(credential as _);
    }
    let writing = builder.clone().build_store().map_err(settings)?;
    let store = builder.repeating(once()).build_store().map_err(settings)?;
    Ok(Store::new(Arc::new(store), Arc::new(writing), kept))
}

fn directory(config: &Config) -> Result<Store, BuildError> {
    let directory = FilePath::new(config.location.directory());
    let path = Path::from_absolute_path(directory).map_err(settings)?;
    let threads = Arc::new(FileThreads::new().map_err(|error| BuildError::Settings(error.to_string()))?);
    Ok(Store::over(Arc::new(LocalFileSystem::new()), Base::Directory(directory.to_owned(), path, threads)))
}

fn s3(config: &Config, client: StoreClient) -> Result<Store, BuildError> {
    let bucket = config.location.bucket();
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!config.path_style)
        // What is written was verified, and is verified again where it is read: no hash of it for a signature.
        .with_unsigned_payload(true)
        // One key at a time is deleted: not every store knows the request for many, and S3 answers 200 where it refuses
        // one.
        .with_disable_bulk_delete(true)
        .with_retry(again())
        .with_client_options(options(config))
        .with_allow_http(is_plain(config))
        .with_http_connector(client);
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(if config.path_style {
            endpoint.clone()
        } else {
            hosted(endpoint, bucket)?
        });
    }
    if let Some(path) = &config.key_file {
        return store_of(
            builder.with_credentials(Arc::new(AwsKeyFile::open(path)?)),
            FromPlatform::NotNeeded,
        );
    }
    let is_unsigned = is_set(builder.get_config_value(&AmazonS3ConfigKey::SkipSignature));
    store_of(builder, if is_unsigned { FromPlatform::NotNeeded } else { FromPlatform::Kept })
}

/// The URL of a bucket that is named in its host.
fn hosted(endpoint: &str, bucket: &str) -> Result<String, BuildError> {
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(|| settings("endpoint is no URL"))?;
    Ok(format!("{scheme}://{bucket}.{rest}"))
}

fn google(config: &Config, client: StoreClient) -> Result<Store, BuildError> {
    let builder = match &config.key_file {
        // An environment that names another key would contradict it.
        Some(path) => GoogleCloudStorageBuilder::new().with_service_account_key(text_of(path)?.as_str()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let mut builder = builder
        .with_bucket_name(config.location.bucket())
        .with_retry(again())
        .with_client_options(options(config))
        .with_http_connector(client);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let is_unsigned = is_set(builder.get_config_value(&GoogleConfigKey::SkipSignature));
    store_of(builder, if is_unsigned { FromPlatform::NotNeeded } else { FromPlatform::Kept })
}

fn azure(config: &Config, client: StoreClient) -> Result<Store, BuildError> {
    // An environment that names another credential would come before the file's.
    let builder = match config.key_file {
        Some(_) => MicrosoftAzureBuilder::new(),
        None => MicrosoftAzureBuilder::from_env(),
    };
    let mut builder = builder
        .with_container_name(config.location.bucket())
        .with_retry(again())
        .with_client_options(options(config))
        .with_allow_http(is_plain(config))
        .with_http_connector(client);
    let mut endpoint = config.endpoint.clone();
    if let Some(path) = &config.key_file {
        let account = account_key(path)?;
        builder = builder.with_account(account.name);
        builder = match account.secret {
            AccountSecret::Key(key) => builder.with_access_key(key.as_str()),
            AccountSecret::Signature(signature) => {
                builder.with_config(AzureConfigKey::SasKey, signature.as_str())
            }
        };
        endpoint = endpoint.or(account.endpoint);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    let is_unsigned = is_set(builder.get_config_value(&AzureConfigKey::SkipSignature));
    store_of(builder, if is_unsigned { FromPlatform::NotNeeded } else { FromPlatform::Kept })
}

/// Whether a setting of the environment is on, as object_store reads it.
fn is_set(value: Option<String>) -> bool {
    value
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y"))
}

fn options(config: &Config) -> ClientOptions {
    ClientOptions::new().with_allow_http(is_plain(config))
}

fn is_plain(config: &Config) -> bool {
    config.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn settings(why: impl Display) -> BuildError {
    // Of an error that names a file, the file; never what is in it.
    let why: String = why.to_string().chars().take(300).collect();
    BuildError::Settings(why)
}
