//! Counting what is asked and what leaves: requests, body bytes, the first of them, and bodies that end early.
//!
//! The totals since the start are values of their own, which the status page reads; the metrics mirror them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};

use super::metrics::{Metrics, RouteLabel};
use super::route::Resource;
use crate::listener::{Body, BodyError};
use crate::pull::{self, AnswerSource, BlobBody, Fault};
use crate::reference::{Digest, Registry};
use crate::support::body_chunk::BodyChunk;
use crate::support::metric_labels::Label;
use crate::support::metrics::{Histogram, IntCounter};
use crate::support::unserved::{self, Unserved};
use crate::upstream::{PageBody, RegistryLabels};

impl From<&Resource> for RouteLabel {
    fn from(resource: &Resource) -> Self {
        match resource {
            Resource::Manifest(_) => Self::Manifest,
            Resource::Blob(_) => Self::Blob,
            Resource::Tags(_) => Self::Tags,
            Resource::Referrers(..) => Self::Referrers,
        }
    }
}

/// How a request was answered; the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With content.
    Served(AnswerSource),
    /// With a token.
    Issued,
    /// With a challenge.
    Challenged,
    /// With a no of upstream or of this node.
    Declined,
    /// With an error of upstream or of this node.
    Failed,
    /// With an error, because the request cannot be read.
    BadRequest,
    /// With an error, because the request is addressed to another host.
    Misdirected,
    /// With an error, because the answer took too long.
    TimedOut,
    /// With an error, because too many requests were being answered.
    Overloaded,
}

/// Outcomes that are no answer with content, in the order of [`Outcome::index`].
const OTHERS: [Outcome; 8] = [
    Outcome::Issued,
    Outcome::Challenged,
    Outcome::Declined,
    Outcome::Failed,
    Outcome::BadRequest,
    Outcome::Misdirected,
    Outcome::TimedOut,
    Outcome::Overloaded,
];
const SOURCES: usize = AnswerSource::ALL.len();

impl Outcome {
    /// The label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Served(source) => source.label(),
            Self::Issued => "issued",
            Self::Challenged => "challenged",
            Self::Declined => "declined",
            Self::Failed => "failed",
            Self::BadRequest => "bad_request",
            Self::Misdirected => "misdirected",
            Self::TimedOut => "timeout",
            Self::Overloaded => "overloaded",
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        AnswerSource::ALL.iter().copied().map(Self::Served).chain(OTHERS)
    }

    fn index(self) -> usize {
        match self {
            Self::Served(source) => source as usize,
            Self::Issued => SOURCES,
            Self::Challenged => SOURCES + 1,
            Self::Declined => SOURCES + 2,
            Self::Failed => SOURCES + 3,
            Self::BadRequest => SOURCES + 4,
            Self::Misdirected => SOURCES + 5,
            Self::TimedOut => SOURCES + 6,
            Self::Overloaded => SOURCES + 7,
        }
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::AuthenticationRequired => Self::Challenged,
            Fault::Declined | Fault::Refused(_) | Fault::NotFound => Self::Declined,
            Fault::Query => Self::BadRequest,
            Fault::Outage | Fault::Invalid | Fault::Ours => Self::Failed,
        }
    }
}

/// What the data plane has done since the start; what is zero is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests answered, by the label of their outcome.
    pub requests: BTreeMap<&'static str, u64>,
    /// Body bytes handed to clients, by where they came from.
    pub bytes: Vec<(AnswerSource, u64)>,
    /// Those of them that upstream had to send for it.
    pub from_upstream: u64,
}

/// Counts requests and bytes, in its own totals and in the metrics. Shared by all connections.
pub struct Observer {
    metrics: Metrics,
    labels: Arc<RegistryLabels>,
    requests: [AtomicU64; SOURCES + OTHERS.len()],
    bytes: [AtomicU64; SOURCES],
    from_upstream: AtomicU64,
    unserved: Unserved<Digest>,
    /// The metrics by source, found by their labels once.
    bytes_metrics: [OnceLock<IntCounter>; SOURCES],
    /// The same for manifests and for blobs.
    first_byte_metrics: [[OnceLock<Histogram>; SOURCES]; 2],
}

