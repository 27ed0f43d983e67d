//! Whether a daemon could be built from settings: every file that they name is read as the daemon reads it.
//!
//! Changes nothing and binds nothing. A command that checks a configuration refuses what the daemon refuses.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::Error;
use crate::config::Settings;
use crate::credentials::{Keychain, Keys, NodeFiles};
use crate::kubernetes::Identity;
use crate::serve::Gate;
use crate::support::clock::Clock;
use crate::support::metrics::Registry;
use crate::tier::Tier;
use crate::tier::metrics::Metrics;
use crate::upstream;

/// What the daemon would not start with, each with its key. Blocks while files are read.
pub fn check(settings: &Settings) -> Vec<(&'static str, Error)> {
    let mut found: Vec<(&'static str, Error)> = Vec::new();
    if let Err(error) = gate(settings) {
        found.push(("[server] gate_file", error));
    }
    if let Err(error) = configured(settings) {
        found.push(("[[registry]]", error));
    }
    if let Err(error) = tier(settings) {
        found.push(("[tier]", error));
    }
    let keychain = Keys::ephemeral().map_err(Error::from).and_then(|keys| keychain(settings, keys));
    if let Err(error) = keychain {
        found.push(("[credentials]", error));
    }
    found
}

/// The files and directories that settings name for the daemon to read.
pub fn files(settings: &Settings) -> Vec<PathBuf> {
    let Settings { serve, upstream, credentials, kubernetes, tier, prepull, .. } = settings;
    let of_registries = upstream.registries.values().flat_map(|registry| {
        let client = registry.client.iter().flat_map(|client| [&client.certificate, &client.key]);
        registry.ca.iter().chain(client)
    });
    let of_tier = tier.iter().flat_map(|tier| [&tier.ca, &tier.key_file, &tier.cluster_key]).flatten();
    let of_node = match &credentials.node {
        NodeFiles::Named(files) => files.as_slice(),
        NodeFiles::Kubelet(_) => &[],
    };
    let plugins = credentials.providers.iter().flat_map(|plugins| [&plugins.config, &plugins.bin_dir]);
    let kubeconfig = match &kubernetes.identity {
        Some(Identity::Kubeconfig(file)) => Some(file),
        Some(Identity::InCluster) | None => None,
    };
    let gate = serve.gate.iter().map(|gate| &gate.file);
    let secrets = credentials.pull_secrets.iter().chain(&prepull.pull_secrets).chain(&prepull.manifests);
    let all = gate.chain(of_registries).chain(of_tier).chain(of_node).chain(plugins).chain(kubeconfig);
    let mut all: Vec<PathBuf> = all.chain(secrets).cloned().collect();
    all.sort();
    all.dedup();
    all
}

/// The gate, with the value of its file.
pub(super) fn gate(settings: &Settings) -> Result<Option<Gate>, Error> {
    Ok(settings.serve.gate.as_ref().map(Gate::read).transpose()?)
}

/// The registries, with the certificates of their files.
pub(super) fn configured(settings: &Settings) -> Result<upstream::Configured, Error> {
    Ok(upstream::Configured::new(settings.upstream.clone())?)
}

/// The shared tier of a command, which shows no metrics.
///
/// # Errors
/// A URL, file or credential that cannot be used.
pub fn tier(settings: &Settings) -> Result<Tier, Error> {
    build_tier(settings, Clock::system(), Metrics::register(&Registry::new())?)
}

/// The shared tier, with the credential of its key file; none if none is configured.
pub(super) fn build_tier(settings: &Settings, clock: Clock, metrics: Metrics) -> Result<Tier, Error> {
    Ok(match &settings.tier {
        Some(config) => Tier::build(config.clone(), clock, metrics)?,
        None => Tier::none(),
    })
}

/// The node's credentials, with the plugins that their configuration names.
pub(super) fn keychain(settings: &Settings, keys: Keys) -> Result<Keychain, Error> {
    Ok(Keychain::build(&settings.credentials, Arc::new(keys))?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Environment, resolve};

    #[test]
    fn every_file_that_the_daemon_refuses_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let provider = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- {name: p, matchImages: [a.b], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n";
        fs::write(at("p.yaml"), provider).unwrap();
        fs::write(at("empty.pem"), "").unwrap();
        let found = |text: &str| {
            let settings =
                resolve(text, &Environment { home: Some("/h".into()), ..Default::default() }).unwrap();
            check(&settings).into_iter().map(|(key, error)| format!("{key}: {error}")).collect::<Vec<_>>()
        };
        let all = found(&format!(
            "[server]\ngate_header = \"X-K\"\ngate_file = \"{}\"\n[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"{}\"\n[[registry]]\nhost = \"r\"\nca = \"{}\"\n",
            at("gate"),
            at("p.yaml"),
            at("no-such-directory"),
            at("no-such-ca")
        ));
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].contains("gate_file") && all[1].contains("no-such-ca"), "{all:?}");
        assert!(all[2].contains("no-such-directory") && all[2].contains("provider_bin_dir"), "{all:?}");
        for (text, part) in [
            (format!("[[registry]]\nhost = \"r\"\nca = \"{}\"\n", at("empty.pem")), "empty.pem"),
            (
                format!(
                    "[[registry]]\nhost = \"r\"\nclient_cert = \"{0}\"\nclient_key = \"{0}\"\n",
                    at("no-key")
                ),
                "no-key",
            ),
            (
                format!(
                    "[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"/\"\n",
                    at("none.yaml")
                ),
                "none.yaml",
            ),
        ] {
            let all = found(&text);
            assert!(all.len() == 1 && all[0].contains(part), "{all:?}");
        }
        assert_eq!(
            found(&format!(
                "[credentials]\nprovider_config = \"{}\"\nprovider_bin_dir = \"/\"\n",
                at("p.yaml")
            )),
            [""; 0]
        );
    }
}
