//! The body of a blob from upstream: it survives being broken off, by resuming where it stopped.
//!
//! Promises: bytes come in order and once; a body that upstream cuts off is resumed a few times without progress and as
//! often as it takes with it. What comes is unverified: `fill` and `passthrough` hash it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::pull::access::{Access, Subject};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, Repository};
use crate::upstream::{self, AuthContext, Download};

/// Times in a row that a broken body is resumed without a single byte of progress.
const RESUMES_MAX: u32 = 3;
/// Before the first resume; then twice as long each time.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// Opens bodies of blobs as the caller of a pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct UpstreamBlobs {
    access: Access,
    upstream: Arc<dyn RegistryClient>,
}

impl UpstreamBlobs {
    pub(crate) fn new(access: Access, upstream: Arc<dyn RegistryClient>) -> Self {
        Self { access, upstream }
    }

    /// Asks for a blob from byte `from` on, up to `until` or its end. Where the caller has no fresh right, upstream's
    /// answer is the proof of one.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        from: u64,
        until: Option<u64>,
    ) -> Result<UpstreamBody, Error> {
        let (upstream, repository) = (&self.upstream, context.repository());
        let purpose = self.access.purpose(context).await;
        let request = |auth: AuthContext| async move {
            Ok(upstream.download(repository, digest, from, until, &auth).await?)
        };
        let (download, presented) =
            self.access.ask(context, &Subject::Blob(digest), purpose, request).await?;
        Ok(UpstreamBody {
            upstream: Arc::clone(upstream),
            repository: repository.clone(),
            digest,
            auth: AuthContext { presented, proof: None },
            skip_first: download.offset != from,
            download,
            at: from,
            until,
            broke_at: from,
            resumes: 0,
        })
    }
}

/// The bytes of a blob from some offset on.
pub(crate) struct UpstreamBody {
    upstream: Arc<dyn RegistryClient>,
    repository: Repository,
    digest: Digest,
    /// As whom the blob was asked for, and is asked for again.
    auth: AuthContext,
    download: Download,
    /// Whether upstream ignored the range, and bytes before `at` come first.
    skip_first: bool,
    /// The next byte's offset in the blob.
    at: u64,
    /// The offset at which it ends, if not at the end of the blob.
    until: Option<u64>,
    /// The offset of the last break, and how many breaks there were since bytes came.
    broke_at: u64,
    resumes: u32,
}

impl UpstreamBody {
    /// Whether upstream began at the requested byte; otherwise the bytes before it are read and thrown away.
    pub(crate) fn is_ranged(&self) -> bool {
        !self.skip_first
    }

    /// The offset of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the whole blob, where upstream said so.
    pub(crate) fn size(&self) -> Option<u64> {
        self.download.size
    }

    /// Bytes between here and the declared end; zero where upstream declared none.
    pub(crate) fn missing(&self) -> u64 {
        self.until.or(self.size()).unwrap_or(self.at).saturating_sub(self.at)
    }

    /// Reads the end of a body that has come whole, so that its connection can be used again.
    pub(crate) async fn finish(mut self) {
        if self.until == Some(self.at) {
            let _ = self.download.next().await;
        }
    }

    /// The next bytes; `None` at the proper end.
    ///
    /// # Errors
    /// The body broke off and could not be resumed.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, upstream::Error>> {
        if std::mem::take(&mut self.skip_first)
            && let Err(error) = self.skip_to_offset().await
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
            tracing::info!(digest = %self.digest, at = self.at, %error, "upstream broke off a body; it is resumed");
            tokio::time::sleep(RESUME_PAUSE * 2_u32.pow(self.resumes)).await;
            if let Err(again) = self.resume().await {
                tracing::info!(digest = %self.digest, %again, "a body could not be resumed");
                return Some(Err(error));
            }
        }
    }

    async fn resume(&mut self) -> Result<(), upstream::Error> {
        let Self { upstream, repository, digest, at, until, auth, .. } = &*self;
        let download = upstream.download(repository, *digest, *at, *until, auth).await?.value;
        if let (Some(before), Some(now)) = (self.download.size, download.size)
            && before != now
        {
            return Err(self.invalid(format!("a size of {now} after one of {before}")));
        }
        self.download = download;
        self.skip_to_offset().await
    }

    /// Skips the bytes before the offset, if upstream ignored the range; the digest decides in the end whether they were
    /// the same.
    async fn skip_to_offset(&mut self) -> Result<(), upstream::Error> {
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
