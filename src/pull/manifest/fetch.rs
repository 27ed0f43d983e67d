//! Manifests from upstream: fetched once for all who ask at the same time as the same principal, verified, stored.
//!
//! Promises: what is returned has the digest that was asked for, or is the registry's answer to a tag; nothing that is
//! both an index and an image is returned; a store that fails costs the pull nothing. What a mirror sent is kept once
//! the registry itself says that the repository has it.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::fetched::{BytesProvedBy, FetchWait, FetchedManifest, type_of};
use super::kept::KeptManifests;
use crate::pull::access::membership::DigestQuestion;
use crate::pull::access::{Absence, Access, CONFIRM_WAIT, Purpose, Subject};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::pull::registry_client::RegistryClient;
use crate::pull::shared_names::SharedNames;
use crate::reference::{
    Digest, Document, DocumentError, Kind, MANIFEST_BYTES_MAX, Principal, Reference, Repository,
    is_manifest_of, manifest_digest,
};
use crate::store::{Member, Store};
use crate::support::byte_budget::ByteBudget;
use crate::support::clock::Timestamp;
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::tier::{Fault, Tier};
use crate::upstream::{
    Allowed, AskedEndpoints, AuthContext, EndpointId, Manifest, Need, Patience, ProvedRight,
};

/// Questions to registries at a time whether a repository has what a mirror sent; without an answer a manifest is not
/// kept.
const CONFIRMATIONS_MAX: usize = 32;

/// What requests are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    repository: Repository,
    reference: Reference,
    /// A mirror's delivery must not pass for a proof.
    need: Need,
    principal: Principal,
    /// How long they wait.
    patience: Patience,
    /// How often rights had been revoked: none shares the answer to a question from before.
    revocations: u64,
}

/// Fetches manifests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ManifestFetcher {
    access: Access,
    upstream: Arc<dyn RegistryClient>,
    store: Store,
    kept: KeptManifests,
    tier: Tier,
    /// What large manifests of the tier are read into.
    memory: Arc<ByteBudget<String>>,
    names: SharedNames,
    running: Singleflight<Key, Result<Allowed<FetchedManifest>, Error>>,
    confirmations: Arc<Semaphore>,
    tasks: Tasks,
}

impl ManifestFetcher {
    /// What it fetches is in `kept` at once, and in `store` soon after; what came from a mirror, once it is confirmed.
    pub(crate) fn new(
        access: Access,
        upstream: Arc<dyn RegistryClient>,
        store: Store,
        kept: KeptManifests,
        memory: Arc<ByteBudget<String>>,
        names: SharedNames,
        tasks: Tasks,
    ) -> Self {
        let (running, confirmations) =
            (Singleflight::new(tasks.clone()), Arc::new(Semaphore::new(CONFIRMATIONS_MAX)));
        let tier = names.tier().clone();
        Self { access, upstream, store, kept, tier, memory, names, running, confirmations, tasks }
    }

