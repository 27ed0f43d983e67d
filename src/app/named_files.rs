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
    let mut all = Vec::new();
    let mut add = |key: &str, path: Option<&PathBuf>, is_needed| {
        all.extend(path.map(|path| NamedFile { key: key.to_owned(), path: path.clone(), is_needed }));
    };
    let Settings { credentials, kubernetes, tier, prepull, .. } = settings;
    settings.files_of_pairs().iter().for_each(|(key, path)| add(key, Some(path), true));
    let platform = tier.as_ref().map(|tier| tier.location.platform());
    for (key, path) in settings.files_of_tier() {
        // Without a bucket nothing reads a certificate or a credential, and without a tier nothing at all.
        let is_read = platform.is_some_and(|of| of != Platform::Directory || key == "[tier] cluster_key");
        add(&key, Some(&path), is_read);
    }
    if let Some(tier) = tier.as_ref().filter(|_| platform == Some(Platform::Directory)) {
        // One that is not mounted yet is looked for again.
        add("[tier] url", Some(&PathBuf::from(tier.location.directory())), false);
    }
    if let NodeFiles::Named(files) = &credentials.node {
        files.iter().for_each(|file| add("[credentials] node", Some(file), false));
    }
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
