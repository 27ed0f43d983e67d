//! `[credentials]`: where the node's credentials and pull secrets are.

use std::path::PathBuf;

use crate::config::environment::Environment;
use crate::config::file::Value;
use crate::config::report::{Place, quoted};
use crate::config::schema::section;
use crate::config::value::{Kind, Shape, list, path};
use crate::credentials::{self, KubeletDirectories, NodeFiles, ProviderFiles};

section! {
    /// Where the node's credentials are, which every pod may use, and where pull secrets are, which no pod may use.
    Credentials = "credentials";

    /// The node's docker config: "kubelet" for kubelet's search path, a list of files, or [] for none. Every pod may
    /// use these credentials. This is the default as root; without root it is [], so that a developer's `docker login`
    /// does not open private images to every local user.
    reload node: Node = NodeKind, |context| node(context.environment);

    /// Kubelet's --root-dir, a directory of its search path. `pods_api` follows it from the next start.
    reload kubelet_root: PathBuf = path(), |_| "/var/lib/kubelet".into();

    /// Kubelet's working directory, another directory of its search path.
    reload kubelet_cwd: PathBuf = path(), |_| "/".into();

    /// Kubelet's home directory, another directory of its search path; $HOME by default.
    reload home: Option<PathBuf> = path(), |context| context.environment.home.clone(), example "\"/root\"";

    /// Kubelet's --image-credential-provider-config: which plugins there are. They run unchanged. A reload reads it
    /// again.
    reload provider_config: Option<PathBuf> = path(), |_| None,
        example "\"/etc/kubernetes/credential-provider.yaml\"";

    /// Kubelet's --image-credential-provider-bin-dir: the directory of the plugins.
    reload provider_bin_dir: Option<PathBuf> = path(), |_| None, example "\"/usr/local/bin\"";

    /// The directory of docker credential helpers, for docker configs that name one. Without it none is run.
    reload helper_dir: Option<PathBuf> = path(), |_| None, example "\"/usr/bin\"";

    /// Pull secrets (docker configs, Secret manifests, or directories of them) for pre-pull and commands, never for a
    /// runtime's request.
    reload pull_secrets: Vec<PathBuf> = list(path()), |_| Vec::new();
}

/// Which docker configs are the node's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// Those on kubelet's search path.
    Kubelet,
    /// These files.
    Files(Vec<PathBuf>),
}

impl Credentials {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, place: &Place<'_>) {
        place.both(
            ("provider_config", self.provider_config.is_some(), "which plugins there are"),
            ("provider_bin_dir", self.provider_bin_dir.is_some(), "where the plugins are"),
        );
    }

    /// What the keychain is built from.
    pub(crate) fn config(&self) -> credentials::Config {
        let providers = self.provider_config.clone().zip(self.provider_bin_dir.clone());
        credentials::Config {
            node: match &self.node {
                Node::Files(files) => NodeFiles::Named(files.clone()),
                Node::Kubelet => NodeFiles::Kubelet(KubeletDirectories {
                    kubelet_root: self.kubelet_root.clone(),
                    kubelet_cwd: self.kubelet_cwd.clone(),
                    home: self.home.clone(),
                }),
            },
            providers: providers.map(|(config, bin_dir)| ProviderFiles { config, bin_dir }),
            helper_dir: self.helper_dir.clone(),
            pull_secrets: self.pull_secrets.clone(),
        }
    }
}

fn node(environment: &Environment) -> Node {
    match &environment.node_credential {
        Some(file) => Node::Files(vec![file.clone()]),
        None if environment.root => Node::Kubelet,
        None => Node::Files(Vec::new()),
    }
}

struct NodeKind;

impl Kind for NodeKind {
    type Value = Node;

    fn shape(&self) -> Shape {
        Shape::Either(Box::new(Shape::Choice(vec!["kubelet"])), Box::new(list(path()).shape()))
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<Node> {
        match value.as_str() {
            Some("kubelet") => Some(Node::Kubelet),
            Some(text) => {
                let problem = "expected \"kubelet\", or a list of files, or [] for none";
                place.mistake(format!("{}: {problem}", quoted(text)));
                None
            }
            None => list(path()).read(value, place).map(Node::Files),
        }
    }

    fn write(&self, value: &Node) -> Value {
        match value {
            Node::Kubelet => "kubelet".into(),
            Node::Files(files) => list(path()).write(files),
        }
    }
}
