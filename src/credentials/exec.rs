//! Running the programs that know credentials: plugins and helpers. Bounded in time and output; what they print goes
//! to nobody else, and what they complain about is logged shortly.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use zeroize::Zeroizing;

/// Bytes of output that are read.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of complaint that are logged.
const COMPLAINT_BYTES_MAX: u64 = 512;

/// What to run.
pub(super) struct Run<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [String],
    pub(super) env: &'a [(String, String)],
    pub(super) input: Vec<u8>,
    pub(super) wait: Duration,
}

/// Runs it and returns what it printed.
///
/// # Errors
/// Why there is none. Never quotes standard output; standard error is quoted, shortened.
pub(super) async fn run(run: Run<'_>) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut command = Command::new(run.program);
    command.args(run.args).envs(run.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| format!("cannot be started: {e}"))?;
    let (input, output, complaint) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let feed = async {
            if let Some(mut stdin) = input {
                // A program that does not read its input may be right all the same.
                let _ = stdin.write_all(&run.input).await;
            }
        };
        let mut printed = Zeroizing::new(Vec::new());
        let take = async {
            match output {
                Some(output) => output.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut printed).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let mut said = Vec::new();
        let listen = async {
            if let Some(mut complaint) = complaint {
                let _ = (&mut complaint).take(COMPLAINT_BYTES_MAX).read_to_end(&mut said).await;
                // The rest is read and thrown away, so that the program does not block on it.
                let _ = tokio::io::copy(&mut complaint, &mut tokio::io::sink()).await;
            }
        };
        let ((), taken, ()) = tokio::join!(feed, take, listen);
        taken.map_err(|e| format!("its output cannot be read: {e}"))?;
        let over = printed.len() as u64 > OUTPUT_BYTES_MAX;
        if over {
            return Err(format!("its output is larger than {OUTPUT_BYTES_MAX} bytes"));
        }
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&said).trim().escape_debug()));
        }
        Ok(printed)
    };
    tokio::time::timeout(run.wait, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {:?}", run.wait)))
}
