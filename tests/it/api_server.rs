//! The API server of the tests' own, as kube's client sees it: a server that no client understands would prove nothing.

use std::path::Path;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Pod as KubePod, Secret};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::support::api_server::objects::{self, Pod};
use crate::support::api_server::{ApiServer, Interjection};

const NODE: &str = "system:node:n1";

async fn client(kubeconfig: &Path) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_own_api_server_speaks_as_kubes_client_understands() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    server.put_pod(Pod::new("team", "old", "n1").image("reg.test/team/app:v1"));
    server.put_pod(Pod::new("team", "elsewhere", "n2").image("reg.test/team/app:v1"));
    let pods: Api<KubePod> = Api::all(client(&identity.kubeconfig).await);
    let selected = "spec.nodeName=n1";
    let listed = pods.list(&ListParams::default().fields(selected)).await.unwrap();
    let names: Vec<_> = listed.items.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["old"]);
    let watching = WatchParams::default().fields(selected);
    let version = listed.metadata.resource_version.unwrap();
    let mut events = Box::pin(pods.watch(&watching, &version).await.unwrap());
    let new = || Pod::new("team", "new", "n1").image("reg.test/team/app:v1");
    server.put_pod(new());
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
    server.interject(Interjection::Bookmark);
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Bookmark(_)))));
    server.put_pod(new().priority(2));
    let Some(Ok(WatchEvent::Modified(pod))) = events.next().await else { panic!("it was changed") };
    server.interject(Interjection::CutInEvent);
    assert!(matches!(events.next().await, None | Some(Err(_))));
    let version = pod.metadata.resource_version.unwrap();
    let mut events = Box::pin(pods.watch(&watching, &version).await.unwrap());
    server.remove_pod("team", "new");
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Deleted(_)))));
    server.interject(Interjection::Gone);
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Error(status))) if status.code == 410));
    server.compact();
    let refused = pods.watch(&watching, &version).await.err();
    assert!(matches!(refused, Some(kube::Error::Api(status)) if status.code == 410));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_own_api_server_gives_a_node_the_secrets_of_its_pods_alone() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    for name in ["used", "unused"] {
        server.put_secret(objects::pull_secret("team", name, "reg.test", ("u", "p")));
    }
    server.put_pod(Pod::new("team", "app", "n1").pull_secret("used").image("reg.test/team/app:v1"));
    let secrets: Api<Secret> = Api::namespaced(client(&identity.kubeconfig).await, "team");
    assert!(secrets.get("used").await.is_ok());
    let refused = secrets.get("unused").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    server.revoke(NODE, true);
    let refused = secrets.get("used").await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 401));
}
