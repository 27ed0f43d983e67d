//! An S3 in this process: the protocol and its signatures by `s3s`, objects in memory, faults on demand.
//!
//! It has one bucket. Every request is recorded by what it does. What a fault changes is the answer to a request or the
//! request itself; the objects themselves are changed by [`FakeS3::put`], [`FakeS3::change`] and [`FakeS3::remove`], as by
//! another writer of the bucket.

mod objects;
mod wrong;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::objects::Clock;
use self::objects::Objects;
pub use self::wrong::Wrong;
use super::fault::Body;

/// The bucket.
pub const BUCKET: &str = "larder";
/// The account that may do everything.
pub const KEY_ID: &str = "TESTKEYID";
pub const SECRET: &str = "test-secret-of-the-bucket";

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    Get,
    Head,
    Put,
    /// Begins a multipart upload.
    Begin,
    Part,
    Complete,
    Abort,
    Copy,
    Delete,
    List,
    Other,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub op: Op,
    /// The object's key; of a listing, the query.
    pub key: String,
    pub headers: HeaderMap,
    /// Bytes of the request's body, as its head says.
    pub bytes: u64,
    /// Bytes of the answer's body that were to be sent.
    pub sent: u64,
    pub status: u16,
}

type Rule = Box<dyn Fn(&Asked) -> Option<Wrong> + Send + Sync>;

struct Shared {
    objects: Objects,
    service: S3Service,
    asked: Mutex<Vec<Asked>>,
    rules: Mutex<Vec<Rule>>,
}

/// The server. A drop stops it.
pub struct FakeS3 {
    pub address: SocketAddr,
    bucket: Bucket,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// The bucket without a listener. Cheap to clone.
#[derive(Clone)]
pub struct Bucket(Arc<Shared>);

impl FakeS3 {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let s3 = Self { address, bucket: Bucket::new(), server: Mutex::new(None) };
        s3.serve(listener);
        s3
    }

    fn serve(&self, listener: TcpListener) {
        let bucket = self.bucket();
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                connections.spawn(serve(bucket.clone(), TokioIo::new(stream)));
            }
        });
        *self.server.lock().unwrap() = Some(server);
    }

    pub fn bucket(&self) -> Bucket {
        self.bucket.clone()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections are refused from now on; the objects stay.
    pub async fn stop(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts the server again, at the same address.
    pub async fn restart(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }
}

impl std::ops::Deref for FakeS3 {
    type Target = Bucket;

    fn deref(&self) -> &Bucket {
        &self.bucket
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().unwrap().take() {
            server.abort();
        }
    }
}

impl Bucket {
    /// An empty bucket whose clock is this machine's.
    #[allow(clippy::disallowed_methods, reason = "the clock of the store, which is no part of the daemon")]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemTime::now))
    }

    /// An empty bucket with this clock.
    pub fn with_clock(now: Clock) -> Self {
        let objects = Objects::new(now);
        let mut builder = S3ServiceBuilder::new(objects.clone());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        Self(Arc::new(Shared { objects, service, asked: Mutex::default(), rules: Mutex::default() }))
    }
}

