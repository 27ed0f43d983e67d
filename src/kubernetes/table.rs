//! The pods that the sources see: pure.
//!
//! A pod is there as long as one source sees it. A source that is lost keeps what it saw last: its list tells later
//! what is gone. A pod that has ended is gone, whatever sources still tell of it: ended pods stay in the API server
//! until they are removed, and count in no limit of the node. Bounded by what one node can run; a full table is shared
//! evenly by namespaces, so that none takes it from all others.

use std::collections::{HashMap, HashSet};

use super::pod::Pod;
use super::source::PodEvent;
use crate::support::bounded_map::BoundedMap;

/// Pods at most, further ones are left out: kubelet's own limit is 110 by default, and clusters with more than 500 are
/// not supported.
pub const PODS_MAX: usize = 1_024;
/// Sources at most.
const SOURCES_MAX: usize = 8;
/// UIDs of ended pods that are remembered: one source tells of an end a moment after another.
const ENDED_MAX: usize = 1_024;

/// The pods.
#[derive(Debug)]
pub(super) struct Table {
    pods: HashMap<String, Seen>,
    /// What the list of each source that is under way has had so far.
    lists: HashMap<usize, HashSet<String>>,
    ended: BoundedMap<String, ()>,
    /// Whether a pod was left out since the table was last well below its bound.
    has_left_out: bool,
}

impl Default for Table {
    fn default() -> Self {
        let (pods, lists) = (HashMap::new(), HashMap::new());
        Self { pods, lists, ended: BoundedMap::new(ENDED_MAX), has_left_out: false }
    }
}

#[derive(Debug)]
struct Seen {
    pod: Pod,
    by: [bool; SOURCES_MAX],
}

impl Table {
    /// Applies what a source sees; returns whether that changes anything.
    pub(super) fn apply(&mut self, source: usize, event: PodEvent) -> bool {
        let source = source.min(SOURCES_MAX - 1);
        match event {
            PodEvent::Applied(pod) => {
                let uid = pod.uid.clone();
                let is_new = self.insert(source, pod);
                if let Some(list) = self.lists.get_mut(&source)
                    && list.len() < PODS_MAX
                    && self.pods.contains_key(&uid)
                {
                    list.insert(uid);
                }
                is_new
            }
            PodEvent::Deleted { uid } => self.unsee(source, &uid),
            PodEvent::ListBegins => {
                self.lists.insert(source, HashSet::new());
                false
            }
            PodEvent::ListEnds => {
                let listed = self.lists.remove(&source).unwrap_or_default();
                let gone: Vec<String> =
                    self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                let changes: Vec<bool> = gone.iter().map(|uid| self.unsee(source, uid)).collect();
                changes.contains(&true)
            }
            PodEvent::Lost(_) | PodEvent::Resumed => false,
        }
    }

    /// The pods, in no order.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|seen| &seen.pod)
    }

    /// Whether there is a pod with that UID.
    pub(super) fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether pods are left out for want of room.
    pub(super) fn has_left_out(&self) -> bool {
        self.has_left_out
    }

    fn insert(&mut self, source: usize, pod: Pod) -> bool {
        if pod.has_ended {
            let is_new = self.pods.remove(&pod.uid).is_some();
            self.ended.insert(pod.uid, ());
            return is_new;
        }
        if self.ended.get(&pod.uid).is_some() {
            return false;
        }
        if let Some(seen) = self.pods.get_mut(&pod.uid) {
            seen.by[source] = true;
            // One source is a moment behind another: what has started once stays so.
            let pod = later(pod, &seen.pod);
            let is_new = seen.pod != pod;
            seen.pod = pod;
            return is_new;
        }
        if self.pods.len() >= PODS_MAX {
            self.has_left_out = true;
            if !self.make_way(&pod) {
                return false;
            }
        } else if self.pods.len() < PODS_MAX / 4 * 3 {
            self.has_left_out = false;
        }
        let mut by = [false; SOURCES_MAX];
        by[source] = true;
        self.pods.insert(pod.uid.clone(), Seen { pod, by });
        true
    }

    /// Leaves out a pod of the namespace that has most, if that is more than `new`'s will have: the least urgent one.
    fn make_way(&mut self, new: &Pod) -> bool {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for seen in self.pods.values() {
            *counts.entry(&seen.pod.namespace).or_default() += 1;
        }
        let own = counts.get(new.namespace.as_str()).copied().unwrap_or(0);
        let most = counts.into_iter().max_by_key(|(namespace, count)| (*count, *namespace));
        let Some((largest, _)) = most.filter(|(_, count)| *count > own + 1) else { return false };
        let pods = self.pods.values().map(|seen| &seen.pod).filter(|pod| pod.namespace == largest);
        let least = pods.min_by_key(|pod| (pod.priority, std::cmp::Reverse(pod.created_at), &pod.uid));
        let Some(uid) = least.map(|pod| pod.uid.clone()) else { return false };
        self.pods.remove(&uid);
        self.lists.values_mut().for_each(|list| {
            list.remove(&uid);
        });
        true
    }

    fn unsee(&mut self, source: usize, uid: &str) -> bool {
        let Some(seen) = self.pods.get_mut(uid) else { return false };
        seen.by[source] = false;
        let is_gone = !seen.by.contains(&true);
        if is_gone {
            self.pods.remove(uid);
        }
        is_gone
    }
}

