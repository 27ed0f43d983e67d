//! `[kubernetes]`: this node's pods, whose images are fetched before kubelet asks for them.

use std::path::{Path, PathBuf};

use crate::config::file::Value;
use crate::config::report::{Place, quoted};
use crate::config::schema::section;
use crate::config::value::{Kind, Shape, Text, flag, number, path};
use crate::kubernetes::{self, Identity};

/// Images of one pod at a time: more would take the places of downloads that a pod waits for.
const AHEAD_MAX: u32 = 16;
/// Where kubelet has its socket of pods, below its root.
const PODS_API: &str = "pods-api/pods-api.sock";

section! {
    /// This node's pods: the images that they need are fetched as soon as a pod is bound to the node, with the pod's
    /// own pull secrets, before kubelet asks for them; what runs here is evicted last. Without `kubeconfig` and
    /// `pods_api` there is no watch. docs/pods.md has what each identity may see.
    Kubernetes = "kubernetes";

    /// As whom the API server is asked: a kubeconfig file, whose current context counts, or "in-cluster" for the
    /// service account of Larder's own pod. Kubelet's own kubeconfig is recommended: with it the API server shows the
    /// pods of this node and their secrets, and no others.
    restart kubeconfig: Option<Identity> = IdentityKind, |_| None, example "\"/etc/kubernetes/kubelet.conf\"";

    /// The node's name, where kubelet does not name it after the host (--hostname-override).
    restart node: Option<String> = node(), |_| None, example "\"node-1\"";

    /// Whether the pull secrets of this node's pods are read. By default they are with a kubeconfig file, and not
    /// in-cluster: there images are fetched that the node or any pod may read.
    restart secrets: Option<bool> = flag(), |_| None, example "true";

    /// Kubelet's socket of pods (alpha in 1.36), a second source. By default the one below `kubelet_root`, if
    /// `kubeconfig` is set and the socket exists at the start.
    restart pods_api: Option<PathBuf> = path(), |_| None, example "\"/var/lib/kubelet/pods-api/pods-api.sock\"";

    /// The runtime's socket, which is asked whether it has an image that need not be pulled then. Without it the node's
    /// status is asked, which names 50 images.
    restart runtime_socket: Option<PathBuf> = path(), |_| None, example "\"/run/containerd/containerd.sock\"";

    /// Images of one pod that are fetched at a time, in the order in which kubelet needs them.
    restart ahead: u32 = number(1..=AHEAD_MAX), |_| ahead();
}

impl Kubernetes {
    /// Notes what this build cannot do.
    pub(crate) fn check(&self, place: &Place<'_>) {
        let keys = [
            ("kubeconfig", self.kubeconfig.is_some()),
            ("pods_api", self.pods_api.is_some()),
            ("runtime_socket", self.runtime_socket.is_some()),
        ];
        for (key, is_set) in keys {
            if is_set && cfg!(not(feature = "kubernetes")) {
                place
                    .known_key(key)
                    .mistake("this build of Larder has no support for it (feature kubernetes)");
            }
        }
    }

    /// What the watch of pods is built from.
    pub(crate) fn config(&self, kubelet_root: &Path) -> kubernetes::Config {
        let reads_by_default = !matches!(self.kubeconfig, Some(Identity::InCluster));
        kubernetes::Config {
            identity: self.kubeconfig.clone(),
            node: self.node.clone(),
            secrets: self.secrets.unwrap_or(reads_by_default),
            pods_api: self.pods_api.clone(),
            pods_api_default: self.kubeconfig.is_some().then(|| kubelet_root.join(PODS_API)),
            runtime_socket: self.runtime_socket.clone(),
            ahead: self.ahead as usize,
        }
    }
}

fn ahead() -> u32 {
    u32::try_from(kubernetes::Config::default().ahead).unwrap_or(AHEAD_MAX)
}

