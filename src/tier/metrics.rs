//! The metrics of the shared tier. They mirror state and are read by nothing but `/metrics`.

use super::error::ErrorKind;
use crate::support::metric_labels::{CountersBy, Label, LatenciesBy, label_values};
use crate::support::metrics::{IntCounter, MetricsError, Registry};

label_values! {
    /// What came of a look for content.
    pub(super) enum Read: "result" {
        Hit => "hit",
        Miss => "miss",
        Error => "error",
        /// The tier fails, or is slower than the registry.
        LeftAlone => "left_alone",
        /// The registry does not confirm in time that it has the content.
        Unconfirmed => "unconfirmed",
        /// In the middle of a body.
        BrokenOff => "broken_off",
    }
}

label_values! {
    /// What came of content for the tier.
    pub(super) enum Write: "result" {
        Written => "written",
        /// It was there already.
        Present => "present",
        /// Its download failed.
        Aborted => "aborted",
        Failed => "failed",
        /// Parts of others were before it for too long.
        Skipped => "skipped",
    }
}

label_values! {
    /// A request that is timed.
    pub(super) enum Operation: "operation" {
        Get => "get",
        Put => "put",
    }
}

/// Why a request failed, or was for nothing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failure {
    Request(ErrorKind),
    /// What is there is no record that the cluster's key sealed.
    BadRecord,
}

impl Label for Failure {
    const NAME: &'static str = "kind";
    // Of the other kinds none is that of a request that is counted.
    const ALL: &'static [Self] = &[
        Self::Request(ErrorKind::NotFound),
        Self::Request(ErrorKind::Changed),
        Self::Request(ErrorKind::Unsupported),
        Self::Request(ErrorKind::Denied),
        Self::Request(ErrorKind::NoCredential),
        Self::Request(ErrorKind::Throttled),
        Self::Request(ErrorKind::TimedOut),
        Self::Request(ErrorKind::Unavailable),
        Self::BadRecord,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Request(kind) => kind.label(),
            Self::BadRecord => "bad_record",
        }
    }
}

label_values! {
    /// What this node is for a blob that the tier lacks, where a lease decides that.
    pub(super) enum Leased: "result" {
        /// This node writes it.
        Claimed => "claimed",
        /// Another node does.
        Waited => "waited",
    }
}

label_values! {
    /// How a wait for another node ended.
    pub(super) enum WaitEnd: "result" {
        Hit => "hit",
        /// The writer was gone.
        TookOver => "took_over",
        GaveUp => "gave_up",
    }
}

/// The metrics of the shared tier. All stay zero without one.
#[derive(Clone)]
pub struct Metrics {
    /// Looks for content, by what came of them.
    pub(super) reads: CountersBy<Read>,
    pub(super) read_bytes: IntCounter,
    pub(super) writes: CountersBy<Write>,
    pub(super) written_bytes: IntCounter,
    pub(super) seconds: LatenciesBy<Operation>,
    pub(super) errors: CountersBy<Failure>,
    pub(super) bad_objects: IntCounter,
    pub(super) leases: CountersBy<Leased>,
    pub(super) waits: LatenciesBy<WaitEnd>,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is registered already.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            reads: registry.counters_by(
                "tier_reads_total",
                "Looks for content in the shared tier: hit, miss, error, left_alone while the tier fails or is slower, unconfirmed where the registry does not confirm content in time, or broken_off in the middle of a body.",
            )?,
            read_bytes: registry.counter("tier_read_bytes_total", "Body bytes read from the shared tier.")?,
            writes: registry.counters_by(
                "tier_writes_total",
                "Content for the shared tier: written, present already, aborted because the download failed, failed, or skipped because parts of others were before it for too long.",
            )?,
            written_bytes: registry
                .counter("tier_written_bytes_total", "Body bytes written to the shared tier.")?,
            seconds: registry.latencies_by(
                "tier_request_seconds",
                "From a request to the shared tier to the head of its answer.",
            )?,
            errors: registry.counters_by(
                "tier_errors_total",
                "Requests to the shared tier that failed, by the kind of failure.",
            )?,
            bad_objects: registry.counter(
                "tier_bad_objects_total",
                "Objects of the shared tier that were not the content of their digest.",
            )?,
            leases: registry.counters_by(
                "tier_leases_total",
                "Blobs that the shared tier lacked: claimed by this node, or waited for because another one had claimed them.",
            )?,
            waits: registry.latencies_by(
                "tier_wait_seconds",
                "Waits for a blob that another node was writing: hit, took_over from a writer that was gone, or gave_up.",
            )?,
        })
    }
}
