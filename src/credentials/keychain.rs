//! Which credentials there are for a repository, in kubelet's order: the node's docker config, then the plugins.
//!
//! Pull secrets of pods are not here: a runtime's request brings the pod's own credential. Those that the configuration
//! lists are for commands and pre-pull, and only for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credential::Credential;
use super::docker_config::{HttpHeaders, StoredCredential};
use super::helper::HelperFailed;
use super::keys::Keys;
use super::matches::{CredentialMatch, matches};
use super::namesakes::Namesakes;
use super::node::ConfigEntry;
use super::presented::{CredentialSource, PresentedCredential};
use super::provider::{AccountError, AccountSource, PodAccount, ProviderConfigError};
use super::pull_secrets::PullSecrets;
use super::sources::{Config, CredentialSources};
use crate::reference::{Principal, PrincipalKind, Repository};
use crate::support::live::Live;
use crate::support::tasks::Tasks;

/// The node's credentials for a repository.
#[derive(Debug)]
pub struct NodeCredentials {
    /// In the order in which they are tried.
    pub found: Vec<PresentedCredential>,
    /// Whether a plugin or helper that may have one failed or takes too long.
    pub incomplete: bool,
}

/// The node's credentials. Cheap to clone.
#[derive(Clone)]
pub struct Keychain(Arc<Inner>);

struct Inner {
    /// The principal of requests without a credential; needed by every request.
    anonymous: Principal,
    keys: Arc<Keys>,
    sources: Live<CredentialSources>,
    no_headers: Arc<HttpHeaders>,
    /// Plugins, helpers and reads of files that no request waits for any more.
    tasks: Tasks,
}

