//! Bodies that are ranges of files: what arrives is what is in the file, in every way that hyper can write them.

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::Instant;
use tower::util::service_fn;

use super::*;
use crate::support::body_chunk::{
    BodyChunk, Compared, FileRange, Integrity, IntegrityCheck, Known, Refetch, Refetched, Taken,
};
use crate::support::metrics::Registry;
use crate::support::shutdown;

/// Bytes of the file: more than any socket holds.
const SIZE: usize = 24 * 1024 * 1024 + 17;

/// A check with the result that the test sets.
struct Check {
    is_intact: AtomicBool,
    file: Arc<File>,
}

impl IntegrityCheck for Check {
    fn compare_again(self: Arc<Self>, _: u64, _: u64) -> Compared {
        let is_intact = self.is_intact.load(Ordering::Relaxed);
        Box::pin(std::future::ready(if is_intact { Integrity::Intact } else { Integrity::Wrong }))
    }

    fn known(self: Arc<Self>, _: u64, _: u64) -> Known {
        Box::pin(std::future::ready(None))
    }

    fn with_intact(&self, offset: u64, end: u64, take: &mut dyn FnMut(&[u8])) -> Taken {
        let mut bytes = vec![0; (end - offset).min(50_000) as usize];
        let is_intact = self.is_intact.load(Ordering::Relaxed);
        let is_intact = is_intact && self.file.read_exact_at(&mut bytes, offset).is_ok();
        if !is_intact {
            return Taken::Lost;
        }
        take(&bytes);
        Taken::Intact
    }
}

/// What the file had, or nothing.
struct Source(Option<Vec<u8>>);

impl Refetch for Source {
    fn refetch(self: Arc<Self>, offset: u64, len: usize) -> Refetched {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let content = self.0.as_ref()?;
            Some(Bytes::copy_from_slice(&content[offset as usize..][..len]))
        })
    }
}

struct World {
    directory: tempfile::TempDir,
    content: Vec<u8>,
    file: Arc<File>,
    check: Arc<Check>,
    /// How the file is cut, in bytes, over and over; chunks of an even length are handed out in memory.
    cuts: &'static [usize],
    _trigger: shutdown::Trigger,
    tcp: std::net::SocketAddr,
}

impl World {
    /// A listener that answers `/chunked` without and everything else with a length, with the whole file.
    async fn new(size: usize, cuts: &'static [usize], transfer: FileTransfer) -> Self {
        Self::with(size, cuts, transfer, |_| Source(None)).await
    }

    /// The same, with what is asked for bytes that the file does not give.
    async fn with(
        size: usize,
        cuts: &'static [usize],
        transfer: FileTransfer,
        source: fn(&[u8]) -> Source,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..size).map(|at| (at / 251 + at % 241) as u8 | 1).collect();
        let source = Arc::new(source(&content));
        let path = directory.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let file = Arc::new(File::options().read(true).write(true).open(path).unwrap());
        let check = Arc::new(Check { is_intact: true.into(), file: Arc::clone(&file) });
        let (trigger, shutdown) = shutdown::channel();
        let service = {
            let (file, check) = (Arc::clone(&file), Arc::clone(&check));
            service_fn(move |request: Request<Incoming>| {
                let chunks = chunks(&file, size, (&check, &source), cuts);
                let mut response = Response::new(Body::stream(stream::iter(chunks)));
                if request.uri().path() != "/chunked" {
                    response.headers_mut().insert(CONTENT_LENGTH, size.into());
                }
                async move { Ok::<_, Infallible>(response) }
            })
        };
        let tcp = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let Listen::Tcp(address) = tcp.address().unwrap() else { panic!() };
        let unix = Listener::bind(&Listen::Unix(directory.path().join("s"))).unwrap();
        for listener in [tcp, unix] {
            let metrics = Metrics::register(&Registry::new()).unwrap();
            let options = ConnectionOptions { limits: ConnectionLimits::default(), transfer, metrics };
            tokio::spawn(run(listener, service.clone(), options, shutdown.clone()));
        }
        Self { directory, content, file, check, cuts, _trigger: trigger, tcp: address }
    }

    /// Asks three times on one connection, in both ways, and compares every byte.
    async fn compare(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        for path in ["/whole", "/chunked", "/whole"] {
            let request = Request::get(path).header("host", "x").body(Empty::<Bytes>::new()).unwrap();
            let body = sender.send_request(request).await.unwrap().into_body();
            let got = body.collect().await.unwrap().to_bytes();
            assert!(got == self.content, "{path} in chunks of {:?}: other bytes arrived", self.cuts);
        }
    }

    async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("s")).await.unwrap()
    }

    /// A client that has asked, read the head and a little, and then slept for two seconds.
    async fn sleeper(&self) -> TcpStream {
        self.sleeper_of("/whole").await
    }

    async fn sleeper_of(&self, path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut stream = socket.connect(self.tcp).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 8 * 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stream
    }
}

fn chunks(
    file: &Arc<File>,
    size: usize,
    (check, source): (&Arc<Check>, &Arc<Source>),
    cuts: &[usize],
) -> Vec<Result<BodyChunk, BodyError>> {
    let (mut chunks, mut at) = (Vec::new(), 0);
    for cut in cuts.iter().cycle() {
        if at == size {
            break;
        }
        let len = (*cut).min(size - at);
        chunks.push(Ok(if len % 2 == 0 {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at as u64).unwrap();
            BodyChunk::Memory(bytes.into())
        } else {
            let (file, check): (_, Arc<dyn IntegrityCheck>) = (Arc::clone(file), check.clone());
            BodyChunk::File(FileRange {
                file,
                offset: at as u64,
                len,
                compared_at: Instant::now(),
                check: Some(check),
                refetch: Some(source.clone()),
            })
        }));
        at += len;
    }
    chunks
}

