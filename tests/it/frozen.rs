//! Connections that a NAT has forgotten: they are open at both ends, and nothing comes through. One of them is waited for,
//! and no request waits for the next one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::image::{self, noise};
use crate::support::registry::{FakeRegistry, Fault};
use crate::support::world::Larder;

/// What is between Larder and the registry.
struct Nat {
    address: SocketAddr,
    /// Connections opened before the last number are forgotten.
    forgotten: watch::Sender<usize>,
    opened: Arc<AtomicUsize>,
    /// Requests that were sent into forgotten connections.
    lost: Arc<AtomicUsize>,
}

impl Nat {
    async fn before(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (forgotten, watched) = watch::channel(0);
        let (opened, lost) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (count, losses) = (Arc::clone(&opened), Arc::clone(&lost));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(client, registry, number, watched.clone(), Arc::clone(&losses)));
            }
        });
        Self { address, forgotten, opened, lost }
    }

    fn forget_connections(&self) {
        self.forgotten.send_replace(self.opened.load(Ordering::SeqCst));
    }

    fn lost(&self) -> usize {
        self.lost.swap(0, Ordering::SeqCst)
    }
}

async fn connection(
    mut client: TcpStream,
    registry: SocketAddr,
    number: usize,
    mut forgotten: watch::Receiver<usize>,
    lost: Arc<AtomicUsize>,
) {
    let mut server = TcpStream::connect(registry).await.unwrap();
    let (mut up, mut down) = (vec![0; 16_384], vec![0; 16_384]);
    loop {
        tokio::select! {
            biased;
            () = async { drop(forgotten.wait_for(|before| number < *before).await) } => {
                // Held open, and read only to see what is sent into it.
                while let Ok(1..) = client.read(&mut up).await {
                    lost.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
            read = client.read(&mut up) => match read {
                Ok(n @ 1..) => server.write_all(&up[..n]).await.unwrap(),
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(n @ 1..) => if client.write_all(&down[..n]).await.is_err() { return },
                _ => return,
            },
        }
    }
}

/// A registry behind a NAT, and several idle connections to it.
async fn scene() -> (FakeRegistry, Nat, Larder, tempfile::TempDir) {
    let (registry, directory) = (FakeRegistry::start().await, tempfile::tempdir().unwrap());
    let nat = Nat::before(registry.address).await;
    let limits = "[upstream]\nheader_timeout = \"2s\"\nidle_timeout = \"700ms\"";
    let larder = Larder::start(directory.path(), &[("reg.test", format!("http://{}", nat.address))], limits);
    image::push(&registry, "team/app", "v1", 1_000);
    let path = |n: usize| format!("/v2/team/app/manifests/none-{n}?ns=reg.test");
    let paths: Vec<_> = (0..6).map(path).collect();
    futures_util::future::join_all(paths.iter().map(|path| larder.get(path))).await;
    assert!(nat.opened.load(Ordering::SeqCst) > 2, "requests at the same time share a connection");
    (registry, nat, larder, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_forgotten_connections_one_is_waited_for() {
    let (registry, nat, larder, _directory) = scene().await;
    // A connection that was used a moment ago is not taken for forgotten.
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    nat.forget_connections();
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!((reply.status, reply.header("warning")), (StatusCode::OK, ""));
    assert_eq!(nat.lost(), 1, "one timeout after the other");
    registry.forget_seen();
    let reply = larder.get("/v2/team/app/manifests/v1?ns=reg.test").await;
    assert_eq!((reply.status, nat.lost()), (StatusCode::OK, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_resumed_over_a_new_connection_and_not_over_a_forgotten_one() {
    let (registry, nat, larder, _directory) = scene().await;
    let blob = registry.put_blob("team/app", noise(400_000, 3));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    registry.wrong_once("/blobs/", Fault::HoldAfter(100_000, Arc::clone(&gate)));
    let path = format!("/v2/team/app/blobs/{blob}?ns=reg.test");
    let (reply, ()) = tokio::join!(larder.get(&path), async {
        while larder.metric("larder_upstream_received_bytes_total{registry=\"reg.test\"}").await < 100_000.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        nat.forget_connections();
    });
    assert!(reply.is_well() && reply.digest() == blob, "{} with {} bytes", reply.status, reply.body.len());
    assert_eq!(nat.lost(), 0, "a request was sent into a forgotten connection");
}
