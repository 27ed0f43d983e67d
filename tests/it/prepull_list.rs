//! The configured list of images: fetched and pinned at the start and when it changes, whatever of it cannot be read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::admin::control::{self, ListImages};
use larder::prepull::ListStatus;

use crate::support::image;
use crate::support::registry::FakeRegistry;
use crate::support::world::Larder;

const APP: &str = "reg.test/team/app:v1";

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_fetched_and_pinned_at_the_start_and_unpinned_when_it_changes() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "team/app", "v1", 10_000);
    image::push(&registry, "team/other", "v1", 20_000);
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    std::fs::write(
        manifests.join("pod.yaml"),
        "kind: Pod\nspec: {containers: [{image: \"reg.test/team/other:v1\"}]}\n",
    )
    .unwrap();
    let with = |images: &str| {
        let list = format!("images = [{images}]\nmanifests = \"{}\"", manifests.display());
        format!("[prepull]\n{list}\nplatforms = [\"linux/amd64\"]\njitter = \"0s\"\n")
    };
    let state = directory.path().join("state");
    let scene = |text: String| Larder::start(&state, &[("reg.test", registry.url())], &text);
    let socket = state.join("larder/larder.sock");
    let pinned = async || {
        let rows = control::send(&socket, &ListImages {}).await.unwrap();
        rows.into_iter().filter(|row| row.pinned).map(|row| row.image).collect::<Vec<_>>()
    };
    let becomes = async |expected: &[&str]| {
        for _ in 0..500 {
            if pinned().await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} instead of {expected:?}", pinned().await);
    };
    let larder = scene(with(&format!("\"{APP}\"")));
    becomes(&[APP, "reg.test/team/other:v1"]).await;
    let report = control::send(&socket, &control::GetReport {}).await.unwrap();
    assert_eq!(report.prepull.images, 2);
    larder.stop().await;
    let _larder = scene(with(""));
    becomes(&["reg.test/team/other:v1"]).await;
}

/// A daemon with `[prepull]` and the keys of it that are given, and its socket.
async fn with_list(registry: &FakeRegistry, state: &Path, keys: &str) -> (Larder, PathBuf) {
    let text = format!("[prepull]\nplatforms = [\"linux/amd64\"]\njitter = \"0s\"\n{keys}\n");
    (Larder::start(state, &[("reg.test", registry.url())], &text), state.join("larder/larder.sock"))
}

/// The status of the list once it is as `is_so` says.
async fn status_of_list(socket: &Path, is_so: impl Fn(&ListStatus) -> bool) -> ListStatus {
    let mut last = ListStatus::default();
    for _ in 0..1_000 {
        last = control::send(socket, &control::GetReport {}).await.unwrap().prepull;
        if is_so(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_of_the_list_is_counted_and_the_others_are_fetched() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    image::push(&registry, "team/app", "v1", 10_000);
    // An interval below five minutes: what failed is tried again once in it, and with it everything else.
    let keys = format!("images = [\"{APP}\", \"reg.test/team/none:v1\"]");
    let (larder, socket) = with_list(&registry, directory.path(), &keys).await;
    let status = status_of_list(&socket, |status| status.finished_at.is_some()).await;
    assert_eq!((status.images, status.summary.pulled, status.summary.failed), (2, 1, 1));
    assert_eq!(larder.metric("larder_prepull_images{state=\"failed\"}").await, 1.0);
    assert_eq!(larder.metric("larder_prepull_list_readable").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_of_a_list_stops_nothing_else_of_it_and_unpins_nothing() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let manifest = |name: &str| {
        let text = format!("kind: Pod\nspec: {{containers: [{{image: \"reg.test/team/{name}:v1\"}}]}}\n");
        std::fs::write(manifests.join(format!("{name}.yaml")), text).unwrap();
    };
    for (name, size) in [("app", 10_000), ("other", 20_000), ("third", 30_000)] {
        image::push(&registry, &format!("team/{name}"), "v1", size);
    }
    manifest("other");
    manifest("third");
    let secret = directory.path().join("pull-secret.json");
    std::fs::write(&secret, "{}").unwrap();
    let keys = format!("images = [\"{APP}\"]\nmanifests = \"{}\"", manifests.display());
    let keys = format!("{keys}\n[credentials]\npull_secrets = [\"{}\"]", secret.display());
    let state = directory.path().join("state");
    let (larder, socket) = with_list(&registry, &state, &keys).await;
    let status = status_of_list(&socket, |status| status.summary.pulled == 3).await;
    assert_eq!((status.problem, status.failed), (None, vec![]));
    larder.stop().await;

    std::fs::write(manifests.join("other.yaml"), "spec: [").unwrap();
    std::fs::write(&secret, "not JSON").unwrap();
    let (larder, socket) = with_list(&registry, &state, &keys).await;
    let status = status_of_list(&socket, |status| status.finished_at.is_some()).await;
    let problem = status.problem.unwrap();
    assert!(problem.contains("other.yaml") && problem.contains("pull-secret.json"), "every file: {problem}");
    assert_eq!((status.images, status.summary.pulled), (2, 2), "what can be read is fetched");
    assert_eq!(larder.metric("larder_prepull_list_readable").await, 0.0);
    let rows = control::send(&socket, &ListImages {}).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.pinned).count(), 3, "nothing is unpinned: {rows:?}");
}
