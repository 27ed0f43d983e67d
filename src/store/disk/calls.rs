//! Calls to the disk of the store, while they are under way: whether the disk hangs.
//!
//! A filesystem that was frozen for a snapshot, or a device or server that does not answer, fails no call: it ends
//! none. Nothing that an answer needs waits for it longer than [`HANGS_AFTER`], and nothing further is tried until the
//! calls that hang have ended. Each of them keeps a thread; of those that read there are [`READS_MAX`] at most, of
//! others no more than had begun by then.
//!
//! Reads are apart from writes: a frozen filesystem still gives what it has. Where reads hang, nothing is written
//! either.
//!
//! Records that are made durable while an answer waits are apart too: where one takes long, the disk may be slow and no
//! more.
//!
//! Not here: calls that make content durable, or remove it. On a slow disk they take minutes, and no answer waits for
//! them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::store::disk::calls_under_way::{CallsOfWriter, CallsUnderWay, HANGS_AFTER};
use crate::support::metrics::IntGauge;

/// Reads at a time: more than any disk has use for, and few of the threads that may block.
pub const READS_MAX: usize = 128;

/// The calls of one store. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub(in crate::store) struct DiskCalls {
    writes: Calls,
    reads: Calls,
    records: Calls,
    #[cfg(test)]
    removals: Calls,
    places: Arc<Semaphore>,
    /// What hangs here is no sign of the disk.
    is_quiet: bool,
    said: Arc<Said>,
}

/// What was said last of the disk.
#[derive(Debug, Default)]
struct Said {
    hangs: AtomicBool,
    /// Mirrors it: 1 or 0.
    gauge: OnceLock<IntGauge>,
}

#[derive(Debug, Clone, Default)]
struct Calls {
    under_way: CallsUnderWay,
    /// Held by a test whose disk is to hang.
    #[cfg(test)]
    held: Arc<parking_lot::Mutex<()>>,
    /// Set by a test whose writers are to have a defect.
    #[cfg(test)]
    panic: Arc<AtomicBool>,
}

/// A call, or several one after the other, under way until this is dropped.
#[derive(Debug)]
pub(in crate::store) struct Call<'a> {
    all: &'a DiskCalls,
    calls: &'a Calls,
    number: u64,
}

/// The calls that write one file, one at a time.
#[derive(Debug)]
pub(in crate::store) struct WriterCalls {
    all: DiskCalls,
    calls: CallsOfWriter,
}

/// A call of a writer, under way until this is dropped.
#[derive(Debug)]
pub(in crate::store) struct WriterCall<'a>(&'a WriterCalls);

impl Default for DiskCalls {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(READS_MAX));
        let (writes, reads, records) = (Calls::default(), Calls::default(), Calls::default());
        Self {
            #[cfg(test)]
            removals: Calls::default(),
            writes,
            reads,
            records,
            places,
            is_quiet: false,
            said: Arc::default(),
        }
    }
}

impl DiskCalls {
    /// Those of one command: a file may take long to remove, and says nothing of the disk to others.
    pub(in crate::store) fn of_command() -> Self {
        Self { is_quiet: true, ..Self::default() }
    }

    /// From now on `gauge` says whether the disk hangs.
    pub(in crate::store) fn mirror_in(&self, gauge: IntGauge) {
        let _ = self.said.gauge.set(gauge);
    }

    /// A call that creates or writes content begins.
    pub(in crate::store) fn begin(&self) -> Call<'_> {
        self.begin_of(&self.writes)
    }

    /// For what writes one file, piece by piece.
    pub(in crate::store) fn of_writer(&self) -> WriterCalls {
        WriterCalls { all: self.clone(), calls: self.writes.under_way.of_writer() }
    }

    /// A call that reads begins.
    pub(in crate::store) fn begin_read(&self) -> Call<'_> {
        self.begin_of(&self.reads)
    }

    /// The writing of a record begins, with what makes it durable.
    pub(super) fn begin_record(&self) -> Call<'_> {
        self.begin_of(&self.records)
    }

    fn begin_of<'a>(&'a self, calls: &'a Calls) -> Call<'a> {
        let number = calls.under_way.begin();
        #[cfg(test)]
        drop(calls.held.lock());
        Call { all: self, calls, number }
    }

    /// Whether a call hangs.
    pub(in crate::store) fn is_hanging(&self) -> bool {
        self.say_if(self.writes.is_hanging() || self.reads.is_hanging())
    }

    /// Whether a call that reads hangs.
    pub(in crate::store) fn reads_hang(&self) -> bool {
        self.say_if(self.reads.is_hanging())
    }

    /// Whether a record that an answer waited for is not written yet. The disk may be slow and no more.
    pub(super) fn records_hang(&self) -> bool {
        self.records.is_hanging()
    }

    /// When the oldest read that is under way will have taken too long.
    pub(super) fn reads_hang_at(&self) -> Instant {
        self.reads.under_way.oldest().unwrap_or_else(Instant::now) + HANGS_AFTER
    }

    /// A place to read in, once one is free; `None` while reads hang.
    pub(super) async fn place_to_read(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if self.reads_hang() {
                return None;
            }
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(place) = timeout_at(self.reads_hang_at(), place).await {
                return place.ok();
            }
        }
    }

    fn say_if(&self, hangs: bool) -> bool {
        if hangs && !self.is_quiet && !self.said.hangs.swap(true, Ordering::AcqRel) {
            self.said.show(true);
            let seconds = HANGS_AFTER.as_secs();
            tracing::error!(
                seconds,
                "the disk of the store hangs: it has not ended a call for so long; until it does, what it does not give comes from upstream, and nothing is stored"
            );
        }
        hangs
    }

    fn say_if_ended(&self) {
        let is_said = self.said.hangs.load(Ordering::Acquire);
        if is_said && !self.writes.is_hanging() && !self.reads.is_hanging() {
            if self.said.hangs.swap(false, Ordering::AcqRel) {
                tracing::info!("the disk of the store hangs no more");
            }
            self.said.show(false);
        }
    }

    /// No call that changes something ends before the result is dropped.
    #[cfg(test)]
    pub(in crate::store) fn hold(&self) -> [std::sync::mpsc::Sender<()>; 2] {
        [self.writes.hold(), self.records.hold()]
    }

    /// From now on whatever writes content panics.
    #[cfg(test)]
    pub(in crate::store) fn panic_at_writes(&self) {
        self.writes.panic.store(true, Ordering::Relaxed);
    }

    /// Whether what is read is to come from the disk, in a test whose disk hangs.
    #[cfg(test)]
    pub(in crate::store) fn reads_are_held(&self) -> bool {
        self.reads.held.try_lock().is_none()
    }

    /// No file is removed before the result is dropped.
    #[cfg(test)]
    pub(in crate::store) fn hold_removals(&self) -> std::sync::mpsc::Sender<()> {
        self.removals.hold()
    }

    /// Waits while a test holds removals.
    #[cfg(test)]
    pub(in crate::store) fn wait_while_held(&self) {
        drop(self.removals.held.lock());
    }

    /// No call that reads ends before the result is dropped.
    #[cfg(test)]
    pub(in crate::store) fn hold_reads(&self) -> std::sync::mpsc::Sender<()> {
        self.reads.hold()
    }
}

