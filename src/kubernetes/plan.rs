//! Which images are fetched now: pure.
//!
//! A pod wants its images in kubelet's order; of each pod a stated number is fetched at a time. Pods go by priority,
//! then by age, and take turns, so that a pod of many images does not keep the next one from its first. What two pods
//! want alike is fetched once. Places are shared: a more urgent pod gets one of a less urgent one's, and a namespace
//! one of those of a namespace that holds more. Nothing is begun from a registry that no runtime asks Larder for, nor
//! for a namespace whose pods have much here already that no runtime has asked for.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pod::{Pod, PodImage, PullPolicy};
use crate::reference::{Image, Registry};

/// Images of all pods that are fetched at a time: few beside the 256 downloads that there may be, and enough for
/// several pods that start together.
pub(super) const FETCHES_MAX: usize = 12;
/// How long a fetch that failed is not tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackOff {
    /// After a first failure; doubled each time, as kubelet's own back-off is.
    first: Duration,
    /// At most.
    max: Duration,
}

/// For an image that was refused or is missing.
pub(super) const REFUSED: BackOff = BackOff { first: Duration::from_secs(20), max: Duration::from_secs(300) };
/// Where something was in the way that may be over in a moment: an API server or a registry that did not answer.
pub(super) const FAILED: BackOff = BackOff { first: Duration::from_secs(2), max: Duration::from_secs(30) };
/// A failure that ended so long ago counts no more: the next one is a first one.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// What is fetched: equal for pods that would ask the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Fetch {
    pub(super) image: Image,
    /// What the pods are asked for to pull it; `None` where they bring nothing of their own.
    pub(super) identity: Option<PodIdentity>,
    /// Whether the registry is asked although the runtime has the image.
    pub(super) is_always: bool,
}

/// What pods bring of their own to pull an image: pull secrets, or an account, or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PodIdentity {
    pub(super) namespace: String,
    /// The names of the pull secrets.
    pub(super) secrets: Arc<[String]>,
    /// The service account, where a plugin asks for its token.
    pub(super) account: Option<String>,
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
    /// Whether nothing is begun for pods of a namespace, or from a registry.
    pub(super) held_back: &'a dyn Fn(&str, &Registry) -> bool,
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
    /// Whether a fetch waits for a place that no other makes way for.
    pub(super) is_short_of_places: bool,
}

impl Fetch {
    /// What is fetched for an image of a pod; `None` for one that kubelet does not pull.
    pub(super) fn of(pod: &Pod, image: &PodImage) -> Option<Self> {
        if pod.has_ended || image.has_started || image.policy == PullPolicy::Never {
            return None;
        }
        Some(Self {
            image: image.image.clone(),
            identity: PodIdentity::of(pod, image),
            is_always: image.policy == PullPolicy::Always,
        })
    }
}

impl PodIdentity {
    fn of(pod: &Pod, image: &PodImage) -> Option<Self> {
        let account = pod.service_account.clone().filter(|_| image.needs_account);
        let brings_some = account.is_some() || !pod.pull_secrets.is_empty();
        brings_some.then(|| Self {
            namespace: pod.namespace.clone(),
            secrets: Arc::clone(&pod.pull_secrets),
            account,
        })
    }
}

impl Failed {
    /// The failure that follows `before`.
    pub(super) fn after(before: Option<&Self>, wait: BackOff, now: Instant, why: String) -> Self {
        let recent = before.filter(|before| now < before.until + FORGET_AFTER);
        let times = recent.map_or(0, |before| before.times).saturating_add(1);
        let doubled = wait.first.saturating_mul(2_u32.saturating_pow(times - 1));
        Self { times, until: now + doubled.min(wait.max), why }
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
    let mut plan = Plan::default();
    let mut holders: Vec<Holder<'_>> = Vec::new();
    let mut queues: Vec<Queue<'_>> = Vec::new();
    for (order, pod) in pods.into_iter().enumerate() {
        let settled = known.settled.get(&pod.uid);
        let mut wants = wanted(pod);
        wants.retain(|fetch| settled.is_none_or(|settled| !settled.contains(fetch)));
        for fetch in wants.iter().filter(|fetch| known.under_way.contains(*fetch)) {
            // It is charged to the first pod that wants it.
            if holders.iter().all(|holder| holder.fetch != *fetch) {
                holders.push(Holder { fetch: fetch.clone(), pod, order });
            }
        }
        queues.push(Queue::new(pod, wants, known, ahead, now, &mut plan.look_again));
    }
    let is_wanted = |fetch: &Fetch| holders.iter().any(|holder| holder.fetch == *fetch);
    plan.end = known.under_way.iter().filter(|fetch| !is_wanted(fetch)).cloned().collect();
    let mut places = Places { holders, held: HashMap::new() };
    places.count();
    let mut begun: HashSet<Fetch> = HashSet::new();
    loop {
        // Pods take turns, the most urgent first, and among equals one of the namespace that holds least.
        let next = queues.iter_mut().enumerate().filter_map(|(at, queue)| {
            queue.pass_over(&begun);
            let pod = queue.next()?;
            Some((queue.turns, Reverse(pod.priority), places.held_by(pod), at))
        });
        let Some((.., at)) = next.min() else { break };
        let pod = queues[at].pod;
        if places.holders.len() + begun.len() >= FETCHES_MAX {
            let Some(ended) = places.give_way(pod) else {
                plan.is_short_of_places = true;
                // Nor for a pod like it.
                let is_like = |queue: &&mut Queue<'_>| {
                    queue.pod.namespace == pod.namespace && queue.pod.priority <= pod.priority
                };
                queues.iter_mut().filter(is_like).for_each(|queue| queue.places = 0);
                continue;
            };
            plan.end.push(ended);
        }
        if let Some(fetch) = queues[at].take() {
            *places.held.entry(&pod.namespace).or_default() += 1;
            begun.insert(fetch.clone());
            plan.begin.push(fetch);
        }
    }
    plan
}

