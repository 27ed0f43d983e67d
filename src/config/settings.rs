//! What the configuration comes to: what each domain is built from, and the sections that this was read from.

use std::path::PathBuf;

use super::report::Sources;
use super::section::{Change, LogConfig, Sections};
use crate::listener::{ConnectionLimits, Listen};
use crate::{admin, credentials, kubernetes, prepull, pull, serve, store, tier, traces, upstream};

/// A key that has its default from `[credentials] kubelet_root`.
const PODS_API: &str = "[kubernetes] pods_api (by [credentials] kubelet_root)";

/// Everything that the daemon is built from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the data plane listens.
    pub listen: Vec<Listen>,
    /// Bounds of its connections.
    pub limits: ConnectionLimits,
    /// The data plane.
    pub serve: serve::Config,
    /// The admin plane.
    pub admin: admin::Config,
    /// The store.
    pub store: store::Config,
    /// Registries.
    pub upstream: upstream::Config,
    /// The images that are kept without being asked for.
    pub prepull: prepull::Config,
    /// This node's pods.
    pub kubernetes: kubernetes::Config,
    /// The shared tier, if there is one.
    pub tier: Option<tier::Config>,
    /// The log.
    pub log: LogConfig,
    /// Traces.
    pub traces: traces::Config,
    /// Where credentials are.
    pub credentials: credentials::Config,
    /// The directory of the node's own keys.
    pub keys: PathBuf,
    /// Rights and freshness.
    pub pull: pull::Config,
    /// The local users that may connect; `None`: all.
    pub uids: Option<Vec<u32>>,
    /// Whether the process is root.
    pub root: bool,
    pub(super) sections: Sections,
    pub(super) sources: Sources,
}

impl Settings {
    /// Whether `[server] listen` was written somewhere, and is not the default.
    pub fn says_where_to_listen(&self) -> bool {
        self.sources.contains_key("[server] listen")
    }

    /// The files and directories that keys name which go with other keys, each with its own: also where the other is
    /// missing or has a mistake, so that nothing is built from the two.
    pub fn files_of_pairs(&self) -> Vec<(String, PathBuf)> {
        let Sections { server, credentials, registries, .. } = &self.sections;
        let mut all = vec![
            ("[server] gate_file".to_owned(), &server.gate_file),
            ("[credentials] provider_config".to_owned(), &credentials.provider_config),
            ("[credentials] provider_bin_dir".to_owned(), &credentials.provider_bin_dir),
        ];
        for registry in registries {
            let host = registry.host.as_ref().map(|host| format!(" {host}")).unwrap_or_default();
            let keys = [
                ("ca", &registry.ca),
                ("client_cert", &registry.client_cert),
                ("client_key", &registry.client_key),
            ];
            all.extend(keys.map(|(key, path)| (format!("[[registry]]{host} {key}"), path)));
        }
        all.into_iter().filter_map(|(key, path)| Some((key, path.clone()?))).collect()
    }

    /// Those of `[tier]`, also where its `url` has a mistake.
    pub fn files_of_tier(&self) -> Vec<(String, PathBuf)> {
        let tier = &self.sections.tier;
        let cluster_key = tier.cluster_key.clone().filter(|_| tier.share_names);
        let keys =
            [("ca", tier.ca.clone()), ("key_file", tier.key_file.clone()), ("cluster_key", cluster_key)];
        keys.into_iter().filter_map(|(key, path)| Some((format!("[tier] {key}"), path?))).collect()
    }

    /// What is not as in `before`, key by key; and what a key that a restart applies has by default from one that a
    /// reload applies.
    pub fn changes(&self, before: &Self) -> Vec<Change> {
        let mut changes = self.sections.changes(&before.sections);
        changes.extend(self.moved_pods_api(before));
        changes
    }

    /// Kubelet's socket of pods where it is looked for below another `kubelet_root`: the watch goes on at the old one.
    fn moved_pods_api(&self, before: &Self) -> Option<Change> {
        let by_default = |settings: &Self| match &settings.kubernetes {
            kubernetes::Config { pods_api: None, pods_api_default: Some(at), .. } => Some(at.clone()),
            _ => None,
        };
        let moved = by_default(self)? != by_default(before)?;
        moved.then(|| Change { key: PODS_API.to_owned(), needs_restart: true })
    }
}
