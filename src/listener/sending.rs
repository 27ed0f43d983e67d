//! One range of a file on its way to a client: checked again when it was made to wait, fetched again when the file does
//! not give it.
//!
//! Promises: what was compared longer than [`TRUSTED_FOR`] ago does not leave unchecked, nor does it follow what the
//! socket's queue holds and what has become wrong since.
//!
//! Deliberately not here: the socket, and how hyper is told what a range stands for (`sendfile`).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::support::body_chunk::{FileRange, Integrity, Refetched};

/// A range that was compared this long ago is checked again: its pages may have left memory, and what the disk then
/// returns has not been checked.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A file range that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
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
    /// None of it was sent. So many bytes follow it in its body, where that is known.
    pub(super) fn new(range: FileRange, follow: Option<u64>) -> Self {
        let compared_at = range.compared_at;
        Self { range, follow, compared_at, recheck: None, instead: None }
    }

    /// Bytes that follow it in its body, where that is known.
    pub(super) fn follow(&self) -> Option<u64> {
        self.follow
    }

    /// What comes after the first `sent` bytes, up to `len` bytes of it.
    pub(super) fn rest(&self, sent: usize, len: usize) -> FileRange {
        self.range.part(sent, len.min(self.range.len.saturating_sub(sent)))
    }

    /// Whether so many bytes are all of it.
    pub(super) fn ends_at(&self, sent: usize) -> bool {
        sent >= self.range.len
    }

    /// Whether its client waits for bytes that are fetched again.
    pub(super) fn is_refetching(&self) -> bool {
        matches!(self.instead, Some(Instead::Coming(..)))
    }

    /// Whether it was compared too long ago to be sent unchecked.
    fn is_stale(&self) -> bool {
        self.recheck.is_none() && !self.is_refetching() && self.compared_at.elapsed() > TRUSTED_FOR
    }

    /// Checks `rest`, and what is `queued` before it, before anything else is sent.
    pub(super) fn check_again(&mut self, queued: &Queued, rest: FileRange) {
        self.recheck = Some(queued.recheck(rest));
    }

    /// Waits for the check of `rest`, which comes after the first `sent` bytes, where one is under way or due. What is
    /// other than it was is fetched again.
    ///
    /// # Errors
    /// What is `queued` is other than it was: it cannot be taken back. What comes next cannot be fetched again.
    pub(super) fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
        queued: &Queued,
        rest: &FileRange,
        sent: usize,
    ) -> Poll<io::Result<()>> {
        if self.is_stale() {
            self.check_again(queued, rest.clone());
        }
        let Some(recheck) = &mut self.recheck else { return Poll::Ready(Ok(())) };
        let Rechecked { is_queue_intact, is_next_intact } = ready!(recheck.0.as_mut().poll(cx));
        self.recheck = None;
        self.compared_at = Instant::now();
        if !is_queue_intact {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if !is_next_intact && self.instead.is_none() {
            self.fetch_again(sent, io::ErrorKind::InvalidData.into())?;
        }
        Poll::Ready(Ok(()))
    }

    /// The file does not give what comes after the first `sent` bytes of the range: it is fetched again.
    ///
    /// # Errors
    /// `error`, if that cannot be done.
    pub(super) fn fetch_again(&mut self, sent: usize, error: io::Error) -> io::Result<()> {
        let Some(refetch) = self.range.refetch.clone() else { return Err(error) };
        let rest = self.range.part(sent, self.range.len.saturating_sub(sent));
        self.instead = Some(Instead::Coming(sent, refetch.refetch(rest.offset, rest.len)));
        Ok(())
    }

    /// What is sent in place of the file after the first `sent` bytes of the range; `None` if that is in the file.
    pub(super) fn poll_instead(
        &mut self,
        cx: &mut Context<'_>,
        sent: usize,
    ) -> Poll<io::Result<Option<Bytes>>> {
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
pub(super) struct Queued {
    ranges: VecDeque<FileRange>,
    /// Bytes of no file that came after the last of them.
    after: usize,
}

impl Queued {
    /// Adds what was sent last. The queue holds no more than `bytes_max`, what was sent before that has left it.
    pub(super) fn add(&mut self, sent: FileRange, bytes_max: usize) {
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
    pub(super) fn add_bytes(&mut self, count: usize, bytes_max: usize) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::listener::send_buffer::SMALL_QUEUE_BYTES;

    #[test]
    fn what_was_sent_last_is_remembered_and_no_more_than_a_queue_holds() {
        let files = [(); 2].map(|()| Arc::new(tempfile::tempfile().unwrap()));
        let range = |file: usize, offset, len| FileRange {
            file: Arc::clone(&files[file]),
            offset,
            len,
            compared_at: Instant::now(),
            check: None,
            refetch: None,
        };
        let mut queued = Queued::default();
        queued.add(range(0, 0, 1_000), SMALL_QUEUE_BYTES);
        queued.add(range(0, 1_000, SMALL_QUEUE_BYTES - 500), SMALL_QUEUE_BYTES);
        let held: Vec<_> = queued.ranges.iter().map(|range| (range.offset, range.len)).collect();
        assert_eq!(held, [(500, SMALL_QUEUE_BYTES)]);
        queued.add(range(1, 7, 10), SMALL_QUEUE_BYTES);
        queued.add(range(1, 17, 10), SMALL_QUEUE_BYTES);
        let held: Vec<_> = queued.ranges.iter().map(|range| (range.offset, range.len)).collect();
        assert_eq!(held, [(520, SMALL_QUEUE_BYTES - 20), (7, 20)]);
        queued.add(range(0, 5_000, 2 * SMALL_QUEUE_BYTES), SMALL_QUEUE_BYTES);
        let held: Vec<_> = queued.ranges.iter().map(|range| (range.offset, range.len)).collect();
        assert_eq!(held, [(5_000 + SMALL_QUEUE_BYTES as u64, SMALL_QUEUE_BYTES)]);
        // The end of a body is copied: nothing of it keeps a file open for a connection that waits for a request.
        queued.add_bytes(SMALL_QUEUE_BYTES - 10, SMALL_QUEUE_BYTES);
        let held: Vec<_> = queued.ranges.iter().map(|range| range.len).collect();
        assert_eq!(held, [10]);
        queued.add_bytes(10, SMALL_QUEUE_BYTES);
        assert!(queued.ranges.is_empty() && Arc::strong_count(&files[0]) == 1, "a file is held open");
    }
}
