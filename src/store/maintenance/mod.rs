//! What the store does by itself while it is open: it stays within its budget, makes room ahead of need, keeps
//! `index.json` in step with the tags, scrubs its blobs and expires records.
//!
//! Promises: every task and thread has ended when [`Maintenance::run`] returns. A failure of one of these tasks is
//! logged and tried again at its next time; no pull depends on any of them.

pub(super) mod oci_index;
pub(super) mod scrub;
pub(super) mod verify;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::store::admission::Admission;
use crate::store::disk::{blocking, low_priority};
use crate::store::layout::Layout;
use crate::store::maintenance::scrub::Scrubber;
use crate::store::metrics::gauge_value;
use crate::store::records::{Records, expire};
use crate::support::metrics::IntGauge;
use crate::support::shutdown::Shutdown;

/// When the first scrub begins after a start, and how long after it has ended the next one begins.
const SCRUB_AFTER: Duration = Duration::from_secs(10 * 60);
const SCRUB_INTERVAL: Duration = Duration::from_secs(7 * 86_400);
/// How often the budget is enforced, besides before each download: other files fill the filesystem too, and a restart
/// may have made the budget smaller. More often than kubelet looks at the disk, every 10 s, so that the store has given
/// way by then. Blobs are evicted ahead of need if nothing asked for space in so long.
const BUDGET_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is looked whether the filesystem is short of inodes, so that records of absent content give theirs
/// back.
const INODES_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How long `index.json` may lag behind the tags, and the share of the time, one in so many, that is spent on writing
/// it: with very many tags it lags longer.
const OCI_INDEX_DELAY: Duration = Duration::from_secs(2);
const OCI_INDEX_SHARE: u32 = 50;

/// The background work of a store.
#[derive(Clone)]
pub(super) struct Maintenance {
    layout: Layout,
    records: Records,
    admission: Arc<Admission>,
    scrubber: Scrubber,
    capacity: IntGauge,
}

impl Maintenance {
    /// `capacity` mirrors [`Admission::capacity`].
    pub(super) fn new(
        layout: Layout,
        records: Records,
        admission: Arc<Admission>,
        scrubber: Scrubber,
        capacity: IntGauge,
    ) -> Self {
        Self { layout, records, admission, scrubber, capacity }
    }

    /// Verifies every blob at the pace of the scrub.
    #[cfg(test)]
    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Does all of it until `shutdown`.
    pub(super) async fn run(&self, shutdown: Shutdown) {
        tokio::join!(
            self.enforce_budget(shutdown.clone()),
            self.follow_tags(shutdown.clone()),
            self.give_back_inodes(shutdown.clone()),
            self.scrub_and_expire(shutdown)
        );
    }

    async fn enforce_budget(&self, mut shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(BUDGET_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.requested() => return,
            }
            let this = self.clone();
            match blocking::run(move || Ok(this.keep_within_budget())).await {
                Ok(capacity) => self.capacity.set(gauge_value(capacity)),
                Err(error) => {
                    tracing::error!(%error, cause = error.cause(), "the budget could not be enforced")
                }
            }
        }
    }

    /// Evicts what is too much, removes what the disk did not remove, and returns how much the store may have. Blocks.
    pub(super) fn keep_within_budget(&self) -> u64 {
        self.admission.enforce_budget();
        self.admission.evict_ahead();
        // Such a file is counted for no blob, and where nothing is pulled no write of a record comes by to remove it.
        self.layout.remove_leftovers();
        self.admission.capacity()
    }

    async fn follow_tags(&self, mut shutdown: Shutdown) {
        let mut delay = OCI_INDEX_DELAY;
        loop {
            tokio::select! {
                // First: a tag that changed just before the stop is written too.
                biased;
                () = self.records.changed_tags().wait() => {}
                () = shutdown.requested() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.requested() => {}
            }
            let layout = self.layout.clone();
            let changes = self.records.changed_tags().take();
            let began = Instant::now();
            let written = blocking::run(move || oci_index::write(&layout, &changes)).await;
            delay = OCI_INDEX_DELAY.max(began.elapsed() * OCI_INDEX_SHARE);
            if let Err(error) = written {
                self.records.changed_tags().forget();
                tracing::warn!(%error, cause = error.cause(), "index.json could not be written; only other tools read it");
            }
        }
    }

    async fn scrub_and_expire(&self, mut shutdown: Shutdown) {
        let mut wait = SCRUB_AFTER;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.requested() => return,
            }
            let this = self.clone();
            let stop = shutdown.clone();
            let done = low_priority::run(move || {
                this.expire_records(expire::LIFE, &|| stop.is_requested());
                this.scrubber.verify_all(&|| stop.is_requested());
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::error!(%error, cause = error.cause(), "the store could not be scrubbed");
            }
            wait = SCRUB_INTERVAL;
        }
    }

    async fn give_back_inodes(&self, mut shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INODES_INTERVAL) => {}
                () = shutdown.requested() => return,
            }
            let (this, stop) = (self.clone(), shutdown.clone());
            let done = low_priority::run(move || {
                if this.admission.is_short_of_inodes() {
                    this.expire_records(expire::LIFE_WITHOUT_INODES, &|| stop.is_requested());
                }
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::error!(%error, cause = error.cause(), "records could not be expired");
            }
        }
    }

    fn expire_records(&self, life: Duration, is_stopping: &dyn Fn() -> bool) {
        let count = self.records.expire(life, is_stopping);
        if count > 0 {
            tracing::info!(count, "expired records of content that has left the store were removed");
        }
    }
}
