//! kubelet's own list of this node's pods: its PodsAPI (KEP-4188, alpha in Kubernetes 1.36), gRPC on a local socket
//! without a credential.
//!
//! Promises: a pod is told once kubelet knows of it, also of static pods, which no API server binds; a list that
//! kubelet gives every [`LISTED_EVERY`] ends what a lost event left behind, since kubelet drops events for a reader
//! that is a hundred behind. Where the list is larger than is taken, the source counts as lost, and the pods that
//! change are told all the same. A kubelet without the interface, one that refuses and one that is restarted are told
//! as [`PodEvent::Lost`] and tried again. Not here: pull secrets, which kubelet does not give away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::grpc::{Answers, Connection, LocalError};
use super::pod_message;
use crate::kubernetes::pod::Pod;
use crate::kubernetes::source::{PodEvent, PodSource};
use crate::kubernetes::table::PODS_MAX;
use crate::support::shutdown::Shutdown;

/// Bytes of an answer at most. The list is one message with every pod: 500 pods, the most that is in use on a node, of
/// 32 KiB each, which is large for one, and twenty of the largest that there may be, 1.5 MiB. The daemon's memory has
/// to hold it for a moment.
pub(super) const ANSWER_BYTES_MAX: usize = 48 << 20;
/// How long a list may take.
const LIST_MAX: Duration = Duration::from_secs(10);
/// How often all pods are listed besides the events.
const LISTED_EVERY: Duration = Duration::from_secs(300);
/// The first and the longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

const WATCH: &str = "/v1alpha1.Pods/WatchPods";
const LIST: &str = "/v1alpha1.Pods/ListPods";
/// `EventType.DELETED`.
const DELETED: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Listed {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) pods: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Watched {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) pod: Bytes,
}

/// kubelet's PodsAPI.
#[derive(Debug)]
pub struct PodsApi {
    socket: PathBuf,
}

/// Why a connection is used no more.
enum End {
    /// The reader or the daemon ends.
    Finished,
    Failed(LocalError),
}

impl<E: Into<LocalError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl PodsApi {
    /// The interface at this socket, `pods-api/pods-api.sock` in kubelet's root directory.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How many pods kubelet lists, for a check.
    ///
    /// # Errors
    /// As kubelet or its socket refuse.
    pub async fn count(&self) -> Result<usize, LocalError> {
        let connection = Connection::open(&self.socket, ANSWER_BYTES_MAX).await?;
        let listed: Listed = connection.ask(LIST, Nothing {}, LIST_MAX).await?;
        Ok(listed.pods.len())
    }

    async fn tell(&self, events: &mpsc::Sender<PodEvent>, listed_once: &mut bool) -> End {
        let connection = match Connection::open(&self.socket, ANSWER_BYTES_MAX).await {
            Ok(connection) => connection,
            Err(error) => return End::Failed(error),
        };
        match follow(&connection, events, listed_once).await {
            Ok(()) => End::Finished,
            Err(end) => end,
        }
    }
}

impl PodSource for PodsApi {
    fn name(&self) -> &'static str {
        "pods_api"
    }

    fn run(&self, events: mpsc::Sender<PodEvent>, mut shutdown: Shutdown) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut pause = RETRY.0;
            loop {
                let mut listed_once = false;
                let end = tokio::select! {
                    end = self.tell(&events, &mut listed_once) => end,
                    () = shutdown.requested() => return,
                };
                let End::Failed(error) = end else { return };
                pause = if listed_once { RETRY.0 } else { pause };
                if events.send(PodEvent::Lost(error.to_string())).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.requested() => return,
                }
                pause = (pause * 2).min(RETRY.1);
            }
        })
    }
}

/// Tells lists and events until the connection or the reader ends. The subscription is asked for before the list, so
/// that no pod comes between the two; kubelet may send nothing on it until there is an event.
async fn follow(
    connection: &Connection,
    events: &mpsc::Sender<PodEvent>,
    listed_once: &mut bool,
) -> Result<(), End> {
    let subscription = connection.subscribe::<_, Watched>(WATCH, Nothing {});
    tokio::pin!(subscription);
    let mut stream: Option<Answers<Watched>> = None;
    let (mut list_at, mut is_too_large) = (Instant::now(), false);
    loop {
        tokio::select! {
            biased;
            begun = &mut subscription, if stream.is_none() => stream = Some(begun?),
            event = next(&mut stream) => tell_event(event?, events).await?,
            () = tokio::time::sleep_until(list_at) => {
                match tell_list(connection, events).await {
                    // Nothing is taken for gone; the events go on, of all pods that change.
                    Err(End::Failed(error @ LocalError::TooLarge(_))) => {
                        if !std::mem::replace(&mut is_too_large, true) {
                            let why = format!("{error}; only pods that change are seen");
                            events.send(PodEvent::Lost(why)).await.map_err(|_| End::Finished)?;
                        }
                    }
                    told => {
                        told?;
                        is_too_large = false;
                    }
                }
                *listed_once = true;
                list_at = Instant::now() + LISTED_EVERY;
            }
            () = events.closed() => return Ok(()),
        }
    }
}

/// The next event; pending while nothing has come yet.
async fn next(stream: &mut Option<Answers<Watched>>) -> Result<Watched, LocalError> {
    let Some(stream) = stream else { return std::future::pending().await };
    let ended =
        || LocalError::Refused { code: "Ok".to_owned(), message: "kubelet ended the watch".to_owned() };
    stream.message().await?.ok_or_else(ended)
}

async fn tell_event(event: Watched, events: &mpsc::Sender<PodEvent>) -> Result<(), End> {
    let Ok(raw) = pod_message::decode(&event.pod) else {
        return Err(End::Failed(LocalError::Refused {
            code: "Ok".to_owned(),
            message: "an event is no pod".to_owned(),
        }));
    };
    let told = match event.kind {
        DELETED => Some(PodEvent::Deleted { uid: raw.uid }),
        _ => Pod::new(raw).map(PodEvent::Applied),
    };
    match told {
        Some(event) => events.send(event).await.map_err(|_| End::Finished),
        None => Ok(()),
    }
}

async fn tell_list(connection: &Connection, events: &mpsc::Sender<PodEvent>) -> Result<(), End> {
    let listed: Listed = connection.ask(LIST, Nothing {}, LIST_MAX).await?;
    let send = async |event| events.send(event).await.map_err(|_| End::Finished);
    send(PodEvent::ListBegins).await?;
    for pod in listed.pods.into_iter().take(PODS_MAX) {
        let pod = pod_message::decode(&pod).ok().and_then(Pod::new);
        if let Some(pod) = pod {
            send(PodEvent::Applied(pod)).await?;
        }
    }
    send(PodEvent::ListEnds).await
}
