//! Following a flight: a reader gets the bytes of a download up to the readable offset.
//!
//! A follower never holds up the fill. A download may begin anew, or go on past the disk; a follower goes on with it as
//! long as what it was sent is how that content begins. Deliberately not here: what a body does that cannot go on
//! (`body`).

use tokio::sync::watch;

use super::first_bytes::was_for_store_alone;
use crate::pull::blob::flight::content::FlightContent;
use crate::pull::blob::flight::progress::Progress;
use crate::pull::blob::past_the_disk::window::{WindowHandle, WindowReader};
use crate::pull::blob::withheld_tail::TAIL;
use crate::pull::error::Error;
use crate::reference::{Digest, Hasher};
use crate::store;
use crate::support::body_chunk::BodyChunk;

/// A reader that is further ahead of the readable offset than this does not wait for it: at a slow upstream's 8 MB/s
/// the fill would take a second to get there.
const FAR_AHEAD: u64 = 8 * 1024 * 1024;

/// What the client was told and sent already, which the content of a flight that begins anew must agree with.
#[derive(Debug)]
pub(super) struct Sent {
    /// The size of the blob in the head of the answer.
    size: Option<u64>,
    /// The content that bytes were sent of.
    content: Option<FlightContent>,
}

impl Sent {
    /// Nothing yet, of a blob whose size in the head of the answer is `size`.
    pub(super) fn nothing(size: Option<u64>) -> Self {
        Self { size, content: None }
    }

    /// The content that bytes were sent of; `None` if none were, or they were right.
    pub(super) fn content(&self) -> Option<&FlightContent> {
        self.content.as_ref()
    }

    /// What was sent was verified: right content begins like that.
    pub(super) fn is_right(&mut self) {
        self.content = None;
    }

    /// Bytes from `at` on come from `content`, of a blob of `size` bytes.
    ///
    /// # Errors
    /// They do not belong to what was sent before.
    fn goes_on_with(&mut self, content: &FlightContent, size: Option<u64>, at: u64) -> Result<(), Error> {
        let same_size = self.size.is_none() || size.is_none() || self.size == size;
        if !same_size || self.content.as_ref().is_some_and(|before| !content.continues(before, at)) {
            return Err(Error::ContentReplaced);
        }
        if self.content.as_ref().is_none_or(|before| !content.is_same(before)) {
            self.content = Some(content.clone());
        }
        Ok(())
    }

    /// Up to where bytes of content of unverified `size` may be sent: never all that the head of the answer announced.
    fn limit(&self, size: Option<u64>) -> u64 {
        let announced = self.size.filter(|_| size.is_none());
        announced.map_or(u64::MAX, |announced| announced.saturating_sub(TAIL))
    }
}

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
    /// What is there of it.
    pub(super) growing: Option<FlightContent>,
    /// How much a download that was given up received for the disk, and the hash of that.
    pub(super) detached: Option<(u64, Hasher)>,
    pub(super) is_complete: bool,
    /// Why what was received cannot be read back.
    pub(super) error: Option<store::Error>,
}

/// The next bytes of a flight.
///
/// # Errors
/// The download failed, or its content does not belong to what was sent.
pub(super) async fn follow(
    digest: Digest,
    progress: &mut watch::Receiver<Progress>,
    at: u64,
    end: Option<u64>,
    sent: &mut Sent,
    may_jump: bool,
) -> Result<Seen, Error> {
    // A download that began anew comes to where this reader is by itself, and what was sent is compared on the way.
    let may_jump = may_jump && sent.content.is_none();
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
    let detached = match &now {
        Progress::Detached { written, hasher, .. } => Some((*written, hasher.clone())),
        _ => None,
    };
    let (growing, up_to, size) = match now {
        Progress::Filling { readable, .. } if readable <= at => return Ok(Seen::FarBehind),
        Progress::Filling { growing, readable, size, .. } => (growing, readable.min(sent.limit(size)), size),
        Progress::Complete { growing, size } => (growing, size, Some(size)),
        Progress::Detached { growing: Some(growing), written, hasher, size, window: Some(window) }
            if at < written =>
        {
            sent.goes_on_with(&growing, size, at)?;
            match window.readable_beyond(at, sent.size).await? {
                Some(readable) => (growing, readable.min(written), size),
                // Not what it should be, or not to be had here.
                None => {
                    let (growing, detached) = (Some(growing), Some((written, hasher)));
                    return Ok(Seen::NotOnDisk(Box::new(Missing {
                        growing,
                        detached,
                        is_complete,
                        error: None,
                    })));
                }
            }
        }
        Progress::Detached { growing, written, hasher, window, .. } => {
            return past_the_disk(growing, (written, hasher), window, at, sent);
        }
        Progress::Failed(error) if was_for_store_alone(&error) => {
            let growing = sent.content.clone();
            return Ok(Seen::NotOnDisk(Box::new(Missing { growing, detached, is_complete, error: None })));
        }
        Progress::Failed(error) => return Err(error),
        Progress::Waiting => return Err(Error::LeaderGone),
    };
    sent.goes_on_with(&growing, size, at)?;
    let up_to = up_to.min(end.unwrap_or(u64::MAX));
    if up_to <= at {
        return Ok(Seen::End);
    }
    Ok(match growing.read(at, up_to).await {
        Ok(chunk) => Seen::Chunk(chunk),
        Err(error) => {
            tracing::error!(%digest, %error, at, "what was received cannot be read back; it is fetched again");
            let (growing, error) = (Some(growing), Some(error));
            Seen::NotOnDisk(Box::new(Missing { growing, detached, is_complete, error }))
        }
    })
}

/// How a reader goes on that has everything that was written: it shares the rest with others, or goes on by itself if
/// it comes too late for that.
fn past_the_disk(
    growing: Option<FlightContent>,
    (written, hasher): (u64, Hasher),
    window: Option<WindowHandle>,
    at: u64,
    sent: &Sent,
) -> Result<Seen, Error> {
    let goes_on = |before: &FlightContent| growing.as_ref().is_some_and(|now| now.continues(before, at));
    if sent.content.as_ref().is_some_and(|before| !goes_on(before)) {
        return Err(Error::ContentReplaced);
    }
    if let Some(joined) = window.and_then(|window| window.join(at, FAR_AHEAD, sent.size)) {
        return Ok(Seen::Shared(joined));
    }
    let detached = Some((written, hasher));
    Ok(Seen::NotOnDisk(Box::new(Missing { growing, detached, is_complete: false, error: None })))
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