impl Observer {
    /// Nothing counted yet. `unserved` is what was fetched and served to no client.
    pub fn new(metrics: Metrics, labels: Arc<RegistryLabels>, unserved: Unserved<Digest>) -> Self {
        Self {
            metrics,
            labels,
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            bytes: std::array::from_fn(|_| AtomicU64::new(0)),
            from_upstream: AtomicU64::new(0),
            unserved,
            bytes_metrics: std::array::from_fn(|_| OnceLock::new()),
            first_byte_metrics: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
        }
    }

    fn bytes_metric(&self, source: AnswerSource) -> &IntCounter {
        let metric = || self.metrics.bytes.with_label_values(&[source.label()]);
        self.bytes_metrics[source as usize].get_or_init(metric)
    }

    fn first_byte_metric(&self, content: ContentKind, source: AnswerSource) -> &Histogram {
        let route = RouteLabel::from(content).label();
        let metric = || self.metrics.first_byte.with_label_values(&[route, source.label()]);
        self.first_byte_metrics[content as usize][source as usize].get_or_init(metric)
    }

    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        let requests = Outcome::all().zip(&self.requests);
        let bytes = AnswerSource::ALL.iter().copied().zip(&self.bytes);
        Totals {
            requests: requests
                .map(|(outcome, count)| (outcome.label(), count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            bytes: bytes
                .map(|(source, count)| (source, count.load(Ordering::Relaxed)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            from_upstream: self.from_upstream.load(Ordering::Relaxed),
        }
    }

    /// Counts a request that is answered. Requests without a registry share a label.
    pub(super) fn count_request(&self, route: RouteLabel, registry: Option<&Registry>, outcome: Outcome) {
        self.requests[outcome.index()].fetch_add(1, Ordering::Relaxed);
        self.labels.with(registry.map_or("", Registry::as_str), |registry| {
            self.metrics.requests.with_label_values(&[route.label(), registry, outcome.label()]).inc();
        });
    }

    /// Counts an answer that is an error, or a body that ended early.
    pub(super) fn count_error(&self, reason: &str) {
        self.metrics.errors.with_label_values(&[reason]).inc();
    }

    /// Shows the age of an answer for which upstream could not be asked.
    pub(super) fn show_stale_age(&self, registry: &Registry, age: Duration) {
        self.labels.with(registry.as_str(), |registry| {
            self.metrics.stale_age.with_label_values(&[registry]).observe(age.as_secs_f64());
        });
    }
}

/// What a body that is counted is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentKind {
    Manifest,
    Blob,
}

impl From<ContentKind> for RouteLabel {
    fn from(content: ContentKind) -> Self {
        match content {
            ContentKind::Manifest => Self::Manifest,
            ContentKind::Blob => Self::Blob,
        }
    }
}

/// Counts the body of one answer while it leaves.
pub(super) struct BodyObserver {
    observer: Arc<Observer>,
    content: ContentKind,
    source: AnswerSource,
    digest: Digest,
    /// What was fetched of the content and served to no client; `None` while that is nothing.
    unserved: Option<unserved::Bytes>,
    /// When the request came; taken with the first byte.
    since: Option<Instant>,
}

impl BodyObserver {
    pub(super) fn new(
        observer: &Arc<Observer>,
        content: ContentKind,
        digest: Digest,
        source: AnswerSource,
        since: Instant,
    ) -> Self {
        let unserved = observer.unserved.of(&digest);
        let observer = Arc::clone(observer);
        Self { observer, content, source, digest, unserved, since: Some(since) }
    }

    /// Counts bytes that leave.
    pub(super) fn count(&mut self, bytes: usize) {
        if let Some(since) = self.since.take() {
            let first_byte = self.observer.first_byte_metric(self.content, self.source);
            first_byte.observe(since.elapsed().as_secs_f64());
        }
        let observer = &self.observer;
        observer.bytes_metric(self.source).inc_by(bytes as u64);
        observer.bytes[self.source as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        // A body that begins in the store may have to go on from upstream.
        if self.unserved.is_none() && self.source != AnswerSource::Hit {
            self.unserved = observer.unserved.of(&self.digest);
        }
        let fetched = self.unserved.as_ref().map_or(0, |unserved| unserved.serve(bytes as u64));
        observer.from_upstream.fetch_add(fetched, Ordering::Relaxed);
        observer.metrics.from_upstream.inc_by(fetched);
        observer.metrics.saved.inc_by(bytes as u64 - fetched);
    }
}

/// A blob as a response body that is counted while it leaves. An error ends the connection, so that the body is seen
/// to be short.
pub(super) fn body(blob: BlobBody, observer: BodyObserver) -> Body {
    let chunks = stream::unfold(blob, |mut blob| async move { Some((blob.next().await?, blob)) });
    self::chunks(chunks, observer)
}

/// The same for chunks of one blob or of parts of it.
pub(super) fn chunks(
    chunks: impl Stream<Item = Result<BodyChunk, pull::Error>> + Send + 'static,
    observer: BodyObserver,
) -> Body {
    Body::stream(stream::unfold((Box::pin(chunks), observer), |(mut chunks, mut observer)| async move {
        let chunk: Result<BodyChunk, BodyError> = match chunks.next().await? {
            Ok(chunk) => {
                observer.count(chunk.len());
                Ok(chunk)
            }
            Err(error) => {
                observer.observer.count_error(error.reason());
                // hyper drops what it has buffered when a body fails, the head included; let it flush that first.
                tokio::task::yield_now().await;
                Err(error.into())
            }
        };
        Some((chunk, (chunks, observer)))
    }))
}

/// A page of a list as a response body. An error ends the connection, so that the body is seen to be short.
pub(super) fn list(page: PageBody, observer: &Arc<Observer>) -> Body {
    let observer = Arc::clone(observer);
    Body::stream(stream::unfold((page, observer), |(mut page, observer)| async move {
        let chunk: Result<BodyChunk, BodyError> = match page.next().await? {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => {
                observer.count_error(error.reason());
                // As for a blob.
                tokio::task::yield_now().await;
                Err(error.into())
            }
        };
        Some((chunk, (page, observer)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics;

    #[test]
    fn the_status_page_and_the_metrics_agree_and_no_outcome_shares_a_total() {
        let registry = metrics::Registry::new();
        let labels = Arc::new(RegistryLabels::new(["reg.test".to_owned()]));
        let observer =
            Arc::new(Observer::new(Metrics::register(&registry).unwrap(), labels, Unserved::default()));
        let reg: Registry = "reg.test".parse().unwrap();
        for (n, outcome) in Outcome::all().enumerate() {
            assert_eq!(outcome.index(), n, "{outcome:?}");
            for _ in 0..=n {
                observer.count_request(RouteLabel::Blob, Some(&reg), outcome);
            }
        }
        for (n, source) in AnswerSource::ALL.iter().copied().enumerate() {
            let digest = Digest::of(b"x");
            BodyObserver::new(&observer, ContentKind::Blob, digest, source, Instant::now()).count(100 + n);
        }
        let page = String::from_utf8(registry.render().unwrap()).unwrap();
        let totals = observer.totals();
        assert_eq!((totals.requests.len(), totals.bytes.len()), (SOURCES + OTHERS.len(), SOURCES));
        for (outcome, count) in &totals.requests {
            let labels = format!(r#"{{outcome="{outcome}",registry="reg.test",route="blob"}}"#);
            assert!(page.contains(&format!("larder_requests_total{labels} {count}\n")), "{outcome}: {page}");
        }
        for (source, bytes) in &totals.bytes {
            let line = format!("larder_served_bytes_total{{source=\"{}\"}} {bytes}\n", source.label());
            assert!(page.contains(&line), "{line}: {page}");
        }
    }
}
