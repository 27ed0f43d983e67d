//! Accepting connections until a stop, then draining them.
//!
//! Promises: a shortage of descriptors or memory pauses accepting and ends nothing; connections beyond the limit are
//! answered with 503 or closed; a stop accepts what was connected before it, and waits for what is under way as long as
//! it is allowed to.
//!
//! Deliberately not here: one connection (`connection`), and who may connect (`peer`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bind::{Accepted, Listener};
use super::connection::{self, Common, DrainState, HttpService};
use super::limits::ConnectionLimits;
use super::metrics::{Metrics, TurnedAway};
use super::peer::AdmittedUsers;
use super::send_buffer::SendBuffers;
use super::sendfile::FileTransfer;
use super::socket::Socket;
use super::timeouts;
use crate::support::shortage::is_shortage;
use crate::support::shutdown::{self, Shutdown};
use crate::support::tasks::Tasks;

/// After an accept that failed for want of descriptors or memory; a busy loop would make the shortage worse.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long a listener that closes still accepts connections that were made before.
const LAST_ACCEPT_WAIT: Duration = Duration::from_millis(50);
/// What is kept of the drain time for the connections that were accepted in it.
const LATE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Connections that are being refused at the same time; beyond that they are closed without an answer.
const REFUSALS_MAX: usize = 64;

/// How the connections of a listener are served.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// Bounds of the listener and of each of its connections.
    pub limits: ConnectionLimits,
    /// How bytes of files reach clients: see [`super::file_transfer`].
    pub transfer: FileTransfer,
    /// What is counted of connections.
    pub metrics: Metrics,
}

/// Serves `service` on every connection that `listener` accepts, until `shutdown`; then drains: the connections of
/// before the stop finish what they do. Until they have, or the drain time is nearly over, new ones are accepted: a
/// port that is closed for as long as the longest body takes would turn clients away for nothing. Returns when no
/// connection is left and every socket is closed, or the drain time and the linger time are over.
pub async fn run(
    listener: Listener,
    service: impl HttpService,
    options: ConnectionOptions,
    shutdown: Shutdown,
) {
    let ConnectionOptions { limits, transfer, metrics } = options;
    let mut server = Server {
        service,
        common: Common {
            limits,
            transfer,
            vectored: true,
            metrics,
            buffers: SendBuffers::default(),
            closing: Tasks::default(),
            drain: DrainState::default(),
        },
        shutdown,
        admitted: listener.admitted().cloned(),
        places: Arc::new(Semaphore::new(limits.connections_max)),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        connections: JoinSet::new(),
    };
    server.accept_until_shutdown(&listener).await;
    let until = Instant::now() + limits.drain_wait;
    let (trigger, shutdown) = shutdown::channel();
    server.shutdown = shutdown;
    let mut before = std::mem::take(&mut server.connections);
    let late_wait = LATE_WAIT_MAX.min(limits.drain_wait / 4);
    server.accept_until_ended(&listener, &mut before, until - late_wait).await;
    trigger.fire();
    server.accept_what_waits(&listener).await;
    drop(listener);
    server.drain(before, until).await;
}

struct Server<S> {
    service: S,
    common: Common,
    shutdown: Shutdown,
    /// `None`: all users.
    admitted: Option<AdmittedUsers>,
    /// One for each connection, until its socket is closed.
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    connections: JoinSet<()>,
}

impl<S: HttpService> Server<S> {
    async fn accept_until_shutdown(&mut self, listener: &Listener) {
        let mut shutdown = self.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = self.connections.join_next() => continue,
                () = shutdown.requested() => return,
            };
            self.accepted(accepted).await;
        }
    }

    /// Goes on accepting until the connections of `before` have ended, or `until`.
    async fn accept_until_ended(&mut self, listener: &Listener, before: &mut JoinSet<()>, until: Instant) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                ended = before.join_next() => match ended {
                    Some(_) => continue,
                    None => return,
                },
                Some(_) = self.connections.join_next() => continue,
                () = tokio::time::sleep_until(until) => return,
            };
            self.accepted(accepted).await;
        }
    }

    async fn accepted(&mut self, accepted: io::Result<Accepted>) {
        match accepted {
            Ok(Accepted::Client(socket)) => self.serve(socket),
            Ok(Accepted::NotLoopback) => self.common.metrics.count_turned_away(TurnedAway::NotLoopback),
            Err(error) if is_shortage(&error) => {
                tracing::warn!(%error, "cannot accept connections for the moment");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client has gone already.
            Err(_) => {}
        }
    }

    /// A connection that waits to be accepted when its listener closes is reset: such connections are accepted, and
    /// ended properly.
    async fn accept_what_waits(&mut self, listener: &Listener) {
        let until = Instant::now() + LAST_ACCEPT_WAIT;
        while let Ok(Ok(accepted)) = tokio::time::timeout_at(until, listener.accept()).await {
            if let Accepted::Client(socket) = accepted {
                self.serve(socket);
            }
        }
    }

    fn serve(&mut self, socket: Socket) {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let (service, common, shutdown) =
                (self.service.clone(), self.common.clone(), self.shutdown.clone());
            let (admitted, refusals) = (self.admitted.clone(), Arc::clone(&self.refusals));
            // On the connection's task: what the kernel is asked holds up no other client.
            self.connections.spawn(async move {
                match admitted {
                    Some(users) if !users.admit(&socket).await => {
                        drop(place);
                        common.metrics.count_turned_away(TurnedAway::User);
                        if let Ok(refusal) = refusals.try_acquire_owned() {
                            common.closing.spawn(connection::forbid(socket, refusal));
                        }
                    }
                    _ => connection::serve(socket, place, service, common, shutdown).await,
                }
            });
            return;
        }
        self.common.metrics.count_turned_away(TurnedAway::TooMany);
        if let Ok(refusal) = Arc::clone(&self.refusals).try_acquire_owned() {
            self.common.closing.spawn(connection::turn_away(socket, refusal));
        }
    }

    async fn drain(&mut self, mut before: JoinSet<()>, until: Instant) {
        let connections = &mut self.connections;
        let ended = async {
            while before.join_next().await.is_some() {}
            while connections.join_next().await.is_some() {}
        };
        if tokio::time::timeout_at(until, ended).await.is_err() {
            let left = before.len() + self.connections.len();
            tracing::warn!(left, "closing connections that did not finish in time");
            self.common.drain.end();
            before.shutdown().await;
            self.connections.shutdown().await;
        }
        self.common.closing.finish(timeouts::LINGER).await;
    }
}
