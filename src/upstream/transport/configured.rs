//! The settings in effect, with what was built from them.

use std::sync::Arc;

use crate::upstream::config::Config;
use crate::upstream::transport::connect::Transport;
use crate::upstream::transport::send::SendRequest;
use crate::upstream::transport::tls::BuildError;

/// Settings, with the HTTP clients that were built from them.
pub struct Configured {
    pub(crate) config: Config,
    pub(crate) transport: Arc<dyn SendRequest>,
}

impl Configured {
    /// Reads the certificate files that `config` names and builds the HTTP clients. Blocks while files are read.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used.
    pub fn new(config: Config) -> Result<Self, BuildError> {
        Ok(Self { transport: Arc::new(Transport::new(&config)?), config })
    }
}