/// Serves the requests of one connection.
pub async fn serve<I>(bucket: Bucket, io: I)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let bucket = bucket.clone();
        async move { Ok::<_, Infallible>(bucket.answer(request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

impl Bucket {
    /// Makes the fault that `rule` returns for a request; the newest rule is asked first.
    pub fn wrong(&self, rule: impl Fn(&Asked) -> Option<Wrong> + Send + Sync + 'static) {
        self.0.rules.lock().unwrap().push(Box::new(rule));
    }

    /// Makes `wrong` on every request of this kind whose key contains `part`.
    pub fn wrong_at(&self, op: Op, part: &str, wrong: Wrong) {
        let part = part.to_owned();
        self.wrong(move |asked| (asked.op == op && asked.key.contains(&part)).then(|| wrong.clone()));
    }

    /// The same for the first such request alone.
    pub fn wrong_once(&self, op: Op, part: &str, wrong: Wrong) {
        let (part, wrong) = (part.to_owned(), Mutex::new(Some(wrong)));
        self.wrong(move |asked| {
            if asked.op == op && asked.key.contains(&part) { wrong.lock().unwrap().take() } else { None }
        });
    }

    /// Makes `wrong` on every request.
    pub fn wrong_always(&self, wrong: Wrong) {
        self.wrong(move |_| Some(wrong.clone()));
    }

    /// Requests that change something are refused, as by a policy that allows reading.
    pub fn read_only(&self) {
        self.wrong(|asked| {
            let reads = matches!(asked.op, Op::Get | Op::Head | Op::List);
            (!reads).then(Wrong::denied)
        });
    }

    pub fn behave(&self) {
        self.0.rules.lock().unwrap().clear();
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.0.asked.lock().unwrap().clone()
    }

    pub fn forget_asked(&self) {
        self.0.asked.lock().unwrap().clear();
    }

    /// How many requests of this kind came for keys that contain `part`.
    pub fn count(&self, op: Op, part: &str) -> usize {
        self.0.asked.lock().unwrap().iter().filter(|asked| asked.op == op && asked.key.contains(part)).count()
    }

    /// The keys of all objects, in order.
    pub fn keys(&self) -> Vec<String> {
        self.0.objects.keys()
    }

    /// The one key that contains `part`.
    pub fn key(&self, part: &str) -> Option<String> {
        self.keys().into_iter().find(|key| key.contains(part))
    }

    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.0.objects.object(key)
    }

    /// Writes an object as another writer would.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.0.objects.put(key, bytes.into());
    }

    /// Changes the content of an object.
    pub fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.object(key).expect("an object").to_vec();
        change(&mut bytes);
        self.put(key, bytes);
    }

    pub fn remove(&self, key: &str) {
        self.0.objects.remove(key);
    }

    /// Makes an object so much older than it is.
    pub fn age(&self, key: &str, by: Duration) {
        self.0.objects.age(key, by);
    }

    /// Moves the clock of the store, which dates objects and answers, by so many seconds.
    pub fn set_clock(&self, seconds: i64) {
        self.0.objects.set_clock(seconds);
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        self.0.objects.uploads()
    }

    /// `If-None-Match` is ignored from now on, as by stores that do not know it.
    pub fn ignore_conditions(&self) {
        self.0.objects.ignore_conditions();
    }

    /// Objects a page of a listing.
    pub fn set_page(&self, objects: usize) {
        self.0.objects.set_page(objects);
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (op, key) = classify(request.method(), request.uri(), request.headers());
        let length = request.headers().get("content-length");
        let bytes = length.and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
        let asked = Asked { op, key, headers: request.headers().clone(), bytes, sent: 0, status: 0 };
        let number = {
            let mut all = self.0.asked.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        let wrong = self.0.rules.lock().unwrap().iter().rev().find_map(|rule| rule(&asked));
        let proper = async {
            match hyper::service::Service::call(&self.0.service, request).await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes);
                    Response::from_parts(parts, bytes.unwrap_or_default())
                }
                Err(error) => {
                    Response::builder().status(500).body(Bytes::from(format!("{error:?}"))).unwrap()
                }
            }
        };
        let mut response = wrong::answer(proper, op, wrong).await;
        response.headers_mut().insert("date", self.0.objects.date().parse().unwrap());
        if let Some(asked) = self.0.asked.lock().unwrap().get_mut(number) {
            asked.status = response.status().as_u16();
            asked.sent = http_body::Body::size_hint(response.body()).exact().unwrap_or(0);
        }
        response
    }
}

/// What a request does, and to which key.
fn classify(method: &Method, uri: &Uri, headers: &HeaderMap) -> (Op, String) {
    let path = uri.path().trim_start_matches('/');
    let key = path.split_once('/').map_or("", |(_, key)| key);
    let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
    let query = uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    let op = match *method {
        Method::GET if key.is_empty() => return (Op::List, query.to_owned()),
        Method::GET => Op::Get,
        Method::HEAD => Op::Head,
        Method::PUT if has("partNumber") => Op::Part,
        Method::PUT if headers.contains_key("x-amz-copy-source") => Op::Copy,
        Method::PUT => Op::Put,
        Method::POST if has("uploads") => Op::Begin,
        Method::POST if has("uploadId") => Op::Complete,
        Method::POST if has("delete") => Op::Delete,
        Method::DELETE if has("uploadId") => Op::Abort,
        Method::DELETE => Op::Delete,
        _ => Op::Other,
    };
    (op, key)
}
