//! A gRPC connection over a local socket, as kubelet and container runtimes offer their interfaces.
//!
//! Promises: opening takes [`OPEN_MAX`] at most, a message larger than its reader takes is refused, and a socket that
//! is absent, closed to this user or another server's is an error that says so. A connection ends with its owner. Not
//! here: TLS, retries, and what the messages mean.

use std::io;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::tasks::AbortOnDropHandle;

/// How long a local socket may take to connect and to make the handshake of HTTP/2: a healthy one does within a
/// millisecond.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// The server's name in requests, as gRPC's own libraries have it for a local socket.
const ORIGIN: &str = "http://localhost";

/// The answers of a server to one question, as they come.
pub(super) type Answers<A> = Streaming<A>;

/// Why a local server gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket is not there.
    #[error("there is no such socket")]
    Absent,
    /// This user may not connect.
    #[error("this user may not connect")]
    Denied,
    /// Nothing listens, or what listens does not speak gRPC.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// No answer came in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Its answer is larger than its reader takes.
    #[error("its answer is too large: {0}")]
    TooLarge(String),
    /// The server refused, or its answer is no message.
    #[error("the server says {code}: {message}")]
    Refused {
        /// The name of gRPC's status code.
        code: String,
        /// What the server, or the reader of its answer, says.
        message: String,
    },
}

impl From<Status> for LocalError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            // What tonic says of a message over its reader's bound.
            Code::OutOfRange => Self::TooLarge(message),
            code => Self::Refused { code: format!("{code:?}"), message },
        }
    }
}

/// An open connection.
pub(super) struct Connection {
    service: Service,
    /// Bytes of one message of the server at most.
    message_max: usize,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Connects to a socket, and makes the handshake of HTTP/2.
    pub(super) async fn open(socket: &Path, message_max: usize) -> Result<Self, LocalError> {
        tokio::time::timeout(OPEN_MAX, Self::connect(socket, message_max))
            .await
            .unwrap_or(Err(LocalError::TimedOut(OPEN_MAX)))
    }

    async fn connect(socket: &Path, message_max: usize) -> Result<Self, LocalError> {
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LocalError::Absent,
            io::ErrorKind::PermissionDenied => LocalError::Denied,
            _ => LocalError::Connect(error),
        })?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| LocalError::Connect(io::Error::other(error)))?;
        // What fails on the connection fails the requests on it too.
        let driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { service: Service(sender), message_max, _driver: driver })
    }

    fn grpc(&self) -> Grpc<Service> {
        Grpc::with_origin(self.service.clone(), http::Uri::from_static(ORIGIN))
            .max_decoding_message_size(self.message_max)
    }

    /// One question, one answer, within this time.
    pub(super) async fn ask<Q, A>(
        &self,
        path: &'static str,
        question: Q,
        wait_max: Duration,
    ) -> Result<A, LocalError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        let asked = async {
            grpc.ready().await.map_err(connection_lost)?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.unary(Request::new(question), PathAndQuery::from_static(path), codec).await?;
            Ok(answer.into_inner())
        };
        tokio::time::timeout(wait_max, asked).await.unwrap_or(Err(LocalError::TimedOut(wait_max)))
    }

    /// One question, answers until the server ends them. Begins no earlier than the server's first answer: some send
    /// nothing before.
    pub(super) async fn subscribe<Q, A>(
        &self,
        path: &'static str,
        question: Q,
    ) -> Result<Answers<A>, LocalError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.map_err(connection_lost)?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        Ok(grpc.server_streaming(Request::new(question), path, codec).await?.into_inner())
    }
}

fn connection_lost(error: hyper::Error) -> LocalError {
    LocalError::Connect(io::Error::other(error))
}

/// hyper's side of a connection, as tonic's client takes it.
#[derive(Clone)]
struct Service(SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
