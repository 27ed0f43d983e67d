//! Where the bytes of a blob come from, as the caller of a pull: the registry, or the shared tier; and what is recorded
//! of a source when the content has been verified or was wrong.
//!
//! Promises: a right or a membership is recorded only of what an authoritative endpoint delivered or confirmed.

mod asked_blob;
pub(super) mod body;
pub(super) mod delivery;
mod request;
mod resume;
mod slow_registries;
pub(super) mod tiered;

use std::sync::Arc;

use futures_util::StreamExt;

use crate::pull::access::Access;
use crate::pull::access::digest_answers::AnswerNumber;
use crate::pull::blob::source::body::SourceBody;
use crate::pull::blob::source::delivery::Trail;
use crate::pull::blob::source::request::{BlobRequests, UnprovedSource};
use crate::pull::blob::source::slow_registries::SlowRegistries;
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::pull::shared_names::SharedNames;
use crate::reference::Digest;
use crate::tier::{self, ErrorKind, Found, Tier};
use crate::upstream::{self, ConnectStage, DeliveryFault, Download, EndpointId, ProvedRight};

/// Opens bodies of blobs as the caller of a pull. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BlobSource {
    requests: BlobRequests,
    names: SharedNames,
    slow: SlowRegistries,
}

impl BlobSource {
    pub(crate) fn new(access: Access, registries: Arc<dyn RegistryClient>, names: SharedNames) -> Self {
        let requests = BlobRequests::new(access, registries, names.tier().clone());
        Self { requests, names, slow: SlowRegistries::default() }
    }

    /// Who may read what.
    pub(crate) fn access(&self) -> &Access {
        self.requests.access()
    }

    /// The shared tier.
    pub(crate) fn tier(&self) -> &Tier {
        self.requests.tier()
    }

    /// The registries that take too long to confirm.
    fn slow(&self) -> &SlowRegistries {
        &self.slow
    }

    /// What nodes share of names.
    pub(crate) fn names(&self) -> &SharedNames {
        &self.names
    }

    /// The body of a blob that comes from the shared tier. What breaks off is resumed at the registry, as for any
    /// request of `context`.
    pub(crate) fn body_from_tier(&self, context: &PullContext, digest: Digest, found: Found) -> SourceBody {
        let chunks = found.body.map(|chunk| chunk.map_err(|error| interrupted(&error)));
        let endpoint = EndpointId::shared_tier();
        let download = Download::new(Some(found.size), 0, ProvedRight::Nothing, endpoint, chunks);
        SourceBody::from_tier(&self.requests, context, digest, download)
    }

    /// Asks for a blob from byte `from` on, up to `until` or its end, as [`BlobRequests::ask`] does.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn open(
        &self,
        context: &PullContext,
        digest: Digest,
        from: u64,
        until: Option<u64>,
    ) -> Result<SourceBody, Error> {
        let (requests, repository) = (&self.requests, context.repository());
        let answered = requests.ask(context, digest, from, until).await?;
        Ok(SourceBody::answered(requests, repository, digest, (from, until), answered))
    }

    /// Records the right that the content of `digest` proves, which came from where `source` says and was verified.
    pub(crate) async fn record_verified(
        &self,
        context: &PullContext,
        unproved: &UnprovedSource,
        trail: &Trail,
    ) {
        let UnprovedSource { right, principal, proof, endpoint } = unproved;
        // Bytes of a mirror, or that another reader fetched, prove no right.
        if trail.is_of(endpoint) {
            self.access().record_verified(context.repository(), *principal, *proof, *right).await;
        }
    }

    /// Whether the repository has the blob of `size` bytes that came as `trail` says, asked for after `before`: an
    /// authoritative endpoint delivered some of it, or says so now. A mirror may serve any digest under any name.
    pub(crate) async fn is_member(
        &self,
        context: &PullContext,
        digest: Digest,
        size: u64,
        trail: &Trail,
        before: AnswerNumber,
    ) -> bool {
        let (repository, membership) = (context.repository(), self.access().membership());
        let is_delivered = trail.is_proved_in(repository)
            && membership.question_after(before, repository, digest).record_yes();
        if is_delivered || membership.is_confirmed(repository, digest).await {
            return true;
        }
        match self.access().ask_for_blob(context, digest, Some(size)).await {
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
        self.requests.record_wrong(context.repository().registry(), digest, trail, fault)
    }
}

/// The error of a body from the shared tier that broke off, or did not come.
fn interrupted(error: &tier::Error) -> upstream::Error {
    let stage = if error.kind == ErrorKind::GaveUp { ConnectStage::Timeout } else { ConnectStage::Body };
    let host = EndpointId::shared_tier().host().to_owned();
    upstream::Error::Unreachable { host, stage, why: error.to_string() }
}
