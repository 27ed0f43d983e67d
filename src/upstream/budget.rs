//! What is left of the anonymous rate limit of each registry, as its answers tell (Docker Hub's `ratelimit-*` fields).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::Instant;

use super::exchange::retry_after;
use super::headers::header;
use crate::reference::Registry;

/// What was told is forgotten after this: the window may have moved on.
const KEPT: Duration = Duration::from_secs(600);
/// How long a 429 counts if it does not say.
const SPENT: Duration = Duration::from_secs(60);
/// Below this part of the limit it is low.
const LOW_PART: u64 = 10;
/// Registries remembered at most.
const REGISTRIES_MAX: usize = 256;

/// The budgets that are low, and until when.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<Registry, Instant>>);

impl Budgets {
    /// Takes note of an answer to an anonymous request.
    pub(super) fn note<B>(&self, registry: &Registry, response: &Response<B>) {
        let headers = response.headers();
        let spent = response.status() == StatusCode::TOO_MANY_REQUESTS;
        let number = |name| header(headers, name).and_then(first_number);
        let (remaining, limit) = (number("ratelimit-remaining"), number("ratelimit-limit"));
        let low = match remaining {
            Some(left) => left == 0 || left < limit.unwrap_or(100) / LOW_PART,
            // An answer that says nothing changes nothing.
            None if !spent => return,
            None => true,
        };
        let mut low_until = self.lock();
        if spent || low {
            let wait = if spent { retry_after(headers).unwrap_or(SPENT) } else { KEPT };
            if low_until.len() >= REGISTRIES_MAX {
                low_until.clear();
            }
            low_until.insert(registry.clone(), Instant::now() + wait);
        } else {
            low_until.remove(registry);
        }
    }

    /// Whether it is low.
    pub(super) fn is_low(&self, registry: &Registry) -> bool {
        self.lock().get(registry).is_some_and(|until| *until > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Registry, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `100;w=21600`.
fn first_number(text: &str) -> Option<u64> {
    text.split([';', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_low_when_the_registry_says_so_and_only_as_long() {
        let (budgets, hub) = (Budgets::default(), Registry::docker_hub());
        let note = |status: u16, left: Option<&str>| {
            let mut response = Response::builder().status(status).header("ratelimit-limit", "100;w=21600");
            if let Some(left) = left {
                response = response.header("ratelimit-remaining", left);
            }
            budgets.note(&hub, &response.body(()).unwrap());
            budgets.is_low(&hub)
        };
        assert!(!note(200, Some("76;w=21600")));
        assert!(note(200, Some("9;w=21600")));
        assert!(note(200, None), "an answer that says nothing changes nothing");
        assert!(!note(200, Some("99")));
        assert!(note(429, None));
        assert!(!budgets.is_low(&"quay.io".parse().unwrap()));
        tokio::time::advance(SPENT + Duration::from_secs(1)).await;
        assert!(!budgets.is_low(&hub));
    }
}
