//! What registries said of digests since the start of the daemon, in the order in which it was recorded.
//!
//! Promise: an answer undoes no other that was recorded after its question was asked: answers may be recorded in
//! another order than that in which they were given. Bounded; what is forgotten counts as never said.

use crate::reference::{Digest, Repository};
use crate::support::bounded_map::BoundedMap;

/// Digests remembered at most whose membership has ended; one that is forgotten may come from a mirror.
const ENDED_MAX: usize = 4_096;
/// Digests remembered at most whose membership was confirmed; of one that is forgotten, an older no may end it.
const CONFIRMED_MAX: usize = 4_096;

/// How many answers of registries about digests were recorded before a question was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct AnswerNumber(u64);

/// What a yes comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yes {
    /// It does not count: the registry said no after it was asked.
    TooOld,
    /// The digest had not ended.
    Confirms,
    /// It had ended.
    BeginsAgain,
}

/// The answers, with their numbers.
pub(super) struct DigestAnswers {
    last: u64,
    /// Those whose membership has ended.
    ended: BoundedMap<(Repository, Digest), u64>,
    /// Those that their registry has, by its last answer.
    confirmed: BoundedMap<(Repository, Digest), u64>,
}

impl Default for DigestAnswers {
    fn default() -> Self {
        let (ended, confirmed) = (BoundedMap::new(ENDED_MAX), BoundedMap::new(CONFIRMED_MAX));
        Self { last: 0, ended, confirmed }
    }
}

impl DigestAnswers {
    /// The number of the last answer about any digest.
    pub(super) fn last(&self) -> AnswerNumber {
        AnswerNumber(self.last)
    }

    /// The number of the last answer about a digest that is remembered.
    pub(super) fn last_about(&mut self, key: &(Repository, Digest)) -> AnswerNumber {
        let known = self.confirmed.get(key).or(self.ended.get(key));
        AnswerNumber(known.copied().unwrap_or_default())
    }

    /// Whether the last answer about a digest was a no.
    pub(super) fn has_ended(&mut self, repository: &Repository, digest: Digest) -> bool {
        self.ended.get_by(|| (repository.clone(), digest)).is_some()
    }

    /// Records a yes to a question that was asked after `before`.
    pub(super) fn confirm(&mut self, key: &(Repository, Digest), before: AnswerNumber) -> Yes {
        let is_newer = |at: Option<&mut u64>| at.is_some_and(|at| *at > before.0);
        if is_newer(self.ended.get(key)) {
            return Yes::TooOld;
        }
        let had_ended = self.ended.remove(key).is_some();
        if !is_newer(self.confirmed.get(key)) {
            self.last += 1;
            self.confirmed.insert(key.clone(), self.last);
        }
        if had_ended { Yes::BeginsAgain } else { Yes::Confirms }
    }

    /// Records a no to a question that was asked after `before`; returns whether that counts.
    pub(super) fn end(&mut self, key: &(Repository, Digest), before: AnswerNumber) -> bool {
        if self.confirmed.get(key).is_some_and(|at| *at > before.0) {
            return false;
        }
        self.last += 1;
        self.confirmed.remove(key);
        self.ended.insert(key.clone(), self.last);
        true
    }
}
