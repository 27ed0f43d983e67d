//! Content into the store: received, verified, and committed together with what its repository may do with it.
//!
//! Content that an answer waits for is written at once; a manifest that was answered already is written behind, several
//! in one batch.

use bytes::Bytes;

use super::Store;
use crate::reference::{Digest, Repository};
use crate::store::budget::share::Owner;
use crate::store::disk::blocking;
use crate::store::error::Error;
use crate::store::layout::Layout;
use crate::store::layout::batch::{self, End, Outcome};
use crate::store::receive::ingest::{Ingest, Verified};
use crate::store::receive::partial::PartialBlob;
use crate::store::records::members::Member;

/// Small content that is complete in memory, such as a manifest.
#[derive(Debug, Clone)]
pub struct WholeContent {
    /// The repository whose registry delivered it.
    pub repository: Repository,
    /// What it has to be.
    pub digest: Digest,
    /// The content.
    pub bytes: Bytes,
    /// What it is in the repository.
    pub member: Member,
    /// For whom it is stored.
    pub owner: Owner,
}

/// When content that is answered from memory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteWhen {
    /// In any case.
    Always,
    /// If its blob has left the store: it was there.
    IfGone,
}

impl Store {
    /// Begins to receive the content of `digest` from `owner`, of `declared` bytes where upstream said so.
    ///
    /// # Errors
    /// A declared size beyond 1 TiB; no space; the disk, that it hangs, or that it failed a moment ago.
    pub async fn begin(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        let store = self.clone();
        let begun =
            blocking::run_bounded(self.0.layout.calls(), move || store.begin_write(digest, declared, owner));
        // What the write itself failed with has been recorded.
        begun.await.inspect_err(|error| {
            if let Error::Hangs = error {
                self.record_failure(error);
            }
        })
    }

    /// The one place where a write of content begins, so that none is tried while the disk is given a pause. Blocks.
    fn begin_write(&self, digest: Digest, declared: Option<u64>, owner: Owner) -> Result<Ingest, Error> {
        self.0.health.begin_write()?;
        let begun = self.0.blobs.begin(digest, declared, owner);
        begun.inspect_err(|error| self.record_failure(error))
    }

    /// Begins to keep parts of the content of `digest`, which has `size` bytes.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin_partial(&self, digest: Digest, size: u64, owner: Owner) -> Result<PartialBlob, Error> {
        self.begin(digest, Some(size), owner).await.map(PartialBlob::new)
    }

    /// Commits verified content that an endpoint of `repository`'s registry delivered; `member` is what it is there, if
    /// the registry itself says that the repository has it: first the membership, then the bytes, so that no request
    /// finds a blob whose membership is still being written and asks upstream for it. A membership without bytes is
    /// what an eviction leaves too: it opens nothing. Blocks.
    ///
    /// # Errors
    /// The disk.
    pub fn commit(
        &self,
        verified: Verified,
        repository: &Repository,
        member: Option<&Member>,
    ) -> Result<(), Error> {
        // Until the blob is counted.
        let _change = self.0.layout.change()?;
        let stage = |staging: &Layout| self.stage(staging, &verified, repository, member);
        let outcome = batch::write_one(&self.0.layout, stage);
        self.end_commit(verified, repository, outcome)
    }

    fn stage(
        &self,
        staging: &Layout,
        verified: &Verified,
        repository: &Repository,
        member: Option<&Member>,
    ) -> Result<(), Error> {
        self.0.records.stage_received(staging, repository, &verified.digest(), member)?;
        verified.stage(staging)
    }

    fn end_commit(&self, verified: Verified, repository: &Repository, outcome: Outcome) -> Result<(), Error> {
        self.0.records.note_received(repository, &verified.digest());
        self.0.records.write_grants_later(repository);
        self.0.blobs.end_commit(verified, outcome).inspect_err(|error| self.record_failure(error))
    }

    /// Stores small content, which counts for its registry.
    ///
    /// # Errors
    /// Content that is not its digest's; no space; the disk, or that it failed a moment ago.
    pub async fn put(&self, content: WholeContent) -> Result<(), Error> {
        blocking::run(self.put_of(content)).await
    }

    /// As [`Store::put`], for an answer that waits for it, and therefore not for a disk that hangs.
    ///
    /// # Errors
    /// As [`Store::put`], and [`Error::Hangs`].
    pub async fn put_for_answer(&self, content: WholeContent) -> Result<(), Error> {
        blocking::record(self.0.layout.calls(), self.put_of(content)).await
    }

    fn put_of(&self, content: WholeContent) -> impl FnOnce() -> Result<(), Error> + Send + use<> {
        let store = self.clone();
        move || {
            let verified = store.receive(&content)?;
            store.commit(verified, &content.repository, Some(&content.member))
        }
    }

    /// Blocks.
    fn receive(&self, content: &WholeContent) -> Result<Verified, Error> {
        let WholeContent { digest, bytes, owner, .. } = content;
        let begun = {
            let _call = self.0.layout.calls().begin();
            self.begin_write(*digest, Some(bytes.len() as u64), *owner)
        };
        let mut ingest = begun?;
        ingest.write(bytes).inspect_err(|error| self.record_failure(error))?;
        ingest.hash(bytes);
        ingest.verify()
    }

    /// As [`Store::put`], for an answer that does not wait for the disk: behind what is being written already, so that
    /// a record that is written later never names content that is not durable. The caller keeps the content until then.
    /// `done` is told whether it is stored; it is dropped where too much waits to be written.
    pub async fn put_later(&self, content: WholeContent, done: impl FnOnce(bool) + Send + 'static) {
        let write = self.write_of(content, WriteWhen::Always, done);
        self.0.records.writes().stage(write).await;
    }

    /// As [`Store::put_later`], for content that is answered from memory: waits for nothing.
    pub fn put_without_waiting(
        &self,
        content: WholeContent,
        when: WriteWhen,
        done: impl FnOnce(bool) + Send + 'static,
    ) {
        if let Some(place) = self.0.records.writes().place_now() {
            place.stage(self.write_of(content, when, done));
        }
    }

    fn write_of(
        &self,
        content: WholeContent,
        when: WriteWhen,
        done: impl FnOnce(bool) + Send + 'static,
    ) -> batch::Write {
        let store = self.clone();
        Box::new(move |staging: &Layout| -> (Result<(), Error>, End) {
            let WholeContent { repository, digest, bytes, member, .. } = &content;
            if when == WriteWhen::IfGone && store.0.blobs.is_on_disk(digest, bytes.len() as u64) {
                return (Ok(()), Box::new(|_| done(true)));
            }
            let received = store.receive(&content);
            let staged = received.and_then(|verified| {
                store.stage(staging, &verified, repository, Some(member)).map(|()| verified)
            });
            // With the first content of a repository.
            let grants = staged.is_ok().then(|| store.0.records.stage_grants(staging, repository));
            let (verified, staged) = match staged {
                Ok(verified) => (Some(verified), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let WholeContent { repository, digest, .. } = content;
            let end = move |outcome| {
                grants.iter().for_each(|grants| grants.end(&outcome));
                let written = match (verified, outcome) {
                    (Some(verified), outcome) => store.end_commit(verified, &repository, outcome),
                    (None, Outcome::Failed(error)) => {
                        store.record_failure(&error);
                        Err(error)
                    }
                    (None, _) => Ok(()),
                };
                done(written.is_ok());
                if let Err(error) = written
                    && store.should_log(&error)
                {
                    let cause = error.cause();
                    tracing::error!(%repository, %digest, %error, cause, "a manifest is served but could not be stored");
                }
            };
            (staged, Box::new(end))
        })
    }
}
