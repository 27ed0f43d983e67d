//! The control socket: commands that name repositories or change something, for the owner of the daemon.
//!
//! A unix socket of mode 0600, spoken to by the `larder` program itself in JSON over HTTP; no interface for others.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tower::util::{BoxCloneSyncService, service_fn};

use super::{Service, page_of, text};
use crate::listener::Body;
use crate::pull::Puller;
use crate::reference::Repository;

/// Bytes of a command and of its answer at most.
const BYTES_MAX: usize = 64 * 1024;
/// How long a command may take.
const WAIT: Duration = Duration::from_secs(60);

/// `POST /v1/revoke`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// `registry/path`; all repositories if it is not there.
    pub repository: Option<String>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// Rights that have ended.
    pub revoked: usize,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon listens on {0}")]
    NoDaemon(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// The commands as a service for a [`crate::listener`].
pub fn service(puller: Puller) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let puller = puller.clone();
        async move { Ok::<_, Infallible>(answer(&puller, request).await) }
    }))
}

async fn answer(puller: &Puller, request: Request<Incoming>) -> Response<Body> {
    if request.method() != Method::POST || request.uri().path() != "/v1/revoke" {
        return text(StatusCode::NOT_FOUND, "here is POST /v1/revoke\n");
    }
    let body = Limited::new(request.into_body(), BYTES_MAX).collect().await;
    let command = body.ok().and_then(|body| serde_json::from_slice::<Revoke>(&body.to_bytes()).ok());
    let Some(command) = command else {
        return text(StatusCode::BAD_REQUEST, "expected {\"repository\": \"registry/path\" or null}\n");
    };
    let repository = match command.repository.as_deref().map(str::parse::<Repository>).transpose() {
        Ok(repository) => repository,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
    };
    match puller.revoke(repository.as_ref()).await {
        Ok(revoked) => {
            page_of("application/json", serde_json::to_vec(&Revoked { revoked }).unwrap_or_default())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// Sends a command to the daemon behind `socket`.
///
/// # Errors
/// [`ControlError`].
pub async fn send(socket: &Path, command: &Revoke) -> Result<Revoked, ControlError> {
    let refused = |why: String| ControlError::Refused(why);
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
        {
            return Err(ControlError::NoDaemon(socket.display().to_string()));
        }
        Err(e) => return Err(refused(format!("cannot connect to {}: {e}", socket.display()))),
    };
    let work = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = serde_json::to_vec(command).unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static("/v1/revoke");
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("larder"));
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let done = tokio::time::timeout(WAIT, work).await;
    let (status, body) = done
        .map_err(|_| refused(format!("the daemon did not answer within {WAIT:?}")))?
        .map_err(|e| refused(e.to_string()))?;
    if status != StatusCode::OK {
        return Err(refused(String::from_utf8_lossy(&body).trim().to_owned()));
    }
    serde_json::from_slice(&body).map_err(|_| refused("the daemon sent something unexpected".to_owned()))
}
