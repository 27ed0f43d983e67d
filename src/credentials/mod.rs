//! Credentials: where they are, which of them match a repository, and in which order; exactly as kubelet has it.
//!
//! Promises: kubelet's search path, formats, matching, order and plugins; files are read again when they change, and
//! one that is broken keeps what it held before; no secret in any `Debug`, log or error. Deliberately not here: what a
//! credential opens (`pull`), and how it is shown to a registry (`upstream`).

mod credential;
mod docker_config;
mod exec;
mod glob;
mod helper;
mod keychain;
mod keyring;
mod keys;
mod node;
mod provider;
mod pull_secrets;
mod search;
mod secret;
mod token;

pub use credential::Credential;
pub use docker_config::HttpHeaders;
pub use keychain::{Config, Keychain, KeychainError, Match, Presented, ProviderFiles};
pub use keys::{Keys, KeysError};
pub use node::NodeFiles;
pub use provider::ProviderConfigError;
pub use pull_secrets::PullSecretError;
pub use search::Places;
pub use secret::Secret;
pub use token::{CallerToken, IssueError, TOKEN_LIFE, TokenError};
