//! The two services of the admin address: everything that names no repository, and `/metrics` alone.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tower::util::{BoxCloneSyncService, service_fn};

use super::history::History;
use super::page;
use super::readiness::Readiness;
use super::respond::{page_of, text};
use super::status::DaemonStatus;
use crate::listener::{Body, Hosts};
use crate::support::metrics::Registry;

/// The admin plane as a service for a [`crate::listener`].
pub type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// What the answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// What `/metrics` shows.
    pub metrics: Registry,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What the plots of the page show.
    pub history: History,
    /// What `/v1/status` and the page show.
    pub status: Arc<dyn Fn() -> Pin<Box<dyn Future<Output = DaemonStatus> + Send>> + Send + Sync>,
    /// Whether the store's disk has not ended a call for seconds. Waits for nothing.
    pub disk_hangs: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Every path, for clients that address us by one of `hosts`.
pub fn service(sources: Sources, hosts: Hosts) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let (sources, checked) = (sources.clone(), hosts.check(&request).map(drop));
        async move {
            Ok(match checked {
                Ok(()) => answer(&sources, request.method(), request.uri().path()).await,
                Err(error) => text(StatusCode::MISDIRECTED_REQUEST, &format!("{error}\n")),
            })
        }
    }))
}

/// `/metrics` alone, for every client that reaches the address.
pub fn metrics_service(sources: Sources) -> Service {
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let sources = sources.clone();
        async move {
            Ok(match request.uri().path() {
                path @ "/metrics" => answer(&sources, request.method(), path).await,
                _ => text(StatusCode::NOT_FOUND, "only /metrics is here\n"),
            })
        }
    }))
}

async fn answer(sources: &Sources, method: &Method, path: &str) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" => page::answer(&(sources.status)().await, &sources.history),
        "/livez" => text(StatusCode::OK, "ok\n"),
        // Pulls are served without it.
        "/readyz" if sources.readiness.is_ready() && (sources.disk_hangs)() => {
            text(StatusCode::OK, "ok, but the disk of the store hangs\n")
        }
        "/readyz" if sources.readiness.is_ready() => text(StatusCode::OK, "ok\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n"),
        "/metrics" => match sources.metrics.render() {
            Ok(page) => page_of(Registry::content_type(), page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        "/v1/status" => match serde_json::to_vec_pretty(&(sources.status)().await) {
            Ok(page) => page_of("application/json", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /, /metrics, /livez, /readyz and /v1/status\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{ServedStatus, StoreStatus};

    #[tokio::test]
    async fn a_daemon_that_drains_is_alive_and_not_ready_and_nothing_is_changed_by_a_post() {
        let readiness = Readiness::default();
        let ready = readiness.clone();
        let status = move || DaemonStatus {
            version: "1".to_owned(),
            uptime_seconds: 1,
            ready: ready.is_ready(),
            store: StoreStatus {
                blobs: 0,
                bytes: 0,
                max_bytes: None,
                free_bytes: None,
                capacity_bytes: None,
                lacks_inodes: false,
                caching: true,
                write_failure: None,
                disk_failing: false,
                disk_hanging: false,
                pins: 0,
            },
            served: ServedStatus::default(),
            downloads: 0,
            requests: Default::default(),
            outages: 0,
            pods: Some(Default::default()),
            tier: None,
        };
        let sources = Sources {
            history: History::default(),
            metrics: Registry::new(),
            readiness: readiness.clone(),
            status: Arc::new(move || Box::pin(std::future::ready(status()))),
            disk_hangs: Arc::new(|| true),
        };
        let asked =
            async |method: Method, path: &str| answer(&sources, &method, path).await.status().as_u16();
        readiness.set(true);
        assert_eq!(asked(Method::GET, "/readyz").await, 200, "whatever its disk does");
        readiness.set(false);
        assert_eq!((asked(Method::GET, "/readyz").await, asked(Method::GET, "/livez").await), (503, 200));
        for path in ["/", "/metrics", "/v1/status"] {
            let answers = (asked(Method::HEAD, path).await, asked(Method::POST, path).await);
            assert_eq!(answers, (200, 405), "{path}");
        }
        assert_eq!(asked(Method::GET, "/v1/images").await, 404);
    }
}
