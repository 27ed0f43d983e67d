//! The metrics of the shared tier. They mirror state and are read by nothing but `/metrics`.

use super::error::ErrorKind;
use crate::support::metric_labels::{CountersBy, Label, LatenciesBy};
use crate::support::metrics::{IntCounter, MetricsError, Registry};

/// What came of a look for content.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    Hit,
    Miss,
    Error,
    /// The tier fails, or is slower than the registry.
    LeftAlone,
    /// The registry does not confirm in time that it has the content.
    Unconfirmed,
    /// In the middle of a body.
    BrokenOff,
}

impl Label for Read {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] =
        &[Self::Hit, Self::Miss, Self::Error, Self::LeftAlone, Self::Unconfirmed, Self::BrokenOff];

    fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Error => "error",
            Self::LeftAlone => "left_alone",
            Self::Unconfirmed => "unconfirmed",
            Self::BrokenOff => "broken_off",
        }
    }
}

/// What came of content for the tier.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    Written,
    /// It was there already.
    Present,
    /// Its download failed.
    Aborted,
    Failed,
    /// Parts of others were before it for too long.
    Skipped,
}

impl Label for Write {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] = &[Self::Written, Self::Present, Self::Aborted, Self::Failed, Self::Skipped];

    fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Present => "present",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A request that is timed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Get,
    Put,
}

impl Label for Operation {
    const NAME: &'static str = "operation";
    const ALL: &'static [Self] = &[Self::Get, Self::Put];

    fn label(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
        }
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

/// What this node is for a blob that the tier lacks, where a lease decides that.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leased {
    /// This node writes it.
    Claimed,
    /// Another node does.
    Waited,
}

impl Label for Leased {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] = &[Self::Claimed, Self::Waited];

    fn label(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Waited => "waited",
        }
    }
}

/// How a wait for another node ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waited {
    Hit,
    /// The writer was gone.
    TookOver,
    GaveUp,
}

impl Label for Waited {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] = &[Self::Hit, Self::TookOver, Self::GaveUp];

    fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::TookOver => "took_over",
            Self::GaveUp => "gave_up",
        }
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
    pub(super) waits: LatenciesBy<Waited>,
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
