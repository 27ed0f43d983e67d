//! Questions whether a repository has something that are under way, each once for all who ask the same.

use super::membership::AnswerNumber;
use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository};
use crate::support::singleflight::Singleflight;
use crate::upstream::Allowed;

/// The questions under way.
pub(super) type Confirmations<T> = Singleflight<ConfirmedAs, Result<Allowed<T>, Error>>;

/// What questions are equal. None shares the answer to one that was asked before rights were revoked, or before another
/// answer about the digest was recorded: that answer is older than the question.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ConfirmedAs {
    pub(super) repository: Repository,
    pub(super) digest: Digest,
    pub(super) principal: Principal,
    /// How often rights had been revoked.
    pub(super) revocations: u64,
    /// The last answer about the digest.
    pub(super) before: AnswerNumber,
}
