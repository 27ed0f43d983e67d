//! What nodes share of names serves public images while their registry is away, and opens nothing that was closed.

use std::path::{Path, PathBuf};

use http::StatusCode;

use super::Site;
use crate::support::image;
use crate::support::registry::Accounts;
use crate::support::world::{Larder, files_under};

const SHARED_NAMES: &str = "share_names = true\ncluster_key = ";

/// A key file that only its owner can read.
fn cluster_key(directory: &Path, name: &str, byte: u8) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    std::fs::write(&path, [byte; 32]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    format!("{SHARED_NAMES}\"{}\"", path.display())
}

/// What a runtime asks for to pull an image by its tag.
fn paths(repository: &str, image: &image::Image) -> Vec<String> {
    let platform = &image.platforms[0];
    let path = |kind: &str, what: String| format!("/v2/{repository}/{kind}/{what}?ns=reg.test");
    let blobs = platform.layers.iter().chain([&platform.config]);
    let mut paths =
        vec![path("manifests", "v1".to_owned()), path("manifests", platform.manifest.to_string())];
    paths.extend(blobs.map(|digest| path("blobs", digest.to_string())));
    paths
}

#[tokio::test]
async fn a_new_node_serves_public_images_and_no_others_while_their_registry_is_away() {
    let mut site = Site::new().await;
    let alice = ("alice", "secret");
    let users: [(&str, &str, &[&str]); 1] = [(alice.0, alice.1, &["team/private"])];
    site.registry.know(Accounts { public: vec!["team/app".into()], ..Accounts::new(&users) });
    let public = image::push(&site.registry, "team/app", "v1", 10_000);
    let private = image::push(&site.registry, "team/private", "v1", 20_000);
    let keys = tempfile::tempdir().unwrap();
    let shares = cluster_key(keys.path(), "key", 1);
    let one = site.node_with(&shares);
    let (open, closed) = (paths("team/app", &public), paths("team/private", &private));
    for path in &open {
        assert_eq!(one.get(path).await.status, StatusCode::OK, "{path}");
        one.settled().await;
    }
    for path in &closed {
        assert_eq!(one.get_as(path, alice).await.status, StatusCode::OK, "{path}");
        one.settled().await;
    }
    // What the tag names, that it is public, and five members of the public image; of the private one nothing.
    site.has_objects("names", 7).await;
    site.has_objects("manifests", 4).await;
    // Both have the same config.
    site.has_objects("blobs", 5).await;
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    // Each as it is asked for first, then as it is kept, and a part of each blob.
    for path in &open {
        let replies = [fresh.get(path).await, fresh.get(path).await];
        for reply in &replies {
            assert_eq!(reply.status, StatusCode::OK, "{path}");
            assert_eq!(reply.body, replies[0].body);
        }
        if path.contains("/blobs/") {
            fresh.settled().await;
            let kept = fresh.get(path).await;
            assert_eq!((kept.status, &kept.body), (StatusCode::OK, &replies[0].body), "{path}");
            let part = fresh.get_range(path, "bytes=1-1").await;
            assert_eq!(
                (part.status, &part.body[..]),
                (StatusCode::PARTIAL_CONTENT, &kept.body[1..2]),
                "{path}"
            );
        }
    }
    let by_parts = site.node_with(&shares);
    assert_eq!(by_parts.get(&open[0]).await.status, StatusCode::OK);
    assert_eq!(by_parts.get(&open[1]).await.status, StatusCode::OK);
    let part = by_parts.get_range(&open[2], "bytes=1-1").await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "a part of what is not here yet");
    assert_eq!(fresh.get(&open[0]).await.body, public.index_bytes);
    assert!(!fresh.get(&open[0]).await.header("warning").is_empty(), "it is marked stale");
    for path in &closed {
        assert_ne!(fresh.get(path).await.status, StatusCode::OK, "{path}");
        assert_ne!(fresh.get_as(path, alice).await.status, StatusCode::OK, "{path}");
    }
    let other_cluster = site.node_with(&cluster_key(keys.path(), "other", 2));
    let keyless = site.node();
    for node in [&other_cluster, &keyless] {
        for path in &open {
            assert_ne!(node.get(path).await.status, StatusCode::OK, "{path}");
        }
    }
    holds_no_name_in_clear(&site);
}

/// Neither the names of objects nor sealed records say what they are about.
fn holds_no_name_in_clear(site: &Site) {
    for name in files_under(site.shared.path()) {
        let text = name.display().to_string();
        assert!(!text.contains("team") && !text.contains("reg.test"), "{text}");
        let content = std::fs::read(site.shared.path().join(&name)).unwrap();
        let is_record = text.contains("/names/");
        let has = |word: &[u8]| content.windows(word.len()).any(|window| window == word);
        assert!(!is_record || !has(b"team") && !has(b"sha256"), "{text}");
    }
}

/// An image that one node pulled while everyone could, and shared the names of; now everyone is refused.
async fn closed_since(site: &mut Site, shares: &str) -> &'static str {
    let users: [(&str, &str, &[&str]); 1] = [("alice", "secret", &["team/app"])];
    site.registry.know(Accounts { public: vec!["team/app".into()], ..Accounts::new(&users) });
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let tag = "/v2/team/app/manifests/v1?ns=reg.test";
    let one = site.node_with(shares);
    assert_eq!(one.get(tag).await.body, image.index_bytes);
    site.has_objects("names", 3).await;
    site.has_objects("manifests", 1).await;
    one.stop().await;
    site.registry.change(true, |accounts| accounts.public.clear());
    tag
}

