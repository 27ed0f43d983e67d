//! The body of a blob from upstream: it survives being broken off, by resuming where it stopped.
//!
//! Promises: bytes come in order and once; a body that upstream cuts off is resumed at the next endpoint, or at the same
//! one where there is no other: a few times without progress, as often as it takes with it, and for 25 s while no endpoint
//! answers or the registry limits requests. A registry that does not answer the rest as a range is asked for a closed range, then for the whole, of which
//! the bytes that are here are skipped. What comes is unverified: `fill` and `passthrough` hash it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::delivery::Trail;
use super::slow_registries::SlowRegistries;
use crate::pull::access::{Access, Purpose, Subject, UnprovedRight};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::pull::shared_names::SharedNames;
use crate::reference::{Digest, Principal, Registry, Repository};
use crate::tier::{self, ErrorKind, Fault, Found, Tier};
use crate::upstream::{
    self, Allowed, AuthContext, ConnectStage, DeliveryFault, Download, EndpointId, Patience, Proof,
};

/// Times in a row that a broken body is resumed without a single byte of progress.
const RESUMES_MAX: u32 = 3;
/// Before the first resume; then twice as long each time.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two resumes.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long a body whose rest no endpoint answers is resumed: as long as the head of an answer may take.
const OUTAGE_WAIT_MAX: Duration = Duration::from_secs(25);
/// Times that the bytes before the offset are received once more, because a registry does not answer ranges.
const SKIPS_MAX: u32 = 3;

/// Opens bodies of blobs as the caller of a pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct UpstreamBlobs {
    access: Access,
    upstream: Arc<dyn RegistryClient>,
    tier: Tier,
    names: SharedNames,
    slow: SlowRegistries,
}

impl UpstreamBlobs {
    pub(crate) fn new(access: Access, upstream: Arc<dyn RegistryClient>, tier: Tier) -> Self {
        let names = SharedNames::new(tier.clone(), access.clone());
        Self { access, upstream, tier, names, slow: SlowRegistries::default() }
    }

    /// Who may read what.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The shared tier.
    pub(crate) fn tier(&self) -> &Tier {
        &self.tier
    }

    /// The registries that take too long to confirm.
    pub(super) fn slow(&self) -> &SlowRegistries {
        &self.slow
    }

    /// What nodes tell each other.
    pub(crate) fn names(&self) -> &SharedNames {
        &self.names
    }

    /// The body of a blob that comes from the shared tier. What breaks off is resumed at the registry, as for any request
    /// of `context`.
    pub(crate) fn body_from_tier(&self, context: &PullContext, digest: Digest, found: Found) -> UpstreamBody {
        let chunks = found.body.map(|chunk| chunk.map_err(|error| interrupted(&error)));
        let endpoint = EndpointId::shared_tier();
        let download = Download::new(Some(found.size), 0, Proof::Nothing, chunks).delivered_by(endpoint);
        UpstreamBody::new(self, context.repository(), digest, Origin::Tier(context.clone()), download)
    }

