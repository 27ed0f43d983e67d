//! A registry in memory that answers what the test says, for the unit tests of `pull`.
//!
//! It has content, tags and readers, and a mirror before it. Whatever else a test wants of it is a value that the test
//! composes: what comes before an answer ([`Before`]), and what becomes of a body ([`FakeRegistry::change_bodies`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::fake_bodies_for_tests::{AskedRange, Body, Change, MirrorBody, held_after};
use crate::credentials::Credential;
use crate::reference::{Digest, Repository, Tag};
use crate::upstream::{AuthContext, DeliveryFault, Error, ProvedRight, Unknown};

/// A registry in memory that answers as the test set it up, and counts what it is asked.
#[derive(Default)]
pub(crate) struct FakeRegistry(pub(super) Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    tags: HashMap<(Repository, Tag), Digest>,
    content: HashMap<(Repository, Digest), Bytes>,
    readers: HashMap<Repository, Vec<&'static str>>,
    /// How every question fails.
    pub(super) failure: Option<Error>,
    /// What the endpoint `mirror` delivers, which is asked before the registry itself, the endpoint `registry`.
    mirrored: HashMap<(Repository, Digest), MirrorBody>,
    /// What was recorded of endpoints, by their names.
    faults: Vec<(String, Digest, DeliveryFault)>,
    /// How old the tokens are that it accepts.
    pub(super) token_age: Duration,
    asked: Vec<String>,
    before: Vec<BeforeAnswer>,
    pub(super) changes: Vec<Change>,
    /// Whether its answers to `HEAD` say nothing of a blob.
    pub(super) heads_are_empty: bool,
}

/// What the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    TagsDigest,
    Manifest,
    IsManifestThere,
    IsBlobThere,
    Blob,
    List,
}

/// A question, of a caller that may read the repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) asks: Asks,
    pub(crate) repository: &'a Repository,
    /// Of what, where it names a digest.
    pub(crate) digest: Option<Digest>,
}

