//! `[log]`: what is logged, and how.

use crate::config::schema::section;
use crate::config::value::{choice, flag};

section! {
    /// What is logged, and how.
    Log = "log";

    /// The least important lines that are written.
    reload level: LogLevel = choice(&LogLevel::NAMES), |_| LogLevel::Info;

    /// Whether each request has a line, whatever `level` is: who asked for what, how it was answered and from where, and
    /// for a refusal why (`docs/logs.md`).
    reload access: bool = flag(), |_| true;

    /// Lines for people, or for collectors.
    restart format: LogFormat = choice(&LogFormat::NAMES), |_| LogFormat::Text;
}

impl Log {
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
