//! The body of a blob from upstream: it survives being broken off, by resuming where it stopped.
//!
//! Promises: bytes come in order and once, and none beyond the size that was declared; a body that upstream cuts off is
//! resumed at the next endpoint, or at the same one where there is no other (`resume`, `asked_blob`). Of a registry
//! that answers with the whole in place of the rest, the bytes that are here are skipped. What comes is unverified:
//! `fill` and `passthrough` hash it.

use bytes::Bytes;

use super::asked_blob::{AskedBlob, DeliveredBy};
use super::delivery::Trail;
use super::request::{Answered, BlobRequests, UnprovedSource};
use super::resume::Breaks;
use crate::pull::access::UnprovedRight;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::{Digest, Repository};
use crate::upstream::{self, ConnectStage, DeliveryFault, Download, EndpointId};

/// Times that the bytes before the offset are received once more, because a registry does not answer ranges.
const SKIPS_MAX: u32 = 3;

/// The bytes of a blob from some offset on.
pub(crate) struct SourceBody {
    blob: AskedBlob,
    /// Set if its content proves a right that its head did not.
    unproved: Option<UnprovedRight>,
    download: Download,
    /// Whether upstream ignored the range, and bytes before `at` come first.
    skip_first: bool,
    /// The offset at which it began.
    from: u64,
    /// The next byte's offset in the blob.
    at: u64,
    /// The offset at which it ends, if not at the end of the blob.
    until: Option<u64>,
    breaks: Breaks,
    skips: u32,
    trail: Trail,
}

impl SourceBody {
    /// The body of a request for the bytes from `from` on, up to `until` or the end.
    pub(super) fn answered(
        requests: &BlobRequests,
        repository: &Repository,
        digest: Digest,
        (from, until): (u64, Option<u64>),
        answered: Answered,
    ) -> Self {
        let Answered { download, auth, unproved } = answered;
        let skip_first = download.offset != from;
        let (requests, repository) = (requests.clone(), repository.clone());
        let delivered_by = DeliveredBy::Registry(auth);
        let body = Self::new(AskedBlob { requests, repository, digest, delivered_by }, download);
        let breaks = Breaks::none(from);
        Self { unproved, skip_first, from, at: from, until, breaks, ..body }.recorded_in(&Trail::default())
    }

    /// A whole body that the shared tier delivers. What breaks off is resumed at the registry, as for any request of
    /// `context`.
    pub(super) fn from_tier(
        requests: &BlobRequests,
        context: &PullContext,
        digest: Digest,
        download: Download,
    ) -> Self {
        let (requests, repository) = (requests.clone(), context.repository().clone());
        let delivered_by = DeliveredBy::Tier(context.clone());
        Self::new(AskedBlob { requests, repository, digest, delivered_by }, download)
    }

    /// A whole body from its first byte on, whose head proved what there was to prove.
    fn new(blob: AskedBlob, download: Download) -> Self {
        Self {
            blob,
            unproved: None,
            download,
            skip_first: false,
            from: 0,
            at: 0,
            until: None,
            breaks: Breaks::none(0),
            skips: 0,
            trail: Trail::default(),
        }
    }

    /// Whether the shared tier delivers it.
    pub(crate) fn is_from_tier(&self) -> bool {
        self.blob.is_from_tier()
    }

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

    /// Whether its bytes are those of the blob, as far as its head can show. A part proves nothing by itself: one with
    /// a `Content-Encoding` counts only if what upstream has of the whole is as long as the blob, of `size` bytes, is.
    pub(crate) fn is_of_blob(&self, size: Option<u64>) -> bool {
        !self.download.is_encoded || (size.is_some() && self.size() == size)
    }

    /// The error of a body that is not ([`Self::is_of_blob`]).
    pub(crate) fn encoded(&self) -> Error {
        self.invalid("a part of a blob with a Content-Encoding that was not asked for".to_owned()).into()
    }

    /// What its content proves when all of it was verified; `None` if its head proved it, or nothing is to be proved.
    pub(crate) fn unproved(&self) -> Option<UnprovedSource> {
        let auth = self.blob.asked_as()?;
        let (principal, proof) = (auth.presented.principal, self.download.proof);
        let endpoint = self.endpoint().clone();
        self.unproved.map(|right| UnprovedSource { right, principal, proof, endpoint })
    }

    /// The endpoint that delivers now.
    pub(crate) fn endpoint(&self) -> &EndpointId {
        &self.download.endpoint
    }

    /// The offset at which it began.
    pub(crate) fn begun_at(&self) -> u64 {
        self.from
    }

    /// The offset at which it was asked to end, if not at the end of the blob.
    pub(crate) fn until(&self) -> Option<u64> {
        self.until
    }

    /// Asks for the whole blob again, as whom this body was asked for.
    ///
    /// # Errors
    /// Any of [`upstream::Error`].
    pub(crate) async fn begin_anew(&self) -> Result<Self, upstream::Error> {
        let (download, auth) = self.blob.ask(0, None).await?;
        let blob = AskedBlob { delivered_by: DeliveredBy::Registry(auth), ..self.blob.clone() };
        Ok(Self::new(blob, download).recorded_in(&Trail::default()))
    }

    /// Records that what was delivered is wrong; returns whether an endpoint is left that has not delivered wrong
    /// content.
    pub(crate) fn record_wrong_content(&self, fault: DeliveryFault) -> bool {
        self.blob.record_wrong(&self.trail, fault)
    }