/// A fetch under way, and the most urgent pod that wants it.
struct Holder<'a> {
    fetch: Fetch,
    pod: &'a Pod,
    /// The pod's place in the order of pods.
    order: usize,
}

/// Who holds the places.
struct Places<'a> {
    holders: Vec<Holder<'a>>,
    /// How many places each namespace holds.
    held: HashMap<&'a str, usize>,
}

impl<'a> Places<'a> {
    fn count(&mut self) {
        for holder in &self.holders {
            *self.held.entry(&holder.pod.namespace).or_default() += 1;
        }
    }

    fn held_by(&self, pod: &Pod) -> usize {
        self.held.get(pod.namespace.as_str()).copied().unwrap_or(0)
    }

    /// Ends a fetch for `pod`, so that one tenant whose registry is slow does not hold all places: one of a less urgent
    /// pod, or one of an equally urgent pod whose namespace holds at least two more. What is under way of it goes on by
    /// itself as long as bytes come.
    fn give_way(&mut self, pod: &Pod) -> Option<Fetch> {
        let own = self.held_by(pod);
        let may = |holder: &&Holder<'_>| {
            holder.pod.priority < pod.priority
                || holder.pod.priority == pod.priority && self.held_by(holder.pod) > own + 1
        };
        let least =
            |holder: &&Holder<'_>| (Reverse(holder.pod.priority), self.held_by(holder.pod), holder.order);
        let at = {
            let chosen = self.holders.iter().filter(may).max_by_key(least)?;
            self.holders.iter().position(|holder| holder.fetch == chosen.fetch)?
        };
        let Holder { fetch, pod: of, .. } = self.holders.swap_remove(at);
        if let Some(held) = self.held.get_mut(of.namespace.as_str()) {
            *held = held.saturating_sub(1);
        }
        Some(fetch)
    }
}

/// What a pod wants, in kubelet's order, each once.
pub(super) fn wanted(pod: &Pod) -> Vec<Fetch> {
    let mut seen = HashSet::new();
    let all = pod.images.iter().filter_map(|image| Fetch::of(pod, image));
    all.filter(|fetch| seen.insert(fetch.clone())).collect()
}

/// What is to be begun for one pod.
struct Queue<'a> {
    pod: &'a Pod,
    waiting: VecDeque<Fetch>,
    /// How many more may be under way for it.
    places: usize,
    /// How many were begun for it.
    turns: usize,
}

impl<'a> Queue<'a> {
    fn new(
        pod: &'a Pod,
        wants: Vec<Fetch>,
        known: Known<'_>,
        ahead: usize,
        now: Instant,
        look_again: &mut Option<Instant>,
    ) -> Self {
        let (mut under_way, mut waiting) = (0, VecDeque::new());
        for fetch in wants {
            if known.under_way.contains(&fetch) {
                under_way += 1;
                continue;
            }
            if (known.held_back)(&pod.namespace, fetch.image.repository.registry()) {
                continue;
            }
            match (known.failed)(&fetch).filter(|until| *until > now) {
                Some(until) => {
                    let earliest = look_again.map_or(until, |before| before.min(until));
                    *look_again = Some(earliest);
                }
                None => waiting.push_back(fetch),
            }
        }
        Self { pod, waiting, places: ahead.saturating_sub(under_way), turns: 0 }
    }

    /// The pod, if it has something to begin.
    fn next(&self) -> Option<&'a Pod> {
        (self.places > 0 && !self.waiting.is_empty()).then_some(self.pod)
    }

    /// What another pod has begun takes a place here too.
    fn pass_over(&mut self, begun: &HashSet<Fetch>) {
        while self.places > 0 && self.waiting.front().is_some_and(|next| begun.contains(next)) {
            self.waiting.pop_front();
            self.places -= 1;
            self.turns += 1;
        }
    }

    fn take(&mut self) -> Option<Fetch> {
        self.places = self.places.checked_sub(1)?;
        self.turns += 1;
        self.waiting.pop_front()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
