//! Sending bytes of files without copying them through our memory (`sendfile(2)`), underneath hyper.
//!
//! hyper wants bytes. For a range of a file hyper is given a slice of the placeholder, a stretch of memory that is
//! never read or written ([`Outgoing::bytes_for`]), and counts and frames the slice as it would the bytes themselves.
//! When hyper writes, a slice of the placeholder is known by its address, which says which file range it stands for and
//! how much of that range has left already ([`Outgoing::poll_write`]).
//!
//! Promises: the placeholder itself is never sent, as long as hyper never copies body bytes: connections ask for
//! vectored writes, and [`super::sendfile_check`] compares every byte of one body before the first client is served.
//! Where the check fails, [`FileTransfer::Copy`] reads the bytes into memory instead, and compares what it has read.
//! When a slow client has made a range wait, before or after its first byte, the rest of it is checked again before it
//! leaves, and so is what the socket's queue may still hold: the kernel sends the pages as they are then. Other
//! connections do not wait for that check. After the last byte nothing is checked again: the end of a body, as much of
//! it as a queue holds, is copied, and each copy is compared. Bytes that the file gives no more when they are to leave
//! are fetched again. Both is done in [`super::sending`].
//!
//! Deliberately not here: a way for filesystems without `splice`; since Linux 6.5 the kernel has one, and before that
//! every filesystem with a page cache could do it.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::send_buffer::{SMALL_QUEUE_BYTES, SendBuffer};
use super::sending::{Queued, Sending};
use super::socket::Socket;
use crate::support::body_chunk::{FileRange, Refetched, Taken};

/// Bytes of one file range at most; the store reads no more at once.
pub(super) const FILE_RANGE_BYTES_MAX: usize = 512 * 1024;
/// File ranges on their way at the same time on one connection; hyper holds one or two, and never more than 16.
const SLOTS: usize = 20;
/// How bytes of files reach clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileTransfer {
    /// The kernel sends them from the page cache.
    Sendfile,
    /// They are read into memory and written like any other bytes: right with every hyper, and slower.
    Copy,
}

/// What is on its way on one connection, shared by the body that hyper reads from and the socket that hyper writes to.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    transfer: FileTransfer,
    /// Held while the socket is written to: by this connection alone.
    slots: Arc<Mutex<Slots>>,
}

#[derive(Debug)]
struct Slots {
    ranges: [Option<Sending>; SLOTS],
    next: usize,
    queued: Queued,
    buffer: SendBuffer,
}

/// What hyper is given for a range of a file.
pub(super) enum Given {
    /// So many bytes as the range has.
    Now(Bytes),
    /// The file does not give them: they are fetched again.
    Later(Refetched),
}

/// What a slice of the placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    slot: usize,
    /// Bytes of the slot's range before this position.
    sent: usize,
}

impl Position {
    fn of(slice: &[u8]) -> Option<Self> {
        let at = slice.as_ptr().addr().checked_sub(placeholder().as_ptr().addr())?;
        // An empty slice may point just behind the end of any memory.
        (at < SLOTS * FILE_RANGE_BYTES_MAX && !slice.is_empty())
            .then_some(Self { slot: at / FILE_RANGE_BYTES_MAX, sent: at % FILE_RANGE_BYTES_MAX })
    }
}

impl Outgoing {
    /// Nothing is on its way yet.
    pub(super) fn new(transfer: FileTransfer, buffer: SendBuffer) -> Self {
        let ranges = std::array::from_fn(|_| None);
        let slots = Slots { ranges, next: 0, queued: Queued::default(), buffer };
        Self { transfer, slots: Arc::new(Mutex::new(slots)) }
    }

    /// What hyper is given for a range of a file: a slice of the placeholder, or the bytes themselves. So many bytes
    /// follow it in its body, where that is known.
    ///
    /// # Errors
    /// More ranges, or longer ones, than there is a placeholder for; when copying, bytes that are had from nowhere.
    pub(super) fn bytes_for(&self, range: FileRange, follow: Option<u64>) -> io::Result<Given> {
        if range.len > FILE_RANGE_BYTES_MAX {
            return Err(io::Error::other("a file range that is too long"));
        }
        match self.transfer {
            FileTransfer::Sendfile => self.placeholder_for(range, follow).map(Given::Now),
            FileTransfer::Copy => copy(&range),
        }
    }

    fn placeholder_for(&self, range: FileRange, follow: Option<u64>) -> io::Result<Bytes> {
        let mut slots = self.slots.lock();
        let (slot, len) = (slots.next, range.len);
        if slots.ranges[slot].is_some() {
            return Err(io::Error::other("too many file ranges at once"));
        }
        slots.ranges[slot] = Some(Sending::new(range, follow));
        slots.next = (slot + 1) % SLOTS;
        Ok(Bytes::from_static(&placeholder()[slot * FILE_RANGE_BYTES_MAX..][..len]))
    }

