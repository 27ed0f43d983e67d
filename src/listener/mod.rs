//! Accepting connections and speaking HTTP/1.1 on them: the plumbing under the data plane and the admin page.
//!
//! Promises: a bounded number of connections, the next one told so with a 503; bounded waits for a request head, for
//! the next request and for a client that does not read; a TLS ClientHello answered in plain HTTP; no TCP reset on
//! any path, so that a short body is seen as short; a drain that ends idle connections at once and busy ones when
//! they are done or the deadline comes.
//!
//! Deliberately not here: routes, TLS, HTTP/2.

mod body;
mod connection;
mod host;
mod inherited;
pub mod memory;
mod peer;
mod sendfile;
mod socket;
mod timeouts;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Service;

pub use body::{Body, BodyError};
pub use host::{HostError, Hosts};
pub use inherited::Inherited;
pub use socket::{Listen, ListenError, Listener};

use socket::Accepted;

use crate::support::metrics::{IntCounterVec, IntGauge, MetricsError, Registry};
use crate::support::shutdown::Shutdown;

/// After an accept that failed for want of descriptors or memory; a busy loop would make it worse.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a listener that closes looks for connections that were made before.
const LAST_CALL: Duration = Duration::from_millis(50);
/// Connections over the limit that are being told so at the same time; beyond that they are just closed.
const TURNED_AWAY_MAX: usize = 64;

/// Bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time.
    pub connections_max: usize,
    /// From the first byte of a request head to its last.
    pub head_wait: Duration,
    /// Between requests. Longer than the 90 s of Go clients, so that they close first.
    pub idle_wait: Duration,
    /// Without the client reading anything.
    pub write_wait: Duration,
    /// From the wish to stop to closing what is left.
    pub drain_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            head_wait: Duration::from_secs(10),
            idle_wait: Duration::from_secs(120),
            write_wait: Duration::from_secs(120),
            drain_wait: Duration::from_secs(30),
        }
    }
}

/// What is counted of connections.
#[derive(Clone)]
pub struct Metrics {
    connections: IntGauge,
    turned_away: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name registered twice.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            connections: registry.gauge("connections", "Client connections open.")?,
            turned_away: registry.counters(
                "connections_turned_away_total",
                "Client connections that were not served, by reason.",
                &["reason"],
            )?,
        })
    }

    fn turn_away(&self, reason: &str) {
        self.turned_away.with_label_values(&[reason]).inc();
    }
}

/// Serves `service` on everything that `listener` accepts, until `shutdown`; then drains. Returns when nothing is
/// left.
pub async fn run<S>(listener: Listener, service: S, limits: Limits, metrics: Metrics, mut shutdown: Shutdown)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let apologies = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shutdown.requested() => break,
        };
        let socket = match accepted {
            Ok(Accepted::Client(socket)) => socket,
            Ok(Accepted::NotLoopback) => {
                metrics.turn_away("not_loopback");
                continue;
            }
            Ok(Accepted::Forbidden(socket)) => {
                metrics.turn_away("user");
                if let Ok(apology) = Arc::clone(&apologies).try_acquire_owned() {
                    tokio::spawn(connection::forbid(socket, apology));
                }
                continue;
            }
            Err(error) => {
                if is_shortage(&error) {
                    tracing::warn!(%error, "cannot accept connections for the moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let (service, metrics, shutdown) = (service.clone(), metrics.clone(), shutdown.clone());
                connections.spawn(connection::serve(socket, place, service, limits, metrics, shutdown));
            }
            Err(_) => {
                metrics.turn_away("too_many");
                if let Ok(apology) = Arc::clone(&apologies).try_acquire_owned() {
                    tokio::spawn(connection::turn_away(socket, apology));
                }
            }
        }
    }
    // A connection that waits to be accepted when its socket closes is reset; take those in and end them properly.
    let last_call = tokio::time::Instant::now() + LAST_CALL;
    while let Ok(Ok(accepted)) = tokio::time::timeout_at(last_call, listener.accept()).await {
        let (Accepted::Client(socket), Ok(place)) = (accepted, Arc::clone(&places).try_acquire_owned())
        else {
            continue;
        };
        let (service, metrics, shutdown) = (service.clone(), metrics.clone(), shutdown.clone());
        connections.spawn(connection::serve(socket, place, service, limits, metrics, shutdown));
    }
    drop(listener);
    let drained =
        tokio::time::timeout(limits.drain_wait, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(left = connections.len(), "closing connections that did not finish in time");
        connections.shutdown().await;
        // The last sockets are still being closed gently.
        let _ =
            tokio::time::timeout(timeouts::LINGER, places.acquire_many(limits.connections_max as u32)).await;
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|e| e.raw_os_error() == code))
}

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod tests;
