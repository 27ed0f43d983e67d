//! The log of a command that runs for long: where it is written, and how much of it.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Changes how much is logged while the daemon runs.
pub(super) struct LogLevelHandle(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

/// Begins to write the log to standard error. Called once a process.
pub(super) fn start(log: LogConfig) -> LogLevelHandle {
    let lines = tracing_subscriber::fmt().with_env_filter(filter(log.level)).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            LogLevelHandle(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        LogFormat::Json => {
            let lines = lines.json().with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            LogLevelHandle(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    }
}

impl LogLevelHandle {
    /// From now on lines of this level and above are written.
    pub(super) fn set(&self, level: LogLevel) {
        if let Err(error) = (self.0)(filter(level)) {
            tracing::error!(%error, "the log level cannot be changed");
        }
    }
}

/// Lines of other crates are written from warnings on: theirs below that are for their authors.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,larder={}", level.name()))
}
