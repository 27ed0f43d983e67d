//! The log of the daemon: where it is written, and how much of it.
//!
//! Promises: no request waits for the log. Lines go through a bounded queue to a thread of their own, which alone waits
//! for standard error; what a slow terminal, pipe or disk does not take is dropped, before it costs the time to make a
//! text of it, and counted (`larder_log_lines_dropped_total`). At the stop what is queued is written for about a second
//! at most.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Lines that may wait to be written: a few seconds of a node that starts all its pods, and a few megabytes.
const QUEUED_LINES_MAX: usize = 8_192;
/// Lines that threads are making while the queue becomes full: more than there are threads.
const LINES_BEING_MADE_MAX: usize = 1_024;

/// The log, until the process ends: dropped, it writes what is queued.
pub(super) struct Log {
    filter: LogFilter,
    dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    _writing: WorkerGuard,
}

/// Changes what is logged while the daemon runs. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogFilter(reload::Handle<EnvFilter, Registry>);

/// Begins to write the log to standard error, and to make spans for traces. Called once a process.
pub(super) fn start(log: LogConfig, spans: Option<Spans>) -> Log {
    let Queue { writer, backlog, dropped, writing } = queue(io::stderr());
    let (filter, handle) = reload::Layer::new(filter(log));
    let lines = fmt::layer().with_writer(writer);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Each with a filter of its own: traces have the spans of every request, whatever the level of the log is.
    let lines = lines.with_filter(filter.and(backlog)).boxed();
    subscriber(lines, spans).init();
    Log { filter: LogFilter(handle), dropped, _writing: writing }
}

/// What makes spans for traces.
pub(super) type Spans = Box<dyn Layer<Logged> + Send + Sync>;
/// What spans are made over: the log.
pub(super) type Logged = Layered<Box<dyn Layer<Registry> + Send + Sync>, Registry>;

/// What writes lines and makes spans. Without spans to send there is no layer for them, not even an empty one: beside
/// it every span would be made, whatever the filter of the lines leaves out.
fn subscriber(lines: Box<dyn Layer<Registry> + Send + Sync>, spans: Option<Spans>) -> Dispatch {
    let lines = tracing_subscriber::registry().with(lines);
    match spans {
        Some(spans) => lines.with(spans).into(),
        None => lines.into(),
    }
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
        if let Err(error) = self.0.reload(filter(log)) {
            tracing::error!(%error, "what is logged cannot be changed");
        }
    }
}

/// Crates whose errors Larder tells itself: they log each attempt, and documents that they do not understand as a
/// whole.
const SILENT: &str = "kube_client=off,kube_runtime=off";

/// Lines of other crates are written from warnings on: theirs below that are for their authors.
fn filter(LogConfig { level, access, .. }: LogConfig) -> EnvFilter {
    let access = if access { LogLevel::Info.name() } else { "off" };
    EnvFilter::new(format!("warn,{SILENT},larder={},larder::access={access}", level.name()))
}

/// Lines on their way.
struct Queue {
    /// What lines are put into.
    writer: Waiting,
    /// What says whether there is room for a line.
    backlog: Backlog,
    /// How many were dropped so far.
    dropped: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The thread that writes them.
    writing: WorkerGuard,
}

/// A queue whose lines are written to `to`.
fn queue(to: impl Write + Send + 'static) -> Queue {
    let backlog = Backlog::default();
    let to = Counted { to, backlog: backlog.clone() };
    let builder = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUED_LINES_MAX + LINES_BEING_MADE_MAX)
        .lossy(true);
    let (queue, writing) = builder.thread_name("log").finish(to);
    let (full, lost) = (queue.error_counter(), backlog.clone());
    let dropped = move || full.dropped_lines() as u64 + lost.0.dropped.load(Ordering::Relaxed);
    Queue {
        writer: Waiting { queue, backlog: backlog.clone() },
        backlog,
        dropped: Arc::new(dropped),
        writing,
    }
}

/// How many lines wait, and whether there is room for one more. Cheap to clone; clones share the numbers.
#[derive(Clone, Default)]
struct Backlog(Arc<Lines>);

#[derive(Default)]
struct Lines {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

impl Backlog {
    /// Whether one more line may wait; one that may not is counted as lost.
    fn admit(&self) -> bool {
        let has_room = self.0.waiting.load(Ordering::Relaxed) < QUEUED_LINES_MAX;
        if !has_room {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }
}

impl<S> Filter<S> for Backlog {
    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, _: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admit()
    }
}

/// Counts lines that are queued.
#[derive(Clone)]
struct Waiting {
    queue: NonBlocking,
    backlog: Backlog,
}

impl Write for Waiting {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.backlog.0.waiting.fetch_add(1, Ordering::Relaxed);
        self.queue.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.queue.flush()
    }
}

impl<'a> MakeWriter<'a> for Waiting {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Counts lines that leave the queue, and those that cannot be written: the reader of the pipe has gone, or the disk is
/// full.
struct Counted<W> {
    to: W,
    backlog: Backlog,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.backlog.0.waiting.fetch_sub(1, Ordering::Relaxed);
        // All or nothing, so that the rest of a line is not taken for another one.
        if self.to.write_all(line).is_err() {
            self.backlog.0.dropped.fetch_add(1, Ordering::Relaxed);
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
        let Queue { mut writer, backlog, dropped, writing } = queue(Stuck(stuck));
        let mut made = 0;
        for _ in 0..QUEUED_LINES_MAX + 100 {
            if backlog.admit() {
                made += 1;
                writer.write_all(b"a line\n").unwrap();
            }
        }
        // One or two are with the terminal already.
        let lost = dropped();
        assert!((98..=100).contains(&lost), "{lost}");
        assert_eq!(made + lost, QUEUED_LINES_MAX as u64 + 100, "a line that is dropped costs its text");
        drop((release, writer, writing));
        assert_eq!(dropped(), lost);
        assert!(backlog.admit(), "what has been written still takes room");
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
        let Queue { mut writer, dropped, writing, .. } = queue(Gone);
        for _ in 0..3 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop((writer, writing));
        assert_eq!(dropped(), 3);
    }

    #[test]
    fn a_request_costs_no_span_where_none_is_written_or_sent() {
        let is_made = |level, spans| {
            let log = LogConfig { level, access: true, format: LogFormat::Text };
            let lines = fmt::layer().with_writer(io::sink).with_filter(filter(log).and(Backlog::default()));
            let made = || !tracing::debug_span!("request").is_disabled();
            tracing::dispatcher::with_default(&subscriber(lines.boxed(), spans), made)
        };
        let traces = || Some(fmt::layer().with_writer(io::sink).boxed());
        assert!(!is_made(LogLevel::Info, None) && is_made(LogLevel::Debug, None));
        assert!(is_made(LogLevel::Info, traces()), "a trace has the spans of every request");
    }

    #[test]
    fn the_request_log_is_on_whatever_the_level_and_off_when_it_is_switched_off() {
        let text = |level, access| filter(LogConfig { level, access, format: LogFormat::Text }).to_string();
        let directives = |level, access| {
            let mut all: Vec<String> = text(level, access).split(',').map(str::to_owned).collect();
            all.retain(|directive| !SILENT.contains(directive.as_str()));
            all.sort();
            all
        };
        assert!(
            text(LogLevel::Debug, true).contains("kube_client=off"),
            "each attempt to reach an API server"
        );
        assert_eq!(directives(LogLevel::Error, true), ["larder::access=info", "larder=error", "warn"]);
        assert_eq!(directives(LogLevel::Debug, false), ["larder::access=off", "larder=debug", "warn"]);
    }
}
