//! A blob of which a body was asked for: as whom it is asked for again, and how its rest is asked for.
//!
//! Promises: what broke off is asked for as the caller for whom it began. A registry that does not answer the rest as a
//! range is asked for a closed range, then for the whole. Deliberately not here: the bytes (`body`), and when
//! they are asked for again (`resume`).

use super::delivery::Trail;
use super::request::{Answered, BlobRequests};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::{Digest, Repository};
use crate::upstream::{self, AuthContext, DeliveryFault, Download, EndpointId};

/// A blob of a repository, and who delivers it.
#[derive(Clone)]
pub(super) struct AskedBlob {
    pub(super) requests: BlobRequests,
    pub(super) repository: Repository,
    pub(super) digest: Digest,
    pub(super) delivered_by: DeliveredBy,
}

/// Who delivers a body.
#[derive(Clone)]
pub(super) enum DeliveredBy {
    /// An endpoint of the registry: as whom the blob was asked for, and is asked for again.
    Registry(AuthContext),
    /// The shared tier; the pull for which the registry is asked for the rest.
    Tier(PullContext),
}

impl AskedBlob {
    pub(super) fn is_from_tier(&self) -> bool {
        matches!(self.delivered_by, DeliveredBy::Tier(_))
    }

    /// As whom the registry was asked; `None` of the shared tier.
    pub(super) fn asked_as(&self) -> Option<&AuthContext> {
        match &self.delivered_by {
            DeliveredBy::Registry(auth) => Some(auth),
            DeliveredBy::Tier(_) => None,
        }
    }

    /// Asks the registry for the blob, or for a part of it; returns as whom, too.
    ///
    /// # Errors
    /// Any of [`upstream::Error`].
    pub(super) async fn ask(
        &self,
        from: u64,
        until: Option<u64>,
    ) -> Result<(Download, AuthContext), upstream::Error> {
        let Self { requests, repository, digest, delivered_by } = self;
        match delivered_by {
            DeliveredBy::Registry(auth) => {
                let download = requests.ask_again(repository, *digest, from, until, auth).await?;
                Ok((download, auth.clone()))
            }
            DeliveredBy::Tier(context) => match Box::pin(requests.ask(context, *digest, from, until)).await {
                Ok(Answered { download, auth, .. }) => Ok((download, auth)),
                Err(Error::Upstream(error)) => Err(error),
                Err(error) => {
                    let host = EndpointId::shared_tier().host().to_owned();
                    Err(upstream::Error::Unauthenticated { host, why: error.to_string() })
                }
            },
        }
    }

    /// Asks for what follows byte `at`, up to `until` or the end of the blob, of `size` bytes if that is known; `None`
    /// if nothing follows. What is answered may begin before `at`.
    ///
    /// # Errors
    /// Any of [`upstream::Error`].
    pub(super) async fn ask_for_rest(
        &self,
        at: u64,
        until: Option<u64>,
        size: Option<u64>,
    ) -> Result<Option<(Download, AuthContext)>, upstream::Error> {
        let refused = match self.ask(at, until).await {
            // A body without a declared length broke off after its last byte.
            Err(upstream::Error::RangeNotSatisfiable { size: Some(whole), .. })
                if whole == at && size.is_none_or(|size| size == at) =>
            {
                return Ok(None);
            }
            Err(error @ upstream::Error::RangeNotSatisfiable { .. }) => error,
            answered => return answered.map(Some),
        };
        let closed = match size.filter(|size| until.is_none() && *size > at) {
            Some(size) => self.ask(at, Some(size)).await,
            None => Err(refused),
        };
        match closed {
            Err(upstream::Error::RangeNotSatisfiable { .. }) => self.ask(0, None).await.map(Some),
            closed => closed.map(Some),
        }
    }

    /// Records that `endpoint` did not deliver it; returns whether another one is left.
    pub(super) fn record_fault(&self, endpoint: &EndpointId, fault: DeliveryFault) -> bool {
        self.requests.record_fault(self.repository.registry(), self.digest, endpoint, fault)
    }

    /// Records that what came as `trail` says is wrong; returns whether an endpoint is left that has not delivered
    /// wrong content.
    pub(super) fn record_wrong(&self, trail: &Trail, fault: DeliveryFault) -> bool {
        self.requests.record_wrong(self.repository.registry(), self.digest, trail, fault)
    }
}
