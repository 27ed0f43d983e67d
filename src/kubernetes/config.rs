//! `[kubernetes]`: where this node's pods are seen, and how far ahead of kubelet their images are fetched.

use std::path::{Path, PathBuf};

/// Images of one pod that are fetched at a time. Kubelet pulls one after the other: while it unpacks one, the next few
/// arrive, and the one that it wants next shares the link with few others.
const AHEAD: usize = 3;
/// The kernel's name of this machine, which kubelet takes as the node's.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

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
    /// Whether there is a source of pods.
    pub fn is_used(&self) -> bool {
        self.identity.is_some() || self.pods_api.is_some()
    }

    /// Kubelet's socket of pods: the one that is configured, else the one that is there. Blocks for a moment.
    pub fn pods_api_socket(&self) -> Option<PathBuf> {
        let there = self.pods_api_default.iter().find(|socket| socket.exists());
        self.pods_api.clone().or_else(|| there.cloned())
    }

    /// The node's name. Blocks for a moment.
    ///
    /// # Errors
    /// None is configured, and the kernel does not say the host's.
    pub fn node_name(&self) -> Result<String, String> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => host_name(Path::new(HOSTNAME)),
        }
    }
}

/// The host's name as kubelet makes a node's of it: without blanks around it, in lower case.
fn host_name(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let name = text.trim().to_ascii_lowercase();
    if name.is_empty() { Err(format!("{} is empty", file.display())) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_kubelet_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hostname");
        std::fs::write(&file, "Node-1.Example\n").unwrap();
        assert_eq!(host_name(&file).unwrap(), "node-1.example");
        std::fs::write(&file, "\n").unwrap();
        assert!(host_name(&file).is_err() && host_name(&directory.path().join("none")).is_err());
        let named = Config { node: Some("ip-10-0-0-1".to_owned()), ..Config::default() };
        assert_eq!(named.node_name().unwrap(), "ip-10-0-0-1");
    }
}
