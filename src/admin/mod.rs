//! The admin plane: metrics, probes and numbers, on an address of its own; commands, on a socket of their own.
//!
//! Promises: readiness depends on no upstream; what is on the address names no repository and changes nothing. What
//! does is on the [`control`] socket, which only the owner of the daemon can open.

pub mod control;
mod page;
mod report;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
pub use report::{
    EndpointReport, LimitReport, RegistryReport, Report, Served, Status, StoreStatus, registries,
};
use tower::util::{BoxCloneSyncService, service_fn};

use crate::listener::{Body, Hosts};
use crate::support::metrics::Registry;

/// Where the admin plane listens by default.
pub const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 5051);

/// Where the admin plane listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that names no repository and changes nothing.
    pub listen: SocketAddr,
    /// `/metrics` alone, for a Prometheus elsewhere in the cluster.
    pub metrics_listen: Option<SocketAddr>,
    /// The control socket, for the owner of the daemon alone.
    pub socket: PathBuf,
}

/// Whether the daemon takes requests. Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says so.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The admin plane as a service for a [`crate::listener`].
pub type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// What the answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// The metrics.
    pub metrics: Registry,
    /// Readiness.
    pub readiness: Readiness,
    /// The numbers.
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
}

/// Everything, for clients that address us by one of `hosts`.
pub fn service(sources: Sources, hosts: Hosts) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let answer = match hosts.check(&request) {
            Ok(_) => answer(&sources, request.method(), request.uri().path()),
            Err(error) => text(StatusCode::MISDIRECTED_REQUEST, &format!("{error}\n")),
        };
        std::future::ready(Ok(answer))
    }))
}

/// `/metrics` alone, for anybody who reaches the address.
pub fn metrics_service(sources: Sources) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let answer = match request.uri().path() {
            path @ "/metrics" => answer(&sources, request.method(), path),
            _ => text(StatusCode::NOT_FOUND, "only /metrics is here\n"),
        };
        std::future::ready(Ok(answer))
    }))
}

fn answer(sources: &Sources, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" => page::answer(&(sources.status)()),
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" if sources.readiness.get() => text(StatusCode::OK, "ok\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n"),
        "/metrics" => match sources.metrics.render() {
            Ok(page) => page_of(Registry::content_type(), page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/v1/status" => match serde_json::to_vec_pretty(&(sources.status)()) {
            Ok(page) => page_of("application/json", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /, /metrics, /livez, /readyz and /v1/status\n"),
    }
}

fn page_of(media_type: &'static str, page: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::full(page));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = page_of("text/plain; charset=utf-8", text.as_bytes().to_vec());
    *response.status_mut() = status;
    response
}
