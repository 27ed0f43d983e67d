//! `make demo`: a cold pull and a warm pull through the real daemon, without internet.
//!
//! Starts a registry in this process with a generated multi-arch image, starts the `larder` program in front of it,
//! pulls the image as containerd would, twice, then once more with the registry switched off, and shows the numbers.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a demonstration prints, and fails loudly")]

#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use larder::reference::{Document, Kind, Platform};
use support::client;
use support::registry::FakeRegistry;

const LAYER_BYTES: usize = 16 * 1024 * 1024;
const REPOSITORY: &str = "library/demo";

/// The figures of one pull.
struct Pull {
    what: &'static str,
    bytes: usize,
    elapsed: Duration,
    upstream_requests: usize,
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start().await;
    let image = support::image::push(&registry, REPOSITORY, "latest", LAYER_BYTES);
    println!("upstream   {} with docker.io/{REPOSITORY}:latest for {}", registry.url(), platforms(&image));
    let (mut daemon, address) = start_daemon(directory.path(), &registry);
    println!("larder     http://{address}, store in {}\n", directory.path().display());

    let cold = pull("cold", address, &registry).await;
    let warm = pull("warm", address, &registry).await;
    registry.stop().await;
    let away = pull("upstream off", address, &registry).await;
    println!("{:<14}{:>12}{:>12}{:>12}{:>20}", "pull", "bytes", "ms", "MB/s", "upstream requests");
    for Pull { what, bytes, elapsed, upstream_requests } in [&cold, &warm, &away] {
        let rate = *bytes as f64 / elapsed.as_secs_f64() / 1e6;
        println!("{what:<14}{bytes:>12}{:>12}{rate:>12.0}{upstream_requests:>20}", elapsed.as_millis());
    }
    println!(
        "\nThe warm pull asked upstream one thing: what the tag means now. By digest nothing is asked again."
    );
    daemon.kill().unwrap();
    let _ = daemon.wait();
    assert_eq!((cold.bytes, warm.bytes), (warm.bytes, away.bytes), "every pull got the same bytes");
    assert_eq!((warm.upstream_requests, away.upstream_requests), (1, 0));
}

fn platforms(image: &support::image::Image) -> String {
    image.platforms.iter().map(|p| p.platform).collect::<Vec<_>>().join(" and ")
}

/// Pulls as containerd does: resolve the tag, the index, this node's manifest, its config and its layers. Every body
/// is checked against its digest.
async fn pull(what: &'static str, address: SocketAddr, registry: &FakeRegistry) -> Pull {
    registry.forget_seen();
    let start = Instant::now();
    let base = format!("/v2/{REPOSITORY}");
    let resolved =
        client::send(address, Method::HEAD, &format!("{base}/manifests/latest?ns=docker.io"), &[]).await;
    let digest = resolved.header("docker-content-digest").to_owned();
    let mut bytes = 0;
    let index = fetch(address, &format!("{base}/manifests/{digest}"), &mut bytes).await;
    let Kind::Index(manifests) = Document::parse(&index, None).unwrap().kind else { panic!("not an index") };
    let chosen = Platform::host().choose(manifests.iter().map(|m| m.platform.as_ref()));
    // On any other processor the demonstration pulls the first platform.
    let manifest = &manifests[chosen.first().copied().unwrap_or(0)];
    let manifest = fetch(address, &format!("{base}/manifests/{}", manifest.digest), &mut bytes).await;
    let Kind::Image(blobs) = Document::parse(&manifest, None).unwrap().kind else { panic!("not an image") };
    for blob in blobs {
        fetch(address, &format!("{base}/blobs/{}", blob.digest), &mut bytes).await;
    }
    Pull { what, bytes, elapsed: start.elapsed(), upstream_requests: registry.seen().len() }
}

async fn fetch(address: SocketAddr, path: &str, bytes: &mut usize) -> bytes::Bytes {
    let reply = client::get(address, &format!("{path}?ns=docker.io")).await;
    assert!(reply.complete && path.ends_with(&reply.digest().to_string()), "{path}: {}", reply.status);
    *bytes += reply.body.len();
    reply.body
}

fn start_daemon(directory: &Path, registry: &FakeRegistry) -> (Child, SocketAddr) {
    // A port that was free a moment ago; that another program takes it meanwhile is unlikely.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (data, admin) = (free(), free());
    let config = directory.join("larder.toml");
    let text = format!(
        "[server]\nlisten = [\"{data}\"]\nstate = \"{}\"\n[admin]\nlisten = \"{admin}\"\n[store]\nmin_free = \"0%\"\n[log]\nlevel = \"error\"\naccess = false\n\
         [[registry]]\nhost = \"docker.io\"\nendpoints = [\"{}\"]\n",
        directory.display(),
        registry.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(program())
        .args(["serve", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..500 {
        if std::net::TcpStream::connect(data).is_ok() {
            return (child, data);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("the daemon did not start: {:?}", child.wait());
}

/// The daemon that cargo built beside this example.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join("larder")
}
