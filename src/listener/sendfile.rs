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
//! are fetched again ([`Refetch`]).
//!
//! [`Refetch`]: crate::support::body_chunk::Refetch
//!
//! Deliberately not here: a way for filesystems without `splice`; since Linux 6.5 the kernel has one, and before that
//! every filesystem with a page cache could do it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::send_buffer::{SMALL_QUEUE_BYTES, SendBuffer};
use super::socket::Socket;
use crate::support::body_chunk::{FileRange, Integrity, Refetched, Taken};

/// Bytes of one file range at most; the store reads no more at once.
pub(super) const FILE_RANGE_BYTES_MAX: usize = 512 * 1024;
/// File ranges on their way at the same time on one connection; hyper holds one or two, and never more than 16.
const SLOTS: usize = 20;
/// A range that was compared this long ago is checked again: its pages may have left memory, and what the disk then
/// returns has not been checked.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

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
    slots: Arc<Mutex<Slots>>,
}

#[derive(Debug)]
struct Slots {
    ranges: [Option<Sending>; SLOTS],
    next: usize,
    queued: Queued,
    buffer: SendBuffer,
}

/// A file range that hyper holds a slice of the placeholder for.
#[derive(Debug)]
struct Sending {
    range: FileRange,
    /// Bytes that follow it in its body, where that is known.
    follow: Option<u64>,
    /// When it was compared last.
    compared_at: Instant,
    /// The check that it is still what it was, and what is queued before it too.
    recheck: Option<Recheck>,
    /// What is sent in place of what the file does not give.
    instead: Option<Instead>,
}

/// A check under way.
struct Recheck(Pin<Box<dyn Future<Output = Rechecked> + Send>>);

impl std::fmt::Debug for Recheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recheck(..)")
    }
}

/// What a check found again.
#[derive(Debug, Clone, Copy)]
struct Rechecked {
    /// Nothing that is queued is other than what it was.
    is_queue_intact: bool,
    /// So is what comes next.
    is_next_intact: bool,
}

/// What hyper is given for a range of a file.
pub(super) enum Given {
    /// So many bytes as the range has.
    Now(Bytes),
    /// The file does not give them: they are fetched again.
    Later(Refetched),
}

/// Bytes that are sent in place of those of a file.
enum Instead {
    /// They are being fetched; they begin after so many bytes of the range.
    Coming(usize, Refetched),
    /// They begin after so many bytes of the range.
    Here(usize, Bytes),
}

impl std::fmt::Debug for Instead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Coming(from, _) => write!(f, "Coming({from})"),
            Self::Here(from, bytes) => write!(f, "Here({from}, {} bytes)", bytes.len()),
        }
    }
}

impl Sending {
    /// Whether it was compared too long ago to be sent unchecked.
    fn is_stale(&self) -> bool {
        let is_coming = matches!(self.instead, Some(Instead::Coming(..)));
        self.recheck.is_none() && !is_coming && self.compared_at.elapsed() > TRUSTED_FOR
    }

    /// The file does not give what comes after the first `sent` bytes of the range: it is fetched again.
    ///
    /// # Errors
    /// `error`, if that cannot be done.
    fn fetch_again(&mut self, sent: usize, error: io::Error) -> io::Result<()> {
        let Some(refetch) = self.range.refetch.clone() else { return Err(error) };
        let rest = self.range.part(sent, self.range.len.saturating_sub(sent));
        self.instead = Some(Instead::Coming(sent, refetch.refetch(rest.offset, rest.len)));
        Ok(())
    }

    /// What is sent in place of the file after the first `sent` bytes of the range; `None` if that is in the file.
    fn poll_instead(&mut self, cx: &mut Context<'_>, sent: usize) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(Instead::Coming(from, coming)) = &mut self.instead {
            let bytes = ready!(coming.as_mut().poll(cx));
            let bytes = bytes.filter(|bytes| *from + bytes.len() == self.range.len);
            let Some(bytes) = bytes else { return Poll::Ready(Err(io::ErrorKind::InvalidData.into())) };
            self.instead = Some(Instead::Here(*from, bytes));
        }
        Poll::Ready(Ok(match &self.instead {
            Some(Instead::Here(from, bytes)) => Some(bytes.slice(sent.saturating_sub(*from)..)),
            _ => None,
        }))
    }
}

