//! Reads what a registry sends: a manifest whole, a blob and a list as they come, each bounded in time and memory.
//!
//! Promises: a manifest that is asked for by its digest has it; what was not as it was declared is recorded in the list
//! of avoided endpoints. Deliberately not here: requests, and the digest of a blob, which is known when all of it is
//! here.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap};

use crate::reference::{Digest, MANIFEST_BYTES_MAX, MediaType, Registry, is_manifest_of, manifest_digest};
use crate::support::byte_budget::ByteBudget;
use crate::support::live::Live;
use crate::upstream::attempts::RESPONSE_WAIT;
use crate::upstream::blob_head::BlobHead;
use crate::upstream::body::{BodyWait, Chunks, Memory, NotWhole, drain, read_whole};
use crate::upstream::download::Download;
use crate::upstream::endpoint::avoided::{AvoidedEndpoints, DeliveryFault};
use crate::upstream::error::Error;
use crate::upstream::headers::{content_length, header, parse_content_range};
use crate::upstream::page::{Page, PageMemory, Sender};
use crate::upstream::received::{ReceivedBytes, ReceivedCounter};
use crate::upstream::response::{Answer, RegistryResponse, is_encoded};
use crate::upstream::transport::configured::Configured;

/// The longest time between two chunks of a body where another endpoint can be asked: all of them have to fit into the
/// time for which a client waits.
const IDLE_WITH_ALTERNATIVE: Duration = Duration::from_secs(10);
/// The longest time for all of a manifest's body there: the next endpoint needs the rest of the time for which a
/// request is tried.
const WHOLE_WITH_ALTERNATIVE: Duration = Duration::from_secs(8);

/// A manifest as the registry sent it: unverified.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The document.
    pub bytes: Bytes,
    /// `Content-Type`, where it was a media type.
    pub media_type: Option<MediaType>,
    /// `host:port` of the sender, for error texts.
    pub host: String,
    /// Whether the registry itself sent it, and not a mirror.
    pub is_authoritative: bool,
}

/// What of a manifest is known before its body.
struct ManifestHead {
    media_type: Option<MediaType>,
    host: String,
    is_authoritative: bool,
}

impl ManifestHead {
    fn of(answer: &Answer) -> Self {
        let media_type = header(answer.response.headers(), CONTENT_TYPE.as_str());
        Self {
            media_type: media_type.and_then(|text| text.parse().ok()),
            host: answer.host.clone(),
            is_authoritative: answer.endpoint.is_authoritative(),
        }
    }

    fn with(self, bytes: Bytes) -> Manifest {
        let Self { media_type, host, is_authoritative } = self;
        Manifest { bytes, media_type, host, is_authoritative }
    }
}

/// Reads bodies.
pub(super) struct BodyReader {
    configured: Live<Configured>,
    avoided: AvoidedEndpoints,
    received: ReceivedBytes,
    /// For large manifests that are being received, or served as they were received, by the domains of those who own
    /// registries.
    memory: ByteBudget<String>,
    lists: PageMemory,
}

impl BodyReader {
    /// What comes is counted in `received`; an endpoint that sends what is wrong is among the `avoided` from then on.
    pub(super) fn new(
        configured: Live<Configured>,
        avoided: AvoidedEndpoints,
        received: ReceivedBytes,
    ) -> Self {
        Self {
            configured,
            avoided,
            received,
            memory: ByteBudget::of_two_shares(MANIFEST_BYTES_MAX),
            lists: PageMemory::default(),
        }
    }

    /// What was received since the start.
    pub(super) fn received(&self) -> &ReceivedBytes {
        &self.received
    }

    /// The manifest that a tag names, whatever it is: only a `Docker-Content-Digest` says what it should be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a body that is encoded, unless it is what the digest says; what the body fails with.
    pub(super) async fn manifest_of_tag(
        &self,
        registry: &Registry,
        response: RegistryResponse,
    ) -> Result<Manifest, Error> {
        let headers = response.answer.response.headers();
        let (stated, is_encoded) = (stated_digest(headers), is_encoded(headers));
        let head = ManifestHead::of(&response.answer);
        let bytes = self.whole_body(registry, None, response).await?;
        let stated = stated.filter(|digest| is_manifest_of(&bytes, digest));
        if is_encoded && stated.is_none() {
            let why = "a Content-Encoding that was not asked for".to_owned();
            return Err(Error::Invalid { host: head.host, why });
        }
        self.received.identify(stated.unwrap_or_else(|| manifest_digest(&bytes)), bytes.len());
        Ok(head.with(bytes))
    }

