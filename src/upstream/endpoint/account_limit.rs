//! Whether the 429s of an account's repositories are the limit of the account, for one kind of request.
//!
//! Some registries limit what one principal asks for in all (Docker Hub), others each repository or project by itself,
//! as those do that hand on the 429 of another registry. The account is limited where the registry says so; it is taken
//! to be where two of its repositories are answered 429 and no request is answered otherwise in between. What is only
//! taken to be so holds repositories that were not answered 429 back for seconds: one of them at a time finds out, and
//! a single answer ends it. Those that were answered 429 find out among themselves, so that however many they are, they
//! take no turn of the others, and are few requests together.
//!
//! Deliberately not here: what a repository was told itself (`rate_limit`).

use std::time::Duration;

use tokio::time::Instant;

use super::too_many_requests::{Hold, Refusal};
use crate::reference::Repository;

/// Two 429s are in a row within this time, or while the first one holds.
const IN_A_ROW: Duration = Duration::from_secs(60);

/// What is known of an account's limit. Any answer but a 429 ends all of it.
#[derive(Default)]
pub(crate) struct AccountLimit {
    /// The registry's own word.
    stated: Option<Refusal>,
    /// The repository that was answered 429 last, and until when another one counts as the next.
    last: Option<(Repository, Instant)>,
    inferred: Option<Inferred>,
}

struct Inferred {
    /// For the repositories that were answered 429.
    refused: Refusal,
    /// For those that were not.
    others: Refusal,
}

impl AccountLimit {
    /// A 429 of a registry that limits accounts; returns for how long requests are held back.
    pub(crate) fn record_stated(&mut self, now: Instant, retry_after: Option<Duration>) -> Duration {
        self.stated.get_or_insert_with(|| Refusal::new(now)).repeat(now, retry_after)
    }

    /// A 429 for a repository, which is held back itself until `until`, and of which it is said whether it was before.
    pub(crate) fn record(
        &mut self,
        repository: &Repository,
        now: Instant,
        until: Instant,
        was_refused: bool,
    ) {
        let is_second = self
            .last
            .as_ref()
            .is_some_and(|(last, counts_until)| *last != *repository && *counts_until > now);
        self.last = Some((repository.clone(), until.max(now + IN_A_ROW)));
        match &mut self.inferred {
            // Requests that were sent before the others' answers say nothing new.
            Some(Inferred { refused, .. }) if was_refused => refused.repeat_unless_held(now),
            Some(Inferred { others, .. }) => others.repeat_unless_held(now),
            None if is_second => {
                let mut inferred = Inferred { refused: Refusal::new(now), others: Refusal::new(now) };
                inferred.refused.repeat(now, None);
                inferred.others.repeat(now, None);
                self.inferred = Some(inferred);
            }
            None => {}
        }
    }

    /// Why a request for a repository, which was answered 429 itself or not, is held back.
    pub(crate) fn hold(&self, now: Instant, was_refused: bool) -> Option<Hold> {
        let stated = self.stated.as_ref().and_then(|refusal| refusal.hold(now));
        let inferred = || match self.inferred.as_ref()? {
            Inferred { refused, .. } if was_refused => refused.hold(now),
            Inferred { others, .. } => match others.hold(now)? {
                Hold::For(time) => Some(Hold::Suspected(time)),
                hold => Some(hold),
            },
        };
        stated.or_else(inferred)
    }

    /// A request of such a repository is sent, whatever was known of a limit.
    pub(crate) fn begin_trial(&mut self, now: Instant, was_refused: bool) {
        if let Some(stated) = &mut self.stated {
            stated.begin_trial(now);
        }
        match &mut self.inferred {
            Some(Inferred { refused, .. }) if was_refused => refused.begin_trial(now),
            Some(Inferred { others, .. }) => others.begin_trial(now),
            None => {}
        }
    }

    /// How long every request of the account is held back, as the registry said.
    pub(crate) fn stated_for(&self, now: Instant) -> Option<Duration> {
        self.stated.as_ref()?.hold(now).map(Hold::time)
    }

    /// How long a request of any repository is held back.
    pub(crate) fn held_back_for(&self, now: Instant) -> Option<Duration> {
        self.hold(now, false).map(Hold::time)
    }
}