#[tokio::test]
async fn a_credential_that_is_not_to_be_had_opens_no_repository_that_its_registry_closed() {
    use std::os::unix::fs::PermissionsExt;
    let (mut site, keys) = (Site::new().await, tempfile::tempdir().unwrap());
    let shares = cluster_key(keys.path(), "key", 1);
    let tag = closed_since(&mut site, &shares).await;
    let plugin = keys.path().join("plugin");
    std::fs::write(&plugin, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = keys.path().join("plugins.yaml");
    let of_team = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"reg.test/team\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n";
    std::fs::write(&config, of_team).unwrap();
    let bin = keys.path();
    // No tier is written, so that no mark of the closing is in it.
    let more = format!(
        "{shares}\nwrite = false\n[credentials]\nnode = []\nprovider_config = {config:?}\nprovider_bin_dir = {bin:?}"
    );
    let other = site.node_with(&more);
    for _ in 0..2 {
        assert_eq!(other.get(tag).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    // Now it is an outage, after the registry's refusal.
    site.registry.stop().await;
    assert_ne!(other.get(tag).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_repository_that_was_closed_is_opened_by_no_outage_after_that() {
    let (mut site, keys) = (Site::new().await, tempfile::tempdir().unwrap());
    let shares = cluster_key(keys.path(), "key", 1);
    let tag = closed_since(&mut site, &shares).await;
    // One may not write, so that what it knows is on its own disk; the other one replaces the record for all.
    let reader = site.node_with(&format!("{shares}\nwrite = false"));
    let writer = site.node_with(&shares);
    let names = |site: &Site| {
        let read = |path: &PathBuf| std::fs::read(path).unwrap();
        site.objects("names").iter().map(read).collect::<Vec<_>>()
    };
    let before = names(&site);
    assert_ne!(reader.get(tag).await.status, StatusCode::OK);
    let state = site.nodes[site.nodes.len() - 2].path().to_owned();
    let mark = state.join("store/refs/reg.test/team/app/_closed");
    for _ in 0..500 {
        if mark.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    reader.stop().await;
    assert_eq!(names(&site), before);
    site.registry.stop().await;
    let restarted = |more: &str| {
        let tier = format!(
            "[tier]\nurl = \"file://{}\"\nregistries = [\"reg.test\"]\n{more}\n",
            site.shared.path().display()
        );
        Larder::start(&state, &[("reg.test", site.registry.url())], &tier)
    };
    let reader = restarted(&format!("{shares}\nwrite = false"));
    assert_ne!(reader.get(tag).await.status, StatusCode::OK, "the end of a right was forgotten");
    site.registry.restart().await;
    assert_ne!(writer.get(tag).await.status, StatusCode::OK);
    for _ in 0..500 {
        if names(&site) != before {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    assert_ne!(fresh.get(tag).await.status, StatusCode::OK, "the record of the cluster still says public");
}

#[tokio::test]
async fn a_record_that_was_moved_to_the_place_of_another_one_opens_nothing() {
    let mut site = Site::new().await;
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let keys = tempfile::tempdir().unwrap();
    let shares = cluster_key(keys.path(), "key", 1);
    let one = site.node_with(&shares);
    let tag = "/v2/team/app/manifests/v1?ns=reg.test";
    assert_eq!(one.get(tag).await.body, image.index_bytes);
    site.has_objects("names", 3).await;
    site.has_objects("manifests", 1).await;
    let names = site.objects("names");
    let contents: Vec<_> = names.iter().map(|name| std::fs::read(name).unwrap()).collect();
    for (name, content) in names.iter().zip(contents.iter().cycle().skip(1)) {
        std::fs::write(name, content).unwrap();
    }
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    assert_ne!(fresh.get(tag).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_tag_that_was_deleted_is_brought_back_by_no_outage_after_that() {
    let (mut site, keys) = (Site::new().await, tempfile::tempdir().unwrap());
    let image = image::push(&site.registry, "team/app", "v1", 10_000);
    let shares = cluster_key(keys.path(), "key", 1);
    let tag = "/v2/team/app/manifests/v1?ns=reg.test";
    let writer = site.node_with(&shares);
    assert_eq!(writer.get(tag).await.body, image.index_bytes);
    site.has_objects("names", 3).await;
    site.has_objects("manifests", 1).await;
    // One that may not write remembers it by itself.
    let reader = site.node_with(&format!("{shares}\nwrite = false"));
    assert_eq!(reader.get(tag).await.body, image.index_bytes);
    let names = |site: &Site| {
        let read = |path: &PathBuf| std::fs::read(path).unwrap();
        site.objects("names").iter().map(read).collect::<Vec<_>>()
    };
    let before = names(&site);
    site.registry.remove_manifest("team/app", "v1");
    assert_eq!(reader.get(tag).await.status, StatusCode::NOT_FOUND);
    reader.settled().await;
    assert_eq!(names(&site), before);
    site.registry.stop().await;
    assert_ne!(reader.get(tag).await.status, StatusCode::OK, "what its registry told it was forgotten");
    site.registry.restart().await;
    assert_eq!(writer.get(tag).await.status, StatusCode::NOT_FOUND);
    for _ in 0..500 {
        if names(&site) != before {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    site.registry.stop().await;
    let fresh = site.node_with(&shares);
    for node in [&writer, &fresh] {
        assert_ne!(
            node.get(tag).await.status,
            StatusCode::OK,
            "the record of the cluster still says what it named"
        );
    }
}
