//! Denials that upstream gave a moment ago, so that a client that repeats a refused request costs no request upstream.
//!
//! Promises: a denial answers only the same question of the same principal, and only for `negative_ttl`. Bounded: the
//! denial that was recorded longest ago goes first, which costs one request.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository, Tag};
use crate::support::bounded_map::BoundedMap;

/// Denials remembered at most; one is about 300 bytes.
const DENIALS_MAX: usize = 16_384;

/// What upstream is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Tag(Tag),
    Manifest(Digest),
    Blob(Digest),
    /// Tags or referrers.
    List,
}

/// A question to upstream, as its denial is remembered: about what, and as which principal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct DeniedQuestion {
    pub(crate) repository: Repository,
    pub(crate) subject: Subject,
    pub(crate) principal: Principal,
}

/// The denials.
pub(crate) struct NegativeCache(Mutex<BoundedMap<DeniedQuestion, (Instant, Error)>>);

impl Default for NegativeCache {
    fn default() -> Self {
        Self(Mutex::new(BoundedMap::new(DENIALS_MAX)))
    }
}

impl NegativeCache {
    /// The denial of this question, if it is younger than `ttl`.
    pub(crate) fn find(&self, question: &DeniedQuestion, ttl: Duration) -> Option<Error> {
        let denials = self.0.lock();
        denials.peek(question).filter(|(at, _)| at.elapsed() < ttl).map(|(_, error)| error.clone())
    }

    /// Records a denial. Lists are not recorded: each page is another question, and lists are rarely asked for.
    pub(crate) fn record(&self, question: DeniedQuestion, denial: Error, ttl: Duration) {
        if !ttl.is_zero() && question.subject != Subject::List {
            self.0.lock().insert(question, (Instant::now(), denial));
        }
    }

    /// Forgets the denial of one question.
    pub(crate) fn forget(&self, question: &DeniedQuestion) {
        self.0.lock().remove(question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::PrincipalKind;

    #[tokio::test(start_paused = true)]
    async fn a_denial_answers_the_same_question_of_the_same_principal_for_its_time_only() {
        let cache = NegativeCache::default();
        let question = |tag: &str, kind| DeniedQuestion {
            repository: "reg.test/app".parse().unwrap(),
            subject: Subject::Tag(tag.parse().unwrap()),
            principal: Principal::new(kind, [1; 16]),
        };
        let (ttl, denied) = (Duration::from_secs(3), question("v1", PrincipalKind::Caller));
        cache.record(denied.clone(), Error::NotStored(None), ttl);
        assert!(cache.find(&denied, ttl).is_some());
        assert!(cache.find(&question("v2", PrincipalKind::Caller), ttl).is_none());
        assert!(cache.find(&question("v1", PrincipalKind::Node), ttl).is_none());
        tokio::time::advance(ttl).await;
        assert!(cache.find(&denied, ttl).is_none());
        cache.record(denied.clone(), Error::NotStored(None), Duration::ZERO);
        assert!(cache.find(&denied, ttl).is_none(), "recorded although negative_ttl is zero");
    }
}
