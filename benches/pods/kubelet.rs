//! A scripted kubelet and containerd: what they do from the moment that a pod is bound until its last image is there.
//!
//! kubelet 1.36 and containerd 2.3, as seen (docs/kubernetes.md): the sandbox first, then one image after the other. An
//! image is a HEAD of its tag, its manifest by digest, its config and its layers, three at a time; then it is unpacked.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Method;
use larder::reference::Digest;

use crate::shared::images::{Image, TAG};
use crate::support::client::{self, ANONYMOUS};

/// From the bind until the sandbox stands.
const SANDBOX: Duration = Duration::from_secs(1);
/// containerd's `max_concurrent_downloads`.
const DOWNLOADS: usize = 3;
/// Bytes a second that containerd unpacks of a compressed layer.
const UNPACKED_PER_SECOND: f64 = 100e6;

/// The time from now until the last image is there.
pub(crate) async fn start(larder: SocketAddr, images: &[Image]) -> Duration {
    let bound = Instant::now();
    tokio::time::sleep(SANDBOX).await;
    for image in images {
        pull(larder, image).await;
    }
    bound.elapsed()
}

async fn pull(larder: SocketAddr, image: &Image) {
    let repository = &image.repository;
    let path = |kind: &str, reference: &str| format!("/v2/{repository}/{kind}/{reference}?ns=reg.test");
    let head = client::send(larder, Method::HEAD, &path("manifests", TAG), &[ANONYMOUS]).await;
    assert_eq!(head.status, 200, "{repository}");
    let digest = head.header("docker-content-digest").to_owned();
    let manifest = client::send(larder, Method::GET, &path("manifests", &digest), &[ANONYMOUS]).await;
    assert_eq!(manifest.digest().to_string(), digest);
    let manifest = manifest.json();
    let layers = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let blobs: Vec<String> = layers.map(|blob| blob["digest"].as_str().unwrap().to_owned()).collect();
    let bytes: usize = futures_util::stream::iter(blobs)
        .map(|digest| {
            let path = path("blobs", &digest);
            async move {
                let blob = client::send(larder, Method::GET, &path, &[ANONYMOUS]).await;
                assert_eq!(Digest::of(&blob.body).to_string(), digest, "{path}");
                blob.body.len()
            }
        })
        .buffer_unordered(DOWNLOADS)
        .fold(0, |sum, len| async move { sum + len })
        .await;
    tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / UNPACKED_PER_SECOND)).await;
}
