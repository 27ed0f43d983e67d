//! Connections that stay open between requests, kept by host, so that all idle ones to a host can be closed together.
//!
//! A NAT or a firewall that forgets its connections leaves all of them open at both ends and dead between: the first
//! that does not answer says that of the others. Deliberately not here: which requests are repeated (`connect`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, Connect};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::bounded_map::BoundedMap;
use crate::support::deadline::Deadline;
use crate::upstream::error::BoxError;
use crate::upstream::transport::address::HostTrust;

/// Idle connections that stay open to one host that the configuration names: as many as questions are asked at a time
/// on a busy node, so that none of them opens a connection of its own.
const CONFIGURED_IDLE_MAX: usize = 64;
/// Idle connections that stay open to one other host, of which strangers can name many.
const UNTRUSTED_IDLE_MAX: usize = 8;
/// How long an idle connection stays open: registries close theirs after about a minute.
const IDLE_TIME: Duration = Duration::from_secs(50);
/// Hosts with idle connections at most; those of one that is forgotten are closed.
const HOSTS_MAX: usize = 1_024;
/// Fields of a response head at most.
const HEADERS_MAX: usize = 128;
/// Bytes of a response head at most, and of one read of a body.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

/// A connection that was idle for this long may have been forgotten by what is between; a NAT forgets none faster.
pub(super) const FORGOTTEN_IDLE_MIN: Duration = Duration::from_secs(5);

/// The clients of one host, with their connections.
pub(super) type HostClient<C> = Arc<HostClients<C>>;

/// One client for requests that may be sent twice, and one for those that may not: that one has no connection that may
/// be forgotten.
pub(super) struct HostClients<C> {
    pub(super) repeatable: Client<C, Full<Bytes>>,
    pub(super) once: Client<C, Full<Bytes>>,
}

/// The connections to all hosts of one trust.
pub(super) struct HostPools<C> {
    connector: C,
    idle_max: usize,
    pub(super) open: OpenHosts<C>,
}

/// The hosts to which there are connections, by scheme, host and port. Cheap to clone.
pub(super) struct OpenHosts<C>(Arc<Mutex<BoundedMap<String, HostClient<C>>>>);

impl<C> Clone for OpenHosts<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connect + Clone> HostPools<C> {
    pub(super) fn new(connector: C, trust: HostTrust) -> Self {
        let idle_max = match trust {
            HostTrust::Configured => CONFIGURED_IDLE_MAX,
            HostTrust::Untrusted => UNTRUSTED_IDLE_MAX,
        };
        let open = OpenHosts(Arc::new(Mutex::new(BoundedMap::new(HOSTS_MAX))));
        Self { connector, idle_max, open }
    }

    /// The clients for a host.
    pub(super) fn client(&self, host: &str) -> HostClient<C> {
        let client = |idle_time| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(idle_time)
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(self.idle_max)
                .http1_max_headers(HEADERS_MAX)
                .http1_max_buf_size(BUFFER_BYTES_MAX)
                .build(self.connector.clone())
        };
        let new =
            || Arc::new(HostClients { repeatable: client(IDLE_TIME), once: client(FORGOTTEN_IDLE_MIN) });
        Arc::clone(self.open.0.lock().get_or_insert_with(host.to_owned(), new))
    }
}

impl<C> OpenHosts<C> {
    /// Closes the idle connections to a host, unless that happened since `client` was given out. Requests that are
    /// under way go on.
    pub(super) fn close_idle(&self, host: &str, client: &HostClient<C>) {
        let mut clients = self.0.lock();
        if clients.peek(host).is_some_and(|current| Arc::ptr_eq(current, client)) {
            clients.remove(host);
            tracing::debug!(host, "idle connections are closed: one of them did not answer");
        }
    }
}

/// The connection of a request, as it was before the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionBefore {
    /// There is no connection yet.
    None,
    /// No request was sent over it.
    New,
    /// It was used before, and idle for this long.
    Used { idle: Duration },
}

