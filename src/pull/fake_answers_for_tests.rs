//! What the registry in memory answers (`fake_registry_for_tests`), question by question.

use std::time::Duration;

use super::fake_bodies_for_tests::{AskedRange, body_of};
use super::fake_registry_for_tests::{Asks, FakeRegistry, Question};
use super::registry_client::{Answer, RegistryClient};
use crate::reference::{Digest, Principal, Reference, Registry, Repository, Tag};
use crate::upstream::{
    Allowed, AuthContext, BlobHead, DeliveryFault, Download, EndpointId, Error, Listing, Manifest, Page,
    ResolvedTag,
};

impl RegistryClient for FakeRegistry {
    fn resolve<'a>(
        &'a self,
        repository: &'a Repository,
        tag: &'a Tag,
        auth: &'a AuthContext,
    ) -> Answer<'a, ResolvedTag> {
        Box::pin(async move {
            let proof = self.check(&format!("resolve {tag}"), repository, auth)?;
            self.before(Question { asks: Asks::TagsDigest, repository, digest: None }).await?;
            let value = ResolvedTag { digest: self.tag(repository, tag)?, manifest: None };
            Ok(Allowed { value, proof })
        })
    }

    fn manifest<'a>(
        &'a self,
        repository: &'a Repository,
        reference: &'a Reference,
        auth: &'a AuthContext,
    ) -> Answer<'a, Manifest> {
        Box::pin(async move {
            let proof = self.check("manifest", repository, auth)?;
            let named = match reference {
                Reference::Digest(digest) => Some(*digest),
                Reference::Tag(_) => None,
            };
            let may_be_mirrored = !auth.need.is_proof();
            let mirrored = named
                .filter(|_| may_be_mirrored)
                .and_then(|digest| self.0.lock().mirror_of(repository, digest));
            let is_authoritative = mirrored.is_none();
            let bytes = match mirrored {
                Some(body) => body.bytes,
                None => {
                    self.before(Question { asks: Asks::Manifest, repository, digest: named }).await?;
                    let digest = match reference {
                        Reference::Digest(digest) => *digest,
                        Reference::Tag(tag) => self.tag(repository, tag)?,
                    };
                    self.content(repository, digest)?
                }
            };
            let host = "reg.test".to_owned();
            let value = Manifest { bytes, media_type: None, host, is_authoritative };
            Ok(Allowed { value, proof })
        })
    }

    fn confirm_manifest<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let proof = self.check("confirm manifest", repository, auth)?;
            self.before(Question { asks: Asks::IsManifestThere, repository, digest: Some(digest) }).await?;
            self.content(repository, digest)?;
            Ok(Allowed { value: (), proof })
        })
    }

    fn confirm_blob<'a>(
        &'a self,
        repository: &'a Repository,
        digest: Digest,
        auth: &'a AuthContext,
    ) -> Answer<'a, BlobHead> {
        Box::pin(async move {
            let proof = self.check("confirm blob", repository, auth)?;
            self.before(Question { asks: Asks::IsBlobThere, repository, digest: Some(digest) }).await?;
            let size = self.content(repository, digest)?.len() as u64;
            let is_empty = self.0.lock().heads_are_empty;
            let value = BlobHead { size: (!is_empty).then_some(size), has_digest: !is_empty };
            Ok(Allowed { value, proof })
        })
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
            let proof = self.check("download", repository, auth)?;
            let asked = AskedRange { from, until };
            let mirrored = self.0.lock().mirror_of(repository, digest);
            if let Some(body) = mirrored {
                return Ok(Allowed { value: body.download(asked), proof });
            }
            self.before(Question { asks: Asks::Blob, repository, digest: Some(digest) }).await?;
            let bytes = self.content(repository, digest)?;
            let size = Some(bytes.len() as u64);
            if from > 0 && Some(from) >= size {
                return Err(Error::RangeNotSatisfiable { host: "reg.test".to_owned(), size });
            }
            let body = body_of(&bytes, asked, &self.0.lock().changes);
            let value = Download::new(size, from, proof, EndpointId::for_test("registry"), body);
            Ok(Allowed { value, proof })
        })
    }

    fn record_wrong_content(
        &self,
        _registry: &Registry,
        digest: Digest,
        endpoint: &EndpointId,
        fault: DeliveryFault,
    ) -> bool {
        self.0.lock().record_fault(endpoint.host(), digest, fault)
    }

    fn list<'a>(
        &'a self,
        repository: &'a Repository,
        _listing: &'a Listing,
        _query: Option<String>,
        auth: &'a AuthContext,
    ) -> Answer<'a, Page> {
        Box::pin(async move {
            let proof = self.check("list", repository, auth)?;
            self.before(Question { asks: Asks::List, repository, digest: None }).await?;
            Ok(Allowed { value: Page::whole(b"{}"), proof })
        })
    }

    fn is_budget_low(&self, _repository: &Repository, _principal: Principal) -> bool {
        false
    }

    fn is_in_outage(&self, _registry: &Registry) -> bool {
        matches!(self.0.lock().failure, Some(Error::Unreachable { .. }))
    }

    fn forget_tokens(&self, _repository: Option<&Repository>) {
        self.0.lock().token_age = Duration::ZERO;
    }
}
