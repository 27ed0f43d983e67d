//! A node whose daemon watches its pods: a registry, an API server and the daemon.

use http::Method;

use crate::support::api_server::{ApiServer, Identity, objects};
use crate::support::image::{self, Image};
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

pub(crate) const NODE: &str = "system:node:n1";
pub(crate) const WATCHING: &str = "larder_kubernetes_source_connected{source=\"api_server\"}";

/// A registry, an API server, and a daemon that watches the pods of `n1` as kubelet does.
pub(crate) struct Node {
    pub(crate) registry: FakeRegistry,
    pub(crate) server: ApiServer,
    pub(crate) identity: Identity,
    pub(crate) larder: Larder,
    pub(crate) directory: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with("", |_| {}).await
    }

    /// With more lines of `[kubernetes]`; `before` sees the API server before the daemon starts.
    pub(crate) async fn with(more: &str, before: impl FnOnce(&ApiServer)) -> Self {
        let (registry, server) = (FakeRegistry::start().await, ApiServer::start().await);
        let directory = tempfile::tempdir().unwrap();
        let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
        before(&server);
        let config = format!(
            "[kubernetes]\nkubeconfig = \"{}\"\nnode = \"n1\"\n{more}",
            identity.kubeconfig.to_str().unwrap()
        );
        let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &config);
        Self { registry, server, identity, larder, directory }
    }

    pub(crate) async fn watching(self) -> Self {
        self.larder.metric_becomes(WATCHING, 1.0).await;
        self
    }

    pub(crate) async fn ended(&self, result: &str, count: u32) {
        let line = format!("larder_kubernetes_fetches_total{{result=\"{result}\"}}");
        self.larder.metric_becomes(&line, count.into()).await;
    }

    /// Blobs that the registry was asked for.
    pub(crate) fn blobs(&self) -> usize {
        self.registry.count(Method::GET, "/blobs/")
    }
}

pub(crate) fn amd64(image: &Image) -> &image::PlatformImage {
    let arch = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    image.platforms.iter().find(|one| one.platform == arch).unwrap()
}

pub(crate) fn manifest(repository: &str, reference: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}?ns=reg.test")
}

pub(crate) fn blob(repository: &str, digest: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/blobs/{digest}?ns=reg.test")
}

/// A node whose registry lets `ann` read `team/app` and `bob` read nothing, and the pull secrets of both.
pub(crate) async fn tenants() -> (Node, Image) {
    let node = Node::new().await.watching().await;
    let image = image::push(&node.registry, "team/app", "v1", 50_000);
    node.registry
        .know(Accounts::new(&[("ann", "a-pass", &["team/app"]), ("bob", "b-pass", &["team/other"])]));
    node.server.put_secret(objects::pull_secret("ann", "pull", "reg.test", ("ann", "a-pass")));
    node.server.put_secret(objects::pull_secret("bob", "pull", "reg.test", ("bob", "b-pass")));
    (node, image)
}
