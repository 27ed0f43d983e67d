//! When a repository stops handing out what it has: because its registry does not have it any more, or withholds it.
//!
//! The rule for deleted content: the registry itself (an authoritative endpoint, by `GET`) says with an error document
//! of its own that the manifest or blob is unknown, to a principal whose word counts: one with a right that needs no
//! new proof, or the only one with a right. Some registries hide by 404 what a principal must not read, so that the
//! word of any other ends nothing. What no error document says (a proxy's page, an empty 404) ends nothing either, nor
//! does a mirror's 404. A tag is gone by any error document that comes with a 404 to such a principal, whatever it says
//! is unknown.
//!
//! What is withheld is hidden from nobody: that the registry says so to any principal with a right is enough.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::known_rights::KnownRights;
use super::membership::DigestQuestion;
use crate::pull::error::Error;
use crate::reference::{Principal, Repository};
use crate::upstream;

/// What is said of one reference of a repository while upstream is asked about it as one principal after the other.
pub(crate) struct Absence<'a> {
    known: &'a KnownRights,
    /// Whether the reference is a tag.
    of_tag: bool,
    /// The principals whose word counts that something is gone, as it was before the question: a denial may end a
    /// right.
    credible: Vec<Principal>,
    /// Those with any right.
    with_right: Vec<Principal>,
    is_gone: AtomicBool,
    /// The first answer that it is withheld.
    withheld: OnceLock<Error>,
}

impl<'a> Absence<'a> {
    /// Of a digest; to be made before upstream is asked.
    pub(crate) async fn of_digest(known: &'a KnownRights, repository: &Repository) -> Self {
        Self {
            known,
            of_tag: false,
            credible: known.credible_principals(repository).await,
            with_right: known.principals(repository).await,
            is_gone: AtomicBool::new(false),
            withheld: OnceLock::new(),
        }
    }

    /// Of a tag; to be made before upstream is asked.
    pub(crate) async fn of_tag(known: &'a KnownRights, repository: &Repository) -> Self {
        Self { of_tag: true, ..Self::of_digest(known, repository).await }
    }

    /// Takes note of what an authoritative endpoint answered to `asked`.
    pub(crate) fn note<T>(&self, asked: Principal, answer: &Result<T, Error>) {
        let Err(Error::Upstream(error)) = answer else { return };
        let is_gone = match error {
            upstream::Error::NotFound { unknown: upstream::Unknown::Unsaid, .. } => false,
            upstream::Error::NotFound { .. } => self.of_tag || error.says_content_is_gone(),
            _ => false,
        };
        let concerned = self.known.concerned(asked, error.is_public());
        if is_gone && self.credible.contains(&concerned) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        if error.is_withheld() && self.with_right.contains(&concerned) {
            self.withheld.get_or_init(|| Error::Upstream(error.clone()));
        }
    }

    /// Whether it is not to be handed out any more, if no principal was answered yes.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed) || self.is_withheld()
    }

    /// Whether it is withheld, if no principal was answered yes.
    pub(crate) fn is_withheld(&self) -> bool {
        self.withheld.get().is_some()
    }

    /// That it is withheld, if it is and no principal was answered yes, else `error`: what one with a right was told is
    /// not undone because another one could not be asked, or not in time.
    pub(crate) fn or_withheld(&self, error: Error) -> Error {
        match self.withheld.get() {
            Some(withheld) if !error.is_denied() => withheld.clone(),
            _ => error,
        }
    }

    /// Ends the membership of the digest that `question` was about if it is gone or withheld; to be called if no
    /// principal was answered yes.
    pub(crate) async fn conclude(&self, question: &DigestQuestion) {
        if self.is_certain() {
            question.record_no().await;
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
        parts.access.ask_for_blob(&for_tests::pull(&app), layer, None).await.unwrap();
        let (known, membership) = (parts.access.known(), parts.access.membership());
        for is_pushed_again in [true, false] {
            let question = membership.question(&app, layer);
            let absence = Absence::of_digest(known, &app).await;
            let (host, asked) = ("reg.test".to_owned(), absence.credible[0]);
            let gone = upstream::Error::NotFound { host, unknown: Unknown::Content, public: true };
            absence.note::<()>(asked, &Err(gone.into()));
            if is_pushed_again {
                parts.access.ask_for_blob(&for_tests::pull(&app), layer, None).await.unwrap();
            }
            absence.conclude(&question).await;
            assert_eq!(membership.is_confirmed(&app, layer).await, is_pushed_again);
        }
    }
}
