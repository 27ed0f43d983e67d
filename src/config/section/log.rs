//! `[log]`: what is logged, and how.

use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{choice, flag, parsed};
use crate::traces::{self, Collector, SampleRatio};

section! {
    /// What is logged, and how.
    Log = "log";

    /// The least important lines that are written.
    reload level: LogLevel = choice(&LogLevel::NAMES), |_| LogLevel::Info;

    /// Whether each request has a line, whatever `level` is: who asked for what, how it was answered and from where,
    /// and for a refusal why (`docs/logs.md`).
    reload access: bool = flag(), |_| true;

    /// Lines for people, or for collectors.
    restart format: LogFormat = choice(&LogFormat::NAMES), |_| LogFormat::Text;

    /// The OpenTelemetry collector that traces are sent to, over HTTP (`docs/traces.md`): its base URL, to which
    /// `/v1/traces` is added. Without it there are no traces.
    restart otlp: Option<Collector> = parsed::<Collector>("URL", &["http://collector:4318"]), |_| None, example "\"http://collector:4318\"";

    /// The share of the traces that are sent. What a client says about sampling does not count.
    restart otlp_sample: SampleRatio = parsed::<SampleRatio>("percentage", &["100%", "5%", "0.1%"]), |_| SampleRatio::default();
}

impl Log {
    /// A collector is of no use to a program that cannot send traces.
    pub(crate) fn check(&self, place: &Place<'_>) {
        if self.otlp.is_some() && !traces::BUILT_IN {
            let problem = "this larder cannot send traces: it was built without the feature otlp";
            place.known_key("otlp").mistake(problem);
        }
    }

    /// Where traces are sent.
    pub(crate) fn traces(&self) -> traces::Config {
        traces::Config { collector: self.otlp.clone(), sample: self.otlp_sample }
    }

    /// What the log is begun with.
    pub(crate) fn config(&self) -> LogConfig {
        LogConfig { level: self.level, access: self.access, format: self.format }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// Whether each request has a line.
    pub access: bool,
    /// How they look.
    pub format: LogFormat,
}

/// The least important lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What an operator has to mend.
    Error,
    /// What an operator should know.
    Warn,
    /// What changes.
    Info,
    /// One line a question to upstream, within the request and the download that it is for.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const NAMES: [(&'static str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// As configuration and filters have it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, level)| *level == self).map_or("info", |(name, _)| name)
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl LogFormat {
    const NAMES: [(&'static str, Self); 2] = [("text", Self::Text), ("json", Self::Json)];
}
