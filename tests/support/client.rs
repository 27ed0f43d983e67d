//! A client that returns exactly what it received: status, headers, bytes, and whether the body was complete.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use larder::reference::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An empty user name and password: what a client without a credential sends after a challenge.
pub const ANONYMOUS: (&str, &str) = ("authorization", "Basic Og==");

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Whether the body was complete; otherwise `body` is what arrived.
    pub complete: bool,
}

impl Reply {
    /// Whether the answer is a success with a complete body. A download that fails becomes an error or a short body,
    /// depending on how soon it fails.
    pub fn is_well(&self) -> bool {
        self.status.is_success() && self.complete
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.body)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The code of an OCI error document.
    pub fn error_code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The status of a [`Reply`] if the connection was closed before a head: a body that fails at once can have none.
pub const NO_ANSWER: u16 = 999;

/// Sends one request on a connection of its own.
pub async fn send(to: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)]) -> Reply {
    let response = match try_open(to, method, path, headers).await {
        Ok(response) => response,
        Err(error) if error.is_incomplete_message() => {
            let status = StatusCode::from_u16(NO_ANSWER).unwrap();
            return Reply { status, headers: HeaderMap::new(), body: Bytes::new(), complete: false };
        }
        Err(error) => panic!("{path}: {error}"),
    };
    let (parts, mut incoming) = response.into_parts();
    let (mut body, mut complete) = (BytesMut::new(), true);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => complete = false,
        }
    }
    Reply { status: parts.status, headers: parts.headers, body: body.freeze(), complete }
}

/// The rest of the body of an answer, which must end well.
pub async fn rest(response: &mut http::Response<Incoming>) -> Bytes {
    let mut body = BytesMut::new();
    while let Some(frame) = response.body_mut().frame().await {
        body.extend_from_slice(&frame.expect("a whole body").into_data().unwrap_or_default());
    }
    body.freeze()
}

pub async fn get(to: SocketAddr, path: &str) -> Reply {
    send(to, Method::GET, path, &[]).await
}

pub async fn head(to: SocketAddr, path: &str) -> Reply {
    send(to, Method::HEAD, path, &[]).await
}

/// An answer that is being read.
pub struct Begun {
    status: StatusCode,
    headers: HeaderMap,
    incoming: Incoming,
    body: BytesMut,
    complete: bool,
}

/// Sends a GET and returns as soon as the head of the answer is there, to read its body in steps.
pub async fn begin(to: SocketAddr, path: &str) -> Begun {
    let (parts, incoming) = open(to, Method::GET, path, &[]).await.into_parts();
    let (status, headers) = (parts.status, parts.headers);
    Begun { status, headers, incoming, body: BytesMut::new(), complete: true }
}

impl Begun {
    /// Reads until there are at least so many bytes, or the body ends.
    pub async fn read(&mut self, count: usize) {
        while self.body.len() < count && self.complete {
            match self.incoming.frame().await {
                Some(Ok(frame)) => self.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => self.complete = false,
                None => return,
            }
        }
    }

    /// Reads the rest.
    pub async fn finish(mut self) -> Reply {
        self.read(usize::MAX).await;
        let Self { status, headers, body, complete, .. } = self;
        Reply { status, headers, body: body.freeze(), complete }
    }
}

/// Sends one request and returns as soon as the head of the answer is there.
pub async fn open(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> http::Response<Incoming> {
    try_open(to, method, path, headers).await.unwrap()
}

async fn try_open(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> hyper::Result<http::Response<Incoming>> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", to.to_string());
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await
}

/// The value of an `Authorization` header.
pub fn basic(username: &str, password: &str) -> String {
    use base64::Engine;
    let plain = format!("{username}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(plain))
}

/// Sends a form.
pub async fn post_form(to: SocketAddr, path: &str, form: &str) -> Reply {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::post(path)
        .header("host", to.to_string())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(http_body_util::Full::new(Bytes::from(form.to_owned())))
        .unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Reply { status: parts.status, headers: parts.headers, body, complete: true }
}

/// Writes raw bytes and returns everything that comes back until the other side closes, or how it failed.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
