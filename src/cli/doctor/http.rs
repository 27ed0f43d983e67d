//! One request to the cache, as a runtime would send it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cli::run_async::run_async;

/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An answer; a body that is no JSON is null.
pub(super) struct HttpAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

/// Sends a `GET` on a connection of its own.
///
/// # Errors
/// A text for people.
pub(super) fn get(
    address: SocketAddr,
    path: &str,
    headers: HeaderMap,
    wait: Duration,
) -> Result<HttpAnswer, String> {
    let work = async {
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::get(path).header(header::HOST, address.to_string());
        let mut request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        request.headers_mut().extend(headers);
        let (head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        let body = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        Ok(HttpAnswer { status: head.status, headers: head.headers, body })
    };
    let in_time = run_async(async || tokio::time::timeout(wait, work).await);
    let in_time = in_time.map_err(|failure| failure.message().to_owned())?;
    in_time.unwrap_or_else(|_elapsed| Err(format!("no answer within {wait:?}")))
}