    /// Writes some of `slices`, which may stand for file ranges.
    pub(super) fn poll_write(
        &self,
        socket: &mut Socket,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices = &slices[slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0)..];
        let written = match slices.iter().position(|slice| Position::of(slice).is_some()) {
            None => socket.poll_write_slices(cx, slices),
            Some(0) => return self.poll_send(socket, cx, &slices[0]),
            Some(before) => socket.poll_write_more(cx, &slices[..before]),
        };
        if let Poll::Ready(Ok(count)) = &written {
            let Slots { queued, buffer, .. } = &mut *self.slots.lock();
            queued.add_bytes(*count, buffer.queue_bytes());
        }
        written
    }

    /// The client has taken nothing for [`STILL_AFTER`](super::send_buffer::STILL_AFTER).
    ///
    /// # Errors
    /// The socket.
    pub(super) fn stands_still(&self, socket: &Socket) -> io::Result<()> {
        self.slots.lock().buffer.give_back(socket)
    }

    /// Whether a client waits for bytes that are fetched again.
    pub(super) fn is_refetching(&self) -> bool {
        let slots = self.slots.lock();
        slots.ranges.iter().flatten().any(Sending::is_refetching)
    }

    fn poll_send(&self, socket: &mut Socket, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let unknown = || io::Error::other("a slice of the placeholder that stands for no file range");
        let Position { slot, sent } = Position::of(slice).ok_or_else(unknown)?;
        let mut slots = self.slots.lock();
        let Slots { ranges, queued, buffer, .. } = &mut *slots;
        let slot = &mut ranges[slot];
        let sending = slot.as_mut().ok_or_else(unknown)?;
        let rest = sending.rest(sent, slice.len());
        ready!(sending.poll_checked(cx, queued, &rest, sent))?;
        let is_copied = is_end(sending.follow());
        buffer.fit(socket, sending.follow())?;
        let (written, is_of_file) = loop {
            if let Some(bytes) = ready!(sending.poll_instead(cx, sent))? {
                let bytes = &bytes[..bytes.len().min(rest.len)];
                break (socket.poll_write_slices(cx, &[IoSlice::new(bytes)]), false);
            }
            match poll_send_from_file(socket, cx, &rest, is_copied) {
                Err(FileFailed::Lost(error)) => sending.fetch_again(sent, error)?,
                Err(FileFailed::NotInMemory) => {
                    // A thread that may block reads it.
                    sending.check_again(queued, rest);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(written) => break (written, !is_copied),
            }
        };
        let count = ready!(written)?;
        if sending.ends_at(sent + count) {
            *slot = None;
        }
        if is_of_file {
            queued.add(rest.part(0, count), buffer.queue_bytes());
        } else {
            queued.add_bytes(count, buffer.queue_bytes());
        }
        Poll::Ready(Ok(count))
    }
}

/// The file does not give its bytes, and none of them was sent.
enum FileFailed {
    Lost(io::Error),
    /// Without a wait for the disk.
    NotInMemory,
}

/// Sends bytes of a file: the very pages, or a copy that was compared.
fn poll_send_from_file(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    range: &FileRange,
    is_copied: bool,
) -> Result<Poll<io::Result<usize>>, FileFailed> {
    let sent = match &range.check {
        Some(check) if is_copied => {
            let mut sent = Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            let end = range.offset + range.len as u64;
            let mut send = |bytes: &[u8]| sent = socket.poll_write_slices(cx, &[IoSlice::new(bytes)]);
            match check.with_intact(range.offset, end, &mut send) {
                Taken::Intact => sent,
                Taken::Lost => return Err(FileFailed::Lost(io::ErrorKind::InvalidData.into())),
                Taken::NotInMemory => return Err(FileFailed::NotInMemory),
            }
        }
        _ => match socket.poll_sendfile(cx, &range.file, range.offset, range.len) {
            // The file was cut off since.
            Poll::Ready(Ok(0)) => return Err(FileFailed::Lost(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) if !is_of_socket(&error) => return Err(FileFailed::Lost(error)),
            sent => sent,
        },
    };
    Ok(sent)
}

/// Whether `sendfile` failed because of the socket, and not because of the file.
fn is_of_socket(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut)
}

/// Whether a range that so many bytes follow may be in the queue when the last byte of its body was handed over.
fn is_end(follow: Option<u64>) -> bool {
    follow.is_none_or(|follow| follow < SMALL_QUEUE_BYTES as u64)
}

/// The placeholder: zeroes that the kernel only promised, so that it costs addresses and no memory.
fn placeholder() -> &'static [u8] {
    static PLACEHOLDER: OnceLock<&'static [u8]> = OnceLock::new();
    PLACEHOLDER.get_or_init(|| Box::leak(vec![0; SLOTS * FILE_RANGE_BYTES_MAX].into_boxed_slice()))
}

/// A copy of a range, or what is fetched in its place.
///
/// # Errors
/// The file does not give its bytes, and nothing else does.
fn copy(range: &FileRange) -> io::Result<Given> {
    match (compared_copy(range), &range.refetch) {
        (Ok(bytes), _) => Ok(Given::Now(bytes)),
        (Err(_), Some(refetch)) => Ok(Given::Later(Arc::clone(refetch).refetch(range.offset, range.len))),
        (Err(error), None) => Err(error),
    }
}

/// Reads a range in place, and compares what was read. Its bytes were checked just now, so they are in the page cache.
fn compared_copy(range: &FileRange) -> io::Result<Bytes> {
    let Some(check) = &range.check else {
        let mut bytes = BytesMut::zeroed(range.len);
        range.file.read_exact_at(&mut bytes, range.offset)?;
        return Ok(bytes.freeze());
    };
    let (mut bytes, end) = (BytesMut::with_capacity(range.len), range.offset + range.len as u64);
    while bytes.len() < range.len {
        let at = range.offset + bytes.len() as u64;
        match check.with_intact(at, end, &mut |part| bytes.extend_from_slice(part)) {
            Taken::Intact => {}
            Taken::Lost | Taken::NotInMemory => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
#[path = "sendfile_tests.rs"]
mod tests;
