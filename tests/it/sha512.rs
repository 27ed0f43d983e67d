//! Content that is named by SHA-512 is cached, verified and given away as that by SHA-256 is.

use std::path::PathBuf;

use http::StatusCode;
use larder::admin::control::{
    self, IMPORT_BLOB, IMPORT_MANIFEST, ImportNames, Pull, PullImage, Readers, Remove,
};
use larder::prepull::Event;
use larder::reference::{Algorithm, Digest, MediaType};

use crate::support::client::Reply;
use crate::support::image::{self, Image, noise};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::{Larder, files_under};

/// Larger than the tail that is withheld.
const LAYER: usize = 200_000;

struct Scene {
    registry: FakeRegistry,
    image: Image,
    larder: Larder,
    directory: tempfile::TempDir,
}

async fn scene() -> Scene {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.name_by(Algorithm::Sha512);
    let image = image::push(&registry, "team/app", "v1", LAYER);
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], "");
    Scene { registry, image, larder, directory }
}

impl Scene {
    async fn get(&self, what: &str) -> Reply {
        self.larder.get(&format!("/v2/team/app/{what}?ns=reg.test")).await
    }

    /// What belongs to the image on amd64.
    fn contents(&self) -> Vec<(&'static str, Digest)> {
        let amd = &self.image.platforms[0];
        let blobs = amd.layers.iter().chain([&amd.config]).map(|digest| ("blobs", *digest));
        [self.image.index, amd.manifest]
            .into_iter()
            .map(|digest| ("manifests", digest))
            .chain(blobs)
            .collect()
    }

    async fn is_pulled(&self) {
        for (kind, digest) in self.contents() {
            assert_eq!(digest.algorithm(), Algorithm::Sha512);
            let reply = self.get(&format!("{kind}/{digest}")).await;
            assert_eq!(reply.status, StatusCode::OK, "{kind} {digest}: {:?}", reply.body);
            assert!(reply.complete && digest.is_of(&reply.body), "{kind} {digest}");
            assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        }
    }

