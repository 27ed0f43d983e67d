//! Which endpoints do not answer, so that not everybody has to find out by himself.
//!
//! An endpoint that cannot be reached or fails is left alone for a moment, longer each time, while another one of its
//! registry is asked instead; when the moment is over, one question tries it again and the others go on as before.
//! Where there is no other, only an endpoint that kept us waiting is left alone: who is refused at once may as well
//! ask.
//!
//! Deliberately not here: what counts as failing (`error`), and rate limits, which are no failure.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Error;

/// The first pause; then twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest: a registry that is back is asked again within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A failure that took this long is not to be had by everybody.
const COSTLY: Duration = Duration::from_secs(1);
/// A question that was given up after this long was given up because of the endpoint; before that, its asker may have
/// had reasons of his own.
const HUNG: Duration = Duration::from_secs(10);
/// Endpoints in trouble that are remembered; when there are more, it begins anew.
const ENDPOINTS_MAX: usize = 1_024;

/// The endpoints in trouble, by their URL.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<HashMap<String, Trouble>>);

#[derive(Debug, Clone)]
struct Trouble {
    failures: u32,
    until: Instant,
    tried_again: bool,
    costly: bool,
    error: Error,
}

/// What to do with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing is known against it.
    Ask,
    /// It is in trouble, and it is time to try it again: by whoever is told so, and nobody else meanwhile.
    Try,
    /// It is in trouble: how it failed, and whether finding that out again would take long.
    Leave(Error, bool),
}

impl Health {
    /// Whose turn it is.
    pub(super) fn turn(&self, endpoint: &str) -> Turn {
        let mut all = self.lock();
        let Some(trouble) = all.get_mut(endpoint) else { return Turn::Ask };
        if !trouble.tried_again && Instant::now() >= trouble.until {
            trouble.tried_again = true;
            return Turn::Try;
        }
        Turn::Leave(trouble.error.clone(), trouble.costly)
    }

    /// It answered, whatever it said.
    pub(super) fn answered(&self, endpoint: &str) {
        let was = self.lock().remove(endpoint);
        if let Some(trouble) = was {
            tracing::info!(endpoint, failures = trouble.failures, "an endpoint answers again");
        }
    }

    /// It failed after so long.
    pub(super) fn failed(&self, endpoint: &str, error: &Error, took: Duration) {
        let mut all = self.lock();
        if all.len() >= ENDPOINTS_MAX && !all.contains_key(endpoint) {
            all.clear();
        }
        let failures = all.get(endpoint).map_or(0, |trouble| trouble.failures).saturating_add(1);
        if failures == 1 {
            tracing::warn!(endpoint, %error, "an endpoint is in trouble");
        }
        let until = Instant::now() + pause(failures);
        let (costly, error) = (took >= COSTLY, error.clone());
        all.insert(endpoint.to_owned(), Trouble { failures, until, tried_again: false, costly, error });
    }

    /// Nobody waited for how it would end.
    fn given_up(&self, endpoint: &str) {
        if let Some(trouble) = self.lock().get_mut(endpoint) {
            trouble.tried_again = false;
            trouble.until = Instant::now() + pause(trouble.failures);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(PAUSE_MAX)
}

/// A question that is under way; if it is dropped, somebody else's may try.
pub(super) struct UnderWay<'a> {
    health: &'a Health,
    endpoint: &'a str,
    begun: Instant,
    ended: bool,
}

impl<'a> UnderWay<'a> {
    pub(super) fn new(health: &'a Health, endpoint: &'a str) -> Self {
        Self { health, endpoint, begun: Instant::now(), ended: false }
    }

    /// How it ended.
    pub(super) fn end<T>(mut self, said: &Result<T, Error>) {
        self.ended = true;
        match said {
            Err(error @ (Error::Unreachable { .. } | Error::Failing { .. })) => {
                self.health.failed(self.endpoint, error, self.begun.elapsed());
            }
            // Not asked at all.
            Err(Error::Declined { .. }) => {}
            _ => self.health.answered(self.endpoint),
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Whoever was waiting has had enough: that is what an endpoint that hangs looks like from here.
            match self.begun.elapsed() {
                waited if waited >= HUNG => {
                    let host = self.endpoint.to_owned();
                    let why = format!("no answer within {waited:.1?}");
                    let error = Error::Unreachable { host, step: super::Step::Silence, why };
                    self.health.failed(self.endpoint, &error, waited);
                }
                _ => self.health.given_up(self.endpoint),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Step;

    const AT: &str = "https://reg.test/v2";

    fn down() -> Error {
        Error::Unreachable { host: "reg.test:443".into(), step: Step::Connect, why: String::new() }
    }

    async fn fail(health: &Health, after: Duration) {
        let asked = UnderWay::new(health, AT);
        tokio::time::advance(after).await;
        asked.end(&Err::<(), _>(down()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_is_left_alone_longer_each_time_and_tried_by_one() {
        let health = Health::default();
        assert_eq!(health.turn(AT), Turn::Ask);
        for seconds in [1, 2, 4, 8, 8] {
            fail(&health, Duration::ZERO).await;
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert_eq!(health.turn(AT), Turn::Leave(down(), false), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(health.turn(AT), Turn::Try);
            assert_eq!(health.turn(AT), Turn::Leave(down(), false), "one tries");
        }
        UnderWay::new(&health, AT).end(&Err::<(), _>(Error::NotAllowed { host: String::new() }));
        assert_eq!(health.turn(AT), Turn::Ask, "an answer is an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_nobody_waits_for_is_somebody_elses() {
        let health = Health::default();
        fail(&health, Duration::from_secs(15)).await;
        assert_eq!(health.turn(AT), Turn::Leave(down(), true), "to find out took long");
        tokio::time::advance(PAUSE).await;
        assert_eq!(health.turn(AT), Turn::Try);
        drop(UnderWay::new(&health, AT));
        assert!(matches!(health.turn(AT), Turn::Leave(..)));
        tokio::time::advance(PAUSE).await;
        assert_eq!(health.turn(AT), Turn::Try);
        let asked = UnderWay::new(&health, AT);
        tokio::time::advance(Duration::from_secs(20)).await;
        drop(asked);
        let Turn::Leave(error, true) = health.turn(AT) else { panic!("it hung") };
        assert!(error.to_string().contains("no answer within 20"), "{error}");
    }
}
