//! Which credentials there are for a repository, in kubelet's order: the node's docker config, then the plugins.
//!
//! Pull secrets of pods are not here: a runtime's request brings the pod's own. Those that an operator lists in files
//! are for commands and pre-pull, and only for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::credential::Credential;
use super::docker_config::{Held, HttpHeaders};
use super::helper::Helpers;
use super::keyring::Keyring;
use super::keys::{Keys, KeysError};
use super::node::{Entry, Node, NodeFiles};
use super::provider::{self, ProviderConfigError, Providers};
use super::pull_secrets::{PullSecretError, PullSecrets};
use crate::reference::{Principal, PrincipalKind, Repository};
use crate::support::live::Live;

/// Where credentials are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's docker config.
    pub node: NodeFiles,
    /// Kubelet's `--image-credential-provider-config` and `--image-credential-provider-bin-dir`.
    pub providers: Option<ProviderFiles>,
    /// Where docker credential helpers are; `None`: none is run.
    pub helper_dir: Option<PathBuf>,
    /// Pull secrets as files or directories, for commands and pre-pull.
    pub pull_secrets: Vec<PathBuf>,
}

/// Where the plugins are.
#[derive(Debug, Clone)]
pub struct ProviderFiles {
    /// Their configuration.
    pub config: PathBuf,
    /// The programs.
    pub bin_dir: PathBuf,
}

/// Why there is no keychain.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// The plugins' configuration.
    #[error(transparent)]
    Providers(#[from] ProviderConfigError),
    /// Our own keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// What is shown to a registry, and whose it is.
#[derive(Debug, Clone)]
pub struct PresentedCredential {
    /// Whose.
    pub principal: Principal,
    /// The credential; `None` asks anonymously.
    pub credential: Option<Credential>,
    /// `HttpHeaders` of the docker config that the entry is from.
    pub headers: Arc<HttpHeaders>,
}

/// One match, as a person is shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialMatch {
    /// `pull-secret`, `node` or `provider`.
    pub source: &'static str,
    /// The docker config, Secret or plugin that it is from.
    pub file: PathBuf,
    /// The key that matched, normalised.
    pub key: String,
    /// Whose; empty for an entry without a credential, which means an anonymous attempt.
    pub username: String,
}

/// The node's credentials. Cheap to clone.
#[derive(Clone)]
pub struct Keychain(Arc<Inner>);

struct Inner {
    /// Whoever asks without a credential; asked for at every request.
    anonymous: Principal,
    keys: Arc<Keys>,
    sources: Live<Sources>,
    none: Arc<HttpHeaders>,
}

/// Where the node's credentials come from, read and checked.
pub struct Sources {
    node: Arc<Node>,
    helpers: Helpers,
    providers: Option<Providers>,
}

impl Sources {
    /// Reads the plugins' configuration. Docker configs are read later, when they are needed. Blocks for a moment.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub fn read(config: &Config) -> Result<Self, ProviderConfigError> {
        let providers = match &config.providers {
            None => None,
            Some(files) => Some(Providers::new(provider::read(&files.config)?, &files.bin_dir)),
        };
        let node = Arc::new(Node::new(config.node.clone()));
        Ok(Self { node, helpers: Helpers::new(config.helper_dir.clone()), providers })
    }
}