    fn file_of(&self, digest: Digest) -> PathBuf {
        self.directory.path().join("larder/store/blobs/sha512").join(digest.hex())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_served_again_without_its_registry_and_after_a_restart() {
    let mut scene = scene().await;
    let named = scene.get("manifests/v1").await;
    assert_eq!(named.header("docker-content-digest"), scene.image.index.to_string());
    assert_eq!(named.body, scene.image.index_bytes);
    scene.is_pulled().await;
    scene.larder.settled().await;
    scene.registry.stop().await;
    scene.is_pulled().await;
    assert_eq!(scene.get("manifests/v1").await.body, scene.image.index_bytes, "by its record");
    scene.larder.stop().await;
    scene.larder = Larder::start(scene.directory.path(), &[("reg.test", scene.registry.url())], "");
    scene.is_pulled().await;
    let stored = files_under(&scene.directory.path().join("larder/store/blobs")).len();
    assert_eq!(stored, scene.contents().len(), "all of it, and nothing under another name");
    assert_eq!(scene.larder.metric("larder_store_blobs").await, stored as f64, "the index knows them");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_is_no_whole_body_and_damage_on_disk_is_fetched_anew() {
    let scene = scene().await;
    let layer = scene.image.platforms[0].layers[0];
    scene.registry.wrong_at("/blobs/", Fault::Corrupt);
    let reply = scene.get(&format!("blobs/{layer}")).await;
    assert!(!reply.complete || reply.status != StatusCode::OK, "wrong content passed for a blob");
    scene.larder.settled().await;
    assert!(!scene.file_of(layer).exists());
    scene.registry.behave();
    assert!(layer.is_of(&scene.get(&format!("blobs/{layer}")).await.body));
    scene.larder.settled().await;
    let mut bytes = std::fs::read(scene.file_of(layer)).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(scene.file_of(layer), &bytes).unwrap();
    let healed = scene.get(&format!("blobs/{layer}")).await;
    assert!(healed.complete && layer.is_of(&healed.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_gives_access_in_its_own_repository_only() {
    let scene = scene().await;
    let layer = scene.image.platforms[0].layers[0];
    assert_eq!(scene.get(&format!("blobs/{layer}")).await.status, StatusCode::OK);
    let other = scene.larder.get(&format!("/v2/team/other/blobs/{layer}?ns=reg.test")).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_before_its_pod_asks() {
    let scene = scene().await;
    let image = PullImage { image: "reg.test/team/app:v1".to_owned(), secrets: Vec::new() };
    let platforms = vec!["linux/amd64".to_owned()];
    let order = Pull { images: vec![image], secrets: Vec::new(), platforms, all_platforms: false, pin: true };
    let mut events = Vec::new();
    let socket = scene.directory.path().join("larder/larder.sock");
    control::pull(&socket, &order, |event| events.push(event)).await.unwrap();
    let Some(Event::Summary(summary)) = events.last() else { panic!("{events:?}") };
    assert_eq!(summary.failed, 0, "{events:?}");
    scene.registry.stop().await;
    scene.is_pulled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_proved_is_not_found_and_what_is_no_digest_is_a_bad_request() {
    let scene = scene().await;
    let absent = Digest::computed(Algorithm::Sha512, &noise(10, 9)).to_string();
    let blake = format!("blake3:{}", "0a".repeat(32));
    for (digest, status) in [
        (&*absent, StatusCode::NOT_FOUND),
        (&blake, StatusCode::NOT_FOUND),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", StatusCode::NOT_FOUND),
        ("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", StatusCode::NOT_FOUND),
        (&absent[..100], StatusCode::BAD_REQUEST),
        ("sha512:xyz", StatusCode::BAD_REQUEST),
        ("blake3:", StatusCode::BAD_REQUEST),
        ("Blake3:00", StatusCode::BAD_REQUEST),
    ] {
        for path in ["/v2/team/app/", "/v2/reg.test/team/app/"] {
            for kind in ["blobs", "manifests"] {
                let query = if path.contains("reg.test") { "" } else { "?ns=reg.test" };
                let reply = scene.larder.get(&format!("{path}{kind}/{digest}{query}")).await;
                assert_eq!(reply.status, status, "{path}{kind}/{digest}: {:?}", reply.body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_pulled_without_a_registry_and_removed_with_its_bytes() {
    let mut scene = scene().await;
    scene.registry.stop().await;
    let socket = scene.directory.path().join("larder/larder.sock");
    let (config, layer) = (b"{}".to_vec(), noise(LAYER, 12));
    let [of_config, of_layer] = [&config, &layer].map(|bytes| Digest::computed(Algorithm::Sha512, bytes));
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": "a/b", "digest": of_config.to_string(), "size": config.len()},
        "layers": [{"mediaType": "a/b", "digest": of_layer.to_string(), "size": layer.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let root = Digest::computed(Algorithm::Sha512, &manifest);
    let put = async |to: &str, digest: Digest, bytes: &[u8]| {
        let (len, bytes) = (bytes.len() as u64, bytes.to_vec());
        let path = format!("{to}?repository=reg.test/imported/app&digest={digest}&size={len}");
        control::put(&socket, &path, Box::new(std::io::Cursor::new(bytes)), len).await
    };
    let refused = put(IMPORT_BLOB, of_layer, &config).await.unwrap_err();
    assert!(refused.to_string().contains("digest"), "other bytes than the digest says: {refused}");
    put(IMPORT_BLOB, of_config, &config).await.unwrap();
    put(IMPORT_BLOB, of_layer, &layer).await.unwrap();
    let path = format!("{IMPORT_MANIFEST}?repository=reg.test/imported/app&digest={root}");
    let reader = Box::new(std::io::Cursor::new(manifest.clone()));
    control::put(&socket, &path, reader, manifest.len() as u64).await.unwrap();
    let image = "reg.test/imported/app:v1".to_owned();
    let names = ImportNames { image: image.clone(), digest: root.to_string(), readers: Readers::Public };
    control::send(&socket, &names).await.unwrap();
    for round in ["imported", "after a restart"] {
        for (what, bytes) in [
            ("manifests/v1".to_owned(), &manifest),
            (format!("manifests/{root}"), &manifest),
            (format!("blobs/{of_layer}"), &layer),
            (format!("blobs/{of_config}"), &config),
        ] {
            let reply = scene.larder.get(&format!("/v2/imported/app/{what}?ns=reg.test")).await;
            assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &bytes[..]), "{round}: {what}");
        }
        if round == "imported" {
            scene.larder.stop().await;
            scene.larder = Larder::start(scene.directory.path(), &[("reg.test", scene.registry.url())], "");
        }
    }
    assert!([root, of_layer, of_config].iter().all(|digest| scene.file_of(*digest).is_file()));
    let removed = control::send(&socket, &Remove { image }).await.unwrap();
    assert_eq!((removed.tags, removed.blobs), (1, 3), "{removed:?}");
    assert!([root, of_layer, of_config].iter().all(|digest| !scene.file_of(*digest).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_idle_longest_is_evicted_and_fetched_again() {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    registry.name_by(Algorithm::Sha512);
    let small = "[store]\nmax_bytes = \"64MiB\"";
    let larder = Larder::start(directory.path(), &[("reg.test", registry.url())], small);
    let layers: Vec<Digest> =
        (0..9).map(|seed| registry.put_blob("team/app", noise(10 * 1024 * 1024, 20 + seed))).collect();
    let path = |digest: &Digest| format!("/v2/team/app/blobs/{digest}?ns=reg.test");
    for layer in &layers {
        assert!(layer.is_of(&larder.get(&path(layer)).await.body));
        larder.settled().await;
    }
    let blobs = directory.path().join("larder/store/blobs/sha512");
    let held = files_under(&blobs).len();
    assert!((3..=6).contains(&held), "{held} of 9 layers of 10 MiB in 64 MiB");
    assert!(!blobs.join(layers[0].hex()).exists() && blobs.join(layers[8].hex()).is_file());
    assert!(layers[0].is_of(&larder.get(&path(&layers[0])).await.body));
}
