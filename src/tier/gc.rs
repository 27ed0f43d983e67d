//! Deletes objects that no node has used for a while: `larder tier gc`, and a rule to decide by.
//!
//! The last use of an object is when it was written, or when its mark of use was written again. Ages are differences
//! between times of the store's own clock. Only objects of this version's tree are looked at.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::bucket::Bucket;
use super::error::{Error, ErrorKind};
use super::handle::Tier;
use super::objects::{Listed, Replace};
use crate::support::clock::Timestamp;

/// A lease that is older belongs to no writer: the longest download of a layer takes less.
const LEASE_AGE_MAX: Duration = Duration::from_secs(86_400);
/// A mark of use that is older and is of no object is deleted, and an object that a round trip has left: an object may
/// be written again in the meantime.
const ORPHAN_AGE_MAX: Duration = Duration::from_secs(86_400);
/// How long the next objects of a list may take.
const LIST_WAIT: Duration = Duration::from_secs(60);
/// Directories below each kind of object: the first two hexadecimal digits of digests.
const DIRECTORIES: u32 = 256;

/// What was deleted, and what stayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Objects that were deleted, marks of use and old leases not counted.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that stayed.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Objects that could not be deleted.
    pub failed: u64,
}

impl Tier {
    /// Deletes blobs and manifests that no node has used for `older_than`, records about names that none has renewed
    /// for as long, and what is left of marks, leases and round trips.
    ///
    /// # Errors
    /// The tier cannot be listed or written.
    pub async fn collect(&self, older_than: Duration) -> Result<Collected, Error> {
        let denied = |why: &str| Error::new(ErrorKind::Denied, why);
        let inner = self.writer().ok_or_else(|| denied("[tier] write is false, or there is no tier"))?;
        let bucket = &inner.bucket;
        let now = bucket.now().await?;
        let mut collected = Collected::default();
        for algorithm in ["sha256", "sha512"] {
            for directory in 0..DIRECTORIES {
                let below = format!("{algorithm}/{directory:02x}");
                bucket.collect_below(&below, older_than, now, &mut collected).await?;
            }
        }
        for directory in 0..DIRECTORIES {
            let names = bucket.layout.directory("names", &format!("{directory:02x}"));
            bucket.delete_older(&names, older_than, now).await?;
        }
        bucket.delete_older(&bucket.layout.probes(), ORPHAN_AGE_MAX, now).await?;
        Ok(collected)
    }
}

impl Bucket {
    /// The time by the clock of the store: that of an object written just now.
    async fn now(&self) -> Result<Timestamp, Error> {
        let key = self.layout.probe();
        self.put(&key, Bytes::new(), Replace::Anything).await?;
        let written = self.get(&key).await;
        let _ = self.delete(&key).await;
        Ok(written?.modified)
    }

    async fn collect_below(
        &self,
        below: &str,
        older_than: Duration,
        now: Timestamp,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        let mut used: HashMap<String, Timestamp> = HashMap::new();
        let root_of_marks = self.layout.directory("used", below);
        let mut marks = self.objects.list(&root_of_marks);
        while let Some(Listed { key, modified, .. }) = next(&mut marks).await? {
            if let Some(name) = key.strip_prefix(&root_of_marks) {
                used.insert(name.to_owned(), modified);
            }
        }
        for kind in ["blobs", "manifests"] {
            let root = self.layout.directory(kind, below);
            let mut objects = self.objects.list(&root);
            while let Some(Listed { key, modified, size }) = next(&mut objects).await? {
                let name = key.strip_prefix(&root).unwrap_or_default();
                let mark = used.remove(name);
                if !is_unused(modified, mark, now, older_than) {
                    collected.kept += 1;
                    collected.kept_bytes += size;
                    continue;
                }
                match self.delete(&key).await {
                    Ok(()) => {
                        collected.deleted += 1;
                        collected.deleted_bytes += size;
                        if mark.is_some() {
                            let mark = format!("{root_of_marks}{name}");
                            let _ = self.delete(&mark).await;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an object of the shared tier could not be deleted");
                        collected.failed += 1;
                    }
                }
            }
        }
        for (name, modified) in used {
            if modified.age_at(now) > ORPHAN_AGE_MAX {
                let _ = self.delete(&format!("{root_of_marks}{name}")).await;
            }
        }
        self.delete_older(&self.layout.directory("leases", below), LEASE_AGE_MAX, now).await
    }

    /// Deletes the objects of a directory that were written longer ago than `age_max`. One that cannot be deleted stays
    /// until the next time.
    async fn delete_older(&self, directory: &str, age_max: Duration, now: Timestamp) -> Result<(), Error> {
        let mut objects = self.objects.list(directory);
        while let Some(Listed { key, modified, .. }) = next(&mut objects).await? {
            if modified.age_at(now) > age_max {
                let _ = self.delete(&key).await;
            }
        }
        Ok(())
    }
}

async fn next(
    listed: &mut (impl futures_util::Stream<Item = Result<Listed, Error>> + Unpin),
) -> Result<Option<Listed>, Error> {
    let next = timeout(LIST_WAIT, listed.next()).await;
    next.map_err(|_| Error::timed_out(LIST_WAIT))?.transpose()
}

/// Whether an object has not been used for `older_than` at `now`.
fn is_unused(written: Timestamp, mark: Option<Timestamp>, now: Timestamp, older_than: Duration) -> bool {
    mark.unwrap_or(written).max(written).age_at(now) > older_than
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_a_while_ago_stays_however_old_it_is() {
        let (day, at) = (86_400, |days: u64| Timestamp(days * 86_400));
        let month = Duration::from_secs(30 * day);
        for (written, mark, unused) in [
            (0, None, true),
            (80, None, false),
            (0, Some(80), false),
            (0, Some(60), true),
            (80, Some(10), false),
            // The clock of the store was set back.
            (200, None, false),
        ] {
            assert_eq!(is_unused(at(written), mark.map(at), at(100), month), unused, "{written} {mark:?}");
        }
    }
}