impl Keychain {
    /// Builds it. Blocks for a moment.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub fn build(config: &Config, keys: Arc<Keys>) -> Result<Self, KeychainError> {
        let sources = Live::new(Sources::read(config)?);
        let anonymous = keys.principal(PrincipalKind::Anonymous, &[]);
        Ok(Self(Arc::new(Inner { anonymous, keys, sources, none: Arc::default() })))
    }

    /// From now on the node's credentials come from `sources`. What is remembered of a source that stays as it was is
    /// kept: the last good content of a docker config that is half written just now, and what plugins have answered.
    pub fn replace(&self, mut sources: Sources) {
        let before = self.0.sources.current();
        if before.node.files() == sources.node.files() {
            sources.node = Arc::clone(&before.node);
        }
        if before.providers == sources.providers {
            sources.providers.clone_from(&before.providers);
        }
        self.0.sources.replace(sources);
    }

    /// The node's own keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// A caller's own credential.
    pub fn caller_credential(&self, credential: Credential) -> PresentedCredential {
        let parts = match &credential {
            Credential::Password { username, password } => [username.as_str(), password.reveal()],
            Credential::IdentityToken(token) => ["", token.reveal()],
        };
        let principal = self.0.keys.principal(PrincipalKind::Caller, &parts);
        PresentedCredential { principal, credential: Some(credential), headers: Arc::clone(&self.0.none) }
    }

    /// Whom pull secrets stand for, in the order in which kubelet would try them. An entry without a credential stands
    /// for nobody in particular, who is asked as in any case.
    pub fn pull_secret_credentials(
        &self,
        secrets: &PullSecrets,
        repository: &Repository,
    ) -> Vec<PresentedCredential> {
        let found = secrets.ring.lookup(&repository.to_string());
        let credentials = found.into_iter().filter_map(|(_, entry)| match entry.held {
            Held::Here(credential) => credential,
            // Kubelet ignores helpers named in a secret.
            Held::ByHelper { .. } => None,
        });
        credentials.map(|credential| self.caller_credential(credential)).collect()
    }

    /// No credential.
    pub fn anonymous(&self) -> PresentedCredential {
        PresentedCredential {
            principal: self.anonymous_principal(),
            credential: None,
            headers: Arc::clone(&self.0.none),
        }
    }

    /// Who asks without a credential.
    pub fn anonymous_principal(&self) -> Principal {
        self.0.anonymous
    }

    /// Whom the node's docker config knows for `repository`, without asking any helper.
    pub async fn node_principals(&self, repository: &Repository) -> Vec<Principal> {
        let ring = Node::ring(&self.0.sources.current().node).await;
        let matches = ring.lookup(&repository.to_string());
        matches.iter().map(|(key, entry)| self.node_principal(key, entry)).collect()
    }

    /// Whether plugins may know somebody for `repository`; does not run them.
    pub fn has_provider_for(&self, repository: &Repository) -> bool {
        let sources = self.0.sources.current();
        sources.providers.as_ref().is_some_and(|p| p.is_responsible_for(&repository.to_string()))
    }

    /// What the node has for `repository`, in the order in which it is tried. Runs plugins and helpers where it must.
    pub async fn node_credentials(&self, repository: &Repository) -> Vec<PresentedCredential> {
        let image = repository.to_string();
        let (sources, mut found) = (self.0.sources.current(), Vec::new());
        for (key, entry) in Node::ring(&sources.node).await.lookup(&image) {
            let credential = match &entry.held {
                Held::Here(credential) => credential.clone(),
                Held::ByHelper { name, server } => match sources.helpers.get(name, server).await {
                    None => continue,
                    credential => credential,
                },
            };
            let principal = self.node_principal(key, &entry);
            found.push(PresentedCredential { principal, credential, headers: Arc::clone(&entry.headers) });
        }
        if let Some(providers) = &sources.providers {
            for (key, given) in providers.ring(&image).await.lookup(&image) {
                let username = given.credential.as_ref().map_or("", Credential::username);
                let principal = self.0.keys.principal(PrincipalKind::Provider, &[&given.name, key, username]);
                let headers = Arc::clone(&self.0.none);
                found.push(PresentedCredential { principal, credential: given.credential, headers });
            }
        }
        found
    }

    /// A plugin's credential was refused: it is asked for anew next time.
    pub fn forget_refused(&self, repository: &Repository, presented: &PresentedCredential) {
        let sources = self.0.sources.current();
        if let (PrincipalKind::Provider, Some(providers)) = (presented.principal.kind, &sources.providers) {
            providers.forget(&repository.to_string());
        }
    }

    /// The docker configs in use, for people. Blocks for a moment.
    pub fn files_in_use(&self) -> Vec<PathBuf> {
        self.0.sources.current().node.in_use()
    }

    /// All that matches `repository`, `pull_secrets` before the node's own, in the order in which it would be tried.
    ///
    /// # Errors
    /// A pull secret that cannot be used.
    pub async fn matches(
        &self,
        repository: &Repository,
        pull_secrets: &[PathBuf],
    ) -> Result<Vec<CredentialMatch>, PullSecretError> {
        let image = repository.to_string();
        let of_file = |source| {
            move |(key, entry): (&str, Entry)| CredentialMatch {
                source,
                file: entry.file.to_path_buf(),
                key: key.to_owned(),
                username: entry.held.username().to_owned(),
            }
        };
        let secrets: Keyring<Entry> = PullSecrets::read(pull_secrets)?.ring;
        let sources = self.0.sources.current();
        let mut found: Vec<CredentialMatch> =
            secrets.lookup(&image).into_iter().map(of_file("pull-secret")).collect();
        found.extend(Node::ring(&sources.node).await.lookup(&image).into_iter().map(of_file("node")));
        if let Some(providers) = &sources.providers {
            let ring = providers.ring(&image).await;
            found.extend(ring.lookup(&image).into_iter().map(|(key, given)| CredentialMatch {
                source: "provider",
                file: Path::new(&*given.program).to_owned(),
                key: key.to_owned(),
                username: given.credential.as_ref().map_or("", Credential::username).to_owned(),
            }));
        }
        Ok(found)
    }

    /// An entry without a credential is an anonymous attempt, and what it proves is everybody's all the same.
    fn node_principal(&self, key: &str, entry: &Entry) -> Principal {
        match &entry.held {
            Held::Here(None) => self.anonymous_principal(),
            held => self.0.keys.principal(PrincipalKind::Node, &[key, held.username()]),
        }
    }
}
