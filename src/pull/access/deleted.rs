//! Deleted content: when a repository stops handing out a digest because its registry does not have it any more.
//!
//! The rule: the registry itself (an authoritative endpoint, by `GET`) says with an error document of its own that the
//! manifest or blob is unknown, to a principal whose word counts: one with a right that needs no new proof, or the only
//! one with a right. Some registries hide by 404 what a principal must not read, so that the word of any other ends
//! nothing. What no error document says (a proxy's page, an empty 404) ends nothing either, nor does a mirror's 404.

use parking_lot::Mutex;

use super::known_rights::KnownRights;
use super::membership::{AnswerNumber, Membership};
use crate::pull::error::Error;
use crate::reference::{Digest, Principal, Repository};
use crate::upstream;

/// What is said of one digest of a repository while upstream is asked about it as one principal after the other.
pub(crate) struct Absence<'a> {
    known: &'a KnownRights,
    membership: &'a Membership,
    repository: &'a Repository,
    digest: Digest,
    before: AnswerNumber,
    /// The principals whose word counts, as it was before the question: a denial may end a right.
    credible: Vec<Principal>,
    said_by: Mutex<Vec<Principal>>,
}

impl<'a> Absence<'a> {
    /// To be made before upstream is asked.
    pub(crate) async fn of(
        known: &'a KnownRights,
        membership: &'a Membership,
        repository: &'a Repository,
        digest: Digest,
    ) -> Self {
        let before = membership.last_answer_about(repository, digest);
        let credible = known.credible_principals(repository).await;
        Self { known, membership, repository, digest, before, credible, said_by: Mutex::default() }
    }

    /// The last answer about the digest before the question.
    pub(crate) fn before(&self) -> AnswerNumber {
        self.before
    }

    /// Takes note of what an authoritative endpoint answered to `asked`.
    pub(crate) fn note<T>(&self, asked: Principal, answer: &Result<T, Error>) {
        if let Err(Error::Upstream(error @ upstream::Error::NotFound { public, .. })) = answer
            && error.says_content_is_gone()
        {
            self.said_by.lock().push(self.known.concerned(asked, *public));
        }
    }

    /// Ends the membership of the digest if it is gone; to be called if no principal was answered yes.
    pub(crate) async fn conclude(self) {
        let Self { membership, repository, digest, before, credible, said_by, .. } = self;
        if said_by.lock().iter().any(|principal| credible.contains(principal)) {
            membership.end(repository, digest, before).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::for_tests::{self, Parts};
    use crate::upstream::Unknown;

    #[tokio::test]
    async fn a_no_that_is_noticed_after_a_later_yes_takes_no_blob_away() {
        let (parts, app) = (Parts::new(), "reg.test/app".parse().unwrap());
        let layer = parts.registry.push(&app, None, b"layer");
        parts.access.confirm_blob(&for_tests::pull(&app), layer, None).await.unwrap();
        let (known, membership) = (parts.access.known(), parts.access.membership());
        for is_pushed_again in [true, false] {
            let absence = Absence::of(known, membership, &app, layer).await;
            let (host, asked) = ("reg.test".to_owned(), absence.credible[0]);
            let gone = upstream::Error::NotFound { host, unknown: Unknown::Content, public: true };
            absence.note::<()>(asked, &Err(gone.into()));
            if is_pushed_again {
                parts.access.confirm_blob(&for_tests::pull(&app), layer, None).await.unwrap();
            }
            absence.conclude().await;
            assert_eq!(membership.is_confirmed(&app, layer).await, is_pushed_again);
        }
    }
}