/// What a test decides for each question.
type BeforeAnswer = Arc<dyn Fn(&Question<'_>) -> Before + Send + Sync>;

/// What comes before the registry's own answer.
pub(crate) enum Before {
    Nothing,
    Pause(Duration),
    /// For a permit.
    Permit(Arc<Semaphore>),
    /// It is the answer.
    Failure(Error),
    /// It is the answer, once there is a permit.
    FailureAfter(Arc<Semaphore>, Error),
}

impl FakeRegistry {
    /// Puts a mirror before the registry, which has `body` under `digest`.
    pub(crate) fn mirror(&self, repository: &Repository, digest: Digest, body: MirrorBody) {
        self.0.lock().mirrored.insert((repository.clone(), digest), body);
    }

    /// From now on, this comes before each answer that the registry itself gives: before all of it, if that is said
    /// several times.
    pub(crate) fn before_answers(&self, before: impl Fn(&Question<'_>) -> Before + Send + Sync + 'static) {
        self.0.lock().before.push(Arc::new(before));
    }

    /// From now on, this becomes of each body that the registry itself sends, after what became of it before.
    pub(crate) fn change_bodies(&self, change: impl Fn(AskedRange, Body) -> Body + Send + Sync + 'static) {
        self.0.lock().changes.push(Arc::new(change));
    }

    /// From now on nothing comes before its answers, and its bodies are as they are.
    pub(crate) fn answer_at_once(&self) {
        let mut state = self.0.lock();
        state.before.clear();
        state.changes.clear();
    }

    /// From now on downloads from a repository fail, each after a permit of what is returned.
    pub(crate) fn fail_download(&self, repository: &Repository, failure: Error) -> Arc<Semaphore> {
        let (gate, of) = (Arc::new(Semaphore::new(0)), repository.clone());
        let permits = Arc::clone(&gate);
        self.before_answers(move |question| match question.asks {
            Asks::Blob if *question.repository == of => {
                Before::FailureAfter(Arc::clone(&permits), failure.clone())
            }
            _ => Before::Nothing,
        });
        gate
    }

    /// From now on whole bodies of blobs wait before each chunk after so many bytes, for a permit of what is returned.
    pub(crate) fn hold_after(&self, bytes: usize) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.change_bodies(held_after(bytes, Arc::clone(&gate)));
        gate
    }

    /// From now on a repository does not have a digest.
    pub(crate) fn delete(&self, repository: &Repository, digest: Digest) {
        self.0.lock().content.remove(&(repository.clone(), digest));
    }

    /// Waits until a question that begins like this has been asked.
    pub(crate) async fn is_asked(&self, question: &str) {
        while !self.0.lock().asked.iter().any(|asked| asked.starts_with(question)) {
            tokio::task::yield_now().await;
        }
    }

    /// The faults of endpoints that were recorded: the endpoint's name, and what it did.
    pub(crate) fn faults(&self) -> Vec<(String, DeliveryFault)> {
        self.0.lock().faults.iter().map(|(host, _, fault)| (host.clone(), *fault)).collect()
    }

    /// Pushes content to a repository, and a tag if one is given.
    pub(crate) fn push(&self, repository: &Repository, tag: Option<&str>, bytes: &'static [u8]) -> Digest {
        let mut state = self.0.lock();
        let digest = Digest::of(bytes);
        state.content.insert((repository.clone(), digest), Bytes::from_static(bytes));
        if let Some(tag) = tag {
            state.tags.insert((repository.clone(), tag.parse().unwrap()), digest);
        }
        digest
    }

    /// Serves other bytes under a digest.
    pub(crate) fn damage(&self, repository: &Repository, digest: Digest, bytes: &'static [u8]) {
        self.0.lock().content.insert((repository.clone(), digest), Bytes::from_static(bytes));
    }

    /// From now on it says yes to `HEAD` of a blob, and nothing that shows the blob.
    pub(crate) fn show_nothing_by_head(&self) {
        self.0.lock().heads_are_empty = true;
    }

    /// From now on only these users read a repository.
    pub(crate) fn allow(&self, repository: &Repository, users: &[&'static str]) {
        self.0.lock().readers.insert(repository.clone(), users.to_vec());
    }

    /// From now on every question fails like this, or none does.
    pub(crate) fn fail(&self, failure: Option<Error>) {
        self.0.lock().failure = failure;
    }

    /// From now on it accepts tokens of this age.
    pub(crate) fn accept_tokens_of(&self, age: Duration) {
        self.0.lock().token_age = age;
    }

    /// The questions since the last call, each with the user that was asked as (`-` without a credential).
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().asked)
    }

    /// Whether the user may read the repository; returns what that proves.
    pub(super) fn check(
        &self,
        what: &str,
        repository: &Repository,
        auth: &AuthContext,
    ) -> Result<ProvedRight, Error> {
        let mut state = self.0.lock();
        let user = auth.presented.credential.as_ref().map_or("-", Credential::username).to_owned();
        state.asked.push(format!("{what} as {user}"));
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        match state.readers.get(repository) {
            None => Ok(ProvedRight::Public),
            Some(users) if users.contains(&user.as_str()) => {
                Ok(ProvedRight::Principal { token_age: state.token_age })
            }
            Some(_) => Err(Error::Refused {
                host: "reg.test".to_owned(),
                status: 401,
                why: "denied".to_owned(),
                public: false,
            }),
        }
    }

    /// What comes before the registry's own answer.
    pub(super) async fn before(&self, question: Question<'_>) -> Result<(), Error> {
        let all = self.0.lock().before.clone();
        for before in all {
            match before(&question) {
                Before::Nothing => {}
                Before::Pause(pause) => tokio::time::sleep(pause).await,
                Before::Permit(gate) => gate.acquire().await.expect("an open gate").forget(),
                Before::Failure(failure) => return Err(failure),
                Before::FailureAfter(gate, failure) => {
                    drop(gate.acquire().await);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    pub(super) fn content(&self, repository: &Repository, digest: Digest) -> Result<Bytes, Error> {
        let found = self.0.lock().content.get(&(repository.clone(), digest)).cloned();
        found.ok_or_else(not_found)
    }

    pub(super) fn tag(&self, repository: &Repository, tag: &Tag) -> Result<Digest, Error> {
        self.0.lock().tags.get(&(repository.clone(), tag.clone())).copied().ok_or_else(not_found)
    }
}

impl State {
    /// Records it; returns whether another endpoint has the blob.
    pub(super) fn record_fault(&mut self, endpoint: &str, digest: Digest, fault: DeliveryFault) -> bool {
        self.faults.push((endpoint.to_owned(), digest, fault));
        let has_mirror = self.mirrored.keys().any(|(_, mirrored)| *mirrored == digest);
        has_mirror && !self.is_avoided("mirror", digest) || !self.is_avoided("registry", digest)
    }

    fn is_avoided(&self, endpoint: &str, digest: Digest) -> bool {
        self.faults.iter().any(|(host, wrong, _)| host == endpoint && *wrong == digest)
    }

    /// What the mirror delivers, if it is asked.
    pub(super) fn mirror_of(&self, repository: &Repository, digest: Digest) -> Option<MirrorBody> {
        let body = self.mirrored.get(&(repository.clone(), digest))?;
        (!self.is_avoided("mirror", digest)).then(|| body.clone())
    }
}

/// What it says of what it does not have.
pub(crate) fn not_found() -> Error {
    Error::NotFound { host: "reg.test".to_owned(), unknown: Unknown::Unsaid, public: false }
}
