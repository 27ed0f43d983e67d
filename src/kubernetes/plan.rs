//! Which images are fetched now: pure.
//!
//! A pod wants its images in kubelet's order; of each pod a stated number is fetched at a time. Pods go by priority, then
//! by age, and take turns, so that a pod of many images does not keep the next one from its first. What two pods want alike
//! is fetched once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::pod::{Pod, PodImage, PullPolicy};
use crate::reference::Image;

/// Images of all pods that are fetched at a time: few beside the 256 downloads that there may be, and enough for several
/// pods that start together.
pub(super) const FETCHES_MAX: usize = 12;
/// How long an image is not asked for again that was refused or is missing, at first: doubled each time, up to
/// [`FAILED_FOR_MAX`], as kubelet's own back-off is.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(20);
/// The same where something was in the way that may be over in a moment: an API server or a registry that did not answer.
pub(super) const FAILED_FOR: Duration = Duration::from_secs(2);
const FAILED_FOR_MAX: Duration = Duration::from_secs(300);

/// What is fetched: equal for pods that would ask the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Fetch {
    pub(super) image: Image,
    /// Namespace and names of the pull secrets; the namespace is empty without any.
    pub(super) namespace: String,
    pub(super) secrets: Vec<String>,
    /// Whether the registry is asked although the runtime has the image.
    pub(super) is_always: bool,
}

/// How often a fetch has failed, and until when it is not tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) times: u32,
    pub(super) until: Instant,
    /// Why, for people.
    pub(super) why: String,
}

/// What is known when a plan is made.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) under_way: &'a HashSet<Fetch>,
    /// What needs no fetch any more, by the UID of the pod.
    pub(super) settled: &'a HashMap<String, HashSet<Fetch>>,
    pub(super) failed: &'a dyn Fn(&Fetch) -> Option<Instant>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Fetches to begin, in this order.
    pub(super) begin: Vec<Fetch>,
    /// Fetches that no pod wants any more.
    pub(super) end: Vec<Fetch>,
    /// When to look again, if nothing happens before.
    pub(super) look_again: Option<Instant>,
}

impl Fetch {
    /// What is fetched for an image of a pod; `None` for one that kubelet does not pull.
    pub(super) fn of(pod: &Pod, image: &PodImage) -> Option<Self> {
        if pod.has_ended || image.has_started || image.policy == PullPolicy::Never {
            return None;
        }
        let has_secrets = !pod.pull_secrets.is_empty();
        Some(Self {
            image: image.image.clone(),
            namespace: if has_secrets { pod.namespace.clone() } else { String::new() },
            secrets: pod.pull_secrets.clone(),
            is_always: image.policy == PullPolicy::Always,
        })
    }
}

impl Failed {
    /// The failure that follows `before`; `first` is the wait after a first one.
    pub(super) fn after(before: Option<&Self>, first: Duration, now: Instant, why: String) -> Self {
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        let doubled = first.saturating_mul(2_u32.saturating_pow(times - 1));
        Self { times, until: now + doubled.min(FAILED_FOR_MAX), why }
    }
}

/// The plan for `pods`; `ahead` is the number of images of one pod that are fetched at a time.
pub(super) fn plan<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    known: Known<'_>,
    ahead: usize,
    now: Instant,
) -> Plan {
    let mut pods: Vec<&Pod> = pods.filter(|pod| !pod.has_ended).collect();
    pods.sort_by(|a, b| (b.priority, a.created_at, &a.uid).cmp(&(a.priority, b.created_at, &b.uid)));
    let unsettled = |pod: &&Pod| {
        let settled = known.settled.get(&pod.uid);
        let is_settled = |fetch: &Fetch| settled.is_some_and(|settled| settled.contains(fetch));
        wanted(pod).into_iter().filter(|fetch| !is_settled(fetch)).collect()
    };
    let wants: Vec<Vec<Fetch>> = pods.iter().map(unsettled).collect();
    let all: HashSet<&Fetch> = wants.iter().flatten().collect();
    let end: Vec<Fetch> = known.under_way.iter().filter(|fetch| !all.contains(fetch)).cloned().collect();
    let mut free = FETCHES_MAX.saturating_sub(known.under_way.len() - end.len());
    let mut plan = Plan { end, ..Plan::default() };
    let mut queues: Vec<Queue> = Vec::new();
    for wants in wants {
        queues.push(Queue::new(wants, known, ahead, now, &mut plan.look_again));
    }
    let mut begun: HashSet<Fetch> = HashSet::new();
    while free > 0 {
        let mut any = false;
        for queue in &mut queues {
            let Some(next) = queue.next(&begun) else { continue };
            any = true;
            if begun.insert(next.clone()) {
                plan.begin.push(next);
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        if !any {
            break;
        }
    }
    plan
}

/// What a pod wants, in kubelet's order, each once.
pub(super) fn wanted(pod: &Pod) -> Vec<Fetch> {
    let mut seen = HashSet::new();
    let all = pod.images.iter().filter_map(|image| Fetch::of(pod, image));
    all.filter(|fetch| seen.insert(fetch.clone())).collect()
}

/// What is to be begun for one pod.
struct Queue {
    waiting: std::vec::IntoIter<Fetch>,
    /// How many more may be under way for it.
    places: usize,
}

impl Queue {
    fn new(
        wants: Vec<Fetch>,
        known: Known<'_>,
        ahead: usize,
        now: Instant,
        look_again: &mut Option<Instant>,
    ) -> Self {
        let (mut under_way, mut waiting) = (0, Vec::new());
        for fetch in wants {
            if known.under_way.contains(&fetch) {
                under_way += 1;
                continue;
            }
            match (known.failed)(&fetch).filter(|until| *until > now) {
                Some(until) => {
                    let earliest = look_again.map_or(until, |before| before.min(until));
                    *look_again = Some(earliest);
                }
                None => waiting.push(fetch),
            }
        }
        Self { waiting: waiting.into_iter(), places: ahead.saturating_sub(under_way) }
    }

    /// The next one; one that another pod has just begun takes a place here too.
    fn next(&mut self, begun: &HashSet<Fetch>) -> Option<Fetch> {
        loop {
            self.places = self.places.checked_sub(1)?;
            let next = self.waiting.next()?;
            if !begun.contains(&next) {
                return Some(next);
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
