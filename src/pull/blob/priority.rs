//! Pods go first: what is fetched for nobody who waits is put off while they pull.
//!
//! Promises: nothing new is begun, and what is coming slows down, from a pod's first question on; a pod that wants the very
//! part that is coming gets it at full speed; nothing is put off for ever.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pull::Puller;
use crate::pull::blob::flight::Flight;

/// How long pods may be waited for before the next part is begun in any case.
const YIELD_MAX: Duration = Duration::from_secs(60);
/// How long the next piece of a part may be put off for them.
const GIVE_WAY_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether they still wait.
const YIELD_LOOK: Duration = Duration::from_millis(50);
/// A pod that has just asked for something will ask for more in a moment.
const MORE_TO_COME: Duration = Duration::from_millis(300);

/// When a pod last asked for something that was not here, or asked what a tag means.
#[derive(Default)]
pub(crate) struct Pods(Mutex<Option<Instant>>);

impl Pods {
    pub(crate) fn asked(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn are_pulling(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < MORE_TO_COME)
    }
}

impl Puller {
    fn somebody_waits(&self) -> bool {
        self.0.pods.are_pulling() || self.0.flights.somebody_waits()
    }

    /// Waits while downloads are under way that somebody waits for, within bounds.
    pub async fn yield_to_pods(&self) {
        let wait = async {
            while self.somebody_waits() {
                tokio::time::sleep(YIELD_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(YIELD_MAX, wait).await;
    }

    /// The same within a download that nobody waits for, before each piece of it, for less long: its registry must not
    /// think that we are gone.
    pub(crate) async fn give_way(&self, flight: &Flight) {
        let wait = async {
            while !flight.is_hurried() && self.somebody_waits() {
                tokio::time::sleep(YIELD_LOOK).await;
            }
        };
        let _ = tokio::time::timeout(GIVE_WAY_MAX, wait).await;
    }
}
