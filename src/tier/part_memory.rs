//! The memory that parts are read into before they are sent.
//!
//! Promises: what a part was in is used for the next one, since memory that is allocated anew is zeroed and faulted in
//! page by page, which costs more than the bytes' way to the socket; there is as much of it as there are permits for
//! parts, and none once no blob is being written.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

/// What is kept for the next parts, as long as a blob is being written. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct PartMemory(Arc<Mutex<Vec<Vec<u8>>>>);

/// The owner's side: it keeps nothing by itself.
#[derive(Default)]
pub(super) struct SharedPartMemory(Mutex<Weak<Mutex<Vec<Vec<u8>>>>>);

impl SharedPartMemory {
    /// What the blobs that are being written share.
    pub(super) fn join(&self) -> PartMemory {
        let mut there = self.0.lock();
        let memory = there.upgrade().unwrap_or_default();
        *there = Arc::downgrade(&memory);
        PartMemory(memory)
    }
}

impl PartMemory {
    /// Empty memory that was that of a part, or none yet.
    pub(super) fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_default()
    }

    /// The bytes of a part; their memory is kept once the last reader has dropped them, up to `kept_max` pieces.
    pub(super) fn freeze(&self, content: Vec<u8>, kept_max: usize) -> Bytes {
        Bytes::from_owner(Part { content, home: Arc::downgrade(&self.0), kept_max })
    }
}

struct Part {
    content: Vec<u8>,
    home: Weak<Mutex<Vec<Vec<u8>>>>,
    kept_max: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut kept = home.lock();
        if kept.len() < self.kept_max {
            self.content.clear();
            kept.push(std::mem::take(&mut self.content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_none_is_left_when_no_blob_is_written() {
        let shared = SharedPartMemory::default();
        let (first, second) = (shared.join(), shared.join());
        let sent = first.freeze(vec![7; 1000], 1);
        let at = sent.as_ptr();
        let again = sent.slice(1..);
        drop(sent);
        assert!(second.take().capacity() == 0, "a reader still has it");
        drop(again);
        let memory = second.take();
        assert!(memory.is_empty() && memory.capacity() >= 1000 && memory.as_ptr() == at);
        drop([first.freeze(memory, 1), first.freeze(vec![1], 1)]);
        assert!(second.take().capacity() > 0 && second.take().capacity() == 0, "more is kept than allowed");
        let last = second.freeze(vec![7; 1000], 1);
        drop((first, second));
        drop(last);
        assert_eq!(shared.join().take().capacity(), 0);
    }
}
