//! The pods that the sources see: pure.
//!
//! A pod is there as long as one source sees it. A source that is lost keeps what it saw last: its list tells later what
//! is gone. Bounded by what one node can run.

use std::collections::{HashMap, HashSet};

use super::pod::Pod;
use super::source::PodEvent;

/// Pods at most, further ones are left out: kubelet's own limit is 110 by default, and clusters with more than 500 are
/// not supported.
pub const PODS_MAX: usize = 1_024;
/// Sources at most.
const SOURCES_MAX: usize = 8;

/// The pods.
#[derive(Debug, Default)]
pub(super) struct Table {
    pods: HashMap<String, Seen>,
    /// What the list of each source that is under way has had so far.
    lists: HashMap<usize, HashSet<String>>,
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
                if let Some(list) = self.lists.get_mut(&source)
                    && list.len() < PODS_MAX
                {
                    list.insert(pod.uid.clone());
                }
                self.insert(source, pod)
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
            PodEvent::Lost(_) => {
                self.lists.remove(&source);
                false
            }
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

    fn insert(&mut self, source: usize, pod: Pod) -> bool {
        if let Some(seen) = self.pods.get_mut(&pod.uid) {
            seen.by[source] = true;
            // One source is a moment behind another: what has started or ended once stays so.
            let pod = later(pod, &seen.pod);
            let is_new = seen.pod != pod;
            seen.pod = pod;
            return is_new;
        }
        if self.pods.len() >= PODS_MAX {
            return false;
        }
        let mut by = [false; SOURCES_MAX];
        by[source] = true;
        self.pods.insert(pod.uid.clone(), Seen { pod, by });
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
    pod.has_ended |= before.has_ended;
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
        // A list that is cut off ends nothing.
        table.apply(0, PodEvent::ListBegins);
        table.apply(0, PodEvent::Lost("cut off".to_owned()));
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
    }
}
