//! A body from upstream that survives being broken off: resumed where it stopped, whoever reads it.

use std::time::Duration;

use bytes::Bytes;

use crate::pull::Puller;
use crate::pull::access::authorize::{Caller, Purpose};
use crate::pull::access::grants::Subject;
use crate::pull::access::rights::Use;
use crate::pull::error::Error;
use crate::reference::{Digest, Repository};
use crate::upstream::{self, Allowed, AuthContext, Download, Upstream};

/// Times in a row that a broken body is resumed without a single byte of progress.
const RESUMES_MAX: u32 = 3;
/// Before the first resume; then twice as long each time.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// The bytes of a blob from some offset on.
pub(crate) struct UpstreamBody {
    upstream: Upstream,
    repository: Repository,
    digest: Digest,
    /// As whom it was asked for, and is again.
    auth: AuthContext,
    download: Download,
    /// Whether upstream ignored the range, and bytes before `at` come first.
    behind: bool,
    /// The next byte's place in the blob.
    at: u64,
    /// Where it is to end, if not at the end of the blob.
    until: Option<u64>,
    /// Where the last break was, and how many there were since bytes came.
    broke_at: u64,
    resumes: u32,
}

impl UpstreamBody {
    /// Asks for the blob from byte `from` on, up to `until` or its end, on behalf of `caller`; upstream's yes is the proof of the right to it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open(
        puller: &Puller,
        repository: &Repository,
        digest: Digest,
        caller: &Caller,
        from: u64,
        until: Option<u64>,
    ) -> Result<Self, Error> {
        let upstream = &puller.0.upstream;
        let purpose =
            puller.right(repository, caller, Use::Read).await.map_or(Purpose::Prove, Purpose::Deliver);
        let question = |auth: AuthContext| async move {
            let download = upstream.download(repository, digest, from, until, &auth).await?;
            let public = download.public;
            Ok(Allowed { value: download, public })
        };
        let asked = puller.ask(repository, caller, &Subject::Blob(digest), purpose, question).await;
        let (download, presented) = asked?;
        Ok(Self {
            upstream: upstream.clone(),
            repository: repository.clone(),
            digest,
            auth: AuthContext { presented, proof: None },
            behind: download.offset != from,
            download,
            at: from,
            until,
            broke_at: from,
            resumes: 0,
        })
    }

    /// Whether upstream began where it was asked to; otherwise the bytes before that are read and thrown away.
    pub(crate) fn is_ranged(&self) -> bool {
        !self.behind
    }

    /// The place of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Sees to it that the connection of a part that has come whole can be used again.
    pub(crate) async fn finish(mut self) {
        if self.until == Some(self.at) {
            let _ = self.download.next().await;
        }
    }

    /// Bytes of the whole blob, where upstream said so.
    pub(crate) fn size(&self) -> Option<u64> {
        self.download.size
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// The body broke off and could not be resumed.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, upstream::Error>> {
        if std::mem::take(&mut self.behind)
            && let Err(error) = self.skip_to_where_we_are().await
        {
            return Some(Err(error));
        }
        loop {
            let error = match self.download.next().await? {
                Ok(bytes) => {
                    self.at += bytes.len() as u64;
                    return Some(Ok(bytes));
                }
                Err(error) => error,
            };
            self.resumes = if self.at > self.broke_at { 0 } else { self.resumes + 1 };
            self.broke_at = self.at;
            if self.resumes >= RESUMES_MAX {
                return Some(Err(error));
            }
            tracing::info!(digest = %self.digest, at = self.at, %error, "upstream broke off, resuming");
            tokio::time::sleep(RESUME_PAUSE * 2_u32.pow(self.resumes)).await;
            if let Err(again) = self.resume().await {
                tracing::info!(digest = %self.digest, %again, "resuming failed");
                return Some(Err(error));
            }
        }
    }

    async fn resume(&mut self) -> Result<(), upstream::Error> {
        let Self { upstream, repository, digest, at, until, auth, .. } = &*self;
        let download = upstream.download(repository, *digest, *at, *until, auth).await?;
        if let (Some(before), Some(now)) = (self.download.size, download.size)
            && before != now
        {
            return Err(self.invalid(format!("a size of {now} after one of {before}")));
        }
        self.download = download;
        self.skip_to_where_we_are().await
    }

    /// If upstream ignored the range, the bytes that we have are skipped; the digest decides in the end whether they
    /// were the same.
    async fn skip_to_where_we_are(&mut self) -> Result<(), upstream::Error> {
        let mut skip = self.at - self.download.offset;
        while skip > 0 {
            match self.download.next().await {
                Some(Ok(bytes)) if bytes.len() as u64 <= skip => skip -= bytes.len() as u64,
                Some(Ok(bytes)) => {
                    self.download.put_back(bytes.slice(skip as usize..));
                    skip = 0;
                }
                Some(Err(error)) => return Err(error),
                None => return Err(self.invalid("a shorter body than before".to_owned())),
            }
        }
        Ok(())
    }

    fn invalid(&self, why: String) -> upstream::Error {
        upstream::Error::Invalid { host: self.repository.registry().to_string(), why }
    }
}