/// The ranges that were handed to the socket last, and may still be in its queue.
#[derive(Debug, Default)]
struct Queued {
    ranges: VecDeque<FileRange>,
    /// Bytes of no file that came after the last of them.
    after: usize,
}

impl Queued {
    /// Adds what was sent last. The queue holds no more than `bytes_max`, what was sent before that has left it.
    fn add(&mut self, sent: FileRange, bytes_max: usize) {
        let sent = FileRange { refetch: None, ..sent };
        self.after = 0;
        match self.ranges.back_mut() {
            Some(last) if last.is_followed_by(&sent) => last.len += sent.len,
            _ => self.ranges.push_back(sent),
        }
        self.cut(bytes_max);
    }

    /// Bytes of no file were sent last. The end of every body is such: after it no file is held open for a connection
    /// that waits for its next request.
    fn add_bytes(&mut self, count: usize, bytes_max: usize) {
        if !self.ranges.is_empty() {
            self.after += count;
            self.cut(bytes_max);
        }
    }

    fn cut(&mut self, bytes_max: usize) {
        let held = self.after + self.ranges.iter().map(|range| range.len).sum::<usize>();
        let mut excess = held.saturating_sub(bytes_max);
        while let Some(first) = self.ranges.front_mut().filter(|_| excess > 0) {
            let cut = excess.min(first.len);
            first.offset += cut as u64;
            first.len -= cut;
            excess -= cut;
            if first.len == 0 {
                self.ranges.pop_front();
            }
        }
    }

    /// Checks all of it, and `next`.
    fn recheck(&self, next: FileRange) -> Recheck {
        let queued: Vec<FileRange> = self.ranges.iter().cloned().collect();
        Recheck(Box::pin(async move {
            let mut is_queue_intact = true;
            for range in &queued {
                is_queue_intact &= range.compare_again().await != Integrity::Wrong;
            }
            Rechecked { is_queue_intact, is_next_intact: next.compare_again().await == Integrity::Intact }
        }))
    }
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
        let (slot, len, compared_at) = (slots.next, range.len, range.compared_at);
        if slots.ranges[slot].is_some() {
            return Err(io::Error::other("too many file ranges at once"));
        }
        slots.ranges[slot] = Some(Sending { range, follow, compared_at, recheck: None, instead: None });
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
        slots.ranges.iter().flatten().any(|sending| matches!(sending.instead, Some(Instead::Coming(..))))
    }

    fn poll_send(&self, socket: &mut Socket, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let unknown = || io::Error::other("a slice of the placeholder that stands for no file range");
        let Position { slot, sent } = Position::of(slice).ok_or_else(unknown)?;
        let mut slots = self.slots.lock();
        let Slots { ranges, queued, buffer, .. } = &mut *slots;
        let slot = &mut ranges[slot];
        let sending = slot.as_mut().ok_or_else(unknown)?;
        let rest = sending.range.part(sent, slice.len().min(sending.range.len.saturating_sub(sent)));
        if sending.is_stale() {
            sending.recheck = Some(queued.recheck(rest.clone()));
        }
        if let Some(recheck) = &mut sending.recheck {
            let Rechecked { is_queue_intact, is_next_intact } = ready!(recheck.0.as_mut().poll(cx));
            sending.recheck = None;
            sending.compared_at = Instant::now();
            // What is in the queue cannot be taken back.
            if !is_queue_intact {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if !is_next_intact && sending.instead.is_none() {
                sending.fetch_again(sent, io::ErrorKind::InvalidData.into())?;
            }
        }
        let is_copied = is_end(sending.follow);
        buffer.fit(socket, sending.follow)?;
        let (written, is_of_file) = loop {
            if let Some(bytes) = ready!(sending.poll_instead(cx, sent))? {
                let bytes = &bytes[..bytes.len().min(rest.len)];
                break (socket.poll_write_slices(cx, &[IoSlice::new(bytes)]), false);
            }
            match poll_send_from_file(socket, cx, &rest, is_copied) {
                Err(FileFailed::Lost(error)) => sending.fetch_again(sent, error)?,
                Err(FileFailed::NotInMemory) => {
                    // A thread that may block reads it.
                    sending.recheck = Some(queued.recheck(rest));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(written) => break (written, !is_copied),
            }
        };
        let count = ready!(written)?;
        if sent + count >= sending.range.len {
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