    /// Asks for a blob from byte `from` on, up to `until` or its end. Where the caller has no fresh right, upstream's
    /// answer is the proof of one if it states the digest; if not, the content is, once it was verified.
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
        let right = self.access.unproved();
        let request = |auth: AuthContext| async move {
            let Allowed { value, proof } = upstream.download(repository, digest, from, until, &auth).await?;
            let proof = if value.has_digest { proof } else { Proof::Nothing };
            Ok(Allowed { value, proof })
        };
        let (download, presented) =
            self.access.ask(context, &Subject::Blob(digest), purpose, request).await?;
        let is_unproved = matches!(purpose, Purpose::Prove) && !download.has_digest;
        let asked = context.asked().clone();
        let auth = AuthContext { presented, proof: None, patience: Patience::Wait, asked };
        let skip_first = download.offset != from;
        let body = UpstreamBody::new(self, repository, digest, Origin::Registry(auth), download);
        let body = UpstreamBody {
            unproved: is_unproved.then_some(right),
            skip_first,
            from,
            at: from,
            until,
            broken: Broken { at: from, times: 0, since: Instant::now() },
            ..body
        };
        Ok(body.recorded_in(&Trail::default()))
    }

    /// Records the right that the content of `digest` proves, which came from where `source` says and was verified.
    pub(crate) async fn record_verified(
        &self,
        context: &PullContext,
        source: &UnprovedSource,
        trail: &Trail,
    ) {
        let UnprovedSource { right, principal, proof, endpoint } = source;
        // Bytes of a mirror, or that another reader fetched, speak for no right.
        if endpoint.as_ref().is_none_or(|endpoint| trail.is_of(endpoint)) {
            self.access.record_verified(context.repository(), *principal, *proof, *right).await;
        }
    }

    /// Whether the repository has the blob of `size` bytes that came as `trail` says: an authoritative endpoint delivered
    /// some of it, or says so now. A mirror may serve any digest under any name.
    pub(crate) async fn is_member(
        &self,
        context: &PullContext,
        digest: Digest,
        size: u64,
        trail: &Trail,
    ) -> bool {
        let repository = context.repository();
        if trail.is_proved_in(repository) || self.access.membership().is_confirmed(repository, digest).await {
            return true;
        }
        match self.access.confirm_blob(context, digest, Some(size)).await {
            Ok(head) => head.shows_blob_of(Some(size)),
            Err(error) => {
                tracing::debug!(%repository, %digest, %error, "the registry does not confirm what a mirror delivered");
                false
            }
        }
    }

    /// Records that what came as `trail` says is not the content of `digest`; returns whether another endpoint is left.
    pub(crate) fn record_wrong_content(
        &self,
        context: &PullContext,
        digest: Digest,
        trail: &Trail,
        fault: DeliveryFault,
    ) -> bool {
        self.record_wrong(context.repository().registry(), digest, trail, fault)
    }

    fn record_wrong(&self, registry: &Registry, digest: Digest, trail: &Trail, fault: DeliveryFault) -> bool {
        trail.suspects().iter().fold(false, |_, endpoint| {
            // An object of which the registry delivered the rest may be right: it is not read for a while, and stays.
            let fault = match endpoint.is_shared_tier() && !trail.is_of(endpoint) {
                true => DeliveryFault::BrokenOff,
                false => fault,
            };
            self.record_fault(registry, digest, endpoint, fault)
        })
    }

    /// Records that `endpoint` did not deliver; returns whether another one is left. Beside the shared tier that is the
    /// registry.
    fn record_fault(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        if !endpoint.is_shared_tier() {
            return self.upstream.record_wrong_content(registry, digest, endpoint, fault);
        }
        let fault = if fault == DeliveryFault::BrokenOff { Fault::BrokenOff } else { Fault::Wrong };
        self.tier.record_fault(registry, digest, fault);
        true
    }
}

/// The error of a body from the shared tier that broke off, or did not come.
fn interrupted(error: &tier::Error) -> upstream::Error {
    let stage = if error.kind == ErrorKind::GaveUp { ConnectStage::Timeout } else { ConnectStage::Body };
    upstream::Error::Unreachable { host: "shared tier".to_owned(), stage, why: error.to_string() }
}

/// Whether the tier did not have the blob in time: it did nothing wrong.
fn is_not_there_yet(error: &upstream::Error) -> bool {
    matches!(error, upstream::Error::Unreachable { stage: ConnectStage::Timeout, .. })
}

/// An answer of a registry that proves a right when its content was verified.
pub(crate) struct UnprovedSource {
    right: UnprovedRight,
    principal: Principal,
    proof: Proof,
    endpoint: Option<EndpointId>,
}

/// The bytes of a blob from some offset on.
pub(crate) struct UpstreamBody {
    blobs: UpstreamBlobs,
    repository: Repository,
    digest: Digest,
    origin: Origin,
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
    broken: Broken,
    skips: u32,
    trail: Trail,
}

/// Who delivers a body.
enum Origin {
    /// An endpoint of the registry: as whom the blob was asked for, and is asked for again.
    Registry(AuthContext),
    /// The shared tier; the pull for which the registry is asked for the rest.
    Tier(PullContext),
}

