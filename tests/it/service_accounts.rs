//! Images that a credential plugin opens with a token of the pod's service account, fetched ahead of kubelet: whole daemons,
//! an API server and a registry in the test's own process, and a real program as the plugin.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::json;

use crate::support::api_server::ApiServer;
use crate::support::api_server::objects::{self, Pod};
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

const IMAGE: &str = "reg.test/team/app:v1";
/// What the API server of the tests gives for the service account `web` of the namespace `shop`.
const TOKEN: &str = "sa.shop.web.reg";

struct Node {
    registry: FakeRegistry,
    server: ApiServer,
    larder: Larder,
    directory: tempfile::TempDir,
}

/// A node with a plugin that returns the token as the password of `oauth`, and a registry that lets that token read the image.
async fn node(audience: &str) -> Node {
    let (registry, server) = (FakeRegistry::start().await, ApiServer::start().await);
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let answer = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","cacheDuration":"1h","auth":{"reg.test":{"username":"oauth","password":"TOKEN"}}}"#;
    let script = format!(
        "#!/bin/sh\ncat > {0}/last\necho x >> {0}/runs\nTOKEN=$(sed -n 's/.*\"serviceAccountToken\":\"\\([^\"]*\\)\".*/\\1/p' {0}/last)\nsed \"s/TOKEN/$TOKEN/\" <<'E'\n{answer}\nE\n",
        at.display()
    );
    std::fs::write(at.join("plugin"), script).unwrap();
    std::fs::set_permissions(at.join("plugin"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let plugins = at.join("plugins.yaml");
    std::fs::write(
        &plugins,
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"reg.test/team\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  tokenAttributes: {serviceAccountTokenAudience: reg, cacheType: Token, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [example.com/role]}\n",
    )
    .unwrap();
    let identity = server.authorities.identity(at, &server.url(), "system:node:n1");
    server.allow_audience(audience);
    for (name, annotations) in [
        ("web", json!({"example.com/role": "reader", "example.com/other": "kept back"})),
        ("other", json!({"example.com/role": "reader"})),
        ("plain", json!({})),
    ] {
        server.put_service_account(objects::service_account("shop", name, annotations));
    }
    let config = format!(
        "[kubernetes]\nkubeconfig = {:?}\nnode = \"n1\"\n[credentials]\nnode = []\nprovider_config = {plugins:?}\nprovider_bin_dir = {at:?}\n",
        identity.kubeconfig
    );
    let larder = Larder::start(at, &[("reg.test", registry.url())], &config);
    larder.metric_becomes("larder_kubernetes_source_connected{source=\"api_server\"}", 1.0).await;
    image::push(&registry, "team/app", "v1", 20_000);
    registry.know(Accounts::new(&[("oauth", TOKEN, &["team/app"])]));
    Node { registry, server, larder, directory }
}

impl Node {
    /// A pod of this service account is bound.
    fn bind(&self, name: &str, account: &str) {
        let pod = Pod::new("shop", name, "n1").image(IMAGE);
        self.server.put_pod(pod.with(|pod| pod["spec"]["serviceAccountName"] = json!(account)));
    }

    async fn ended(&self, result: &str, count: u32) {
        let line = format!("larder_kubernetes_fetches_total{{result=\"{result}\"}}");
        self.larder.metric_becomes(&line, count.into()).await;
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
    }

    fn token_requests(&self) -> usize {
        self.server.count(|asked| asked.method == Method::POST && asked.path.ends_with("/token"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_accounts_token_opened_is_here_and_for_that_credential_alone() {
    let node = node("reg").await;
    node.bind("p1", "web");
    node.ended("fetched", 1).await;
    let told = std::fs::read(node.directory.path().join("last")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["serviceAccountToken"], TOKEN);
    assert_eq!(told["serviceAccountAnnotations"], json!({"example.com/role": "reader"}));
    // As kubelet's runtime will ask a moment later, and as others do.
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    let before = node.registry.count(Method::GET, "/blobs/");
    assert!(node.larder.get_as(path, ("oauth", TOKEN)).await.is_well());
    assert_eq!(node.registry.count(Method::GET, "/blobs/"), before);
    for other in [None, Some(("oauth", "sa.shop.other.reg"))] {
        let answer = match other {
            None => node.larder.get(path).await,
            Some(user) => node.larder.get_as(path, user).await,
        };
        assert!(!answer.status.is_success(), "{other:?}");
    }
    // A pod of another account gets a token of its own, which opens nothing.
    node.bind("p2", "other");
    node.ended("refused", 1).await;
    assert_eq!((node.runs(), node.token_requests()), (2, 2));
    // No file of the store holds the token.
    let found = std::process::Command::new("grep")
        .args(["-rl", "--exclude=last", TOKEN])
        .arg(node.directory.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_account_lacks_the_annotation_runs_no_plugin() {
    let node = node("reg").await;
    node.bind("p1", "plain");
    node.ended("refused", 1).await;
    assert_eq!((node.runs(), node.token_requests()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_that_nodes_may_not_ask_for_costs_pods_nothing_but_the_head_start() {
    let node = node("other").await;
    node.bind("p1", "web");
    node.ended("refused", 1).await;
    assert_eq!(node.runs(), 0);
    let path = "/v2/team/app/manifests/v1?ns=reg.test";
    assert!(node.larder.get_as(path, ("oauth", TOKEN)).await.is_well(), "the runtime's own pull");
}
