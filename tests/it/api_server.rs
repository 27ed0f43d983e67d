//! The API server of the tests' own, as kube's client sees it: a server that no client understands would prove nothing.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Pod as KubePod, Secret};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
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
async fn the_tests_own_api_server_speaks_as_kubes_watcher_understands() {
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    server.put_pod(Pod::new("team", "old", "n1").image("reg.test/team/app:v1"));
    server.put_pod(Pod::new("team", "elsewhere", "n2").image("reg.test/team/app:v1"));
    let pods: Api<KubePod> = Api::all(client(&identity.kubeconfig).await);
    let selected = watcher::Config::default().fields("spec.nodeName=n1");
    let mut events = Box::pin(watcher::watcher(pods, selected));
    let mut seen = Vec::new();
    let mut lists = 0;
    let mut cuts = vec![Interjection::Gone, Interjection::CutInEvent, Interjection::Bookmark];
    while seen.last().is_none_or(|name| name != "deleted new") {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap();
        match event {
            Ok(Event::InitApply(pod)) => seen.push(format!("listed {}", pod.metadata.name.unwrap())),
            Ok(Event::InitDone) => {
                lists += 1;
                server.put_pod(Pod::new("team", "new", "n1").image("reg.test/team/app:v1"));
            }
            Ok(Event::Apply(pod)) => {
                seen.push(format!("applied {}", pod.metadata.name.unwrap()));
                match cuts.pop() {
                    Some(Interjection::Bookmark) => {
                        server.interject(Interjection::Bookmark);
                        server.put_pod(Pod::new("team", "new", "n1").priority(2));
                    }
                    Some(Interjection::CutInEvent) => {
                        server.interject(Interjection::CutInEvent);
                        server.put_pod(Pod::new("team", "new", "n1").priority(3));
                    }
                    Some(Interjection::Gone) => {
                        server.interject(Interjection::Gone);
                    }
                    _ => server.remove_pod("team", "new"),
                }
            }
            Ok(Event::Delete(pod)) => seen.push(format!("deleted {}", pod.metadata.name.unwrap())),
            Ok(Event::Init) | Err(_) => {}
        }
    }
    assert_eq!(lists, 2, "{seen:?}");
    assert!(seen.iter().all(|name| !name.contains("elsewhere")), "{seen:?}");
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