/// The breaks of a body since its last progress.
struct Broken {
    at: u64,
    times: u32,
    since: Instant,
}

impl UpstreamBody {
    /// A whole body from its first byte on, whose head proved what there was to prove.
    fn new(
        blobs: &UpstreamBlobs,
        repository: &Repository,
        digest: Digest,
        origin: Origin,
        download: Download,
    ) -> Self {
        Self {
            blobs: blobs.clone(),
            repository: repository.clone(),
            digest,
            origin,
            unproved: None,
            download,
            skip_first: false,
            from: 0,
            at: 0,
            until: None,
            broken: Broken { at: 0, times: 0, since: Instant::now() },
            skips: 0,
            trail: Trail::default(),
        }
    }

    /// Whether the shared tier delivers it.
    pub(crate) fn is_from_tier(&self) -> bool {
        matches!(self.origin, Origin::Tier(_))
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

    /// Whether its bytes are those of the blob, as far as its head can tell. A part proves nothing by itself: one with a
    /// `Content-Encoding` counts only if what upstream has of the whole is as long as the blob, of `size` bytes, is.
    pub(crate) fn is_of_blob(&self, size: Option<u64>) -> bool {
        !self.download.is_encoded || (size.is_some() && self.size() == size)
    }

    /// The error of a body that is not ([`Self::is_of_blob`]).
    pub(crate) fn encoded(&self) -> Error {
        self.invalid("a part of a blob with a Content-Encoding that was not asked for".to_owned()).into()
    }

    /// What its content proves when all of it was verified; `None` if its head proved it, or nothing is to be proved.
    pub(crate) fn unproved(&self) -> Option<UnprovedSource> {
        let Origin::Registry(auth) = &self.origin else { return None };
        let (principal, proof) = (auth.presented.principal, self.download.proof);
        let endpoint = self.endpoint().cloned();
        self.unproved.map(|right| UnprovedSource { right, principal, proof, endpoint })
    }

    /// The endpoint that delivers now.
    pub(crate) fn endpoint(&self) -> Option<&EndpointId> {
        self.download.endpoint.as_ref()
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
        let (download, auth) = self.ask(0, None).await?;
        let body = Self::new(&self.blobs, &self.repository, self.digest, Origin::Registry(auth), download);
        Ok(body.recorded_in(&Trail::default()))
    }

    /// Records that what was delivered is wrong; returns whether an endpoint is left that has not delivered wrong content.
    pub(crate) fn record_wrong_content(&self, fault: DeliveryFault) -> bool {
        let registry = self.repository.registry();
        self.blobs.record_wrong(registry, self.digest, &self.trail, fault)
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
        self.endpoint().into_iter().for_each(|endpoint| self.trail.record(endpoint, &self.repository));
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
                Some(Ok(bytes)) => {
                    if self.is_from_tier() && self.at == self.from {
                        self.record_endpoint();
                    }
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

    /// Goes on after `error`, at another endpoint if there is one.
    ///
    /// # Errors
    /// `error`, if the body cannot be resumed.
    async fn recover(&mut self, error: upstream::Error) -> Result<Recovered, upstream::Error> {
        if self.at > self.broken.at || self.broken.times == 0 {
            self.broken = Broken { at: self.at, times: 0, since: Instant::now() };
        }
        let mut another = match self.is_from_tier() && is_not_there_yet(&error) {
            true => true,
            false => self.record(DeliveryFault::BrokenOff),
        };
        let mut pause = RESUME_PAUSE * 2_u32.pow(self.broken.times);
        self.broken.times += 1;
        tracing::info!(digest = %self.digest, at = self.at, %error, "upstream broke off a body; it is resumed");
        loop {
            if self.broken.times > RESUMES_MAX {
                return Err(error);
            }
            if !std::mem::take(&mut another) {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RESUME_PAUSE_MAX);
            }
            let again = match self.resume().await {
                Ok(recovered) => return Ok(recovered),
                Err(again) => again,
            };
            tracing::info!(digest = %self.digest, %again, "a body could not be resumed");
            match &again {
                // A rate limit that ends in time; the registry is not asked before.
                upstream::Error::RateLimited { retry_after, .. }
                    if self.broken.since.elapsed() + retry_after.unwrap_or(pause) < OUTAGE_WAIT_MAX =>
                {
                    pause = pause.max(retry_after.unwrap_or(pause));
                }
                // It may be back in a moment.
                upstream::Error::Unreachable { .. }
                | upstream::Error::ServerError { .. }
                | upstream::Error::Overloaded { .. }
                    if self.broken.since.elapsed() < OUTAGE_WAIT_MAX => {}
                // What came before is of another blob, or this is.
                upstream::Error::Invalid { .. } => return Err(again),
                _ => return Err(error),
            }
        }
    }

    async fn resume(&mut self) -> Result<Recovered, upstream::Error> {
        let (at, size) = (self.at, self.size());
        let (download, auth) = match self.ask(at, self.until).await {
            // A body without a declared length broke off after its last byte.
            Err(upstream::Error::RangeNotSatisfiable { size: Some(whole), .. })
                if whole == at && size.is_none_or(|size| size == at) =>
            {
                return Ok(Recovered::WasComplete);
            }
            Err(error @ upstream::Error::RangeNotSatisfiable { .. }) => {
                let closed = match size.filter(|size| self.until.is_none() && *size > at) {
                    Some(size) => self.ask(at, Some(size)).await,
                    None => Err(error),
                };
                match closed {
                    Err(upstream::Error::RangeNotSatisfiable { .. }) => self.ask(0, None).await?,
                    closed => closed?,
                }
            }
            answered => answered?,
        };
        if let (Some(before), Some(now)) = (size, download.size)
            && before != now
        {
            return Err(self.invalid(format!("a size of {now} after one of {before}")));
        }
        self.origin = Origin::Registry(auth);
        self.download = download;
        self.download.size = self.download.size.or(size);
        self.record_endpoint();
        if at > self.from {
            self.trail.record_ranges();
        }
        self.skip_to_offset().await.map(|()| Recovered::Resumed)
    }

    /// Asks the registry for the blob, or for a part of it; returns as whom, too.
    async fn ask(&self, from: u64, until: Option<u64>) -> Result<(Download, AuthContext), upstream::Error> {
        let Self { blobs, repository, digest, origin, .. } = self;
        match origin {
            Origin::Registry(auth) => {
                let allowed = blobs.upstream.download(repository, *digest, from, until, auth).await?;
                Ok((allowed.value, auth.clone()))
            }
            Origin::Tier(context) => match Box::pin(blobs.open(context, *digest, from, until)).await {
                Ok(Self { download, origin: Origin::Registry(auth), .. }) => Ok((download, auth)),
                Ok(_) => Err(self.invalid("the shared tier, instead of the registry".to_owned())),
                Err(Error::Upstream(error)) => Err(error),
                Err(error) => {
                    Err(upstream::Error::Unauthenticated { host: self.host(), why: error.to_string() })
                }
            },
        }
    }

    /// Skips the bytes before the offset, if upstream ignored the range; the digest decides in the end whether they were
    /// the same.
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

    /// Records that the endpoint did not deliver; returns whether another one is left.
    fn record(&self, fault: DeliveryFault) -> bool {
        let registry = self.repository.registry();
        self.endpoint()
            .is_some_and(|endpoint| self.blobs.record_fault(registry, self.digest, endpoint, fault))
    }

    fn host(&self) -> String {
        let registry = || self.repository.registry().to_string();
        self.endpoint().map_or_else(registry, |endpoint| endpoint.host().to_owned())
    }

    fn invalid(&self, why: String) -> upstream::Error {
        upstream::Error::Invalid { host: self.host(), why }
    }

    fn interrupted(&self, why: &str) -> upstream::Error {
        upstream::Error::Unreachable { host: self.host(), stage: ConnectStage::Body, why: why.to_owned() }
    }
}

/// How a broken body goes on.
enum Recovered {
    /// The next bytes come.
    Resumed,
    /// Every byte had come.
    WasComplete,
}