    /// The manifest `digest`. Content of another digest is refused, so that the next endpoint is asked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other content; what the body fails with.
    pub(super) async fn manifest_of(
        &self,
        registry: &Registry,
        digest: Digest,
        response: RegistryResponse,
    ) -> Result<Manifest, Error> {
        let (head, endpoint) = (ManifestHead::of(&response.answer), response.answer.endpoint.clone());
        let wrong = |fault| self.avoided.record(registry, digest, &endpoint, fault);
        match self.whole_body(registry, Some(digest), response).await {
            Ok(bytes) if is_manifest_of(&bytes, &digest) => Ok(head.with(bytes)),
            Ok(bytes) => {
                wrong(DeliveryFault::Digest);
                let actual = Digest::computed(digest.algorithm(), &bytes);
                let why = format!("content with digest {actual} for {digest}");
                Err(Error::Invalid { host: head.host, why })
            }
            // A limit of this node is no fault of the endpoint.
            Err(error) if error.is_overloaded() => Err(error),
            Err(error) => {
                let too_long = matches!(error, Error::Invalid { .. });
                wrong(if too_long { DeliveryFault::Length } else { DeliveryFault::BrokenOff });
                Err(error)
            }
        }
    }

    async fn whole_body(
        &self,
        registry: &Registry,
        digest: Option<Digest>,
        response: RegistryResponse,
    ) -> Result<Bytes, Error> {
        let RegistryResponse { answer: Answer { response, host, .. }, tracked, has_alternative } = response;
        let received = self.received.counter_for(registry, digest);
        let declared = content_length(response.headers());
        let chunks = Chunks { body: response.into_body(), host, received };
        let memory = Memory { budget: &self.memory, registry, declared };
        let wait = self.body_wait(has_alternative);
        let whole = read_whole(chunks, MANIFEST_BYTES_MAX, wait, &memory).await;
        match whole {
            Ok(bytes) => {
                tracked.came();
                Ok(bytes)
            }
            Err(NotWhole { error, took_too_long }) => {
                if took_too_long && has_alternative {
                    tracked.stalled(&error);
                }
                Err(error)
            }
        }
    }

    /// How long a body is waited for: not as long where another endpoint can be asked instead.
    fn body_wait(&self, has_alternative: bool) -> BodyWait {
        let idle = self.configured.current().config.timeouts.idle;
        if has_alternative {
            BodyWait { idle: idle.min(IDLE_WITH_ALTERNATIVE), whole: WHOLE_WITH_ALTERNATIVE }
        } else {
            BodyWait { idle, whole: RESPONSE_WAIT }
        }
    }

    /// The body of a blob that was asked for from byte `from` on.
    pub(super) async fn blob(
        &self,
        registry: &Registry,
        digest: Digest,
        from: u64,
        response: RegistryResponse,
    ) -> Result<Download, Error> {
        let RegistryResponse { answer, tracked, has_alternative } = response;
        let Answer { response, host, proof, endpoint, .. } = answer;
        let head = BlobHead::of(digest, response.status(), response.headers());
        let (size, offset) = if response.status() == StatusCode::PARTIAL_CONTENT {
            match header(response.headers(), CONTENT_RANGE.as_str()).and_then(parse_content_range) {
                Some((start, total)) if start == from => (total, start),
                _ => {
                    self.avoided.record(registry, digest, &endpoint, DeliveryFault::Range);
                    let why = format!("a range that does not begin at {from} as asked");
                    return Err(Error::Invalid { host, why });
                }
            }
        } else {
            (content_length(response.headers()), 0)
        };
        let is_encoded = is_encoded(response.headers());
        let received = self.received.counter_for(registry, Some(digest));
        let chunks = Chunks { body: response.into_body(), host: host.clone(), received };
        let mut download = Download::new(size, offset, proof, endpoint, chunks);
        (download.has_digest, download.is_encoded) = (head.has_digest, is_encoded);
        let idle = self.body_wait(has_alternative).idle;
        Ok(download.bounded(host, idle, Some(tracked), has_alternative))
    }

    /// A page of a list.
    pub(super) async fn page(&self, registry: &Registry, response: RegistryResponse) -> Result<Page, Error> {
        let RegistryResponse { answer, tracked, has_alternative } = response;
        let Answer { response, host, proof, endpoint, .. } = answer;
        let idle = self.body_wait(has_alternative).idle;
        let (head, body) = response.into_parts();
        let chunks = Chunks { body, host: host.clone(), received: ReceivedCounter::none() };
        let body = Download::new(None, 0, proof, endpoint, chunks);
        let sender = Sender { registry, host: host.clone() };
        let body = body.bounded(host, idle, Some(tracked), has_alternative);
        Page::begin(&head.headers, sender, body, self.lists.clone()).await
    }
}

/// The headers of a response, whose body is drained.
pub(super) async fn headers_of(response: RegistryResponse) -> Result<HeaderMap, Error> {
    let (head, body) = response.answer.response.into_parts();
    drain(body).await;
    Ok(head.headers)
}

/// `Docker-Content-Digest`, where it is a digest.
pub(super) fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    header(headers, "docker-content-digest").and_then(|text| text.parse().ok())
}
