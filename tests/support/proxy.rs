//! A TCP proxy that does to connections what bad networks do to them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to connections that are made from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing.
    Fair,
    /// It is accepted, and no byte ever comes back.
    Silent,
    /// It is closed as soon as it has been accepted.
    Closed,
    /// After this many bytes of answer it is closed.
    ClosedAfter(usize),
    /// After this many bytes of answer it is reset.
    ResetAfter(usize),
    /// After this many bytes of answer nothing comes any more.
    StallAfter(usize),
    /// One byte of answer every two milliseconds.
    Dribble,
    /// The answer begins with bytes that are no HTTP.
    Garbage,
}

/// The proxy. It stops when the runtime does.
pub struct FaultProxy {
    pub address: SocketAddr,
    weather: Arc<Mutex<Weather>>,
    connections: Arc<Mutex<usize>>,
}

impl FaultProxy {
    /// In front of `behind`, on a loopback address of the same kind as `at`.
    pub async fn start_at(at: &str, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let weather = Arc::new(Mutex::new(Weather::Fair));
        let connections = Arc::new(Mutex::new(0));
        let (now, count) = (Arc::clone(&weather), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let weather = *now.lock().unwrap();
                tokio::spawn(async move { carry(client, behind, weather).await });
            }
        });
        Self { address, weather, connections }
    }

    pub async fn start(behind: SocketAddr) -> Self {
        Self::start_at("127.0.0.1:0", behind).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For connections that are made from now on.
    pub fn becomes(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

async fn carry(mut client: TcpStream, behind: SocketAddr, weather: Weather) {
    let for_ever = Duration::from_secs(3_600);
    match weather {
        Weather::Silent => return tokio::time::sleep(for_ever).await,
        Weather::Closed => return,
        Weather::Garbage => {
            let _ = client.read(&mut [0; 1_024]).await;
            let _ = client.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff").await;
            return;
        }
        _ => {}
    }
    let Ok(mut server) = TcpStream::connect(behind).await else { return };
    let (mut from_server, mut to_server) = server.split();
    let (mut from_client, mut to_client) = client.split();
    let asking = tokio::io::copy(&mut from_client, &mut to_server);
    let answering = async {
        let (mut buffer, mut sent) = ([0; 4_096], 0);
        loop {
            let limit = match weather {
                Weather::ClosedAfter(limit) | Weather::ResetAfter(limit) | Weather::StallAfter(limit) => {
                    limit
                }
                _ => usize::MAX,
            };
            let most = if weather == Weather::Dribble { 1 } else { buffer.len().min(limit - sent) };
            if most == 0 {
                break;
            }
            let Ok(len @ 1..) = from_server.read(&mut buffer[..most]).await else { return };
            if to_client.write_all(&buffer[..len]).await.is_err() {
                return;
            }
            sent += len;
            if weather == Weather::Dribble {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if let Weather::StallAfter(_) = weather {
            tokio::time::sleep(for_ever).await;
        }
    };
    tokio::select! {
        _ = asking => {}
        () = answering => {}
    }
    if let Weather::ResetAfter(_) = weather {
        let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
}
