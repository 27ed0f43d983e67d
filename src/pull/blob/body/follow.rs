//! Following a flight: a reader gets the bytes of a download up to the readable offset.
//!
//! A follower never holds up the fill. A download may begin anew, or go on past the disk; a follower goes on with it as
//! long as what it was sent is how that content begins. Deliberately not here: what a body does that cannot go on
//! (`body`).

use tokio::sync::watch;

use super::sent::Sent;
use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::flight::led_by::was_for_store_alone;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::hashed_start::HashedStart;
use crate::pull::blob::past_the_disk::window::{WindowHandle, WindowReader};
use crate::pull::error::Error;
use crate::reference::Digest;
use crate::store;
use crate::support::body_chunk::BodyChunk;

/// A reader that is further ahead of the readable offset than this does not wait for it: at a slow upstream's 8 MB/s
/// the fill would take a second to get there.
const FAR_AHEAD: u64 = 8 * 1024 * 1024;

/// What one look at a flight brought.
pub(super) enum Seen {
    Chunk(BodyChunk),
    /// The end of the blob.
    End,
    /// The readable offset is far behind.
    FarBehind,
    /// The next bytes come past the disk, shared with others.
    Shared(WindowReader),
    /// The next bytes are not on disk, or damaged there.
    NotOnDisk(Box<Missing>),
}

/// The next bytes of a flight are not on disk, or damaged there.
pub(super) struct Missing {
    pub(super) received: ReceivedSoFar,
    /// Why what was received cannot be read back.
    pub(super) error: Option<store::Error>,
}

/// What a download has received of a blob, for a client that gets no more from it.
#[derive(Default)]
pub(super) struct ReceivedSoFar {
    /// What is on disk of it.
    pub(super) growing: Option<FlightContent>,
    /// What was received for the disk, or taken from a window, of a download that goes on past the disk.
    pub(super) start: Option<HashedStart>,
    /// Whether it was all of it, and verified.
    pub(super) is_complete: bool,
}

/// The next bytes of a flight.
///
/// # Errors
/// The download failed, or its content does not belong to what was sent.
pub(super) async fn follow(
    digest: Digest,
    progress: &mut watch::Receiver<Progress>,
    sent: &mut Sent,
    may_jump: bool,
) -> Result<Seen, Error> {
    let at = sent.at();
    // A download that began anew comes to where this reader is by itself, and what was sent is compared on the way.
    let may_jump = may_jump && sent.content().is_none();
    let is_useful = |progress: &Progress| match progress {
        Progress::Filling { readable, size, .. } => {
            sent.limit(*size).min(*readable) > at || may_jump && at.saturating_sub(*readable) > FAR_AHEAD
        }
        other => other.is_over(),
    };
    // An error means that the flight is over and gone; its last progress is still there.
    let _ = progress.wait_for(is_useful).await;
    let now = progress.borrow_and_update().clone();
    let is_complete = matches!(now, Progress::Complete { .. });
    let start = match &now {
        Progress::Detached { written, .. } => Some(written.clone()),
        _ => None,
    };
    let not_on_disk = |growing, error| {
        let received = ReceivedSoFar { growing, start, is_complete };
        Ok(Seen::NotOnDisk(Box::new(Missing { received, error })))
    };
    let (growing, up_to, size) = match now {
        Progress::Filling { readable, .. } if readable <= at => return Ok(Seen::FarBehind),
        Progress::Filling { growing, readable, size, .. } => (growing, readable.min(sent.limit(size)), size),
        Progress::Complete { growing, size } => (growing, size, Some(size)),
        Progress::Detached { growing: Some(growing), written, size, window: Some(window) }
            if at < written.len() =>
        {
            sent.goes_on_with(&growing, size)?;
            match window.readable_beyond(at, sent.announced()).await? {
                Some(readable) => (growing, readable.min(written.len()), size),
                // Not what it should be, or not to be had here.
                None => return not_on_disk(Some(growing), None),
            }
        }
        Progress::Detached { growing, window, .. } => {
            return match join_window(growing.as_ref(), window, sent)? {
                Some(joined) => Ok(Seen::Shared(joined)),
                None => not_on_disk(growing, None),
            };
        }
        Progress::Failed(error) if was_for_store_alone(&error) => {
            return not_on_disk(sent.content().cloned(), None);
        }
        Progress::Failed(error) => return Err(error),
        Progress::Waiting => return Err(Error::LeaderGone),
    };
    sent.goes_on_with(&growing, size)?;
    let up_to = up_to.min(sent.end().unwrap_or(u64::MAX));
    if up_to <= at {
        return Ok(Seen::End);
    }
    match growing.read(at, up_to).await {
        Ok(chunk) => Ok(Seen::Chunk(chunk)),
        Err(error) => {
            tracing::error!(%digest, %error, at, "what was received cannot be read back; it is fetched again");
            not_on_disk(Some(growing), Some(error))
        }
    }
}

/// Where a reader that has everything that was written shares the rest with others; `None` if it comes too late for
/// that and goes on by itself.
fn join_window(
    growing: Option<&FlightContent>,
    window: Option<WindowHandle>,
    sent: &Sent,
) -> Result<Option<WindowReader>, Error> {
    if !sent.is_beginning_of(growing) {
        return Err(Error::ContentReplaced);
    }
    Ok(window.and_then(|window| window.join(sent.at(), FAR_AHEAD, sent.announced())))
}

/// A flight that is followed again once it is known what a client was sent, although the disk does not give that back
/// to be compared: by then its content was verified, or there is a hash of what was received.
///
/// # Errors
/// Why the flight failed.
pub(crate) async fn until_over(
    mut progress: watch::Receiver<Progress>,
) -> Result<watch::Receiver<Progress>, Error> {
    let _ = progress.wait_for(Progress::is_over).await;
    let now = progress.borrow().clone();
    match now {
        Progress::Complete { .. } | Progress::Detached { .. } => Ok(progress),
        Progress::Failed(error) => Err(error),
        Progress::Waiting | Progress::Filling { .. } => Err(Error::LeaderGone),
    }
}
