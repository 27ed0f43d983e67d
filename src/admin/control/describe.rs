//! What the daemon says of itself: its configuration in effect, where it listens, which credentials it has, whether
//! the shared tier does what it is for.
//!
//! The texts name files and keys; none of them is a secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, PullSecret};
use super::error::CommandError;
use crate::credentials::{CredentialMatch, Keychain, PullSecrets};
use crate::reference::Repository;
use crate::tier::{ProbeFailure, Probed};

/// Asks for the configuration in effect.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetConfig {}

/// The configuration in effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EffectiveConfig {
    /// As a configuration file that means the same; behind each value, where it was written.
    pub text: String,
    /// Keys that a reload has read and that count from the next start: `[server] listen`.
    pub from_the_next_start: Vec<String>,
    /// Where the data plane listens, as `[server] listen` writes it.
    pub listening: Vec<String>,
}

impl ControlCommand for GetConfig {
    const PATH: &'static str = "/v1/config";
    /// It is in memory: a daemon that takes longer is not well, and a command that asks first is not held up for long.
    const WAIT: Duration = Duration::from_secs(20);
    type Reply = EffectiveConfig;
}

/// Asks for a round trip through the shared tier: by the daemon, since a command has another user, other credentials
/// and another proxy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeTier {}

impl ControlCommand for ProbeTier {
    const PATH: &'static str = "/v1/tier/probe";
    /// A minute for a credential, and a quarter of one for each step.
    const WAIT: Duration = Duration::from_secs(180);
    type Reply = Result<Probed, ProbeFailure>;
}

/// Asks which credentials match an image. The daemon runs the plugins that are responsible for it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchCredentials {
    /// `registry/path`.
    pub repository: String,
    /// Pull secrets besides the configured ones, as they were in their files.
    pub secrets: Vec<PullSecret>,
}

/// The credentials that match an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatchedCredentials {
    /// In the order in which they are tried.
    pub found: Vec<CredentialMatch>,
    /// What may have hidden another: a file that cannot be parsed, a plugin that failed.
    pub problems: Vec<String>,
}

impl ControlCommand for MatchCredentials {
    const PATH: &'static str = "/v1/credentials";
    type Reply = MatchedCredentials;
}

impl MatchCredentials {
    /// The credentials of `keychain` that match.
    pub(super) async fn matched(&self, keychain: &Keychain) -> Result<MatchedCredentials, CommandError> {
        let repository: Repository = self.repository.parse().map_err(CommandError::bad)?;
        let mut secrets = PullSecrets::default();
        for PullSecret { file, content } in &self.secrets {
            secrets.add(file.as_ref(), content.as_bytes()).map_err(CommandError::bad)?;
        }
        let (found, problems) = keychain.matches(&repository, &secrets).await;
        Ok(MatchedCredentials { found, problems })
    }
}
