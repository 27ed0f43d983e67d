//! Arch aliases: the older habit of one image an architecture, `kube-proxy-arm64:v1` beside or instead of
//! `kube-proxy:v1`.
//!
//! Where `arch_suffix` names architectures for a registry, a name that upstream does not show to the caller is answered
//! from its alias: `app-arm64:v1` from the arm64 entry of the index `app:v1`, and `app:v1` as an index synthesized from
//! `app-amd64:v1`, `app-arm64:v1` and so on, in the order of the configuration.
//!
//! Promises: what upstream does have is never answered otherwise, and no index that exists is changed; every repository
//! that is read is read with a right of the caller to that repository, and to each of them for a synthesized index; the
//! same entries make the same bytes. A registry without `arch_suffix` never comes here.

pub(crate) mod names;
pub(crate) mod records;

use futures_util::future::join_all;

use super::access::membership::Membership;
use super::answer::{AnswerSource, ManifestAnswer, Stale};
use super::blob::{BlobAnswer, BlobRange, BlobSize};
use super::context::PullContext;
use super::error::{Error, Fault};
use super::manifest::ManifestUse;
use super::own_names::OwnNames;
use crate::reference::{Digest, Reference, Repository, Tag};
use crate::store::{Records, SynthesizedIndex};
use names::{Entry, entry_for, synthesized_index, with_arch, without_arch};
use records::AliasRecords;

/// Answers names by their aliases, where upstream does not have them.
pub(crate) struct ArchAliases {
    own_names: OwnNames,
    membership: Membership,
    records: AliasRecords,
}

/// One registry's architectures.
pub(crate) struct OfRegistry<'a> {
    aliases: &'a ArchAliases,
    archs: &'a [String],
}

impl ArchAliases {
    pub(crate) fn new(own_names: OwnNames, membership: Membership, records: Records) -> Self {
        Self { own_names, membership, records: AliasRecords::new(records) }
    }

    /// For a registry with these architectures.
    pub(crate) fn of<'a>(&'a self, archs: &'a [String]) -> OfRegistry<'a> {
        OfRegistry { aliases: self, archs }
    }

    /// Whether an index was synthesized for a repository.
    pub(crate) async fn has_index(&self, repository: &Repository, digest: Digest) -> bool {
        self.records.index(repository, digest).await.is_some()
    }
}

