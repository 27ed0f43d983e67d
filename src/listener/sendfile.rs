//! Sending parts of files without their bytes passing through our memory (`sendfile(2)`), underneath hyper.
//!
//! hyper wants bytes. For a part of a file it is given a slice of a stretch of memory that nobody ever reads or writes
//! ([`Outgoing::stand_in`]), and so counts and frames it as it would the bytes themselves. When hyper writes, a slice
//! of that stretch is known by its address, which says which part of a file it stands for and how much of it has left
//! already ([`Outgoing::poll_write`]).
//!
//! Promises: the stretch itself is never sent, which needs that hyper never copies body bytes, so the connection asks
//! for vectored writes and a test compares every byte; a part that had to wait for a slow client is vouched for again
//! before the rest of it leaves.
//!
//! Deliberately not here: a way for filesystems without `splice`; since Linux 6.5 the kernel has one, and before that
//! every filesystem with a page cache could do it.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::listener::socket::Socket;
use crate::support::body_chunk::FileRange;

/// Bytes of one part at most.
pub(crate) const EXTENT_MAX: usize = 256 * 1024;
/// Parts that are on their way at the same time on one connection; hyper holds one or two, and never more than 16.
const PLACES: usize = 20;
/// A part that has waited this long for its client is looked at again: its pages may have left memory, and what the
/// disk then returns has not been checked.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The stretch of memory: zeroes that the kernel only promised, so it costs addresses and no memory.
fn stretch() -> &'static [u8] {
    static STRETCH: OnceLock<&'static [u8]> = OnceLock::new();
    STRETCH.get_or_init(|| Box::leak(vec![0; PLACES * EXTENT_MAX].into_boxed_slice()))
}

/// What is on its way on one connection, shared by the body that hyper reads from and the socket that it writes to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outgoing(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    parts: [Option<Part>; PLACES],
    next: usize,
}

#[derive(Debug)]
struct Part {
    extent: FileRange,
    /// Since when it waits for the client.
    waits: Option<Instant>,
}

/// Where a slice of the stretch points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    number: usize,
    sent: usize,
}

impl Place {
    fn of(slice: &[u8]) -> Option<Self> {
        let at = slice.as_ptr().addr().checked_sub(stretch().as_ptr().addr())?;
        // An empty slice may point just behind something.
        (at < PLACES * EXTENT_MAX && !slice.is_empty())
            .then_some(Self { number: at / EXTENT_MAX, sent: at % EXTENT_MAX })
    }
}

impl Outgoing {
    /// What hyper is to be given for a part of a file.
    ///
    /// # Errors
    /// More parts, or longer ones, than there are places for.
    pub(crate) fn stand_in(&self, extent: FileRange) -> io::Result<Bytes> {
        let mut places = self.lock();
        let (number, len) = (places.next, extent.len);
        if len > EXTENT_MAX || places.parts[number].is_some() {
            return Err(io::Error::other("too much of a file at once"));
        }
        places.parts[number] = Some(Part { extent, waits: None });
        places.next = (number + 1) % PLACES;
        Ok(Bytes::from_static(&stretch()[number * EXTENT_MAX..][..len]))
    }

    /// Writes some of `pieces`, which may stand for parts of files.
    pub(crate) fn poll_write(
        &self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pieces = &pieces[pieces.iter().position(|piece| !piece.is_empty()).unwrap_or(0)..];
        match pieces.iter().position(|piece| Place::of(piece).is_some()) {
            None => socket.poll_write_pieces(cx, pieces),
            Some(0) => self.poll_send(socket, cx, &pieces[0]),
            // The kernel holds these back for the file that follows at once, so that they share their packets.
            Some(before) => socket.poll_write_more(cx, &pieces[..before]),
        }
    }

    fn poll_send(&self, socket: &mut Socket, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let unknown = || io::Error::other("a part of a file that nobody announced");
        let Place { number, sent } = Place::of(slice).ok_or_else(unknown)?;
        let mut places = self.lock();
        let place = &mut places.parts[number];
        let part = place.as_mut().ok_or_else(unknown)?;
        let offset = part.extent.offset + sent as u64;
        if part.waits.is_some_and(|since| since.elapsed() > TRUSTED_FOR) {
            part.waits = None;
            if !part.extent.is_right_from(offset) {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        let left = slice.len().min(part.extent.len.saturating_sub(sent));
        match socket.poll_sendfile(cx, &part.extent.file, offset, left) {
            Poll::Pending => {
                part.waits.get_or_insert_with(Instant::now);
                Poll::Pending
            }
            // Somebody has cut the file off.
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(count)) => {
                part.waits = None;
                if sent + count >= part.extent.len {
                    *place = None;
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
