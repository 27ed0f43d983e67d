//! `[kubernetes]`: where this node's pods are seen, and how far ahead of kubelet their images are fetched.

use std::path::PathBuf;

use crate::support::host;

/// Images of one pod that are fetched at a time. Kubelet pulls one after the other: while it unpacks one, the next few
/// arrive, and the one that it wants next shares the link with few others.
const AHEAD: usize = 3;

/// As whom the API server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The service account of the pod that Larder runs in.
    InCluster,
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
}

/// Where this node's pods are seen, and what is done about their images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// As whom the API server is asked; `None`: it is not.
    pub identity: Option<Identity>,
    /// The node's name; `None`: the host's, as kubelet takes it.
    pub node: Option<String>,
    /// Whether pull secrets are read.
    pub secrets: bool,
    /// Kubelet's socket of pods.
    pub pods_api: Option<PathBuf>,
    /// Where that socket is looked for besides.
    pub pods_api_default: Option<PathBuf>,
    /// The runtime's socket.
    pub runtime_socket: Option<PathBuf>,
    /// Images of one pod that are fetched at a time.
    pub ahead: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: None,
            node: None,
            secrets: true,
            pods_api: None,
            pods_api_default: None,
            runtime_socket: None,
            ahead: AHEAD,
        }
    }
}

impl Config {
    /// Whether tokens of pods' service accounts are requested as `identity`: a kubeconfig is kubelet's; a service
    /// account of Larder's own may request none, or those of every pod of the cluster.
    pub fn requests_tokens(&self, identity: &Identity) -> bool {
        self.secrets && matches!(identity, Identity::Kubeconfig(_))
    }

    /// Kubelet's socket of pods: the one that is configured, else the one that is there. Blocks for a moment.
    pub fn pods_api_socket(&self) -> Option<PathBuf> {
        let there = self.pods_api_default.iter().find(|socket| socket.exists());
        self.pods_api.clone().or_else(|| there.cloned())
    }

    /// The node's name.
    ///
    /// # Errors
    /// None is configured, and the host has none.
    pub fn node_name(&self) -> Result<String, String> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => of_host(&host::name()),
        }
    }
}

/// The host's name as kubelet makes a node's of it: without blanks around it, in lower case.
fn of_host(name: &str) -> Result<String, String> {
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() { Err("this host has no name".to_owned()) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_kubelet_names_it() {
        assert_eq!(of_host("Node-1.Example\n").unwrap(), "node-1.example");
        assert!(of_host("\n").is_err());
        assert!(
            !Config::default().node_name().unwrap().is_empty(),
            "as the systemd unit has it: without /proc/sys"
        );
        let named = Config { node: Some("ip-10-0-0-1".to_owned()), ..Config::default() };
        assert_eq!(named.node_name().unwrap(), "ip-10-0-0-1");
    }
}