impl OfRegistry<'_> {
    /// A manifest by its own name, else by an alias.
    ///
    /// # Errors
    /// What there was to say about the name itself.
    pub(crate) async fn manifest(
        &self,
        context: &PullContext,
        reference: &Reference,
        wanted: ManifestUse,
    ) -> Result<ManifestAnswer, Error> {
        if let Reference::Digest(digest) = reference
            && let Some(answer) = self.known_manifest(context, *digest, wanted).await
        {
            return Ok(answer);
        }
        let error = match self.aliases.own_names.manifest(context, reference, wanted).await {
            Err(error) if may_have_alias(&error) => error,
            answered => return answered,
        };
        match reference {
            Reference::Tag(tag) => self.manifest_by_tag(context, tag, error).await,
            Reference::Digest(digest) => self.manifest_by_digest(context, *digest, wanted, error).await,
        }
    }

    /// A blob by its own name, else by an alias.
    ///
    /// # Errors
    /// What there was to say about the name itself.
    pub(crate) async fn blob(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: BlobRange,
    ) -> Result<BlobAnswer, Error> {
        let own_names = &self.aliases.own_names;
        if let Some(alias) = self.alias_with(context.repository(), digest).await
            && let Ok(answer) = own_names.blob(&context.in_repository(alias), digest, wanted).await
        {
            return Ok(answer);
        }
        let error = match own_names.blob(context, digest, wanted).await {
            Err(error) if may_have_alias(&error) => error,
            answered => return answered,
        };
        for alias in self.likely_aliases(context.repository()) {
            if let Ok(answer) = own_names.blob(&context.in_repository(alias), digest, wanted).await {
                return Ok(answer);
            }
        }
        Err(error)
    }

    /// The size of a blob by its own name, else by an alias.
    ///
    /// # Errors
    /// What there was to say about the name itself.
    pub(crate) async fn blob_size(&self, context: &PullContext, digest: Digest) -> Result<BlobSize, Error> {
        let own_names = &self.aliases.own_names;
        let error = match own_names.blob_size(context, digest).await {
            Err(error) if may_have_alias(&error) => error,
            answered => return answered,
        };
        for alias in self.likely_aliases(context.repository()) {
            if let Ok(size) = own_names.blob_size(&context.in_repository(alias), digest).await {
                return Ok(size);
            }
        }
        Err(error)
    }

    /// What is known of a digest without asking for it by this name: an index that was synthesized, or a manifest that
    /// an alias holds.
    async fn known_manifest(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: ManifestUse,
    ) -> Option<ManifestAnswer> {
        let ArchAliases { own_names, records, .. } = self.aliases;
        let repository = context.repository();
        if self.likely_aliases(repository).is_empty() {
            return None;
        }
        if let Some(SynthesizedIndex { bytes, media_type, images }) = records.index(repository, digest).await
        {
            let asked = images.iter().map(|(entry, digest)| {
                let (context, reference) = (context.in_repository(entry.clone()), (*digest).into());
                async move { own_names.manifest(&context, &reference, ManifestUse::Resolve).await.is_ok() }
            });
            let may_read_all = join_all(asked).await.into_iter().all(|may_read| may_read);
            let source = AnswerSource::Hit;
            return may_read_all.then_some(ManifestAnswer { digest, media_type, bytes, source, stale: None });
        }
        let alias = self.alias_with(repository, digest).await?;
        let context_there = context.in_repository(alias.clone());
        let answer = own_names.manifest(&context_there, &digest.into(), wanted).await.ok()?;
        records.came_from(repository, alias);
        Some(answer)
    }

    async fn manifest_by_digest(
        &self,
        context: &PullContext,
        digest: Digest,
        wanted: ManifestUse,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let ArchAliases { own_names, records, .. } = self.aliases;
        for alias in self.likely_aliases(context.repository()) {
            let context_there = context.in_repository(alias.clone());
            if let Ok(answer) = own_names.manifest(&context_there, &digest.into(), wanted).await {
                records.came_from(context.repository(), alias);
                return Ok(answer);
            }
        }
        Err(error)
    }

    async fn manifest_by_tag(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let (repository, records) = (context.repository(), &self.aliases.records);
        if self.likely_aliases(repository).is_empty() || !records.is_absent(repository, tag, &error).await {
            return Err(error);
        }
        let answer = match without_arch(repository, self.archs) {
            Some((base, arch)) => self.entry_of(&context.in_repository(base), &arch, tag, error).await?,
            None => self.synthesize(context, tag, error).await?,
        };
        records.answered(repository, tag).await;
        Ok(answer)
    }

    /// The entry for `arch` of the index that a tag names in the repository of `context`.
    async fn entry_of(
        &self,
        context: &PullContext,
        arch: &str,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let own_names = &self.aliases.own_names;
        let by_tag = tag.clone().into();
        let Ok(index) = own_names.manifest(context, &by_tag, ManifestUse::Resolve).await else {
            return Err(error);
        };
        let Some(digest) = entry_for(&index, arch) else { return Err(error) };
        let entry = own_names.manifest(context, &digest.into(), ManifestUse::Resolve).await?;
        // What is known of the tag is known of its entry, no more.
        Ok(match index.stale {
            Some(Stale { confirmed_at, error }) => entry.stale(confirmed_at, error),
            None => entry,
        })
    }

    /// An index of the images that exist under the aliases of a name.
    async fn synthesize(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let ArchAliases { own_names, records, .. } = self.aliases;
        let aliases =
            self.archs.iter().filter_map(|arch| Some((with_arch(context.repository(), arch)?, arch)));
        let by_tag = tag.clone().into();
        let asked = aliases.map(|(alias, arch)| {
            let (context, by_tag) = (context.in_repository(alias.clone()), &by_tag);
            async move {
                let answer = match own_names.manifest(&context, by_tag, ManifestUse::Resolve).await {
                    Ok(answer) => Some(answer),
                    Err(error) if records.is_absent(&alias, tag, &error).await => None,
                    // An index that lacks an image only because it cannot be asked for now would be another index.
                    Err(error) => return Err(error),
                };
                Ok((alias, arch, answer))
            }
        });
        let asked = join_all(asked).await.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let mut entries = Vec::new();
        let mut absent = Vec::new();
        for (repository, arch, answer) in asked {
            match answer {
                Some(answer) if answer.media_type.is_image() => {
                    entries.push(Entry { repository, arch: arch.clone(), answer });
                }
                Some(_) => {}
                None => absent.push(repository),
            }
        }
        let Some((bytes, media_type)) = synthesized_index(&entries) else { return Err(error) };
        let stale = entries.iter().find_map(|entry| entry.answer.stale.clone());
        let source = if stale.is_some() { AnswerSource::Stale } else { AnswerSource::Revalidated };
        for alias in absent {
            records.answered(&alias, tag).await;
        }
        let images = entries.into_iter().map(|entry| (entry.repository, entry.answer.digest)).collect();
        let index = SynthesizedIndex { bytes: bytes.clone(), media_type: media_type.clone(), images };
        let digest = records.record_index(context.repository(), index).await;
        Ok(ManifestAnswer { digest, media_type, bytes, source, stale })
    }

    /// The alias of which `digest` is a member, where it is none of the name itself.
    async fn alias_with(&self, repository: &Repository, digest: Digest) -> Option<Repository> {
        let membership = &self.aliases.membership;
        let aliases = self.likely_aliases(repository);
        if aliases.is_empty() || membership.of(repository, digest).await.is_some() {
            return None;
        }
        for alias in aliases {
            if membership.of(&alias, digest).await.is_some() {
                return Some(alias);
            }
        }
        None
    }

    fn likely_aliases(&self, repository: &Repository) -> Vec<Repository> {
        self.aliases.records.likely_first(repository, names::aliases(repository, self.archs))
    }
}

/// Whether an alias may answer instead: upstream does not show the name. Registries hide what they do not show, so that
/// a refusal may mean that it does not exist; what they withhold does.
fn may_have_alias(error: &Error) -> bool {
    let is_hidden = matches!(
        error.fault(),
        Fault::NotFound | Fault::Refused(_) | Fault::AuthenticationRequired | Fault::Outage
    );
    is_hidden && !error.is_withheld()
}
