//! The store of a configuration. Credentials come from the key file, else from where the platform's own programs find them:
//! environment variables, the identity of the machine or the pod.

use std::fmt::Display;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::credential::{AccountKey, AwsKeyFile, account_key, text_of};
use super::file_threads::FileThreads;
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
    let client = StoreClient::new(config)?;
    let once = RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() };
    let again =
        RetryConfig { max_retries: PART_RETRIES, retry_timeout: PART_RETRY_TIME, ..RetryConfig::default() };
    Ok(Store::new(make(config, client.clone(), once)?, make(config, client, again)?))
}

fn directory(config: &Config) -> Result<Store, BuildError> {
    let directory = FilePath::new(config.location.directory());
    let path = Path::from_absolute_path(directory).map_err(settings)?;
    let threads = Arc::new(FileThreads::new().map_err(|error| BuildError::Settings(error.to_string()))?);
    Ok(Store::over(Arc::new(LocalFileSystem::new()), Base::Directory(directory.to_owned(), path, threads)))
}

fn s3(config: &Config, client: StoreClient, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let bucket = config.location.bucket();
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_virtual_hosted_style_request(!config.path_style)
        // What is written was verified, and is verified again where it is read: no hash of it for a signature.
        .with_unsigned_payload(true)
        .with_retry(retry)
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
        builder = builder.with_credentials(Arc::new(AwsKeyFile::open(path)?));
    }
    Ok(Arc::new(builder.build().map_err(settings)?))
}

/// The URL of a bucket that is named in its host.
fn hosted(endpoint: &str, bucket: &str) -> Result<String, BuildError> {
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(|| settings("endpoint is no URL"))?;
    Ok(format!("{scheme}://{bucket}.{rest}"))
}

fn google(
    config: &Config,
    client: StoreClient,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let builder = match &config.key_file {
        // An environment that names another key would contradict it.
        Some(path) => GoogleCloudStorageBuilder::new().with_service_account_key(text_of(path)?.as_str()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    let mut builder = builder
        .with_bucket_name(config.location.bucket())
        .with_retry(retry)
        .with_client_options(options(config))
        .with_http_connector(client);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    Ok(Arc::new(builder.build().map_err(settings)?))
}

fn azure(
    config: &Config,
    client: StoreClient,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, BuildError> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(config.location.bucket())
        .with_retry(retry)
        .with_client_options(options(config))
        .with_allow_http(is_plain(config))
        .with_http_connector(client);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(path) = &config.key_file {
        let AccountKey { account, key, signature } = account_key(path)?;
        builder = builder.with_account(account);
        if let Some(key) = key {
            builder = builder.with_access_key(key.as_str());
        }
        if let Some(signature) = signature {
            builder = builder.with_config(AzureConfigKey::SasKey, signature.as_str());
        }
    }
    Ok(Arc::new(builder.build().map_err(settings)?))
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
