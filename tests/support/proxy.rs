//! A TCP proxy that makes the faults of bad networks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to connections that are made from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkFault {
    /// No fault.
    None,
    /// The connection is accepted, and no byte ever comes back.
    Silent,
    /// The connection is closed as soon as it has been accepted.
    Closed,
    /// The connection is closed after this many bytes of answer.
    ClosedAfter(usize),
    /// The connection is reset after this many bytes of answer.
    ResetAfter(usize),
    /// No more bytes come after this many bytes of answer.
    StallAfter(usize),
    /// One byte of answer every two milliseconds.
    SlowBytes,
    /// The answer begins with bytes that are not HTTP.
    Garbage,
}

/// The proxy. It stops when the runtime does.
pub struct FaultProxy {
    pub address: SocketAddr,
    fault: Arc<Mutex<NetworkFault>>,
    connections: Arc<Mutex<usize>>,
}

impl FaultProxy {
    /// Starts a proxy to `upstream` that listens on `at`.
    pub async fn start_at(at: &str, upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(Mutex::new(NetworkFault::None));
        let connections = Arc::new(Mutex::new(0));
        let (now, count) = (Arc::clone(&fault), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let fault = *now.lock().unwrap();
                tokio::spawn(async move { carry(client, upstream, fault).await });
            }
        });
        Self { address, fault, connections }
    }

    pub async fn start(upstream: SocketAddr) -> Self {
        Self::start_at("127.0.0.1:0", upstream).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the fault of connections that are made from now on.
    pub fn set_fault(&self, fault: NetworkFault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, fault: NetworkFault) {
    let for_ever = Duration::from_secs(3_600);
    match fault {
        NetworkFault::Silent => return tokio::time::sleep(for_ever).await,
        NetworkFault::Closed => return,
        NetworkFault::Garbage => {
            let _ = client.read(&mut [0; 1_024]).await;
            let _ = client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff").await;
            return;
        }
        _ => {}
    }
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let asking = tokio::io::copy(&mut from_client, &mut to_server);
    let answering = async {
        let (mut buffer, mut sent) = ([0; 4_096], 0);
        loop {
            let limit = match fault {
                NetworkFault::ClosedAfter(limit)
                | NetworkFault::ResetAfter(limit)
                | NetworkFault::StallAfter(limit) => limit,
                _ => usize::MAX,
            };
            let most = if fault == NetworkFault::SlowBytes { 1 } else { buffer.len().min(limit - sent) };
            if most == 0 {
                break;
            }
            let Ok(len @ 1..) = from_server.read(&mut buffer[..most]).await else { return };
            if to_client.write_all(&buffer[..len]).await.is_err() {
                return;
            }
            sent += len;
            if fault == NetworkFault::SlowBytes {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if let NetworkFault::StallAfter(_) = fault {
            tokio::time::sleep(for_ever).await;
        }
    };
    tokio::select! {
        _ = asking => {}
        () = answering => {}
    }
    if let NetworkFault::ResetAfter(_) = fault {
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}
