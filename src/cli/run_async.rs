//! Short asynchronous work within a command that is not asynchronous.

use std::path::Path;

use super::failure::Failure;
use crate::admin::control::{self, ControlCommand};

/// Runs something short to its end, on a runtime of its own. `work` is made within it: a timer or a socket that is made
/// outside of a runtime panics.
///
/// # Errors
/// The operating system has no runtime to give.
pub(super) fn run_async<T>(work: impl AsyncFnOnce() -> T) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    Ok(runtime.block_on(async { work().await }))
}

/// Sends a command to the running daemon, which listens at `socket`.
///
/// # Errors
/// No daemon runs, or it refuses.
pub(super) fn ask_daemon<C: ControlCommand>(socket: &Path, command: &C) -> Result<C::Reply, Failure> {
    run_async(async || control::send(socket, command).await)?.map_err(Failure::caused)
}
