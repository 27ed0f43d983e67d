//! Records about names, sealed with the cluster's key: what nodes share for the time of an outage.
//!
//! Promises: without the key nothing of a record can be read, and none be made; a record is about what it is found
//! under. Records are written again now and then, by one node or another, so that the newest one is not old; who can
//! write to the bucket may put an older one in its place, so that a record is used by the age that it states.
//!
//! Deliberately not here: which facts are shared, and when a record counts (`pull`).

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::metrics::Failure;
use super::objects::Replace;
use crate::reference::Registry;
use crate::support::clock::Timestamp;

/// Bytes of a record at most.
const RECORD_BYTES_MAX: usize = 4 * 1024;
/// A record that is younger is not written again.
const RENEWED_AFTER_SECONDS: u64 = 3_600;
/// A record of a clock that is ahead by more than this does not count: it would be young for too long.
const AHEAD_SECONDS_MAX: u64 = 300;

/// A record, with the time from which on it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dated<T> {
    /// When a registry said so, by the clock of the node that it was said to.
    pub(crate) at: Timestamp,
    /// What it said.
    pub(crate) fact: T,
}

impl Tier {
    /// Whether names are shared.
    pub(crate) fn shares_names(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.names.key.is_some())
    }

    /// Whether those of `registry` are.
    pub(crate) fn shares_names_of(&self, registry: &Registry) -> bool {
        self.shares_names() && self.shares(registry)
    }

    /// The record about `parts`; `None` if there is none.
    ///
    /// # Errors
    /// The tier does not say, or is not read.
    pub(crate) async fn shared_name<T: DeserializeOwned>(
        &self,
        parts: &[&str],
    ) -> Result<Option<Dated<T>>, Error> {
        match self.reader() {
            Some(inner) => inner.record_in_turn(parts).await,
            None => Err(Error::new(ErrorKind::GaveUp, "it is not read")),
        }
    }

    /// Shares what a registry said, in the background, unless it is there and not old.
    pub(crate) fn share_name<T>(&self, parts: Vec<String>, at: Timestamp, fact: T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static,
    {
        let Some(inner) = self.writer().filter(|inner| inner.names.key.is_some()) else { return };
        let Some(name) = inner.names.key.as_ref().map(|key| key.name(&borrowed(&parts))) else { return };
        // Another fact about the same is shared at once.
        let shared = format!("{name} {}", serde_json::to_string(&fact).unwrap_or_default());
        if inner.health.writing.is_left_alone(Instant::now()) || !inner.names.shared.note_once(shared.clone())
        {
            return;
        }
        let inner = Arc::clone(inner);
        let tasks = inner.bucket.tasks.clone();
        tasks.spawn_detached(async move {
            if let Err(error) = inner.share(&borrowed(&parts), Dated { at, fact }).await {
                // The next proof is shared.
                inner.names.shared.forget_key(&shared);
                tracing::debug!(%error, "a name could not be shared in the tier");
            }
        });
    }
}

impl Tier {
    /// Puts a record in the place of one that says something else, and counts as newer than that one; before that the
    /// same record about `beside`, if that is something, which [`Self::share_name`] does not write, so that it stays
    /// whatever is shared meanwhile. Returns whether there was one about `parts`.
    ///
    /// # Errors
    /// The tier does not say what is there, or does not take the records.
    pub(crate) async fn replace_name<T>(
        &self,
        (parts, beside): (&[&str], Option<&[&str]>),
        at: Timestamp,
        fact: T,
    ) -> Result<bool, Error>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let Some(inner) = self.0.as_ref() else { return Ok(false) };
        let Some(there) = inner.record_in_turn::<T>(parts).await? else { return Ok(false) };
        if there.fact == fact {
            return Ok(true);
        }
        if inner.config.write {
            let record = Dated { at: at.max(there.at), fact };
            if let Some(beside) = beside {
                inner.write_record(beside, &record).await?;
            }
            inner.write_record(parts, &record).await?;
        }
        Ok(true)
    }
}

fn borrowed(parts: &[String]) -> Vec<&str> {
    parts.iter().map(String::as_str).collect()
}

impl Inner {
    /// Writes a record, unless there is a newer one, or the same that is not old. Where the tier does not say what is
    /// there, it may be one that must stay.
    async fn share<T>(&self, parts: &[&str], record: Dated<T>) -> Result<(), Error>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let there = self.record::<T>(parts).await.or_else(Error::absent)?;
        let stays = there.is_some_and(|there| {
            let is_young = there.at.age_at(record.at).as_secs() < RENEWED_AFTER_SECONDS;
            // The newer one counts, whatever it says.
            there.at > record.at || there.fact == record.fact && is_young
        });
        if stays {
            return Ok(());
        }
        if !self.health.writing.admits(Instant::now()) {
            return Err(Error::new(ErrorKind::GaveUp, "it does not take what it is given"));
        }
        self.write_record(parts, &record).await
    }

    /// The record about `parts`, unless the tier is left alone.
    async fn record_in_turn<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<Option<Dated<T>>, Error> {
        if !self.health.reading.admits(Instant::now()) {
            return Err(Error::new(ErrorKind::GaveUp, "it is left alone for a while"));
        }
        let found = self.record(parts).await.or_else(Error::absent);
        self.health.reading.record(&found, Instant::now());
        found
    }

    /// The record about `parts`; `None` for one that is none, or is of the future.
    async fn record<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<Option<Dated<T>>, Error> {
        let Some(key) = &self.names.key else { return Ok(None) };
        let at = self.bucket.layout.name(&key.name(parts));
        let Some(sealed) = self.bucket.get_whole(&at, RECORD_BYTES_MAX).await? else { return Ok(None) };
        let opened = key.open(parts, &sealed).and_then(|plain| serde_json::from_slice(&plain).ok());
        if opened.is_none() {
            self.bucket.metrics.errors.count(Failure::BadRecord);
        }
        let now = self.bucket.clock.now();
        Ok(opened.filter(|dated: &Dated<T>| dated.at.0 <= now.0 + AHEAD_SECONDS_MAX))
    }

    async fn write_record<T: Serialize>(&self, parts: &[&str], dated: &Dated<T>) -> Result<(), Error> {
        let Some(key) = &self.names.key else { return Ok(()) };
        let plain = serde_json::to_vec(dated).unwrap_or_default();
        let Some(sealed) = key.seal(parts, &plain) else { return Ok(()) };
        let at = self.bucket.layout.name(&key.name(parts));
        let written = self.bucket.put(&at, Bytes::from(sealed), Replace::Anything).await;
        self.health.writing.record(&written, Instant::now());
        written
    }
}