impl Keychain {
    /// A keychain with the sources of `config`. Blocks while files are read.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub fn build(config: &Config, keys: Arc<Keys>) -> Result<Self, ProviderConfigError> {
        let tasks = Tasks::default();
        let sources = Live::new(CredentialSources::read(config, &tasks)?);
        let anonymous = keys.principal(PrincipalKind::Anonymous, &[]);
        Ok(Self(Arc::new(Inner { anonymous, keys, sources, no_headers: Arc::default(), tasks })))
    }

    /// Reads what `config` names, for [`Keychain::reconfigure`]. Blocks while files are read.
    ///
    /// # Errors
    /// A provider configuration that kubelet would refuse too.
    pub fn read_sources(&self, config: &Config) -> Result<CredentialSources, ProviderConfigError> {
        CredentialSources::read(config, &self.0.tasks)
    }

    /// From now on the node's credentials come from `sources`. What is remembered of a source that has not changed is
    /// kept.
    pub fn reconfigure(&self, sources: CredentialSources) {
        let before = self.0.sources.current();
        self.0.sources.replace(sources.inherit(&before));
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
        self.presented(principal, Some(credential), CredentialSource::Caller)
    }

    /// The credentials of pull secrets, in the order in which kubelet tries them. An entry without a credential is left
    /// out: the anonymous attempt is made in any case.
    pub fn pull_secret_credentials(
        &self,
        secrets: &PullSecrets,
        repository: &Repository,
    ) -> Vec<PresentedCredential> {
        let found = secrets.ring.lookup(&repository.to_string());
        let credentials = found.into_iter().filter_map(|(_, entry)| match entry.stored {
            StoredCredential::Inline(credential) => credential,
            // Kubelet ignores helpers named in a secret.
            StoredCredential::Helper { .. } => None,
        });
        credentials.map(|credential| self.caller_credential(credential)).collect()
    }

    /// What plugins gave for the pod's service account: each a caller's own, as the runtime will bring it.
    pub fn account_credentials_in(&self, secrets: &PullSecrets) -> Vec<PresentedCredential> {
        secrets.of_account.iter().cloned().map(|credential| self.caller_credential(credential)).collect()
    }

    /// Whether a plugin asks for the token of a pod's service account to give a credential for `repository`.
    pub fn wants_account_for(&self, repository: &Repository) -> bool {
        let sources = self.0.sources.current();
        sources.providers.as_ref().is_some_and(|p| p.wants_account_for(&repository.to_string()))
    }

    /// What plugins give for the service account of `pod`, in the order in which kubelet tries them. Runs plugins where
    /// their last result does not count any more.
    ///
    /// # Errors
    /// [`AccountError::Unavailable`]: what kubelet will have is not known now.
    pub async fn account_credentials(
        &self,
        repository: &Repository,
        pod: &PodAccount,
        source: &dyn AccountSource,
    ) -> Result<Vec<Credential>, AccountError> {
        let (sources, image) = (self.0.sources.current(), repository.to_string());
        let Some(providers) = &sources.providers else { return Ok(Vec::new()) };
        let ring = providers.account_ring(&image, pod, source).await?;
        Ok(ring.lookup(&image).into_iter().filter_map(|(_, credential)| credential).collect())
    }

    /// No credential.
    pub fn anonymous(&self) -> PresentedCredential {
        self.presented(self.0.anonymous, None, CredentialSource::None)
    }

    /// The principal of requests without a credential.
    pub fn anonymous_principal(&self) -> Principal {
        self.0.anonymous
    }

    /// The principals that the node's docker config has for `repository`, without running a helper.
    pub async fn node_principals(&self, repository: &Repository) -> Vec<Principal> {
        let ring = self.0.sources.current().node.ring().await;
        let (matches, mut namesakes) = (ring.lookup(&repository.to_string()), Namesakes::default());
        matches.iter().map(|(key, entry)| self.node_principal(key, entry, &mut namesakes)).collect()
    }

    /// Whether a plugin may have a credential for `repository`; runs none.
    pub fn has_provider_for(&self, repository: &Repository) -> bool {
        let sources = self.0.sources.current();
        sources.providers.as_ref().is_some_and(|p| p.is_responsible_for(&repository.to_string()))
    }

    /// The node's credentials for `repository`, in the order in which they are tried. Runs plugins and helpers where
    /// their last result does not count any more.
    pub async fn node_credentials(&self, repository: &Repository) -> NodeCredentials {
        let image = repository.to_string();
        let (sources, mut found, mut incomplete) = (self.0.sources.current(), Vec::new(), false);
        let mut namesakes = Namesakes::default();
        for (key, entry) in sources.node.ring().await.lookup(&image) {
            let principal = self.node_principal(key, &entry, &mut namesakes);
            let credential = match &entry.stored {
                StoredCredential::Inline(credential) => credential.clone(),
                StoredCredential::Helper { name, server } => match sources.helpers.get(name, server).await {
                    Ok(None) => continue,
                    Ok(credential) => credential,
                    Err(HelperFailed) => {
                        incomplete = true;
                        continue;
                    }
                },
            };
            let (headers, source) =
                (Arc::clone(&entry.headers), CredentialSource::DockerConfig(Arc::clone(&entry.file)));
            found.push(PresentedCredential { principal, credential, headers, source });
        }
        if let Some(providers) = &sources.providers {
            let provided = providers.ring(&image).await;
            incomplete |= provided.incomplete;
            for (key, provided) in provided.ring.lookup(&image) {
                let username = provided.credential.as_ref().map_or("", Credential::username);
                let parts = [&*provided.provider, key, username];
                let principal = namesakes.principal(&self.0.keys, PrincipalKind::Provider, &parts);
                let source = CredentialSource::Provider(Arc::clone(&provided.program));
                found.push(self.presented(principal, provided.credential, source));
            }
        }
        NodeCredentials { found, incomplete }
    }

    /// Forgets what a plugin returned, because its credential was refused: the plugin is run again for the next
    /// request.
    pub fn forget_refused(&self, repository: &Repository, presented: &PresentedCredential) {
        let sources = self.0.sources.current();
        if let (PrincipalKind::Provider, Some(providers)) = (presented.principal.kind, &sources.providers) {
            providers.forget(&repository.to_string());
        }
    }

    /// The docker configs of the node that cannot be parsed or read, and why, for people. Blocks while files are read.
    pub fn problems(&self) -> Vec<String> {
        let node = self.0.sources.current().node.clone();
        node.in_use();
        node.problems()
    }

    /// The docker configs that are used, for people. Blocks while files are read.
    pub fn files_in_use(&self) -> Vec<PathBuf> {
        self.0.sources.current().node.in_use()
    }

    /// All that matches `repository`, for people: `secrets`, then the configured pull secrets, then the node's own, in
    /// the order in which they are tried; and what may have hidden another. Runs plugins.
    pub async fn matches(
        &self,
        repository: &Repository,
        secrets: &PullSecrets,
    ) -> (Vec<CredentialMatch>, Vec<String>) {
        let sources = self.0.sources.current();
        matches(&sources, &self.0.tasks, repository, secrets).await
    }

    /// Waits until no plugin, helper or read of a file is running, but no longer than `wait`; returns how many still
    /// are.
    pub async fn finish(&self, wait: Duration) -> usize {
        self.0.tasks.finish(wait).await
    }

    /// An entry without a credential is an anonymous attempt, and proves the rights of the anonymous principal.
    fn node_principal(&self, key: &str, entry: &ConfigEntry, namesakes: &mut Namesakes) -> Principal {
        match &entry.stored {
            StoredCredential::Inline(None) => self.0.anonymous,
            stored => namesakes.principal(&self.0.keys, PrincipalKind::Node, &[key, stored.username()]),
        }
    }

    fn presented(
        &self,
        principal: Principal,
        credential: Option<Credential>,
        source: CredentialSource,
    ) -> PresentedCredential {
        PresentedCredential { principal, credential, headers: Arc::clone(&self.0.no_headers), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::credentials::{NodeFiles, ProviderFiles};

    const GOOD: &str = r#"{"auths": {"reg.test": {"auth": "b25lOnA="}}}"#;

    struct Scene {
        directory: tempfile::TempDir,
        config: Config,
        keychain: Keychain,
    }

    /// A node with a docker config, and with a plugin that counts its runs.
    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().to_owned();
        fs::write(at.join("config.json"), GOOD).unwrap();
        let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{"reg.test":{"username":"u","password":"p"}}}"#;
        let script = format!("#!/bin/sh\ncat >/dev/null\necho x >> {}/runs\necho '{answer}'\n", at.display());
        fs::write(at.join("plugin"), script).unwrap();
        fs::set_permissions(at.join("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at.join("plugins.yaml"), plugins("12h")).unwrap();
        let config = Config {
            node: NodeFiles::Named(vec![at.join("config.json")]),
            providers: Some(ProviderFiles { config: at.join("plugins.yaml"), bin_dir: at.clone() }),
            helper_dir: None,
            pull_secrets: Vec::new(),
        };
        let keys = Arc::new(Keys::open(&at.join("keys")).unwrap());
        let keychain = Keychain::build(&config, keys).unwrap();
        Scene { directory, config, keychain }
    }

    fn plugins(cache: &str) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"reg.test\"]\n  defaultCacheDuration: {cache}\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
        )
    }

    impl Scene {
        async fn count(&self) -> usize {
            self.keychain.node_credentials(&"reg.test/app".parse().unwrap()).await.found.len()
        }

        fn replace(&self) {
            self.keychain.reconfigure(self.keychain.read_sources(&self.config).unwrap());
        }

        fn runs(&self) -> usize {
            fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
        }
    }

    #[tokio::test]
    async fn a_docker_config_that_is_half_written_at_a_reload_locks_no_pod_out() {
        let scene = scene();
        assert_eq!(scene.count().await, 2, "the node's and the plugin's");
        fs::write(scene.directory.path().join("config.json"), "{half").unwrap();
        scene.replace();
        // Look again at once: what is tested is what is seen, not when.
        assert_eq!(scene.keychain.files_in_use().len(), 1);
        assert_eq!(scene.count().await, 2, "what was good before counts");
    }

    #[tokio::test]
    async fn two_passwords_of_one_user_are_two_principals_and_the_first_keeps_its_own() {
        let scene = scene();
        let app = "reg.test/app".parse().unwrap();
        let principals = || async { scene.keychain.node_principals(&app).await };
        let before = principals().await;
        let two =
            r#"{"auths": {"https://reg.test": {"auth": "b25lOnA="}, "reg.test": {"auth": "b25lOnE="}}}"#;
        fs::write(scene.directory.path().join("config.json"), two).unwrap();
        scene.keychain.files_in_use();
        let now = principals().await;
        assert_eq!((now.len(), now[0]), (2, before[0]));
        assert_ne!(now[0], now[1]);
        let found = scene.keychain.node_credentials(&app).await.found;
        assert_eq!(found.iter().map(|one| one.principal).take(2).collect::<Vec<_>>(), now);
    }

    #[tokio::test]
    async fn a_reload_runs_a_plugin_again_only_if_its_configuration_changed() {
        let scene = scene();
        assert_eq!((scene.count().await, scene.runs()), (2, 1));
        scene.replace();
        assert_eq!((scene.count().await, scene.runs()), (2, 1), "what it said still holds");
        fs::write(scene.directory.path().join("plugins.yaml"), plugins("1h")).unwrap();
        scene.replace();
        assert_eq!((scene.count().await, scene.runs()), (2, 2));
    }
}
