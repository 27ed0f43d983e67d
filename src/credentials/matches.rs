//! All credentials that match a repository, for people: no secret among them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::credential::Credential;
use super::node::ConfigEntry;
use super::pull_secrets::PullSecrets;
use super::sources::CredentialSources;
use crate::reference::Repository;
use crate::support::tasks::Tasks;

/// A credential that matches a repository, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialMatch {
    /// `pull-secret`, `node` or `provider`.
    pub source: Cow<'static, str>,
    /// The docker config, Secret or plugin that has it.
    pub file: PathBuf,
    /// The key that matched, normalised.
    pub key: String,
    /// The user name, unless it may be a token; empty for an entry without a credential, which means an anonymous
    /// attempt.
    pub username: String,
}

/// What matches `repository`: `secrets`, then the configured pull secrets, then the node's own, in the order in which
/// they are tried; and what may have hidden another. Runs plugins.
pub(super) async fn matches(
    sources: &CredentialSources,
    tasks: &Tasks,
    repository: &Repository,
    secrets: &PullSecrets,
) -> (Vec<CredentialMatch>, Vec<String>) {
    let image = repository.to_string();
    let of_file = |source: &'static str| {
        move |(key, entry): (&str, ConfigEntry)| CredentialMatch {
            source: source.into(),
            file: entry.file.to_path_buf(),
            key: key.to_owned(),
            username: entry.stored.shown_username().to_owned(),
        }
    };
    let mut problems = Vec::new();
    let configured = sources.pull_secrets.clone();
    let configured = tasks.spawn_blocking(move || PullSecrets::read(&configured)).await;
    let mut secrets = secrets.clone();
    match configured {
        Ok(Ok(configured)) => secrets.merge(&configured),
        Ok(Err(error)) => problems.push(error.to_string()),
        Err(error) => problems.push(error.to_string()),
    }
    let mut found: Vec<CredentialMatch> =
        secrets.ring.lookup(&image).into_iter().map(of_file("pull-secret")).collect();
    found.extend(sources.node.ring().await.lookup(&image).into_iter().map(of_file("node")));
    problems.extend(sources.node.problems());
    if let Some(providers) = &sources.providers {
        let provided = providers.ring(&image).await;
        if provided.incomplete {
            problems
                .push(format!("a credential provider that is responsible for {image} failed: see the log"));
        }
        found.extend(provided.ring.lookup(&image).into_iter().map(|(key, provided)| CredentialMatch {
            source: "provider".into(),
            file: Path::new(&*provided.program).to_owned(),
            key: key.to_owned(),
            username: provided.credential.as_ref().map_or("", Credential::shown_username).to_owned(),
        }));
    }
    (found, problems)
}
