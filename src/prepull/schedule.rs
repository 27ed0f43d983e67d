//! When the list is checked, and which of its images: pure.
//!
//! Promises: every image is checked once an interval; an image that failed is tried again sooner, by itself, and makes
//! no other image be asked for again; the nodes of a fleet that start together do not ask together.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::order::RequestedImage;
use crate::reference::Image;

/// What failed is tried again after this at first, then after twice as long each time, and once an interval at least.
const RETRY_WAIT: Duration = Duration::from_secs(300);

/// The times between two checks, as they are configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Between two checks of every image.
    pub(super) interval: Duration,
    /// At most this much is added at random to a wait; never more than the interval.
    pub(super) jitter: Duration,
}

impl Times {
    /// What is added to a wait, as `random` between 0 and 1 says.
    fn spread(self, random: f64) -> Duration {
        self.jitter.min(self.interval).mul_f64(random.clamp(0.0, 1.0))
    }
}

/// What is known of the list between its checks.
#[derive(Debug)]
pub(super) struct Schedule {
    /// When the next check begins.
    at: Instant,
    /// When every image is checked again.
    all_at: Instant,
    /// Checks in a row after which something was still missing.
    incomplete: u32,
    /// The images that are not checked again before `all_at`.
    done: HashSet<Image>,
}

impl Schedule {
    /// The first check of a daemon that starts: not at the moment at which every other node's begins.
    pub(super) fn at_start(now: Instant, times: Times, random: f64) -> Self {
        Self::at_once(now + times.spread(random))
    }

    /// A check of every image now: an operator changed the list, and waits.
    pub(super) fn at_once(now: Instant) -> Self {
        Self { at: now, all_at: now, incomplete: 0, done: HashSet::new() }
    }

    /// When the next check begins.
    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// The images of a list that are to be checked now.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        listed: Vec<RequestedImage>,
        times: Times,
        random: f64,
    ) -> Vec<RequestedImage> {
        if now >= self.all_at {
            self.done.clear();
            self.all_at = now + times.interval + times.spread(random);
        }
        listed.into_iter().filter(|requested| !self.done.contains(&requested.image)).collect()
    }

    /// A check ended: these images are in the store, and `is_complete` says whether the whole list is.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        present: impl IntoIterator<Item = Image>,
        is_complete: bool,
        times: Times,
        random: f64,
    ) {
        self.done.extend(present);
        self.incomplete = if is_complete { 0 } else { self.incomplete.saturating_add(1) };
        self.at = if is_complete {
            self.all_at
        } else {
            let doubled = RETRY_WAIT.saturating_mul(2_u32.saturating_pow(self.incomplete - 1));
            (now + doubled.min(times.interval) + times.spread(random)).min(self.all_at)
        };
        // A check may take longer than the interval: the next one begins then, and not before now.
        self.at = self.at.max(now);
    }

    /// Whether an image is in the store since the last check of every image.
    pub(super) fn has(&self, image: &Image) -> bool {
        self.done.contains(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::PullSecrets;

    const MINUTE: Duration = Duration::from_secs(60);
    const TIMES: Times = Times { interval: Duration::from_secs(3_600), jitter: MINUTE };

    fn listed(names: &[&str]) -> Vec<RequestedImage> {
        let all = names
            .iter()
            .map(|name| RequestedImage { image: name.parse().unwrap(), secrets: PullSecrets::default() });
        all.collect()
    }

    fn names(requested: &[RequestedImage]) -> Vec<String> {
        requested.iter().map(|each| each.image.repository.to_string()).collect()
    }

    #[test]
    fn a_fleet_that_starts_together_does_not_ask_together() {
        let (now, mut random) = (Instant::now(), fastrand::Rng::with_seed(17));
        let mut starts = [0_u32; 10];
        let mut rounds = [0_u32; 10];
        for _ in 0..500 {
            let mut node = Schedule::at_start(now, TIMES, random.f64());
            let wait = node.at() - now;
            assert!(wait <= MINUTE, "{wait:?}");
            starts[(wait.as_secs_f64() / 6.0).min(9.0) as usize] += 1;
            node.begin(now, Vec::new(), TIMES, random.f64());
            node.begin(now + wait, Vec::new(), TIMES, random.f64());
            node.ended(now + wait, [], true, TIMES, random.f64());
            let more = node.at() - now - TIMES.interval;
            assert!(more <= 2 * MINUTE, "{more:?}");
            rounds[(more.as_secs_f64() / 12.0).min(9.0) as usize] += 1;
        }
        assert!(starts.iter().all(|nodes| (25..=75).contains(nodes)), "{starts:?}");
        assert!(rounds.iter().all(|nodes| *nodes <= 125), "{rounds:?}");
    }

    #[test]
    fn jitter_is_off_where_it_is_none_and_never_longer_than_the_interval() {
        let now = Instant::now();
        let none = Times { jitter: Duration::ZERO, ..TIMES };
        assert_eq!(Schedule::at_start(now, none, 1.0).at(), now);
        let short = Times { interval: Duration::from_secs(10), jitter: MINUTE };
        assert_eq!(Schedule::at_start(now, short, 1.0).at(), now + short.interval);
        assert_eq!(Schedule::at_once(now).at(), now, "who changes the list waits for it");
    }

    #[test]
    fn an_image_that_fails_makes_no_other_image_be_asked_for_again() {
        let (start, none) = (Instant::now(), Times { jitter: Duration::ZERO, ..TIMES });
        let mut schedule = Schedule::at_once(start);
        let list = || listed(&["reg.test/a:1", "reg.test/b:1"]);
        let a = list().remove(0).image;
        assert_eq!(names(&schedule.begin(start, list(), none, 0.5)), ["reg.test/a", "reg.test/b"]);
        schedule.ended(start, [a.clone()], false, none, 0.5);
        let mut waits = Vec::new();
        let mut now = schedule.at();
        while now < start + none.interval {
            waits.push((now - start).as_secs());
            assert!(schedule.has(&a));
            let due =
                schedule.begin(now, listed(&["reg.test/a:1", "reg.test/b:1", "reg.test/new:1"]), none, 0.5);
            assert_eq!(
                names(&due),
                ["reg.test/b", "reg.test/new"],
                "what failed, and what is new on the list"
            );
            schedule.ended(now, [], false, none, 0.5);
            now = schedule.at();
        }
        assert_eq!(waits, [300, 900, 2_100], "twice as long each time");
        assert_eq!(now, start + none.interval, "no failure puts off the check of every image");
        assert_eq!(names(&schedule.begin(now, list(), none, 0.5)), ["reg.test/a", "reg.test/b"]);
        schedule.ended(now, list().into_iter().map(|each| each.image), true, none, 0.5);
        assert_eq!(schedule.at(), now + none.interval);
    }

    #[test]
    fn a_check_that_outlasts_the_interval_is_followed_by_the_next_one_and_by_no_burst() {
        let (start, short) =
            (Instant::now(), Times { interval: Duration::from_secs(10), jitter: Duration::ZERO });
        let mut schedule = Schedule::at_once(start);
        schedule.begin(start, listed(&["reg.test/a:1"]), short, 0.0);
        let late = start + MINUTE;
        schedule.ended(late, [], true, short, 0.0);
        assert_eq!(schedule.at(), late);
        schedule.begin(late, Vec::new(), short, 0.0);
        schedule.ended(late, [], true, short, 0.0);
        assert_eq!(schedule.at(), late + short.interval);
    }
}
