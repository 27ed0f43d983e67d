//! An answer in which something is written often, also while nothing happens: so a client tells a daemon that works on
//! from one that hangs.
//!
//! Where nothing is said for a while, a space is written before the next JSON, where it means nothing. The head of the
//! answer says so: a daemon of an earlier version writes none, and may be silent for as long as it takes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::prepull::Event;

/// The field in the head of such an answer, and of a request that asks for one.
pub(super) const FIELD: &str = "larder-writes-often";
/// After so long without an event a space is written.
const INTERVAL: Duration = Duration::from_secs(15);
/// A daemon that writes often and was silent for this long hangs: four spaces are missing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Events as lines of JSON, with a space where the next is long in coming.
pub(super) fn lines(events: mpsc::Receiver<Event>) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(events, |mut events| async {
        let Ok(event) = timeout(INTERVAL, events.recv()).await else {
            return Some((Bytes::from_static(b" "), events));
        };
        let mut line = serde_json::to_vec(&event?).unwrap_or_default();
        line.push(b'\n');
        Some((Bytes::from(line), events))
    })
}

/// What comes of `work`, at its end, with a space now and then until it is done.
pub(super) fn until_done(work: impl Future<Output = Vec<u8>> + Send) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(Some(Box::pin(work)), |work| async {
        let mut work = work?;
        match timeout(INTERVAL, &mut work).await {
            Ok(last) => Some((Bytes::from(last), None)),
            Err(_) => Some((Bytes::from_static(b" "), Some(work))),
        }
    })
}

/// How long a daemon may be silent whose answer has this head.
pub(super) fn silence_max(head: &HeaderMap) -> Duration {
    if head.contains_key(FIELD) { SILENCE_MAX } else { Duration::MAX }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::prepull::Summary;

    #[tokio::test(start_paused = true)]
    async fn a_download_that_brings_no_event_for_long_is_not_taken_for_a_daemon_that_hangs() {
        let (sender, events) = mpsc::channel(1);
        let mut lines = Box::pin(lines(events));
        let mut answer = Vec::new();
        for _ in 0..8 {
            answer.extend(timeout(SILENCE_MAX, lines.next()).await.expect("a space in time").unwrap());
        }
        sender.send(Event::Summary(Summary::default())).await.unwrap();
        answer.extend(lines.next().await.unwrap());
        drop(sender);
        assert_eq!(lines.next().await, None);
        let read: Event = serde_json::from_slice(&answer).unwrap();
        assert_eq!(read, Event::Summary(Summary::default()), "what stands before it changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn an_import_that_a_slow_disk_takes_minutes_for_is_not_taken_for_a_daemon_that_hangs() {
        let work = async {
            tokio::time::sleep(4 * SILENCE_MAX).await;
            b"7".to_vec()
        };
        let (mut said, mut answer) = (Box::pin(until_done(work)), Vec::new());
        while let Some(bytes) = timeout(SILENCE_MAX, said.next()).await.expect("a space in time") {
            answer.extend(bytes);
        }
        assert_eq!(serde_json::from_slice::<u32>(&answer).unwrap(), 7);
    }
}
