//! What `pull` asks of registries: the requests of [`Upstream`], as a trait, so that each part of `pull` can be tested
//! against a registry that answers what the test says.

use futures_util::future::BoxFuture;

use crate::reference::{Digest, Principal, Reference, Registry, Repository, Tag};
use crate::upstream::{
    Allowed, AuthContext, BlobHead, DeliveryFault, Download, EndpointId, Error, Listing, Manifest, Page,
    ResolvedTag, Upstream,
};

/// An answer that upstream gave to the principal of an [`AuthContext`].
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<Allowed<T>, Error>>;

/// Requests to registries, each bounded in time.
pub(crate) trait RegistryClient: Send + Sync {
    /// What a tag names now.
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        auth: &'a AuthContext,
    ) -> Answer<'a, ResolvedTag>;

    /// A manifest, unverified.
    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        auth: &'a AuthContext,
    ) -> Answer<'a, Manifest>;

    /// Whether the repository has a manifest.
    fn confirm_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, ()>;

    /// What the registry says of a blob of the repository.
    fn confirm_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, BlobHead>;

    /// The body of a blob from byte `from` up to `until`, or to its end; unverified.
    fn download<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        from: u64,
        until: Option<u64>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Download>;

    /// Records that an endpoint of `registry` did not deliver the content of `digest`: others are asked before it for a
    /// while. Returns whether one is left that has not failed to.
    fn record_wrong_content(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool;

    /// A page of a list.
    fn list<'a>(
        &'a self,
        repository: &'a Repository,
        listing: &'a Listing,
        query: Option<String>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Page>;

    /// Whether the rate limit of a repository or its registry is nearly used up for a principal.
    fn is_budget_low(&self, repository: &Repository, principal: Principal) -> bool;

    /// Whether no authoritative endpoint of a registry answers anything: none can be connected to, or several
    /// repositories fail and no request was answered since.
    fn is_in_outage(&self, registry: &Registry) -> bool;

    /// Forgets the tokens for a repository, or all, so that the next answer rests on a new one.
    fn forget_tokens(&self, repository: Option<&Repository>);
}

impl RegistryClient for Upstream {
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        auth: &'a AuthContext,
    ) -> Answer<'a, ResolvedTag> {
        Box::pin(self.resolve(repository, tag, auth))
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        auth: &'a AuthContext,
    ) -> Answer<'a, Manifest> {
        Box::pin(self.manifest(repository, reference, auth))
    }

    fn confirm_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, ()> {
        Box::pin(self.confirm_manifest(repository, digest, auth))
    }

    fn confirm_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, BlobHead> {
        Box::pin(self.confirm_blob(repository, digest, auth))
    }

    fn download<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        from: u64,
        until: Option<u64>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Download> {
        Box::pin(async move {
            let download = self.download(repository, digest, from, until, auth).await?;
            let proof = download.proof;
            Ok(Allowed { value: download, proof })
        })
    }

    fn list<'a>(
        &'a self,
        repository: &'a Repository,
        listing: &'a Listing,
        query: Option<String>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Page> {
        Box::pin(self.list(repository, listing, query, auth))
    }

    fn record_wrong_content(
        &self,
        registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        self.record_wrong_content(registry, digest, endpoint, fault)
    }

    fn is_budget_low(&self, repository: &Repository, principal: Principal) -> bool {
        self.is_budget_low(repository, principal)
    }

    fn is_in_outage(&self, registry: &Registry) -> bool {
        self.is_in_outage(registry)
    }

    fn forget_tokens(&self, repository: Option<&Repository>) {
        self.forget_tokens(repository);
    }
}
