//! The log of the daemon: where it is written, and how much of it.
//!
//! Promises: no request waits for the log. Lines go through a bounded queue to a thread of their own, which alone waits
//! for standard error; what a slow terminal, pipe or disk does not take is dropped and counted
//! (`larder_log_lines_dropped_total`). At the stop what is queued is written for about a second at most.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Lines that may wait to be written: a few seconds of a node that starts all its pods, and a few megabytes.
const QUEUED_LINES_MAX: usize = 8_192;

/// The log, until the process ends: dropped, it writes what is queued.
pub(super) struct Log {
    filter: LogFilter,
    dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    _writing: WorkerGuard,
}

/// Changes what is logged while the daemon runs. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogFilter(Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

/// Begins to write the log to standard error. Called once a process.
pub(super) fn start(log: LogConfig) -> Log {
    let (writer, dropped, writing) = queue(io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter(log)).with_writer(writer);
    let filter = match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            LogFilter(Arc::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        LogFormat::Json => {
            let lines = lines.json().with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            LogFilter(Arc::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    };
    Log { filter, dropped, _writing: writing }
}

impl Log {
    /// Changes what is logged.
    pub(super) fn filter(&self) -> LogFilter {
        self.filter.clone()
    }

    /// Counts the lines that were dropped so far.
    pub(super) fn dropped(&self) -> Arc<dyn Fn() -> u64 + Send + Sync> {
        Arc::clone(&self.dropped)
    }
}

impl LogFilter {
    /// From now on what `log` says is written; its format stays as it is.
    pub(super) fn set(&self, log: LogConfig) {
        if let Err(error) = (self.0)(filter(log)) {
            tracing::error!(%error, "what is logged cannot be changed");
        }
    }
}

/// Lines of other crates are written from warnings on: theirs below that are for their authors.
fn filter(LogConfig { level, access, .. }: LogConfig) -> EnvFilter {
    let access = if access { LogLevel::Info.name() } else { "off" };
    EnvFilter::new(format!("warn,larder={},larder::access={access}", level.name()))
}

/// What lines are put into, how many were dropped so far, and the thread that writes them to `to`.
fn queue(to: impl Write + Send + 'static) -> (NonBlocking, Arc<dyn Fn() -> u64 + Send + Sync>, WorkerGuard) {
    let failed = Arc::new(AtomicU64::new(0));
    let to = Counted { to, failed: Arc::clone(&failed) };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(QUEUED_LINES_MAX).lossy(true);
    let (writer, writing) = builder.thread_name("log").finish(to);
    let full = writer.error_counter();
    let dropped = move || full.dropped_lines() as u64 + failed.load(Ordering::Relaxed);
    (writer, Arc::new(dropped), writing)
}

/// Counts lines that cannot be written: the reader of the pipe has gone, or the disk is full.
struct Counted<W> {
    to: W,
    failed: Arc<AtomicU64>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // All or nothing, so that the rest of a line is not taken for another one.
        if self.to.write_all(line).is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A terminal that takes a line only when it is told to.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_that_takes_nothing_holds_up_no_line_and_what_it_misses_is_counted() {
        let (release, stuck) = mpsc::channel();
        let (mut writer, dropped, writing) = queue(Stuck(stuck));
        for _ in 0..QUEUED_LINES_MAX + 100 {
            writer.write_all(b"a line\n").unwrap();
        }
        // One or two are with the terminal already.
        let lost = dropped();
        assert!((98..=100).contains(&lost), "{lost}");
        drop((release, writer, writing));
        assert_eq!(dropped(), lost);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut writer, dropped, writing) = queue(Gone);
        for _ in 0..3 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop((writer, writing));
        assert_eq!(dropped(), 3);
    }

    #[test]
    fn the_request_log_is_on_whatever_the_level_and_off_when_it_is_switched_off() {
        let text = |level, access| filter(LogConfig { level, access, format: LogFormat::Text }).to_string();
        let directives = |level, access| {
            let mut all: Vec<String> = text(level, access).split(',').map(str::to_owned).collect();
            all.sort();
            all
        };
        assert_eq!(directives(LogLevel::Error, true), ["larder::access=info", "larder=error", "warn"]);
        assert_eq!(directives(LogLevel::Debug, false), ["larder::access=off", "larder=debug", "warn"]);
    }
}
