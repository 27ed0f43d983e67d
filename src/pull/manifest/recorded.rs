//! What the record of a tag serves: the manifest that the tag last named, where upstream cannot be asked or need not
//! be.
//!
//! Promises: a record is served only to a caller with a right to the repository that holds now, and stale for no longer
//! than the operator allows. Deliberately not here: asking upstream (`resolve`).

use std::time::Duration;

use super::confirmed::ConfirmedTags;
use super::freshness;
use super::stored::StoredManifests;
use crate::pull::access::Access;
use crate::pull::access::rights::Use;
use crate::pull::answer::ManifestAnswer;
use crate::pull::config::{Config, Freshness};
use crate::pull::context::PullContext;
use crate::pull::error::Error;
use crate::reference::{Repository, Tag};
use crate::store::{Records, TagRecord};
use crate::support::clock::{Moment, Timestamp};
use crate::support::live::Live;
use crate::upstream;

/// The records of tags.
pub(super) struct RecordedTags {
    config: Live<Config>,
    access: Access,
    pub(super) records: Records,
    stored: StoredManifests,
    pub(super) confirmed: ConfirmedTags,
}

impl RecordedTags {
    /// What `records` says, of the manifests of `stored`.
    pub(super) fn new(
        config: Live<Config>,
        access: Access,
        records: Records,
        stored: StoredManifests,
    ) -> Self {
        Self { config, access, records, stored, confirmed: ConfirmedTags::default() }
    }

    pub(super) fn freshness(&self, repository: &Repository, tag: &Tag) -> Freshness {
        self.config.current().freshness.of(repository, tag)
    }

    /// When upstream last said what a tag names; after a restart to the hour.
    pub(super) async fn last_confirmed(&self, repository: &Repository, tag: &Tag) -> Option<Moment> {
        match self.confirmed.find(repository, tag) {
            Some((_, confirmed)) => Some(confirmed),
            None => self.records.tag(repository, tag).await.map(|tag| Moment::recorded(tag.confirmed_at)),
        }
    }

    /// Whether the manifest of a record is here and may be served stale, should the one that the tag names now be slow.
    /// The caller's right was proved just now.
    pub(super) async fn may_serve_record(&self, context: &PullContext, tag: &Tag, record: TagRecord) -> bool {
        let repository = context.repository();
        !self.freshness(repository, tag).stale_if_error.is_zero()
            && self.stored.find(repository, record.digest).await.is_some()
    }

    /// The manifest that the tag last named, for a caller whose right holds although upstream cannot be asked, and not
    /// for longer than the operator allows: counted from the start of an outage of the registry, else from when the tag
    /// was served so first.
    pub(super) async fn stale(
        &self,
        context: &PullContext,
        tag: &Tag,
        record: TagRecord,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let Self { access, stored, .. } = self;
        let (repository, known) = (context.repository(), access.known());
        let outage = access.outage_lasted(repository.registry(), &error).await;
        let now = self.records.clock().now();
        let begun = self.stale_from(context, tag, record, outage);
        let stale = self.confirmed.stale_for(repository, tag, begun, now);
        let lasted = outage.map_or(stale, |outage| outage.max(stale));
        let young = lasted < self.freshness(repository, tag).stale_if_error;
        let may_read = known.is_open_to_all(repository)
            || known.held_since(context, &error).await.is_some()
            || known.open_cached(context, Use::Read).await;
        if !young || !may_read {
            return Err(error);
        }
        let Some(answer) = stored.find(repository, record.digest).await else { return Err(error) };
        // The request log has each such answer, and why.
        let request = context.request_id();
        tracing::debug!(%request, %repository, %tag, %error, "serving the manifest that the tag last named");
        Ok(answer.stale(record.confirmed_at, error))
    }

    /// Since when a tag is taken to be served stale that was not known to be: from now on; but a signature or
    /// attestation, of which little is known after a restart, from when upstream last named it, unless there is an
    /// outage, whose start is on the disk.
    fn stale_from(
        &self,
        context: &PullContext,
        tag: &Tag,
        record: TagRecord,
        outage: Option<Duration>,
    ) -> Timestamp {
        let is_known = self.confirmed.is_known(context.repository(), tag);
        if freshness::is_attached(tag) && outage.is_none() && !is_known {
            return record.confirmed_at;
        }
        self.records.clock().now()
    }

    /// Under `policy = "open"` what is cached is for every pod, also where upstream refuses this one.
    pub(super) async fn record_if_open_to_all(
        &self,
        context: &PullContext,
        tag: &Tag,
        error: Error,
    ) -> Result<ManifestAnswer, Error> {
        let Self { access, records, stored, .. } = self;
        let repository = context.repository();
        let refused = matches!(
            &error,
            Error::Upstream(
                upstream::Error::Refused { .. }
                    | upstream::Error::ReferenceRefused { .. }
                    | upstream::Error::Unauthenticated { .. }
            ) | Error::AuthenticationRequired { .. }
        );
        if !refused || !access.known().is_open_to_all(repository) {
            return Err(error);
        }
        let Some(record) = records.tag(repository, tag).await else { return Err(error) };
        match stored.find(repository, record.digest).await {
            Some(answer) => Ok(answer.stale(record.confirmed_at, error)),
            None => Err(error),
        }
    }
}