    /// Fetches a manifest. Where the caller has no fresh right, upstream's answer is the proof of one. What a tag names
    /// is asked of authoritative endpoints only: a mirror may be behind, which nothing but the digest shows. What a
    /// principal was told is withheld counts although another one is not answered in time.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub(crate) async fn fetch(
        &self,
        context: &PullContext,
        reference: &Reference,
        wait: FetchWait,
    ) -> Result<FetchedManifest, Error> {
        let begun = Instant::now();
        let (subject, purpose) = match reference {
            Reference::Digest(digest)
                if self.access.membership().has_ended(context.repository(), *digest) =>
            {
                (Subject::Manifest(*digest), Purpose::Prove)
            }
            Reference::Digest(digest) => (Subject::Manifest(*digest), self.access.purpose(context).await),
            Reference::Tag(tag) => (Subject::Tag(tag.clone()), Purpose::Prove),
        };
        // What a tag names was asked for by its digest first.
        let asked = match reference {
            Reference::Digest(digest) => {
                let (known, repository) = (self.access.known(), context.repository());
                let question = self.access.membership().question(repository, *digest);
                Some((question, Absence::of_digest(known, repository).await))
            }
            Reference::Tag(_) => None,
        };
        let absence = asked.as_ref().map(|(_, absence)| absence);
        let request = |auth: AuthContext| {
            let (repository, reference) = (context.repository().clone(), reference.clone());
            let principal = auth.presented.principal;
            let key = Key {
                repository: repository.clone(),
                reference: reference.clone(),
                need: auth.need,
                principal,
                patience: auth.patience,
                revocations: self.access.revocations(),
            };
            let fetcher = self.clone();
            let fetched = self
                .running
                .run(key, move || async move { fetcher.fetch_as(&repository, &reference, &auth).await });
            async move {
                let fetched = fetched.await.unwrap_or(Err(Error::panicked("fetched a manifest")));
                absence.iter().for_each(|absence| absence.note(principal, &fetched));
                fetched
            }
        };
        let asking = pin!(self.access.ask(context, &subject, purpose, request));
        let answer = match wait {
            FetchWait::Unbounded => asking.await,
            FetchWait::InTime => {
                let answer = context.in_time(asking).await;
                answer.unwrap_or_else(|| Err(Error::OutOfTime { seconds: begun.elapsed().as_secs() }))
            }
        };
        match (answer, &asked) {
            (Ok((fetched, _)), _) => Ok(fetched),
            (Err(error), None) => Err(error),
            (Err(error), Some((question, absence))) => {
                self.remember_withheld(question, absence).await;
                Err(absence.or_withheld(error))
            }
        }
    }

    /// Ends the membership of a manifest that is withheld and is not here: else another node's word would bring it from
    /// the shared tier in an outage. A client may ask for any digest: only one is remembered that is known otherwise.
    async fn remember_withheld(&self, question: &DigestQuestion, absence: &Absence<'_>) {
        if absence.is_withheld()
            && (question.is_known().await
                || self.names.may_have_member(question.repository(), question.digest()).await)
        {
            question.record_no().await;
        }
    }

    async fn fetch_as(
        &self,
        repository: &Repository,
        reference: &Reference,
        auth: &AuthContext,
    ) -> Result<Allowed<FetchedManifest>, Error> {
        let membership = self.access.membership();
        let before = membership.last_answer();
        // Another request may have fetched it between this one's look and its turn. A proof is the registry's own
        // answer.
        if let (Reference::Digest(digest), Need::Delivery) = (reference, auth.need)
            && let Some((media_type, bytes)) = self.kept.find(repository, *digest)
        {
            let value = FetchedManifest { digest: *digest, is_authoritative: false, media_type, bytes };
            return Ok(Allowed { value, proof: ProvedRight::Nothing });
        }
        if let Reference::Digest(digest) = reference
            && let Some(found) = self.fetch_from_tier(repository, *digest, auth).await
        {
            return Ok(found);
        }
        let Allowed { value: manifest, proof } = self.upstream.manifest(repository, reference, auth).await?;
        let (digest, proved_by) = match reference {
            Reference::Tag(_) => (manifest_digest(&manifest.bytes), BytesProvedBy::Registry),
            Reference::Digest(digest) if is_manifest_of(&manifest.bytes, digest) => {
                (*digest, BytesProvedBy::Digest)
            }
            Reference::Digest(expected) => {
                let actual = Digest::computed(expected.algorithm(), &manifest.bytes);
                return Err(Error::Mismatch {
                    host: manifest.host,
                    expected: *expected,
                    actual: actual.into(),
                });
            }
        };
        let is_authoritative = manifest.is_authoritative;
        let is_proved = is_authoritative || membership.is_manifest(repository, digest).await;
        let fetched = self.read(repository, digest, manifest, proved_by).await?;
        // Where the registry said meanwhile that it is gone, or withholds it, the answer goes out and nothing stays.
        if !is_authoritative || membership.question_after(before, repository, digest).record_yes() {
            if is_proved {
                self.keep(repository, &fetched).await;
            } else {
                self.keep_once_confirmed(repository, &fetched, auth);
            }
        }
        Ok(Allowed { value: fetched, proof })
    }

    /// The manifest from the shared tier, if its registry itself confirms that the repository has it: it said so in its
    /// answer to a tag, or does so now. For a caller without a right the tier is asked nothing before that. Anything
    /// but a plain yes is left to the request for the manifest.
    async fn fetch_from_tier(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Option<Allowed<FetchedManifest>> {
        let membership = self.access.membership();
        let question = membership.question(repository, digest);
        let (mut proof, mut is_confirmed) = (ProvedRight::Nothing, auth.need.is_proof());
        if auth.need.is_proof() {
            // Without a tier that answers, the request for the manifest is the proof.
            if !self.tier.is_readable(repository.registry(), digest) {
                return None;
            }
            proof = self.confirm_for_tier(repository, digest, auth).await?;
        }
        let (bytes, modified) = self.manifest_in_tier(repository, digest).await?;
        // What type it has is for the registry to say where the document does not.
        Document::parse(&bytes, None).ok()?;
        if !auth.need.is_proof()
            && (membership.has_ended(repository, digest) || !membership.is_manifest(repository, digest).await)
        {
            self.confirm_for_tier(repository, digest, auth).await?;
            is_confirmed = true;
        }
        let read = self.read_from_tier(repository, digest, bytes).await?;
        if is_confirmed && !question.record_yes() {
            return None;
        }
        self.tier.record_use(repository.registry(), digest, modified);
        // The registry itself confirmed it, wherever the bytes come from.
        let fetched = FetchedManifest { is_authoritative: true, ..read };
        self.keep(repository, &fetched).await;
        Some(Allowed { value: fetched, proof })
    }

    /// The proof in the registry's answer that the repository has the manifest; `None` for any other answer, and for
    /// none in time.
    async fn confirm_for_tier(
        &self,
        repository: &Repository,
        digest: Digest,
        auth: &AuthContext,
    ) -> Option<ProvedRight> {
        let grant_ttl = self.access.known().terms(repository).grant_ttl;
        let token_age_max = auth.need.token_age_max().unwrap_or(grant_ttl);
        let asking = AuthContext { need: Need::Proof { token_age_max }, ..auth.clone() };
        let confirming = self.upstream.confirm_manifest(repository, digest, &asking);
        let confirmed = tokio::time::timeout(CONFIRM_WAIT, confirming).await;
        Some(confirmed.ok()?.ok()?.proof)
    }

    /// What nodes share of names.
    pub(crate) fn names(&self) -> &SharedNames {
        &self.names
    }

    /// Brings a manifest of the repository from the shared tier into the store, although the registry cannot be asked:
    /// another node learned that the repository has it. Returns whether it is there now. A right it is not.
    pub(crate) async fn restore(&self, repository: &Repository, digest: Digest) -> bool {
        if self.access.membership().has_ended(repository, digest) {
            return false;
        }
        let Some((bytes, modified)) = self.manifest_in_tier(repository, digest).await else { return false };
        let Some(read) = self.read_from_tier(repository, digest, bytes).await else { return false };
        self.tier.record_use(repository.registry(), digest, modified);
        self.keep(repository, &read).await;
        true
    }

    /// The right bytes of a manifest that the shared tier has, and when they were written.
    async fn manifest_in_tier(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Option<(Bytes, Option<Timestamp>)> {
        let registry = repository.registry();
        let (bytes, modified) =
            self.tier.manifest(registry, digest, MANIFEST_BYTES_MAX, &self.memory).await?;
        if !is_manifest_of(&bytes, &digest) {
            self.tier.record_fault(registry, digest, Fault::Wrong);
            return None;
        }
        Some((bytes, modified))
    }

    async fn read_from_tier(
        &self,
        repository: &Repository,
        digest: Digest,
        bytes: Bytes,
    ) -> Option<FetchedManifest> {
        let host = EndpointId::shared_tier().host().to_owned();
        let manifest = Manifest { bytes, media_type: None, host, is_authoritative: false };
        self.read(repository, digest, manifest, BytesProvedBy::Digest).await.ok()
    }

    /// Takes the manifest `digest` that the registry itself sent: reads it, keeps it in memory and stores it; a large
    /// one before it returns. What no digest proves has to be a document that a tag can name.
    ///
    /// # Errors
    /// [`Error::Document`].
    pub(crate) async fn accept(
        &self,
        repository: &Repository,
        digest: Digest,
        manifest: Manifest,
        proof: BytesProvedBy,
    ) -> Result<FetchedManifest, Error> {
        let fetched = self.read(repository, digest, manifest, proof).await?;
        self.keep(repository, &fetched).await;
        Ok(fetched)
    }

    /// Keeps what a mirror sent if the registry says that the repository has it. No answer waits for that.
    fn keep_once_confirmed(&self, repository: &Repository, fetched: &FetchedManifest, auth: &AuthContext) {
        let Ok(permit) = Arc::clone(&self.confirmations).try_acquire_owned() else { return };
        let (fetcher, repository, fetched) = (self.clone(), repository.clone(), fetched.clone());
        let need = Need::Proof { token_age_max: self.access.known().terms(&repository).grant_ttl };
        let asked = AskedEndpoints::default();
        let auth = AuthContext { need, patience: Patience::None, presented: auth.presented.clone(), asked };
        let question = self.access.membership().question(&repository, fetched.digest);
        self.tasks.spawn(async move {
            let digest = fetched.digest;
            match fetcher.upstream.confirm_manifest(&repository, digest, &auth).await {
                Ok(_) if question.record_yes() => fetcher.keep(&repository, &fetched).await,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%repository, %digest, %error, "the registry does not confirm what a mirror sent");
                }
            }
            drop(permit);
        });
    }

    /// The store keeps what its own digest proves: not a schema 1 document, with its signatures. A type that says
    /// nothing is not kept either: upstream is asked again, and may have been mended.
    async fn keep(&self, repository: &Repository, fetched: &FetchedManifest) {
        let FetchedManifest { digest, media_type, bytes, .. } = fetched;
        if digest.is_of(bytes) && !media_type.is_useless() {
            let member = Member::Manifest(media_type.clone());
            self.names.share_member(repository, *digest, &member).await;
            self.tier.write_manifest(repository.registry(), *digest, bytes.clone());
            self.kept.add_fetched(repository, *digest, media_type, bytes).await;
        }
    }

    async fn read(
        &self,
        repository: &Repository,
        digest: Digest,
        manifest: Manifest,
        proof: BytesProvedBy,
    ) -> Result<FetchedManifest, Error> {
        let Manifest { bytes, media_type: sent_as, host, is_authoritative } = manifest;
        // What a mirror says of a type is not its registry's word: what a document says or shows of itself comes before
        // that.
        let by_itself = if is_authoritative { None } else { Document::parse(&bytes, None).ok() };
        let document = match by_itself.map_or_else(|| Document::parse(&bytes, sent_as.as_ref()), Ok) {
            Err(DocumentError::Malformed(_)) if proof == BytesProvedBy::Digest => Document::opaque(sent_as),
            parsed => parsed.map_err(|source| Error::Document { host, source })?,
        };
        if let Kind::Index(listed) | Kind::Image(listed) = &document.kind {
            self.access.membership().declare_sizes(repository, listed);
        }
        // A record counts only where the document does not say its type: no answer waits for the disk in vain.
        let recorded = match document.names_its_type {
            true => None,
            false => self.store.records().member(repository, digest).await,
        };
        let media_type = type_of(document, recorded);
        Ok(FetchedManifest { digest, is_authoritative, media_type, bytes })
    }
}