/// A request that was sent and is not answered yet. Dropped after a while, by a caller that waits no longer, it closes
/// the idle connections to its host, if its own was used before: the next request would only wait for the next one.
pub(super) struct Unanswered<'a, C> {
    pub(super) open: &'a OpenHosts<C>,
    pub(super) host: &'a str,
    pub(super) client: &'a HostClient<C>,
    pub(super) captured: CaptureConnection,
    pub(super) begun: Instant,
    pub(super) is_answered: bool,
}

impl<C> Unanswered<'_, C> {
    /// What its connection was before.
    pub(super) fn before(&self) -> ConnectionBefore {
        LastUse::before(&self.captured, self.begun)
    }
}

impl<C> Drop for Unanswered<'_, C> {
    fn drop(&mut self) {
        let was_waited_for = self.begun.elapsed() >= FORGOTTEN_IDLE_MIN;
        if !self.is_answered && was_waited_for && matches!(self.before(), ConnectionBefore::Used { .. }) {
            self.open.close_idle(self.host, self.client);
        }
    }
}

/// Travels with a connection: when an answer was last received over it; `None` before the first.
#[derive(Clone, Default)]
pub(super) struct LastUse(Arc<Mutex<Option<Instant>>>);

impl LastUse {
    /// Of the connection of a request; `None` while there is no connection.
    pub(super) fn of(captured: &CaptureConnection) -> Option<Self> {
        let mut extras = http::Extensions::new();
        captured.connection_metadata().as_ref()?.get_extras(&mut extras);
        extras.remove::<Self>()
    }

    /// What the connection of a request that began at `begun` and was not answered yet was before the request.
    pub(super) fn before(captured: &CaptureConnection, begun: Instant) -> ConnectionBefore {
        let Some(Self(last)) = Self::of(captured) else { return ConnectionBefore::None };
        let last = *last.lock();
        last.map_or(ConnectionBefore::New, |last| ConnectionBefore::Used { idle: begun - last })
    }

    /// Records that a response, or a part of one, was received.
    pub(super) fn record(&self) {
        *self.0.lock() = Some(Instant::now());
    }
}

/// The body of a response. When it has brought nothing for almost as long as its reader waits, the host's idle
/// connections are closed, so that what is asked for next is asked over a new one.
pub(super) struct WatchedBody<C> {
    body: BoxBody<Bytes, BoxError>,
    open: OpenHosts<C>,
    host: String,
    client: HostClient<C>,
    last_use: Option<LastUse>,
    wait: Duration,
    /// Whether the next frame is waited for.
    is_waiting: bool,
    /// When it is late; `None` before the first that was waited for.
    late: Option<Deadline>,
}

impl<C> WatchedBody<C> {
    /// Watches a body that came over a connection of `client`; its reader waits for `idle` for each frame.
    pub(super) fn new(
        body: BoxBody<Bytes, BoxError>,
        open: OpenHosts<C>,
        host: String,
        client: HostClient<C>,
        last_use: Option<LastUse>,
        idle: Duration,
    ) -> Self {
        let wait = idle.mul_f64(0.9);
        Self { body, open, host, client, last_use, wait, is_waiting: false, late: None }
    }

    fn wait_for_a_frame(&mut self, cx: &mut Context<'_>) {
        let until = || Instant::now() + self.wait;
        let late = self.late.get_or_insert_with(|| Deadline::at(until()));
        if !std::mem::replace(&mut self.is_waiting, true) {
            late.set(until());
        }
        while late.poll(cx).is_ready() {
            self.open.close_idle(&self.host, &self.client);
            late.set(until());
        }
    }
}

impl<C: Unpin> Body for WatchedBody<C> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() {
            self.wait_for_a_frame(cx);
        } else {
            self.is_waiting = false;
            if let Some(last_use) = &self.last_use {
                last_use.record();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