/// The pod, with what is known of it from before.
fn later(mut pod: Pod, before: &Pod) -> Pod {
    for image in &mut pod.images {
        let was_started = before
            .images
            .iter()
            .any(|old| old.has_started && old.used_as == image.used_as && old.image == image.image);
        image.has_started |= was_started;
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::pod::{RawImage, RawPod};

    fn raw(uid: &str) -> RawPod {
        let container = RawImage { name: "c".to_owned(), image: "app:v1".to_owned(), ..RawImage::default() };
        RawPod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: format!("pod-{uid}"),
            containers: vec![container],
            ..RawPod::default()
        }
    }

    fn applied(uid: &str) -> PodEvent {
        PodEvent::Applied(Pod::new(raw(uid)).unwrap())
    }

    fn uids(table: &Table) -> Vec<&str> {
        let mut all: Vec<&str> = table.pods().map(|pod| pod.uid.as_str()).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn a_pod_that_went_while_a_watch_was_away_is_gone_after_its_list() {
        let mut table = Table::default();
        assert!(table.apply(0, applied("a")) && table.apply(0, applied("b")));
        assert!(!table.apply(0, PodEvent::Lost("away".to_owned())));
        assert_eq!(uids(&table), ["a", "b"], "what was seen last stays");
        table.apply(0, PodEvent::ListBegins);
        assert!(!table.apply(0, applied("b")), "nothing new");
        assert!(table.apply(0, PodEvent::ListEnds));
        assert_eq!(uids(&table), ["b"]);
        // A list that is cut off ends nothing, and the next one knows nothing of it.
        table.apply(0, PodEvent::ListBegins);
        table.apply(0, applied("c"));
        table.apply(0, PodEvent::Lost("cut off".to_owned()));
        table.apply(0, PodEvent::Resumed);
        assert_eq!(uids(&table), ["b", "c"]);
        table.apply(0, PodEvent::ListBegins);
        table.apply(0, applied("b"));
        // What was listed is not gone because the watch after it could not begin at once.
        table.apply(0, PodEvent::Lost("busy".to_owned()));
        assert!(table.apply(0, PodEvent::ListEnds));
        assert_eq!(uids(&table), ["b"]);
    }

    #[test]
    fn a_pod_is_there_as_long_as_one_source_sees_it_and_what_started_stays_started() {
        let mut table = Table::default();
        table.apply(0, applied("a"));
        let started = RawPod { started: vec!["c".to_owned()], ..raw("a") };
        assert!(table.apply(1, PodEvent::Applied(Pod::new(started).unwrap())));
        assert!(!table.apply(0, applied("a")), "an older state of the same pod");
        assert!(table.pods().all(|pod| pod.images[0].has_started));
        assert!(!table.apply(0, PodEvent::Deleted { uid: "a".to_owned() }));
        assert_eq!(uids(&table), ["a"]);
        assert!(table.apply(1, PodEvent::Deleted { uid: "a".to_owned() }));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_api_server_that_lists_ever_more_pods_fills_no_memory() {
        let mut table = Table::default();
        table.apply(0, PodEvent::ListBegins);
        for n in 0..2 * PODS_MAX {
            table.apply(0, applied(&n.to_string()));
        }
        assert_eq!(table.len(), PODS_MAX);
        assert_eq!(table.lists[&0].len(), PODS_MAX);
        assert!(table.has_left_out());
    }

    #[test]
    fn a_tenant_whose_pods_ended_or_are_many_takes_no_pod_of_another_from_the_table() {
        let of = |namespace: &str, n: usize, phase: &str| {
            let uid = format!("{namespace}-{n}");
            let raw = RawPod { namespace: namespace.to_owned(), phase: phase.to_owned(), ..raw(&uid) };
            PodEvent::Applied(Pod::new(raw).unwrap())
        };
        let mut table = Table::default();
        table.apply(0, of("shop", 0, "Running"));
        for n in 0..2 * PODS_MAX {
            table.apply(0, of("job", n, "Failed"));
        }
        assert!(table.len() == 1 && !table.has_left_out(), "ended pods take room");
        // A source that is behind does not bring back what has ended.
        assert!(table.apply(0, of("shop", 0, "Succeeded")));
        assert!(!table.apply(1, of("shop", 0, "Running")) && table.len() == 0);
        table.apply(0, PodEvent::ListBegins);
        for n in 0..2 * PODS_MAX {
            table.apply(0, of("many", n, "Pending"));
        }
        for n in 1..300 {
            assert!(table.apply(0, of("shop", n, "Pending")), "{n}");
        }
        table.apply(0, PodEvent::ListEnds);
        let of_shop = table.pods().filter(|pod| pod.namespace == "shop").count();
        assert_eq!((table.len(), of_shop), (PODS_MAX, 299));
        assert!(table.has_left_out());
    }
}