#[tokio::test]
async fn every_byte_arrives_whatever_the_chunks_and_the_socket() {
    use FileTransfer::{Copy, Sendfile};
    for (size, cuts, transfer) in [
        (SIZE, &[sendfile::FILE_RANGE_BYTES_MAX - 1][..], Sendfile),
        (SIZE, &[65_537], Sendfile),
        (SIZE, &[100, 200_001], Sendfile),
        (SIZE / 8, &[1, 2, 3, 4, 40_001, 20_000, 7], Sendfile),
        (100_000, &[333], Sendfile),
        (10_000, &[15, 17, 19, 21, 23], Sendfile),
        (SIZE / 8, &[sendfile::FILE_RANGE_BYTES_MAX - 1, 40_001, 20_000], Copy),
    ] {
        let world = World::new(size, cuts, transfer).await;
        world.compare(TcpStream::connect(world.tcp).await.unwrap()).await;
        world.compare(world.unix().await).await;
    }
}

#[tokio::test]
async fn requests_sent_before_the_answers_are_read_are_answered_in_order() {
    let world = World::new(SIZE, &[65_537, 100], FileTransfer::Sendfile).await;
    for path in ["/whole", "/whole"] {
        let mut stream = TcpStream::connect(world.tcp).await.unwrap();
        let once = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let close = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(format!("{once}{once}{close}").as_bytes()).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        for _ in 0..2 {
            let head = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
            assert!(got[head..head + SIZE] == world.content);
            got.drain(..head + SIZE);
        }
        assert!(got.starts_with(b"HTTP/1.1 200 OK") && got.ends_with(b"\r\n\r\n"), "a head alone");
    }
}

#[tokio::test]
async fn what_waited_for_its_client_is_checked_again() {
    let world = World::new(SIZE, &[200_001], FileTransfer::Sendfile).await;
    let read_on = async |mut stream: TcpStream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.map(|_| rest.len())
    };
    let whole = read_on(world.sleeper().await).await.unwrap();
    assert!(whole > SIZE - 8 * 1024, "{whole}");
    world.check.is_intact.store(false, Ordering::Relaxed);
    let short = read_on(world.sleeper().await).await.expect("an end, and no reset");
    assert!(short < SIZE / 2, "{short} bytes of what the check refuses");
}

#[tokio::test]
async fn a_stalled_client_is_not_sent_what_a_file_became_after_its_last_byte_was_handed_over() {
    for path in ["/whole", "/chunked"] {
        let world = World::new(300_003, &[100_001], FileTransfer::Sendfile).await;
        // All of it is in the queues of the sockets by then.
        let mut stream = world.sleeper_of(path).await;
        world.file.write_all_at(&vec![0; 300_003], 0).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.len() > 200_000 && !rest.contains(&0), "{path}: {} bytes", rest.len());
    }
}

#[tokio::test]
async fn what_a_file_gives_no_more_is_fetched_again_and_no_body_ends_short() {
    use FileTransfer::{Copy, Sendfile};
    // What stands at the end is copied, what stands before it is not. What is queued by then, two megabytes of a large
    // body, cannot be taken back.
    let cut = [(SIZE, 4_000_000), (SIZE, SIZE - 100_000), (2_000_000, 0)];
    let cut = cut.iter().flat_map(|cut| [Sendfile, Copy].map(|transfer| (cut, transfer)));
    for (&(size, left), transfer) in cut {
        let of = |content: &[u8]| Source(Some(content.to_vec()));
        let world = World::with(size, &[200_001], transfer, of).await;
        let mut stream = world.sleeper().await;
        world.file.set_len(left as u64).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("an end, and no reset");
        assert!(world.content.ends_with(&rest) && rest.len() + 8 * 1024 > size, "{} bytes", rest.len());
    }
}

#[tokio::test]
async fn no_copy_leaves_that_is_other_than_what_was_compared() {
    const ALL: usize = 300_003;
    let damage = |world: &World| {
        world.file.write_all_at(&[0; ALL], 0).unwrap();
        world.check.is_intact.store(false, Ordering::Relaxed);
    };
    let of = |content: &[u8]| Source(Some(content.to_vec()));
    let world = World::with(ALL, &[100_001], FileTransfer::Copy, of).await;
    damage(&world);
    world.compare(world.unix().await).await;
    let world = World::new(ALL, &[100_001], FileTransfer::Copy).await;
    damage(&world);
    let mut stream = TcpStream::connect(world.tcp).await.unwrap();
    stream.write_all(b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.expect("an end, and no reset");
    assert!(got.len() < ALL && !got.contains(&0), "{} bytes", got.len());
}

#[tokio::test]
async fn a_file_that_is_cut_off_ends_the_body_short_and_nothing_else() {
    let world = World::new(SIZE, &[200_001], FileTransfer::Sendfile).await;
    let mut stream = world.sleeper().await;
    world.file.set_len(1_000_000).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an end, and no reset");
    assert!(rest.len() < SIZE - 8 * 1024);
    world.file.write_all_at(&world.content, 0).unwrap();
    world.compare(world.unix().await).await;
}
