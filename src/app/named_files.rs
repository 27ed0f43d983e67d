//! The files and directories that settings name for the daemon to read, each with its key.

use std::path::PathBuf;

use crate::config::Settings;
use crate::credentials::NodeFiles;
use crate::kubernetes::Identity;
use crate::tier::Platform;

/// A file or directory that a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedFile {
    /// Section and key.
    pub(super) key: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Whether the daemon does not start without it.
    pub(super) is_needed: bool,
}

/// All that `settings` name for the daemon to read, each once.
pub(super) fn named_files(settings: &Settings) -> Vec<NamedFile> {
    let mut all = of_registries(settings);
    let mut add = |key: &str, path: Option<&PathBuf>, is_needed| {
        all.extend(path.map(|path| NamedFile { key: key.to_owned(), path: path.clone(), is_needed }));
    };
    let Settings { serve, credentials, kubernetes, tier, prepull, .. } = settings;
    add("[server] gate_file", serve.gate.as_ref().map(|gate| &gate.file), true);
    if let Some(tier) = tier {
        for (key, path) in
            [("ca", &tier.ca), ("key_file", &tier.key_file), ("cluster_key", &tier.cluster_key)]
        {
            add(&format!("[tier] {key}"), path.as_ref(), true);
        }
        let directory = (tier.location.platform() == Platform::Directory).then(|| tier.location.directory());
        // One that is not mounted yet is looked for again.
        add("[tier] url", directory.map(PathBuf::from).as_ref(), false);
    }
    if let NodeFiles::Named(files) = &credentials.node {
        files.iter().for_each(|file| add("[credentials] node", Some(file), false));
    }
    let plugins = credentials.providers.as_ref();
    add("[credentials] provider_config", plugins.map(|plugins| &plugins.config), true);
    add("[credentials] provider_bin_dir", plugins.map(|plugins| &plugins.bin_dir), true);
    add("[credentials] helper_dir", credentials.helper_dir.as_ref(), false);
    credentials.pull_secrets.iter().for_each(|path| add("[credentials] pull_secrets", Some(path), false));
    if let Some(Identity::Kubeconfig(file)) = &kubernetes.identity {
        add("[kubernetes] kubeconfig", Some(file), false);
    }
    add("[prepull] manifests", prepull.manifests.as_ref(), false);
    all.sort_by(|a, b| (&a.path, &a.key).cmp(&(&b.path, &b.key)));
    all.dedup();
    all
}

fn of_registries(settings: &Settings) -> Vec<NamedFile> {
    let mut all = Vec::new();
    let configured = settings.upstream.registries.iter();
    let named = configured.map(|(host, registry)| (format!(" {host}"), registry.clone()));
    let unnamed = settings.registries_without_host().map(|registry| (String::new(), registry));
    for (host, registry) in named.chain(unnamed) {
        let mut add = |key: &str, path: &PathBuf| {
            let key = format!("[[registry]]{host} {key}");
            all.push(NamedFile { key, path: path.clone(), is_needed: true });
        };
        registry.ca.iter().for_each(|path| add("ca", path));
        if let Some(client) = &registry.client {
            add("client_cert", &client.certificate);
            add("client_key", &client.key);
        }
    }
    all
}
