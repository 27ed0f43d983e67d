//! What a tag means now: a pure decision from what upstream said and what was remembered.
//!
//! The rule of this version is to ask upstream at every resolve and, while upstream cannot be reached, to serve what
//! the tag last meant. A "no" is never overridden by memory.

use crate::reference::Digest;
use crate::store::TagRecord;
use crate::upstream;

/// What upstream said about a tag.
pub(super) type Said = Result<Option<Digest>, upstream::Error>;

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Serve this manifest: upstream says so now.
    Current(Digest),
    /// Upstream has the tag but did not say which manifest: fetch it by its tag.
    Fetch,
    /// Upstream is in an outage: serve what the tag last meant, marked as stale.
    Stale(TagRecord, upstream::Error),
    /// Upstream has no such tag: forget it and say so.
    Forget(upstream::Error),
    /// Nothing may be served.
    Fail(upstream::Error),
}

/// Decides.
pub(super) fn judge(said: Said, remembered: Option<TagRecord>) -> Verdict {
    match (said, remembered) {
        (Ok(Some(digest)), _) => Verdict::Current(digest),
        (Ok(None), _) => Verdict::Fetch,
        (Err(error), Some(record)) if error.is_outage() => Verdict::Stale(record, error),
        (Err(error @ upstream::Error::NotFound { .. }), Some(_)) => Verdict::Forget(error),
        (Err(error), _) => Verdict::Fail(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::upstream::{Error, Step};

    #[test]
    fn memory_serves_in_an_outage_and_never_against_a_no() {
        let digest = Digest::of(b"x");
        let record = TagRecord { digest: Digest::of(b"old"), confirmed_at: Timestamp(5) };
        let host = || "reg.test:443".to_owned();
        let down = Error::Unreachable { host: host(), step: Step::Connect, why: String::new() };
        let limited = Error::RateLimited { host: host(), retry_after: None };
        let failing = Error::Failing { host: host(), status: 503 };
        let refused = Error::Refused { host: host(), status: 403, why: String::new() };
        let gone = Error::NotFound { host: host(), repository_unknown: false, to_anybody: false };
        let nonsense = Error::Invalid { host: host(), why: String::new() };

        assert_eq!(judge(Ok(Some(digest)), Some(record)), Verdict::Current(digest));
        assert_eq!(judge(Ok(None), Some(record)), Verdict::Fetch);
        for outage in [down, limited, failing] {
            assert_eq!(judge(Err(outage.clone()), Some(record)), Verdict::Stale(record, outage.clone()));
            assert_eq!(judge(Err(outage.clone()), None), Verdict::Fail(outage));
        }
        assert_eq!(judge(Err(gone.clone()), Some(record)), Verdict::Forget(gone.clone()));
        assert_eq!(judge(Err(gone.clone()), None), Verdict::Fail(gone));
        for no in [refused, nonsense] {
            assert_eq!(judge(Err(no.clone()), Some(record)), Verdict::Fail(no));
        }
    }
}
