//! Last uses, told to the index once a minute: a hit must not wake another thread.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::reference::Digest;
use crate::support::clock::Timestamp;

/// Seconds within which further uses say nothing new.
pub(crate) const SECONDS: u64 = 60;
/// Blobs that are remembered; when there are more, it begins anew, which costs a message each.
const BLOBS_MAX: usize = 16 * 1024;

/// When each blob's use was last passed on.
#[derive(Debug, Default)]
pub(crate) struct Touched(Mutex<HashMap<Digest, Timestamp>>);

impl Touched {
    /// Whether a use at `now` is worth telling.
    pub(crate) fn is_news(&self, digest: Digest, now: Timestamp) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back is news too.
        if told.get(&digest).is_some_and(|at| (at.0..at.0.saturating_add(SECONDS)).contains(&now.0)) {
            return false;
        }
        if told.len() >= BLOBS_MAX {
            told.clear();
        }
        told.insert(digest, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_told_once_a_minute_and_when_the_clock_went_back() {
        let (touched, digest) = (Touched::default(), Digest::of(b"x"));
        for (now, news) in
            [(1_000, true), (1_000, false), (1_059, false), (1_060, true), (900, true), (901, false)]
        {
            assert_eq!(touched.is_news(digest, Timestamp(now)), news, "{now}");
        }
        assert!(touched.is_news(Digest::of(b"y"), Timestamp(901)));
    }
}