/// The name of a node, as the API server takes it: it is put into a selector and a path as it is.
fn node() -> Text<String> {
    Text {
        what: "name of a node",
        examples: &["node-1", "ip-10-0-0-1.eu-central-1.compute.internal"],
        read: |text| {
            let is_plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(is_plain);
            let expected = "expected the name of a node: lower-case letters, digits, dashes and dots";
            if is_name && !text.starts_with('.') { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
        },
        write: Clone::clone,
    }
}

struct IdentityKind;

/// The value that stands for the service account of Larder's own pod.
const IN_CLUSTER: &str = "in-cluster";

impl Kind for IdentityKind {
    type Value = Identity;

    fn shape(&self) -> Shape {
        Shape::Either(Box::new(Shape::Choice(vec![IN_CLUSTER])), Box::new(path().shape()))
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<Identity> {
        match value.as_str() {
            Some(IN_CLUSTER) => Some(Identity::InCluster),
            Some(text) if !text.starts_with('/') => {
                let problem = "expected \"in-cluster\", or the absolute path of a kubeconfig";
                place.mistake(format!("{}: {problem}", quoted(text)));
                None
            }
            _ => path().read(value, place).map(Identity::Kubeconfig),
        }
    }

    fn write(&self, value: &Identity) -> Value {
        match value {
            Identity::InCluster => IN_CLUSTER.into(),
            Identity::Kubeconfig(file) => path().write(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Environment, resolve};
    #[cfg(feature = "kubernetes")]
    use crate::kubernetes::Identity;

    #[test]
    #[cfg(not(feature = "kubernetes"))]
    fn a_build_that_cannot_watch_pods_refuses_to_look_as_if_it_did() {
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let mistakes = resolve("[kubernetes]\nkubeconfig = \"in-cluster\"", &environment).unwrap_err();
        assert!(mistakes[0].problem.contains("feature kubernetes"), "{mistakes:?}");
    }

    #[test]
    #[cfg(feature = "kubernetes")]
    fn secrets_are_read_with_a_kubeconfig_and_in_cluster_only_where_it_is_said() {
        let config = |text: &str| {
            let environment = Environment { home: Some("/h".into()), ..Environment::default() };
            resolve(&format!("[kubernetes]\n{text}"), &environment).unwrap().kubernetes
        };
        let has_source =
            |config: &crate::kubernetes::Config| config.identity.is_some() || config.pods_api.is_some();
        assert!(!has_source(&config("")));
        let kubelets = config("kubeconfig = \"/etc/kubernetes/kubelet.conf\"");
        assert!(has_source(&kubelets) && kubelets.secrets);
        assert_eq!(kubelets.identity, Some(Identity::Kubeconfig("/etc/kubernetes/kubelet.conf".into())));
        assert!(!config("kubeconfig = \"in-cluster\"").secrets);
        assert!(config("kubeconfig = \"in-cluster\"\nsecrets = true").secrets);
        let socket = config("pods_api = \"/run/pods.sock\"");
        assert!(has_source(&socket) && socket.identity.is_none());
    }

    #[test]
    #[cfg(feature = "kubernetes")]
    fn kubelets_list_of_pods_is_found_where_the_daemonset_mounts_it_and_only_beside_a_kubeconfig() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("pods-api/pods-api.sock");
        let config = |text: &str| {
            let environment = Environment { home: Some("/h".into()), ..Environment::default() };
            resolve(text, &environment).unwrap().kubernetes
        };
        let by_default = config("[kubernetes]\nkubeconfig = \"in-cluster\"").pods_api_default;
        assert_eq!(by_default, Some("/var/lib/kubelet/pods-api/pods-api.sock".into()));
        let root = format!("[credentials]\nkubelet_root = {:?}\n", directory.path());
        let watched = || config(&format!("{root}[kubernetes]\nkubeconfig = \"in-cluster\""));
        assert_eq!(watched().pods_api_socket(), None, "kubelet does not offer it");
        std::fs::create_dir(directory.path().join("pods-api")).unwrap();
        std::fs::write(&socket, "").unwrap();
        assert_eq!(watched().pods_api_socket(), Some(socket));
        assert_eq!(config(&root).pods_api_socket(), None);
    }

    #[test]
    #[cfg(feature = "kubernetes")]
    fn a_reload_that_moves_kubelets_root_does_not_leave_the_watch_behind_without_a_word() {
        let settings = |root: &str, more: &str| {
            let environment = Environment { home: Some("/h".into()), ..Environment::default() };
            let text = format!("[credentials]\nkubelet_root = \"{root}\"\n[kubernetes]\n{more}");
            resolve(&text, &environment).unwrap()
        };
        let watched = "kubeconfig = \"/etc/kubernetes/kubelet.conf\"";
        let named = format!("{watched}\npods_api = \"/run/pods.sock\"");
        for (before, now, expected) in [
            (settings("/a", watched), settings("/b", watched), true),
            (settings("/a", watched), settings("/a", watched), false),
            (settings("/a", ""), settings("/b", ""), false),
            (settings("/a", &named), settings("/b", &named), false),
            // That the key is new is named by itself.
            (settings("/a", ""), settings("/b", watched), false),
        ] {
            let changes = now.changes(&before);
            let of_socket =
                changes.iter().any(|c| c.needs_restart && c.key.starts_with("[kubernetes] pods_api"));
            assert_eq!(of_socket, expected, "{changes:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_node_is_refused() {
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        for bad in ["node = \"Node\"", "node = \"a/b\"", "kubeconfig = \"kubelet.conf\"", "ahead = 0"] {
            assert!(resolve(&format!("[kubernetes]\n{bad}"), &environment).is_err(), "{bad}");
        }
    }
}
