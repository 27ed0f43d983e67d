//! Runs the programs that have credentials: provider plugins and docker credential helpers.
//!
//! Promises: time and output are bounded; standard output, which holds secrets, is in no text of an error and in no
//! log; the beginning of standard error is.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use crate::support::size;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use zeroize::Zeroizing;

/// Bytes of standard output at most.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of standard error that are logged.
const ERROR_OUTPUT_BYTES_MAX: u64 = 512;

/// A program to run, with its input and the longest time that it may take.
pub(crate) struct Invocation<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [(String, String)],
    pub(crate) input: Zeroizing<Vec<u8>>,
    pub(crate) wait: Duration,
}

/// A program that did not end well.
pub(crate) struct RunError {
    /// Why: with the beginning of standard error, and nothing of standard output.
    pub(super) why: String,
    /// How it ended, where it ended by itself.
    #[cfg_attr(not(feature = "kubernetes"), allow(dead_code, reason = "read where an API server is asked"))]
    status: Option<ExitStatus>,
    /// Its standard output, where it ended by itself. Not to be shown: it may hold a secret.
    pub(super) output: Zeroizing<Vec<u8>>,
}

impl From<String> for RunError {
    fn from(why: String) -> Self {
        Self { why, status: None, output: Zeroizing::default() }
    }
}

#[cfg(feature = "kubernetes")]
impl RunError {
    /// Why, without anything that the program wrote.
    pub(crate) fn without_output(self) -> String {
        self.status.map_or(self.why, |status| status.to_string())
    }
}

/// Runs a program and returns its standard output.
///
/// # Errors
/// It cannot be started, takes too long, writes too much, or ends with another status than 0.
pub(crate) async fn run(invocation: Invocation<'_>) -> Result<Zeroizing<Vec<u8>>, RunError> {
    let mut command = Command::new(invocation.program);
    command.args(invocation.args).envs(invocation.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("cannot be started: {e}"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program may succeed without reading its input.
                let _ = stdin.write_all(&invocation.input).await;
            }
        };
        let mut output = Zeroizing::new(Vec::new());
        let read = async {
            match stdout {
                Some(stdout) => stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut output).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let mut error_output = Vec::new();
        let drain = async {
            if let Some(mut stderr) = stderr {
                let _ = (&mut stderr).take(ERROR_OUTPUT_BYTES_MAX).read_to_end(&mut error_output).await;
                // The rest is read and dropped, so that the program does not block on it.
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            }
        };
        let ((), read, ()) = tokio::join!(feed, read, drain);
        read.map_err(|e| format!("its output cannot be read: {e}"))?;
        let over = output.len() as u64 > OUTPUT_BYTES_MAX;
        if over {
            return Err(format!("its output is larger than {}", size::shown(OUTPUT_BYTES_MAX)).into());
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if !status.success() {
            let why = format!("{status}: {}", String::from_utf8_lossy(&error_output).trim().escape_debug());
            return Err(RunError { why, status: Some(status), output });
        }
        Ok(output)
    };
    tokio::time::timeout(invocation.wait, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", invocation.wait).into()))
}
