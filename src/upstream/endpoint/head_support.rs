//! Where `HEAD` is of no use, so that it is not sent before each `GET` that has to answer instead of it.
//!
//! Promises: an endpoint whose `HEAD` said something else than its `GET` is asked with `GET` for an hour, for that kind
//! of content. Anything but 405 and 501 may be a bad moment, and counts only when it comes twice in a row: some
//! registries limit `GET`s of manifests and no `HEAD`s. So does a `HEAD` that hung once a `GET` of the kind was
//! answered later. Where the `GET` beside it was answered, `HEAD` is left out for five minutes. Bounded: what is
//! forgotten costs one request.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::bounded_map::BoundedMap;
use crate::upstream::metrics::RequestKind;

/// How long `HEAD` is left out; then it is tried again.
const LEFT_OUT_FOR: Duration = Duration::from_secs(3_600);
/// How long it is left out after one hung: a connection that broke looks the same, and `GET`s may be counted.
const LEFT_OUT_AFTER_A_HANG: Duration = Duration::from_secs(300);
/// Pairs of an endpoint and a kind remembered at most.
const ENTRIES_MAX: usize = 1_024;
/// So many contradictions that may be a bad moment count like one that is none.
const PASSING_MAX: u32 = 2;

/// What `HEAD` said where `GET` then brought the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contradiction {
    /// Something that has no other cause than how the endpoint treats `HEAD`: 405 or 501.
    Lasting,
    /// Something that may be gone with the next request.
    Passing,
}

struct Entry {
    contradictions: u32,
    /// Whether a `HEAD` hung, and no `GET` was answered since.
    hung: bool,
    /// Set after a `HEAD` hung where a `GET` was answered.
    left_out_until: Option<Instant>,
    last: Instant,
}

impl Entry {
    fn new() -> Self {
        Self { contradictions: 0, hung: false, left_out_until: None, last: Instant::now() }
    }

    fn is_useless(&self) -> bool {
        let contradicts = self.contradictions >= PASSING_MAX && self.last.elapsed() < LEFT_OUT_FOR;
        contradicts || self.left_out_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The endpoints whose `HEAD` contradicted their `GET`, by `host:port` and kind of content.
pub(crate) struct HeadSupport(Mutex<BoundedMap<(String, RequestKind), Entry>>);

impl Default for HeadSupport {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(ENTRIES_MAX)))
    }
}

impl HeadSupport {
    /// Whether `GET` is to be sent in the place of `HEAD`.
    pub(crate) fn is_useless(&self, endpoint: &str, kind: RequestKind) -> bool {
        self.0.lock().get_by(|| (endpoint.to_owned(), kind)).is_some_and(|entry| entry.is_useless())
    }

    /// `GET` brought what `HEAD` did not confirm.
    pub(crate) fn record_contradiction(
        &self,
        endpoint: &str,
        kind: RequestKind,
        contradiction: Contradiction,
    ) {
        let step = match contradiction {
            Contradiction::Lasting => PASSING_MAX,
            Contradiction::Passing => 1,
        };
        let mut entries = self.0.lock();
        let now = Instant::now();
        let entry = entries.get_or_insert_with((endpoint.to_owned(), kind), Entry::new);
        if entry.last.elapsed() >= LEFT_OUT_FOR {
            entry.contradictions = 0;
        }
        entry.contradictions = entry.contradictions.saturating_add(step);
        entry.last = now;
        if entry.contradictions == PASSING_MAX {
            tracing::info!(endpoint, ?kind, "HEAD is of no use here; GET is sent instead for an hour");
        }
    }

    /// `HEAD` got no answer in time, which may be how the endpoint treats `HEAD` or an outage.
    pub(crate) fn record_hang(&self, endpoint: &str, kind: RequestKind) {
        self.0.lock().get_or_insert_with((endpoint.to_owned(), kind), Entry::new).hung = true;
    }

    /// `GET` was answered beside a `HEAD` that was not: `HEAD` is left out for a while.
    pub(crate) fn record_get_beside(&self, endpoint: &str, kind: RequestKind) {
        let mut entries = self.0.lock();
        let entry = entries.get_or_insert_with((endpoint.to_owned(), kind), Entry::new);
        entry.hung = false;
        entry.left_out_until = Some(Instant::now() + LEFT_OUT_AFTER_A_HANG);
        tracing::info!(endpoint, ?kind, "HEAD hangs here; GET is sent instead for five minutes");
    }

    /// `GET` was answered: if a `HEAD` hung before it, that contradicts the `HEAD`, or an outage has ended.
    pub(crate) fn record_get(&self, endpoint: &str, kind: RequestKind) {
        let mut entries = self.0.lock();
        let entry = entries.get_by(|| (endpoint.to_owned(), kind));
        let hung = entry.is_some_and(|entry| std::mem::take(&mut entry.hung));
        drop(entries);
        if hung {
            self.record_contradiction(endpoint, kind, Contradiction::Passing);
        }
    }

    /// `HEAD` was answered as it should be.
    pub(crate) fn record_use(&self, endpoint: &str, kind: RequestKind) {
        self.0.lock().remove_by(|| (endpoint.to_owned(), kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn head_is_left_out_for_an_hour_where_it_is_refused_and_not_after_one_bad_moment() {
        let support = HeadSupport::default();
        let useless = |kind| support.is_useless("reg.test:443", kind);
        let record = |contradiction| {
            support.record_contradiction("reg.test:443", RequestKind::Manifest, contradiction);
        };
        record(Contradiction::Passing);
        assert!(!useless(RequestKind::Manifest), "one bad moment costs an hour of GETs");
        support.record_use("reg.test:443", RequestKind::Manifest);
        record(Contradiction::Passing);
        assert!(!useless(RequestKind::Manifest));
        record(Contradiction::Passing);
        assert!(useless(RequestKind::Manifest) && !useless(RequestKind::Blob));
        tokio::time::advance(LEFT_OUT_FOR).await;
        assert!(!useless(RequestKind::Manifest), "HEAD is never tried again");
        record(Contradiction::Lasting);
        assert!(useless(RequestKind::Manifest));
    }

    #[tokio::test(start_paused = true)]
    async fn head_is_left_out_for_minutes_where_it_hung_and_get_was_answered() {
        let (support, kind) = (HeadSupport::default(), RequestKind::Manifest);
        let useless = || support.is_useless("reg.test:443", kind);
        support.record_get("reg.test:443", kind);
        assert!(!useless());
        support.record_hang("reg.test:443", kind);
        support.record_get("reg.test:443", kind);
        assert!(!useless(), "an outage that has ended says nothing about HEAD");
        support.record_hang("reg.test:443", kind);
        support.record_get_beside("reg.test:443", kind);
        assert!(useless() && !support.is_useless("reg.test:443", RequestKind::Blob));
        tokio::time::advance(LEFT_OUT_AFTER_A_HANG).await;
        assert!(!useless(), "HEAD is never tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn ever_new_endpoints_do_not_grow_it() {
        let support = HeadSupport::default();
        for n in 0..2 * ENTRIES_MAX {
            support.record_contradiction(&format!("{n}"), RequestKind::Blob, Contradiction::Lasting);
        }
        assert!(support.0.lock().len() <= ENTRIES_MAX);
    }
}