impl Said {
    fn show(&self, hangs: bool) {
        self.gauge.get().into_iter().for_each(|gauge| gauge.set(hangs.into()));
    }
}

impl Calls {
    fn is_hanging(&self) -> bool {
        self.under_way.is_hanging()
    }

    #[cfg(test)]
    fn hold(&self) -> std::sync::mpsc::Sender<()> {
        let ((hold, released), (locked, is_locked)) =
            (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let held = Arc::clone(&self.held);
        std::thread::spawn(move || {
            let _locked = held.lock();
            let _ = locked.send(());
            let _ = released.recv();
        });
        is_locked.recv().unwrap();
        hold
    }
}

impl WriterCalls {
    /// A call begins.
    pub(in crate::store) fn begin(&self) -> WriterCall<'_> {
        // Before the call counts: printing a panic takes long enough for a call to hang.
        #[cfg(test)]
        assert!(!self.all.writes.panic.load(Ordering::Relaxed), "as the test wants it");
        self.calls.begin();
        #[cfg(test)]
        drop(self.all.writes.held.lock());
        WriterCall(self)
    }
}

impl Drop for WriterCall<'_> {
    fn drop(&mut self) {
        self.0.calls.end();
        self.0.all.say_if_ended();
    }
}

impl Call<'_> {
    /// One call has ended, and the next begins.
    pub(in crate::store) fn goes_on(&mut self) {
        self.calls.under_way.end(self.number);
        self.number = self.calls.under_way.begin();
        #[cfg(test)]
        drop(self.calls.held.lock());
    }

    /// Does what is no call to the disk, and may take long.
    pub(in crate::store) fn apart<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.calls.under_way.end(self.number);
        let done = work();
        self.number = self.calls.under_way.begin();
        done
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.under_way.end(self.number);
        self.all.say_if_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::metrics::Registry;

    #[tokio::test(start_paused = true)]
    async fn the_disk_hangs_as_long_as_its_oldest_call_does() {
        let calls = DiskCalls::default();
        let first = calls.begin();
        tokio::time::advance(HANGS_AFTER / 2).await;
        let second = calls.begin();
        tokio::time::advance(HANGS_AFTER / 2).await;
        assert!(calls.is_hanging() && !calls.reads_hang());
        drop(first);
        assert!(!calls.is_hanging(), "the other has not taken so long");
        tokio::time::advance(HANGS_AFTER / 2).await;
        assert!(calls.is_hanging());
        drop(second);
        assert!(!calls.is_hanging());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_read_that_goes_on_does_not_hang_and_one_that_does_is_said_until_it_ends() {
        let (calls, gauge) = (DiskCalls::default(), Registry::new().gauge("x", "of a test").unwrap());
        calls.mirror_in(gauge.clone());
        let mut read = calls.begin_read();
        for _ in 0..10 {
            tokio::time::advance(HANGS_AFTER / 2).await;
            assert!(!calls.reads_hang(), "it is slow");
            read.goes_on();
        }
        read.apart(|| assert!(calls.reads.under_way.oldest().is_none()));
        tokio::time::advance(HANGS_AFTER).await;
        assert!(calls.reads_hang() && calls.is_hanging(), "nothing is written either");
        assert_eq!(gauge.get(), 1);
        drop(calls.begin());
        assert_eq!(gauge.get(), 1, "the read has not ended");
        drop(read);
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_threads_read_from_a_disk_that_hangs_than_there_are_places() {
        let calls = DiskCalls::default();
        let mut places = Vec::new();
        for _ in 0..READS_MAX {
            places.push((calls.place_to_read().await.unwrap(), calls.begin_read()));
        }
        let start = Instant::now();
        assert!(calls.place_to_read().await.is_none());
        assert_eq!(start.elapsed(), HANGS_AFTER, "as long as it takes to know");
        assert!(calls.place_to_read().await.is_none());
        assert_eq!(start.elapsed(), HANGS_AFTER);
        places.clear();
        assert!(calls.place_to_read().await.is_some());
    }
}
