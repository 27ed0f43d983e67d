//! Kubelet's search path for the node's docker configuration (kubernetes `pkg/credentialprovider/config.go`).

use std::path::{Path, PathBuf};

/// The directories that kubelet's search path is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletDirectories {
    /// Kubelet's `--root-dir`.
    pub kubelet_root: PathBuf,
    /// Kubelet's working directory.
    pub kubelet_cwd: PathBuf,
    /// `$HOME`, where it is set.
    pub home: Option<PathBuf>,
}

impl KubeletDirectories {
    /// The eight files in kubelet's order: every `config.json` first, then every legacy `.dockercfg`.
    pub(super) fn docker_configs(&self) -> Vec<PathBuf> {
        let root = Path::new("/");
        let home = self.home.as_deref();
        let current = [
            Some(self.kubelet_root.clone()),
            Some(self.kubelet_cwd.clone()),
            home.map(|h| h.join(".docker")),
            Some(root.join(".docker")),
        ];
        let legacy = [
            Some(self.kubelet_root.clone()),
            Some(self.kubelet_cwd.clone()),
            home.map(Path::to_owned),
            Some(root.to_owned()),
        ];
        let current = current.into_iter().flatten().map(|directory| directory.join("config.json"));
        let legacy = legacy.into_iter().flatten().map(|directory| directory.join(".dockercfg"));
        current.chain(legacy).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_files_are_kubelets_and_in_its_order() {
        let directories = KubeletDirectories {
            kubelet_root: "/k".into(),
            kubelet_cwd: "/w".into(),
            home: Some("/h".into()),
        };
        let shown: Vec<_> = directories.docker_configs().iter().map(|p| p.display().to_string()).collect();
        assert_eq!(
            shown,
            [
                "/k/config.json",
                "/w/config.json",
                "/h/.docker/config.json",
                "/.docker/config.json",
                "/k/.dockercfg",
                "/w/.dockercfg",
                "/h/.dockercfg",
                "/.dockercfg",
            ]
        );
    }
}
