//! Pods of tenants that try to get with the watch what they may not have: secrets and images of others.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::Semaphore;

use crate::pods_world::{Node, amd64, blob, manifest, tenants};
use crate::support::api_server::objects::{self, Pod};
use crate::support::api_server::{ApiFault, ApiServer, Interjection};
use crate::support::client::basic;
use crate::support::fault::Fault;
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry, Seen};
use crate::support::world::Larder;

const IMAGE: &str = "reg.test/team/app:v1";

/// Whether a request carries Ann's password, or a token that it opened.
fn is_of_ann(seen: &Seen) -> bool {
    seen.headers.get("authorization").is_some_and(|header| {
        let header = header.to_str().unwrap();
        header == basic("ann", "a-pass") || header.contains("tok.ann.")
    })
}

impl Node {
    /// The pod is Ann's, with her secret.
    fn bind_anns(&self) {
        self.server.put_pod(Pod::new("ann", "web", "n1").pull_secret("pull").image(IMAGE));
    }

    /// The secrets that the API server was asked for, by their paths.
    fn secrets_asked(&self) -> Vec<String> {
        let asked = self.server.asked().into_iter().map(|asked| asked.path);
        asked.filter(|path| path.contains("secret")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_for_a_pod_is_joined_by_no_pod_with_a_wrong_secret() {
    let (node, image) = tenants().await;
    let layer = amd64(&image).layers[1];
    let gate = Arc::new(Semaphore::new(0));
    node.registry.wrong_at(&layer.to_string(), Fault::HoldAfter(20_000, Arc::clone(&gate)));
    node.bind_anns();
    node.larder.metric_becomes("larder_flights", 1.0).await;
    // The same name of the secret, the same image, the same user; another namespace and a wrong password.
    node.server.put_secret(objects::pull_secret("bob", "pull", "reg.test", ("ann", "guessed")));
    node.server.put_pod(Pod::new("bob", "web", "n1").pull_secret("pull").image(IMAGE));
    node.ended("refused", 1).await;
    let others = [None, Some(("ann", "guessed")), Some(("bob", "b-pass"))];
    let refused = async |when: &str| {
        for path in
            [manifest("team/app", "v1"), blob("team/app", layer), blob("team/app", amd64(&image).config)]
        {
            for other in others {
                let answer = match other {
                    None => node.larder.get(&path).await,
                    Some(user) => node.larder.get_as(&path, user).await,
                };
                assert!(!answer.status.is_success(), "{when}: {path} as {other:?}");
            }
        }
    };
    refused("while it is under way").await;
    gate.add_permits(1_000);
    node.ended("fetched", 1).await;
    refused("when it is here").await;
    assert!(node.larder.get_as(&blob("team/app", layer), ("ann", "a-pass")).await.is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_another_namespace_is_read_for_no_pod_whatever_its_name_says() {
    let (node, _) = tenants().await;
    // It is there, and kubelet's identity may read it.
    node.server.put_pod(Pod::new("ann", "idle", "n1").pull_secret("pull").image_with(IMAGE, "Never"));
    node.server.put_secret(objects::pull_secret("eve", "pull", "reg.test", ("eve", "guessed")));
    let names = [
        "ann/pull",
        "../../ann/secrets/pull",
        "..%2F..%2Fann%2Fsecrets%2Fpull",
        "pull?namespace=ann",
        "pull",
    ];
    let pod = names.iter().fold(Pod::new("eve", "web", "n1"), |pod, name| pod.pull_secret(name));
    node.server.put_pod(pod.image(IMAGE));
    // Kubelet passes over the names that are none; the last one opens nothing.
    node.ended("refused", 1).await;
    assert_eq!(node.secrets_asked(), ["/api/v1/namespaces/eve/secrets/pull"]);
    assert!(!node.registry.seen().iter().any(is_of_ann), "{:#?}", node.registry.seen());
    assert_eq!(node.blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_pod_that_never_pulls_neither_a_secret_nor_a_registry_is_asked() {
    let (node, image) = tenants().await;
    let never = |list: &str, name: &str| json!({"name": name, "image": IMAGE, "imagePullPolicy": list});
    let pod = Pod::new("ann", "never", "n1").pull_secret("pull").image_with(IMAGE, "Never").with(|pod| {
        pod["spec"]["initContainers"] = json!([never("Never", "init")]);
        pod["spec"]["ephemeralContainers"] = json!([never("Never", "debug")]);
        pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": IMAGE, "pullPolicy": "Never"}}]);
    });
    node.server.put_pod(pod);
    image::push(&node.registry, "team/other", "v1", 1_000);
    node.server.put_pod(Pod::new("bob", "web", "n1").pull_secret("pull").image("reg.test/team/other:v1"));
    node.ended("fetched", 1).await;
    assert_eq!(node.registry.seen().iter().filter(|seen| seen.path.contains("team/app")).count(), 0);
    assert!(node.secrets_asked().iter().all(|path| path.contains("/bob/")), "{:#?}", node.secrets_asked());
    assert!(!node.larder.get(&blob("team/app", amd64(&image).layers[0])).await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_container_is_fetched_for_as_its_pod_and_opens_nothing_to_others() {
    let (node, image) = tenants().await;
    let running = Pod::new("ann", "web", "n1").pull_secret("pull").image("reg.test/team/own:v1").running();
    node.server.put_pod(running);
    node.server.edit_pod("ann", "web", |pod| {
        pod["spec"]["ephemeralContainers"] =
            json!([{"name": "debug", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}]);
    });
    node.ended("fetched", 1).await;
    let layer = blob("team/app", amd64(&image).layers[0]);
    assert!(!node.larder.get(&layer).await.status.is_success());
    assert!(!node.larder.get_as(&layer, ("bob", "b-pass")).await.status.is_success());
    let before = node.blobs();
    assert!(node.larder.get_as(&layer, ("ann", "a-pass")).await.is_well());
    assert_eq!(node.blobs(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_another_node_is_fetched_for_by_no_list_and_no_event_that_tells_of_it() {
    let registry = FakeRegistry::start().await;
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "team/app", "v1", 10_000);
    image::push(&registry, "team/own", "v1", 10_000);
    registry.know(Accounts::new(&[("ann", "a-pass", &["team/app", "team/own"])]));
    server.put_secret(objects::pull_secret("ann", "pull", "reg.test", ("ann", "a-pass")));
    // An identity that may read every secret, and something in between that does not select.
    let token = directory.path().join("token");
    std::fs::write(&token, "sa-token").unwrap();
    let user = "system:serviceaccount:larder:larder";
    server.know_token("sa-token", user);
    for (verb, resource) in [("list", "pods"), ("watch", "pods"), ("get", "nodes"), ("get", "secrets")] {
        server.allow(user, verb, resource);
    }
    let foreign = |name: &str, node: &str| {
        let pod = Pod::new("ann", name, node).pull_secret("pull").image(IMAGE);
        serde_json::Value::from(pod.with(|pod| pod["metadata"]["resourceVersion"] = json!("1000")))
    };
    let listed = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1000"},
        "items": [foreign("listed", "n2"), foreign("unbound", "")]});
    server.wrong(move |asked| asked.is_list_of_pods().then(|| ApiFault::Body(listed.to_string())));
    let kubeconfig = server.authorities.with_token_file(directory.path(), &server.url(), &token);
    let config = format!("[kubernetes]\nkubeconfig = {kubeconfig:?}\nnode = \"n1\"\n");
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &config);
    larder.metric_becomes("larder_kubernetes_source_connected{source=\"api_server\"}", 1.0).await;
    server.watched(1).await;
    for kind in ["ADDED", "MODIFIED"] {
        let event = json!({"type": kind, "object": foreign("told", "n2")});
        assert!(server.interject(Interjection::Raw(format!("{event}\n"))));
    }
    server.put_pod(Pod::new("ann", "own", "n1").pull_secret("pull").image("reg.test/team/own:v1"));
    larder.metric_becomes("larder_kubernetes_fetches_total{result=\"fetched\"}", 1.0).await;
    assert_eq!(larder.metric("larder_kubernetes_pods").await, 1.0);
    assert_eq!(registry.seen().iter().filter(|seen| seen.path.contains("team/app")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_pod_of_a_static_pod_is_fetched_for_as_the_node_alone() {
    let (node, _) = tenants().await;
    node.registry.change(false, |accounts| accounts.public.push("team/public".to_owned()));
    image::push(&node.registry, "team/public", "v1", 1_000);
    // As kubelet makes it: no service account, and no secrets, which the API server refuses to such a pod.
    let mirror = |name: &str, image: &str| {
        Pod::new("kube-system", name, "n1").image(image).with(|pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("4d1c");
            pod["spec"].as_object_mut().unwrap().remove("serviceAccountName");
        })
    };
    node.server.put_pod(mirror("public-n1", "reg.test/team/public:v1"));
    node.ended("fetched", 1).await;
    node.server.put_pod(mirror("private-n1", IMAGE));
    node.ended("refused", 1).await;
    assert_eq!(node.secrets_asked(), [""; 0]);
    assert!(!node.registry.seen().iter().any(is_of_ann));
}
