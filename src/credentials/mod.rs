//! Credentials: which of them match a repository, and in which order; exactly as kubelet finds them. Also the node's
//! own keys and the tokens that Larder issues with them.
//!
//! Promises: kubelet's search path, formats, matching, order and plugins; files are read again when they change, and a
//! file that has become invalid keeps its old content; no secret in any `Debug`, log or error.
//!
//! Deliberately not here: what a credential may read (`pull`), and how it is sent to a registry (`upstream`).

mod cluster_key;
mod credential;
mod docker_config;
mod exec;
mod glob;
mod helper;
mod keychain;
mod keyring;
mod keys;
mod matches;
mod namesakes;
mod node;
mod patience;
mod presented;
mod provider;
mod pull_secrets;
mod run_places;
mod search;
mod secret;
mod sources;
mod token;

pub use cluster_key::{ClusterKey, ClusterKeyError};
pub use credential::Credential;
pub use docker_config::HttpHeaders;
#[cfg(feature = "kubernetes")]
pub(crate) use exec::{Invocation, run as run_program};
pub use keychain::{Keychain, NodeCredentials};
pub use keys::{Keys, KeysError};
pub use matches::CredentialMatch;
pub use node::NodeFiles;
pub use presented::{CredentialSource, PresentedCredential};
pub use provider::{AccountError, AccountSource, PodAccount, ProviderConfigError, ServiceAccount};
pub use pull_secrets::{PullSecretError, PullSecrets, pull_secret_files};
pub use search::KubeletDirectories;
pub use secret::Secret;
pub use sources::{Config, CredentialSources, ProviderFiles};
pub use token::{CallerToken, IssueError, TOKEN_LIFE, TokenError};

/// For the fuzzers: what reads bytes from outside. Whatever the bytes, nothing may panic, hang or grow.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::keyring::Keyring;
    use super::{docker_config, glob, keys::Keys, provider, pull_secrets, token::CallerToken};
    use crate::support::clock::Timestamp;

    /// A docker config or Secret, and looking something up in what it holds.
    pub fn docker_config(bytes: &[u8]) {
        let mut ring = Keyring::default();
        for config in
            [docker_config::read_current(bytes), docker_config::read_legacy(bytes)].into_iter().flatten()
        {
            for (key, _) in &config.entries {
                ring.add(key, ());
            }
        }
        let _ = pull_secrets::read("secret.yaml", bytes);
        let _ = (ring.lookup("docker.io/library/nginx"), ring.lookup("reg.test:5000/a/b"));
    }

    /// A plugin's output.
    pub fn plugin_response(bytes: &[u8]) {
        provider::response::fuzz(bytes);
    }

    /// A token that a client sends.
    pub fn token(keys: &Keys, bytes: &[u8]) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            assert!(CallerToken::open(keys, text, Timestamp(0)).is_err(), "a forged token was accepted");
        }
    }

    /// A pattern and a label, divided by the first line break.
    pub fn glob(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let (pattern, label) = text.split_once('\n').unwrap_or((&text, ""));
        let _ = glob::matches(pattern, label);
    }
}
