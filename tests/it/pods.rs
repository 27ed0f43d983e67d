//! Pods of this node whose images are fetched before kubelet asks: whole daemons, an API server and registries in the
//! test's own process. The rights that this must not widen come first.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::pods_world::{NODE, Node, WATCHING, amd64, blob, manifest, tenants};
use crate::support::api_server::objects::{self, Pod};
use crate::support::api_server::{ApiFault, ApiServer, Interjection};
use crate::support::client::basic;
use crate::support::fault::Fault;
use crate::support::image;
use crate::support::registry::{Accounts, FakeRegistry};
use crate::support::world::Larder;

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_does_not_wait_for_what_was_known_when_the_pod_was_bound() {
    let node = Node::new().await.watching().await;
    let names = ["team/init", "team/app", "team/sidecar", "team/data"];
    let images = names.map(|name| image::push(&node.registry, name, "v1", 100_000));
    let reference = |name: &str| format!("reg.test/{name}:v1");
    let pod = Pod::new("shop", "web", "n1").init(&reference(names[0])).image(&reference(names[1]));
    node.server.put_pod(pod.image(&reference(names[2])).image_volume(&reference(names[3])));
    node.ended("fetched", 4).await;
    let before = node.blobs();
    for (name, image) in names.iter().zip(&images) {
        let index = node.larder.get(&manifest(name, "v1")).await;
        assert_eq!(index.body, image.index_bytes);
        let own = amd64(image);
        assert!(node.larder.get(&manifest(name, own.manifest)).await.is_well());
        for digest in own.layers.iter().chain([&own.config]) {
            let got = node.larder.get(&blob(name, digest)).await;
            assert!(got.is_well() && got.digest() == *digest);
        }
    }
    assert_eq!(node.blobs(), before, "{:#?}", node.registry.seen());
    // No platform but that of the node.
    let other = images[0].platforms.iter().find(|one| one.platform != amd64(&images[0]).platform).unwrap();
    assert_eq!(node.registry.count(Method::GET, &other.config.to_string()), 0);
    assert_eq!(node.larder.metric("larder_kubernetes_pulls_total{found=\"all\"}").await, 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_for_a_pod_is_not_given_to_a_pod_without_its_secret() {
    let (node, image) = tenants().await;
    node.server.put_pod(Pod::new("ann", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("fetched", 1).await;
    let own = amd64(&image);
    let paths =
        [manifest("team/app", "v1"), manifest("team/app", own.manifest), blob("team/app", own.layers[0])];
    for path in &paths {
        for other in [None, Some(("bob", "b-pass")), Some(("ann", "wrong"))] {
            let answer = match other {
                None => node.larder.get(path).await,
                Some(user) => node.larder.get_as(path, user).await,
            };
            assert!(!answer.status.is_success(), "{path} as {other:?}");
        }
    }
    let before = node.blobs();
    for path in &paths {
        assert!(node.larder.get_as(path, ("ann", "a-pass")).await.is_well(), "{path}");
    }
    assert_eq!(node.blobs(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_not_fetched_for_with_its_neighbours_secret() {
    let (node, _) = tenants().await;
    node.server.put_pod(Pod::new("ann", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("fetched", 1).await;
    node.registry.forget_seen();
    // One without any secret, and one that names a secret as Ann's is named: it is another of its own namespace.
    node.server.put_pod(Pod::new("eve", "none", "n1").image("reg.test/team/app:v1"));
    node.server.put_pod(Pod::new("bob", "own", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("refused", 2).await;
    let ann = basic("ann", "a-pass");
    let of_ann = |seen: &crate::support::registry::Seen| {
        seen.headers.get("authorization").is_some_and(|header| {
            let header = header.to_str().unwrap();
            header == ann || header.contains("tok.ann.")
        })
    };
    assert!(!node.registry.seen().iter().any(of_ann), "{:#?}", node.registry.seen());
    let read_by =
        |namespace: &str| node.server.count(|asked| asked.path.contains(&format!("/{namespace}/secrets/")));
    assert_eq!((read_by("eve"), read_by("bob") > 0), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_ends_between_bind_and_pull_is_not_kept_alive_by_the_watch() {
    let (node, image) = tenants().await;
    node.server.put_pod(Pod::new("ann", "web", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("fetched", 1).await;
    node.registry.change(true, |accounts| {
        accounts.users.insert("ann".to_owned(), ("a-pass".to_owned(), vec!["team/other".to_owned()]));
    });
    let user = ("ann", "a-pass");
    let tag = node.larder.get_as(&manifest("team/app", "v1"), user).await;
    assert!(!tag.status.is_success(), "{}", tag.status);
    let layer = node.larder.get_as(&blob("team/app", amd64(&image).layers[0]), user).await;
    assert!(!layer.status.is_success(), "{}", layer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_fetches_nothing_and_asks_no_more_in_a_crash_loop() {
    let (node, _) = tenants().await;
    node.server.put_secret(objects::pull_secret("ann", "wrong", "reg.test", ("ann", "guessed")));
    node.server.put_pod(Pod::new("ann", "web", "n1").pull_secret("wrong").image("reg.test/team/app:v1"));
    node.ended("refused", 1).await;
    assert_eq!(node.blobs(), 0);
    let before = node.registry.seen().len();
    for restarts in 0..50 {
        node.server.edit_pod("ann", "web", |pod| objects::wait(pod, "ImagePullBackOff", restarts));
    }
    // A pod that comes after all of those was seen after all of those.
    node.server.put_pod(Pod::new("ann", "good", "n1").pull_secret("pull").image("reg.test/team/app:v1"));
    node.ended("fetched", 1).await;
    let wrong = basic("ann", "guessed");
    let asked = |seen: &&crate::support::registry::Seen| {
        seen.headers.get("authorization").is_some_and(|header| header.to_str().unwrap() == wrong)
    };
    let seen = node.registry.seen();
    assert_eq!(seen[before..].iter().filter(asked).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_policies_keep_their_meaning() {
    let node =
        Node::with("", |server| server.put_node(objects::node("n1", &["reg.test/team/here:v1"]))).await;
    let node = node.watching().await;
    for name in ["team/never", "team/here", "team/always", "team/latest"] {
        image::push(&node.registry, name, "v1", 10_000);
    }
    image::push(&node.registry, "team/latest", "latest", 10_000);
    let pod = Pod::new("shop", "web", "n1").image_with("reg.test/team/never:v1", "Never");
    let pod = pod.image("reg.test/team/here:v1").image_with("reg.test/team/always:v1", "Always");
    node.server.put_pod(pod.image_with("reg.test/team/latest", "Always"));
    node.ended("fetched", 2).await;
    node.ended("in_runtime", 1).await;
    let asked = |name: &str| node.registry.seen().iter().filter(|seen| seen.path.contains(name)).count();
    assert_eq!((asked("team/never"), asked("team/here")), (0, 0));
    // The next pod with the policy `Always` asks for the tag, and fetches no layer again.
    let (before, tags) = (node.blobs(), asked("team/always/manifests/v1"));
    node.server.put_pod(Pod::new("shop", "next", "n1").image_with("reg.test/team/always:v1", "Always"));
    node.ended("present", 1).await;
    assert_eq!(node.blobs(), before);
    assert!(asked("team/always/manifests/v1") > tags);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_ends_its_fetch() {
    let node = Node::new().await.watching().await;
    image::push(&node.registry, "team/app", "v1", 100_000);
    node.registry.wrong_at("/manifests/", Fault::Hang);
    node.server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/app:v1"));
    node.larder.metric_becomes("larder_kubernetes_fetches", 1.0).await;
    node.server.remove_pod("shop", "web");
    node.larder.metric_becomes("larder_kubernetes_fetches", 0.0).await;
    node.larder.metric_becomes("larder_kubernetes_pods", 0.0).await;
    assert_eq!(node.blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_ended_takes_no_room_from_those_that_follow() {
    let node = Node::new().await.watching().await;
    image::push(&node.registry, "team/app", "v1", 10_000);
    for name in ["job", "web"] {
        node.server.put_pod(Pod::new("shop", name, "n1").image("reg.test/team/app:v1"));
    }
    node.larder.metric_becomes("larder_kubernetes_pods", 2.0).await;
    node.server.edit_pod("shop", "job", |pod| pod["status"]["phase"] = "Failed".into());
    node.larder.metric_becomes("larder_kubernetes_pods", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_asks_meanwhile_downloads_nothing_twice() {
    let node = Node::new().await.watching().await;
    let image = image::push(&node.registry, "team/app", "v1", 200_000);
    let layer = amd64(&image).layers[1];
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    node.registry.wrong_at(&layer.to_string(), Fault::HoldAfter(70_000, std::sync::Arc::clone(&gate)));
    node.server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/app:v1"));
    node.larder.metric_becomes("larder_flights", 1.0).await;
    let asking = async { node.larder.get(&blob("team/app", layer)).await };
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.add_permits(100);
    };
    let (got, ()) = tokio::join!(asking, release);
    assert!(got.is_well() && got.digest() == layer);
    node.ended("fetched", 1).await;
    assert_eq!(node.registry.count(Method::GET, &layer.to_string()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_on_without_an_api_server_and_the_watch_comes_back_with_it() {
    let registry = FakeRegistry::start().await;
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let identity = server.authorities.identity(directory.path(), &server.url(), NODE);
    server.stop().await;
    let config =
        format!("[kubernetes]\nkubeconfig = \"{}\"\nnode = \"n1\"\n", identity.kubeconfig.to_str().unwrap());
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &config);
    let image = image::push(&registry, "team/app", "v1", 10_000);
    assert!(larder.get(&manifest("team/app", "v1")).await.is_well());
    assert!(larder.get(&blob("team/app", amd64(&image).layers[0])).await.is_well());
    assert_eq!(larder.metric(WATCHING).await, 0.0);
    image::push(&registry, "team/late", "v1", 10_000);
    server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/late:v1"));
    server.restart().await;
    larder.metric_becomes("larder_kubernetes_fetches_total{result=\"fetched\"}", 1.0).await;
    assert_eq!(larder.metric(WATCHING).await, 1.0);
    server.stop().await;
    larder.metric_becomes(WATCHING, 0.0).await;
    assert!(larder.get(&manifest("team/late", "v1")).await.is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trouble_of_a_watch_makes_the_daemon_miss_the_pods_after_it() {
    let node = Node::new().await.watching().await;
    let troubles = [
        Interjection::End,
        Interjection::Bookmark,
        Interjection::CutInEvent,
        Interjection::Gone,
        Interjection::Raw("{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\"\n".to_owned()),
        Interjection::Raw("{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n".to_owned()),
        Interjection::Raw("\n".to_owned()),
    ];
    for (n, trouble) in (1..).zip(troubles) {
        node.server.watched(1).await;
        assert!(node.server.interject(trouble.clone()), "{trouble:?}");
        let name = format!("team/app{n}");
        image::push(&node.registry, &name, "v1", 1_000 + n as usize);
        node.server.put_pod(Pod::new("shop", &format!("web{n}"), "n1").image(&format!("reg.test/{name}:v1")));
        node.ended("fetched", n).await;
        node.larder.metric_becomes(WATCHING, 1.0).await;
    }
    // A version that the server has forgotten, when the watch is asked for again.
    node.server.wrong(|asked| asked.is_watch().then_some(ApiFault::Status(410, "Expired")));
    node.server.interject(Interjection::End);
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.server.compact();
    node.server.heal();
    image::push(&node.registry, "team/last", "v1", 900);
    node.server.put_pod(Pod::new("shop", "last", "n1").image("reg.test/team/last:v1"));
    node.ended("fetched", 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_replaced_in_place_is_used_from_then_on() {
    let node = Node::new().await.watching().await;
    let first = node.server.asked().last().unwrap().certificate.clone();
    // The old one is refused, as after its end.
    let old = first.clone();
    node.server
        .wrong(move |asked| (asked.certificate == old).then_some(ApiFault::Status(401, "Unauthorized")));
    node.server.interject(Interjection::End);
    node.larder.metric_becomes(WATCHING, 0.0).await;
    node.identity.rotate(&node.server.authorities, NODE);
    image::push(&node.registry, "team/app", "v1", 1_000);
    node.server.put_pod(Pod::new("shop", "web", "n1").image("reg.test/team/app:v1"));
    node.ended("fetched", 1).await;
    assert_ne!(node.server.asked().last().unwrap().certificate, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_secret_stops_its_own_pod_alone() {
    let (node, _) = tenants().await;
    let kind = "kubernetes.io/dockerconfigjson";
    node.server.put_secret(objects::secret("ann", "bad", kind, ".dockerconfigjson", "{\"auths\":"));
    node.server.put_secret(objects::secret("ann", "other", "Opaque", "x", "y"));
    let pod = |name: &str| Pod::new("ann", name, "n1").image("reg.test/team/app:v1");
    node.server.put_pod(pod("bad").pull_secret("bad").pull_secret("pull"));
    node.ended("refused", 1).await;
    assert_eq!(node.blobs(), 0, "kubelet would not pull it either");
    // A secret of another type, and one that is not there, are passed over.
    node.server.put_pod(pod("good").pull_secret("other").pull_secret("none").pull_secret("pull"));
    node.ended("fetched", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_thousands_of_pods_is_bounded_and_the_daemon_serves_meanwhile() {
    let node = Node::with("", |server| {
        // Larger together than a list is taken in one piece.
        for n in 0..1_200 {
            let pod = Pod::new("many", &format!("pod-{n}"), "n1").image("reg.test/team/app:v1").running();
            server.put_pod(pod.with(|pod| {
                pod["spec"]["containers"][0]["env"] =
                    serde_json::json!([{"name": "A", "value": "x".repeat(30_000)}])
            }));
        }
    })
    .await;
    image::push(&node.registry, "team/app", "v1", 10_000);
    assert_eq!(node.larder.get(&manifest("team/app", "v1")).await.status, StatusCode::OK);
    node.larder.metric_becomes("larder_kubernetes_pods", 1_024.0).await;
    let in_pages = |asked: &crate::support::api_server::Asked| {
        asked.is_list_of_pods() && asked.query.get("limit").is_some_and(|limit| limit == "20")
    };
    assert!(node.server.count(in_pages) > 1, "in pages");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_only_what_any_caller_may_read_is_fetched_and_no_account_is_replaced_by_none() {
    let registry = FakeRegistry::start().await;
    let (server, directory) = (ApiServer::start().await, tempfile::tempdir().unwrap());
    let token = directory.path().join("token");
    std::fs::write(&token, "sa-token").unwrap();
    let user = "system:serviceaccount:larder:larder";
    server.know_token("sa-token", user);
    for (verb, resource) in [("list", "pods"), ("watch", "pods"), ("get", "nodes")] {
        server.allow(user, verb, resource);
    }
    let kubeconfig = server.authorities.with_token_file(directory.path(), &server.url(), &token);
    let config = format!(
        "[kubernetes]\nkubeconfig = \"{}\"\nnode = \"n1\"\nsecrets = false\n",
        kubeconfig.to_str().unwrap()
    );
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], &config);
    larder.metric_becomes(WATCHING, 1.0).await;
    for name in ["team/public", "team/private", "team/account"] {
        image::push(&registry, name, "v1", 1_000);
    }
    let mut accounts = Accounts::new(&[("ann", "a-pass", &["team/private"])]);
    accounts.public = vec!["team/public".to_owned(), "team/account".to_owned()];
    registry.know(accounts);
    server.put_secret(objects::pull_secret("ann", "pull", "reg.test", ("ann", "a-pass")));
    let pod = Pod::new("ann", "web", "n1").image("reg.test/team/public:v1");
    server.put_pod(pod.image("reg.test/team/private:v1"));
    larder.metric_becomes("larder_kubernetes_fetches_total{result=\"fetched\"}", 1.0).await;
    larder.metric_becomes("larder_kubernetes_fetches_total{result=\"refused\"}", 1.0).await;
    // kubelet pulls this one with the pod's account: asked for without it, the node's own limit would be spent.
    server.put_pod(Pod::new("ann", "account", "n1").pull_secret("pull").image("reg.test/team/account:v1"));
    larder.metric_becomes("larder_kubernetes_fetches_total{result=\"refused\"}", 2.0).await;
    assert_eq!(registry.seen().iter().filter(|seen| seen.path.contains("team/account")).count(), 0);
    assert_eq!(server.count(|asked| asked.path.contains("/secrets/")), 0);
}
