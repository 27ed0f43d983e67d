//! Object stores, by the crate object_store: the one place that uses it besides `http`.
//!
//! ```text
//! failure      what an error of the crate means, and what is said of it
//! store        the trait of `objects` over a store of that crate
//! platform     the store of a configuration: S3, Google Cloud Storage, Azure Blob, a directory
//! file_threads threads for the requests to a directory
//! credential   key files
//! kept_credential the credential that a platform gives, kept at hand
//! ```

mod credential;
mod failure;
mod file_threads;
mod kept_credential;
mod platform;
mod store;

use std::sync::Arc;

use super::config::Config;
use super::error::BuildError;
use super::objects::Objects;

/// The object store of `config`. Blocks while files are read.
///
/// # Errors
/// What cannot be used of it.
pub(super) fn build(config: &Config) -> Result<Arc<dyn Objects>, BuildError> {
    Ok(Arc::new(platform::store(config)?))
}
