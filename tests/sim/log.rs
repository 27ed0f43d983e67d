//! What the daemon logs, kept for the story and searched for secrets.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

/// Bytes of a history's log that are kept.
const KEPT_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap();
        if kept.len() < KEPT_MAX {
            kept.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(Kept::default)
}

/// Begins to keep what is logged.
pub(crate) fn begin() {
    let filter = tracing_subscriber::EnvFilter::new("warn,larder=debug");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false);
    if lines.with_writer(|| kept().clone()).try_init().is_ok() {
        // A thread of the daemon's that panics is told by the log; the world's own says it aloud.
        let aloud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let _ = writeln!(kept().clone(), "PANIC of {name}: {panic}");
            if name == "main" || name == crate::time::THREAD {
                aloud(panic);
            }
        }));
    }
}

/// What was logged since it was last taken.
pub(crate) fn take() -> String {
    String::from_utf8_lossy(&std::mem::take(&mut *kept().0.lock().unwrap())).into_owned()
}
