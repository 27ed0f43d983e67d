//! Records about names, sealed with the cluster's key: what nodes share for the time of an outage.
//!
//! Promises: without the key nothing of a record can be read, and none be made; a record is about what it is found under.
//! Records are written again now and then, by one node or another, so that the newest one is not old; who can write to the
//! bucket may put an older one in its place, so that a record is used by the age that it states.
//!
//! Deliberately not here: which facts are shared, and when a record counts (`pull`).

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::{Error, ErrorKind};
use super::handle::{Inner, Tier};
use super::objects::{Replace, read_whole};
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
        self.0.as_ref().is_some_and(|inner| inner.key.is_some())
    }

    /// The record about `parts`.
    pub(crate) async fn shared_name<T: DeserializeOwned>(&self, parts: &[&str]) -> Option<Dated<T>> {
        let inner = self.reader()?;
        if !inner.reading.admits(Instant::now()) {
            return None;
        }
        let found = inner.record(parts).await;
        match &found {
            Ok(_) => inner.reading.succeeded(),
            Err(error) if error.kind == ErrorKind::NotFound => inner.reading.succeeded(),
            Err(error) if error.kind.is_trouble() => inner.reading.failed(error.kind, Instant::now()),
            Err(_) => {}
        }
        found.ok().flatten()
    }

    /// Shares what a registry said, in the background, unless it is there and not old.
    pub(crate) fn share_name<T>(&self, parts: Vec<String>, at: Timestamp, fact: T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static,
    {
        let Some(inner) = self.writer().filter(|inner| inner.key.is_some()) else { return };
        let Some(name) = inner.key.as_ref().map(|key| key.name(&borrowed(&parts))) else { return };
        // Another fact about the same is shared at once.
        let shared = format!("{name} {}", serde_json::to_string(&fact).unwrap_or_default());
        if !inner.shared.note_once(shared) || !inner.writing.admits(Instant::now()) {
            return;
        }
        let inner = Arc::clone(inner);
        let tasks = inner.tasks.clone();
        tasks.spawn_detached(async move {
            let parts = borrowed(&parts);
            if let Ok(Some(there)) = inner.record::<T>(&parts).await
                && (there.at > at
                    || there.fact == fact && there.at.age_at(at).as_secs() < RENEWED_AFTER_SECONDS)
            {
                // The newer one counts, whatever it says.
                return;
            }
            if let Err(error) = inner.write_record(&parts, &Dated { at, fact }).await {
                tracing::debug!(%error, "a name could not be shared in the tier");
            }
        });
    }
}

impl Tier {
    /// Puts a record in the place of one that says something else, and counts as newer than that one. Returns whether there
    /// was one.
    ///
    /// # Errors
    /// The tier does not say what is there, or does not take the record.
    pub(crate) async fn replace_name<T>(&self, parts: &[&str], at: Timestamp, fact: T) -> Result<bool, Error>
    where
        T: Serialize + DeserializeOwned + PartialEq,
    {
        let Some(inner) = self.0.as_ref() else { return Ok(false) };
        let Some(there) = inner.record::<T>(parts).await.or_else(Error::absent)? else { return Ok(false) };
        if there.fact == fact {
            return Ok(true);
        }
        if inner.config.write {
            inner.write_record(parts, &Dated { at: at.max(there.at), fact }).await?;
        }
        Ok(true)
    }
}

fn borrowed(parts: &[String]) -> Vec<&str> {
    parts.iter().map(String::as_str).collect()
}

impl Inner {
    /// The record about `parts`; `None` for one that is none, or is of the future.
    async fn record<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<Option<Dated<T>>, Error> {
        let Some(key) = &self.key else { return Ok(None) };
        let at = self.layout.name(&key.name(parts));
        let reading = async {
            let object = self.objects.get(&at).await?;
            read_whole(object.body, RECORD_BYTES_MAX).await
        };
        let Some(sealed) = self.bounded(reading).await? else { return Ok(None) };
        let opened = key.open(parts, &sealed).and_then(|plain| serde_json::from_slice(&plain).ok());
        if opened.is_none() {
            self.metrics.errors.with_label_values(&["bad_record"]).inc();
        }
        let now = self.clock.now();
        Ok(opened.filter(|dated: &Dated<T>| dated.at.0 <= now.0 + AHEAD_SECONDS_MAX))
    }

    async fn write_record<T: Serialize>(&self, parts: &[&str], dated: &Dated<T>) -> Result<(), Error> {
        let Some(key) = &self.key else { return Ok(()) };
        let plain = serde_json::to_vec(dated).unwrap_or_default();
        let Some(sealed) = key.seal(parts, &plain) else { return Ok(()) };
        let at = self.layout.name(&key.name(parts));
        self.bounded(self.objects.put(&at, Bytes::from(sealed), Replace::Anything)).await
    }
}