    /// Which endpoints have delivered it.
    pub(crate) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The same body, whose endpoints are recorded in `trail`; the shared tier with its first bytes.
    pub(crate) fn recorded_in(self, trail: &Trail) -> Self {
        let body = Self { trail: trail.clone(), ..self };
        if !body.is_from_tier() {
            body.record_endpoint();
        }
        body
    }

    fn record_endpoint(&self) {
        self.trail.record(self.endpoint(), &self.blob.repository);
    }

    /// Bytes between here and the declared end; zero where upstream declared none.
    pub(crate) fn missing(&self) -> u64 {
        let until = self.until.unwrap_or(u64::MAX).min(self.size().unwrap_or(u64::MAX));
        if until == u64::MAX { 0 } else { until.saturating_sub(self.at) }
    }

    /// Whether it goes on to the end of the blob.
    pub(crate) fn is_to_end(&self) -> bool {
        self.until.is_none_or(|until| self.size().is_some_and(|size| until >= size))
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
            && let Err(error) = self.recover(error).await
        {
            return Some(Err(error));
        }
        loop {
            let error = match self.download.next().await {
                // What is beyond the end is no part of the blob.
                Some(Ok(_)) if self.is_at_end() => return None,
                Some(Ok(mut bytes)) => {
                    if self.is_from_tier() && self.at == self.from {
                        self.record_endpoint();
                    }
                    let rest = self.size().map_or(u64::MAX, |size| size - self.at);
                    bytes.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
                    self.at += bytes.len() as u64;
                    return Some(Ok(bytes));
                }
                None if self.missing() == 0 => return None,
                None => self.interrupted("a body shorter than declared"),
                // The end of a body of declared length may be lost with its connection.
                Some(Err(_)) if self.missing() == 0 && self.size().is_some() => return None,
                Some(Err(error)) => error,
            };
            match self.recover(error).await {
                Ok(Recovered::Resumed) => {}
                Ok(Recovered::WasComplete) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.size().is_some_and(|size| self.at >= size)
    }

    /// Goes on after `error`, at another endpoint if there is one.
    ///
    /// # Errors
    /// `error`, if the body cannot be resumed.
    async fn recover(&mut self, error: upstream::Error) -> Result<Recovered, upstream::Error> {
        let mut another = match self.is_from_tier() && is_not_there_yet(&error) {
            true => true,
            false => self.blob.record_fault(self.endpoint(), DeliveryFault::BrokenOff),
        };
        let mut pause = self.breaks.count(self.at);
        tracing::info!(digest = %self.blob.digest, at = self.at, %error, "upstream broke off a body; it is resumed");
        if self.breaks.are_too_many() {
            return Err(error);
        }
        loop {
            if !std::mem::take(&mut another) {
                tokio::time::sleep(pause).await;
                pause = Breaks::longer(pause);
            }
            let again = match self.resume().await {
                Ok(recovered) => return Ok(recovered),
                Err(again) => again,
            };
            tracing::info!(digest = %self.blob.digest, %again, "a body could not be resumed");
            if again.is_invalid_answer() {
                // What came before is of another blob, or this is.
                return Err(again);
            }
            match self.breaks.pause_after(&again, pause) {
                Some(next) => pause = next,
                None => return Err(error),
            }
        }
    }

    async fn resume(&mut self) -> Result<Recovered, upstream::Error> {
        let (at, size) = (self.at, self.size());
        let Some((download, auth)) = self.blob.ask_for_rest(at, self.until, size).await? else {
            return Ok(Recovered::WasComplete);
        };
        if let (Some(before), Some(now)) = (size, download.size)
            && before != now
        {
            return Err(self.invalid(format!("a size of {now} after one of {before}")));
        }
        self.blob.delivered_by = DeliveredBy::Registry(auth);
        self.download = download;
        self.download.size = self.download.size.or(size);
        self.record_endpoint();
        if at > self.from {
            self.trail.record_ranges();
        }
        self.skip_to_offset().await.map(|()| Recovered::Resumed)
    }

    /// Skips the bytes before the offset, if upstream ignored the range; the digest decides in the end whether they
    /// were the same.
    async fn skip_to_offset(&mut self) -> Result<(), upstream::Error> {
        let mut skip = self.at - self.download.offset;
        if skip == 0 {
            return Ok(());
        }
        self.skips += 1;
        if self.skips > SKIPS_MAX {
            return Err(self.invalid("all of a blob instead of its rest, again".to_owned()));
        }
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

    fn endpoint_host(&self) -> String {
        self.endpoint().host().to_owned()
    }

    fn invalid(&self, why: String) -> upstream::Error {
        upstream::Error::Invalid { host: self.endpoint_host(), why }
    }

    fn interrupted(&self, why: &str) -> upstream::Error {
        upstream::Error::Unreachable {
            host: self.endpoint_host(),
            stage: ConnectStage::Body,
            why: why.to_owned(),
        }
    }
}

/// Whether the tier did not have the blob in time: it did nothing wrong.
fn is_not_there_yet(error: &upstream::Error) -> bool {
    matches!(error, upstream::Error::Unreachable { stage: ConnectStage::Timeout, .. })
}

/// How a broken body goes on.
enum Recovered {
    /// The next bytes come.
    Resumed,
    /// Every byte had come.
    WasComplete,
}
