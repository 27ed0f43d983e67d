//! When the answer to a client may begin that follows a download.

use std::time::Duration;

use tokio::sync::watch;

use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::withheld_tail::TAIL;
use crate::pull::error::Error;

/// How long a caller that upstream has answered yes waits for upstream's answer to the leader that it joined: less than
/// a registry may take in all, so that a download of its own still begins before its runtime gives up.
const LEADER_WAIT: Duration = Duration::from_secs(5);

/// Waits until a flight has bytes, and knows how many if that is needed, or has failed. A blob so small that it is
/// withheld whole is waited for, so that a wrong one is an error before any header has left; and one that a mirror
/// delivers until there are bytes to serve, so that no client is told a wrong size.
pub(crate) async fn first_bytes(
    mut progress: watch::Receiver<Progress>,
    size_needed: bool,
) -> Result<(watch::Receiver<Progress>, Option<u64>), Error> {
    let is_ready = |progress: &Progress| match progress {
        Progress::Waiting => false,
        Progress::Filling { size: Some(size), is_mirrored, readable, .. } => {
            *size > TAIL && (!is_mirrored || *readable > 0)
        }
        Progress::Filling { size: None, readable, .. } => !size_needed && *readable > 0,
        _ => true,
    };
    let (size, window) = match progress.wait_for(is_ready).await.as_deref() {
        Ok(Progress::Filling { size, .. }) => (*size, None),
        Ok(Progress::Complete { size, .. }) => (Some(*size), None),
        Ok(Progress::Detached { size, window, .. }) => (*size, window.clone()),
        Ok(Progress::Failed(error)) => return Err(error.clone()),
        Ok(Progress::Waiting) | Err(_) => return Err(Error::LeaderGone),
    };
    let is_small = size.is_some_and(|size| size <= TAIL);
    if let Some(window) = window.filter(|window| is_small || window.is_mirrored()) {
        // Wrong content of a mirror is delivered to no client before it is noticed: the blob is looked for anew.
        window.readable_beyond(0, None).await?.ok_or(Error::LeaderGone)?;
    }
    Ok((progress, size))
}

/// Whether upstream has answered the leader, within [`LEADER_WAIT`].
pub(crate) async fn has_answer_soon(progress: &mut watch::Receiver<Progress>) -> bool {
    let answered = progress.wait_for(|progress| !matches!(progress, Progress::Waiting));
    tokio::time::timeout(LEADER_WAIT, answered).await.is_ok()
}
