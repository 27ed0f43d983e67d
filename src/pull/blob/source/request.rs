//! One request for the bytes of a blob, and what is recorded of the endpoints that answer such requests.
//!
//! Promises: an answer is a right's proof where it states the digest; where it does not, the caller learns that the
//! content would be one. Faults are recorded where the next request is decided: with upstream's endpoints, or with the
//! shared tier. Deliberately not here: reading a body (`body`).

use std::sync::Arc;

use super::delivery::Trail;
use crate::pull::access::{Access, Purpose, Subject, UnprovedRight};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::reference::{Digest, Principal, Registry, Repository};
use crate::tier::{Fault, Tier};
use crate::upstream::{
    self, Allowed, AuthContext, DeliveryFault, Download, EndpointId, Need, Patience, ProvedRight,
};

/// Asks for the bytes of blobs. Cheap to clone.
#[derive(Clone)]
pub(super) struct BlobRequests {
    access: Access,
    registries: Arc<dyn RegistryClient>,
    tier: Tier,
}

/// The registry's answer to a request for a blob or a part of it.
pub(super) struct Answered {
    pub(super) download: Download,
    /// As whom it was asked.
    pub(super) auth: AuthContext,
    /// Set if the content proves a right that the answer's head did not.
    pub(super) unproved: Option<UnprovedRight>,
}

/// An answer of a registry that proves a right when its content was verified.
pub(crate) struct UnprovedSource {
    pub(super) right: UnprovedRight,
    pub(super) principal: Principal,
    pub(super) proof: ProvedRight,
    pub(super) endpoint: EndpointId,
}

impl BlobRequests {
    pub(super) fn new(access: Access, registries: Arc<dyn RegistryClient>, tier: Tier) -> Self {
        Self { access, registries, tier }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    pub(super) fn tier(&self) -> &Tier {
        &self.tier
    }

    /// Asks for a blob from byte `from` on, up to `until` or its end. Where the caller has no fresh right, upstream's
    /// answer is the proof of one if it states the digest; if not, the content is, once it was verified.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(super) async fn ask(
        &self,
        context: &PullContext,
        digest: Digest,
        from: u64,
        until: Option<u64>,
    ) -> Result<Answered, Error> {
        let (registries, repository) = (&self.registries, context.repository());
        let purpose = self.access.purpose(context).await;
        let right = self.access.unproved();
        let request = |auth: AuthContext| async move {
            let Allowed { value, proof } =
                registries.download(repository, digest, from, until, &auth).await?;
            let proof = if value.has_digest { proof } else { ProvedRight::Nothing };
            Ok(Allowed { value, proof })
        };
        let (download, presented) =
            self.access.ask(context, &Subject::Blob(digest), purpose, request).await?;
        let is_unproved = matches!(purpose, Purpose::Prove) && !download.has_digest;
        let asked = context.asked().clone();
        let auth = AuthContext { presented, need: Need::Delivery, patience: Patience::Wait, asked };
        Ok(Answered { download, auth, unproved: is_unproved.then_some(right) })
    }

    /// Asks again, as whom a body was asked for before.
    ///
    /// # Errors
    /// Any of [`upstream::Error`].
    pub(super) async fn ask_again(
        &self,
        repository: &Repository,
        digest: Digest,
        from: u64,
        until: Option<u64>,
        auth: &AuthContext,
    ) -> Result<Download, upstream::Error> {
        Ok(self.registries.download(repository, digest, from, until, auth).await?.value)
    }

    /// Records that what came as `trail` says is not the content of `digest`; returns whether another endpoint is left.
    pub(super) fn record_wrong(
        &self,
        registry: &Registry,
        digest: Digest,
        trail: &Trail,
        fault: DeliveryFault,
    ) -> bool {
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
    pub(super) fn record_fault(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        if !endpoint.is_shared_tier() {
            return self.registries.record_wrong_content(registry, digest, endpoint, fault);
        }
        let fault = if fault == DeliveryFault::BrokenOff { Fault::BrokenOff } else { Fault::Wrong };
        self.tier.record_fault(registry, digest, fault);
        true
    }
}
