//! How many programs that have credentials run at a time: in all, and for the registries of one owner.
//!
//! A plugin is responsible for a pattern, and clients choose the names that match it: each new one would start a
//! process. A run waits for its place, first in the share of its owner, so that no owner's names keep others from
//! theirs for long; one that gets none in time is not begun, which says nothing of the program.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::patience::PATIENCE;
use crate::reference::Registry;
use crate::support::fair_share::{FairShares, Permits};

/// Programs that run at a time: each may take tens of megabytes.
const RUNS_MAX: usize = 16;
/// The same for the registries of one owner: a cloud's are one owner's, and a pod may have images of several.
const RUNS_OF_ONE_MAX: usize = RUNS_MAX / 2;
/// The longest wait for a place: a part of what a request waits for a program, so that the rest is left for that.
const PLACE_WAIT: Duration = PATIENCE.saturating_sub(Duration::from_secs(1));
/// How often it is said that there was none.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// The places. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct RunPlaces(Arc<Inner>);

struct Inner {
    /// By the domains of the owners.
    places: FairShares<String>,
    said: Mutex<Option<Instant>>,
}

/// The permission for one run, until it is dropped.
pub(super) struct RunPlace {
    _permit: Permits,
}

impl Default for RunPlaces {
    fn default() -> Self {
        let places = FairShares::new(RUNS_MAX, RUNS_OF_ONE_MAX);
        Self(Arc::new(Inner { places, said: Mutex::default() }))
    }
}

impl RunPlaces {
    /// A place for a run for `name`, an image or a registry's address; `None` if there is none in time.
    pub(super) async fn take(&self, name: &str) -> Option<RunPlace> {
        let share = self.0.places.of(&owner_of(name));
        match timeout(PLACE_WAIT, share.take(1)).await {
            Ok(permit) => Some(RunPlace { _permit: permit }),
            Err(_) => {
                self.say(name);
                None
            }
        }
    }

    fn say(&self, name: &str) {
        let mut said = self.0.said.lock();
        if said.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                name,
                at_a_time = RUNS_MAX,
                of_one_domain = RUNS_OF_ONE_MAX,
                "too many credential plugins and helpers are running; pulls go on without the credentials of others"
            );
        }
    }
}

/// The domain that the owner of what is named registered.
fn owner_of(name: &str) -> String {
    let (_, address) = name.split_once("://").unwrap_or(("", name));
    let host = address.split('/').next().unwrap_or_default();
    host.parse::<Registry>().map_or_else(|_| host.to_ascii_lowercase(), |registry| registry.owner_domain())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    async fn taken(places: &RunPlaces, names: impl Iterator<Item = String>) -> Vec<RunPlace> {
        let names: Vec<String> = names.collect();
        join_all(names.iter().map(|name| places.take(name))).await.into_iter().flatten().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_names_clients_invent_no_more_programs_run_and_one_owner_leaves_places() {
        let places = RunPlaces::default();
        let of_one = taken(&places, (0..100).map(|n| format!("x{n}.evil.example.com/a"))).await;
        assert_eq!(of_one.len(), RUNS_OF_ONE_MAX);
        assert!(places.take("https://registry.other.org/v1/").now_or_never().flatten().is_some());
        let of_many = taken(&places, (0..100).map(|n| format!("evil{n}.org/a"))).await;
        assert_eq!(of_one.len() + of_many.len(), RUNS_MAX);
        drop(of_one);
        let of_many: Vec<_> = of_many.into_iter().collect();
        assert!(places.take("b.example.com/x").now_or_never().flatten().is_some());
        drop(of_many);
        places.take("b.example.com/x").await;
        assert!(places.0.places.len() <= 1, "what is given back leaves nothing behind");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_for_its_place_and_not_for_longer_than_its_request() {
        let places = RunPlaces::default();
        let held = taken(&places, (0..RUNS_OF_ONE_MAX).map(|n| format!("x{n}.example.com/a"))).await;
        let begun = Instant::now();
        assert!(places.take("y.example.com/a").await.is_none());
        assert_eq!(begun.elapsed(), PLACE_WAIT);
        let (place, ()) = tokio::join!(places.take("y.example.com/a"), async {
            tokio::time::sleep(PLACE_WAIT / 2).await;
            drop(held);
        });
        assert!(place.is_some());
    }
}
