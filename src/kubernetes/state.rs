//! What is known of this node's pods and the fetches for them, and how it changes: no task, no clock but what is given.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::fetch::Outcome;
use super::plan::{BackOff, FAILED, Failed, Fetch, Known, Plan, REFUSED, plan, wanted};
use super::pod::{Pod, PullPolicy};
use super::source::PodEvent;
use super::status::{PodOutlook, PodsStatus, SourceStatus};
use super::table::Table;
use crate::credentials::PodAccount;
use crate::reference::{Image, Registry};
use crate::support::bounded_map::BoundedMap;

/// Fetches that failed and are remembered at most: a node has some hundred images.
const FAILED_MAX: usize = 1_024;
/// Failures that are told by name.
const FAILED_SHOWN: usize = 8;

/// The problem of a source before it tells anything.
const NOTHING_YET: &str = "it has told nothing yet";

/// The pods, the fetches, and the sources.
pub(super) struct State {
    table: Table,
    under_way: HashSet<Fetch>,
    settled: HashMap<String, HashSet<Fetch>>,
    failed: BoundedMap<Fetch, Failed>,
    sources: Vec<SourceStatus>,
    ahead: usize,
    /// Registries of which nothing is fetched ahead.
    unused: HashSet<Registry>,
}

/// What an event changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Other pods, or the same in another state.
    pub(super) pods: bool,
    /// The source tells of pods again, or does not any more.
    pub(super) connection: Option<bool>,
    /// There are more pods than are followed, and there were not before.
    pub(super) is_full: bool,
}

impl State {
    /// Nothing is known yet from the sources of these names.
    pub(super) fn new(sources: &[&str], ahead: usize) -> Self {
        let unknown = |name: &&str| SourceStatus {
            name: (*name).to_owned(),
            connected: false,
            problem: Some(NOTHING_YET.to_owned()),
        };
        Self {
            table: Table::default(),
            under_way: HashSet::new(),
            settled: HashMap::new(),
            failed: BoundedMap::new(FAILED_MAX),
            sources: sources.iter().map(unknown).collect(),
            ahead,
            unused: HashSet::new(),
        }
    }

    /// Applies what a source tells.
    pub(super) fn apply(&mut self, source: usize, event: PodEvent) -> Changed {
        let problem = match &event {
            PodEvent::Lost(why) => Some(Some(why.clone())),
            // A source whose list comes and whose events do not is not connected.
            PodEvent::ListBegins | PodEvent::Applied(_) | PodEvent::Deleted { .. } => None,
            PodEvent::ListEnds | PodEvent::Resumed => Some(None),
        };
        let mut connection = None;
        if let (Some(problem), Some(status)) = (problem, self.sources.get_mut(source)) {
            let is_connected = problem.is_none();
            let is_first = status.problem.as_deref() == Some(NOTHING_YET);
            if status.connected != is_connected || is_first {
                connection = Some(is_connected);
            }
            (status.connected, status.problem) = (is_connected, problem);
        }
        let was_full = self.table.has_left_out();
        let pods = self.table.apply(source, event);
        let is_full = self.table.has_left_out() && !was_full;
        if pods {
            self.settled.retain(|uid, _| self.table.contains(uid));
        }
        Changed { pods, connection, is_full }
    }

    /// What is to be done now; nothing is begun from `unused` registries. What begins and ends counts as begun and ended.
    pub(super) fn plan(&mut self, unused: HashSet<Registry>, now: Instant) -> Plan {
        self.unused = unused;
        let failed = |fetch: &Fetch| self.failed.peek(fetch).map(|failed| failed.until);
        let unused = |registry: &Registry| self.unused.contains(registry);
        let known =
            Known { under_way: &self.under_way, settled: &self.settled, failed: &failed, unused: &unused };
        let plan = plan(self.table.pods(), known, self.ahead, now);
        for fetch in &plan.end {
            self.under_way.remove(fetch);
        }
        self.under_way.extend(plan.begin.iter().cloned());
        plan
    }

    /// A fetch has ended.
    pub(super) fn ended(&mut self, fetch: &Fetch, outcome: &Outcome, now: Instant) {
        self.under_way.remove(fetch);
        match outcome {
            Outcome::Here(_) | Outcome::InRuntime => {
                self.failed.remove(fetch);
                self.settle(fetch);
            }
            Outcome::Refused(why) => self.fail(fetch, REFUSED, why, now),
            // Its pods' own pulls pass the store by: what was asked for once is not asked for again.
            Outcome::NotStored(why) => {
                self.fail(fetch, REFUSED, why, now);
                self.settle(fetch);
            }
            Outcome::Failed(why) => self.fail(fetch, FAILED, why, now),
        }
    }

    /// The pods that want this now need it no more.
    fn settle(&mut self, fetch: &Fetch) {
        for pod in self.table.pods().filter(|pod| wanted(pod).contains(fetch)) {
            self.settled.entry(pod.uid.clone()).or_default().insert(fetch.clone());
        }
    }

    fn fail(&mut self, fetch: &Fetch, wait: BackOff, why: &str, now: Instant) {
        let failed = Failed::after(self.failed.peek(fetch), wait, now, why.to_owned());
        self.failed.insert(fetch.clone(), failed);
    }

    /// A pod that wants a fetch for which its service account is asked: the one that its token is bound to.
    pub(super) fn pod_account(&self, fetch: &Fetch) -> Option<PodAccount> {
        if fetch.account.is_empty() {
            return None;
        }
        let pod = self.table.pods().find(|pod| wanted(pod).contains(fetch))?;
        Some(PodAccount {
            namespace: pod.namespace.clone(),
            service_account: fetch.account.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        })
    }

    /// How many pods and fetches there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.table.len(), self.under_way.len())
    }

    /// The images of the pods that have not ended: what runs here, and what is about to.
    pub(super) fn images(&self) -> HashSet<Image> {
        let pods = self.table.pods().filter(|pod| !pod.has_ended);
        pods.flat_map(|pod| pod.images.iter().map(|image| image.image.clone())).collect()
    }

    /// The state for people.
    pub(super) fn status(&self) -> PodsStatus {
        // What a pod wants that is here; what a deleted pod could not have is of no interest any more.
        let wanted: HashSet<Fetch> = self.table.pods().flat_map(wanted).collect();
        let failed = self.failed.iter().filter(|(fetch, _)| wanted.contains(*fetch)).take(FAILED_SHOWN);
        let mut unused: Vec<String> = self.unused.iter().map(ToString::to_string).collect();
        unused.sort();
        PodsStatus {
            sources: self.sources.clone(),
            failed: failed.map(|(fetch, failed)| (fetch.image.to_string(), failed.why.clone())).collect(),
            unused,
        }
    }

    /// The pods that have an image, and how far it is for each.
    pub(super) fn outlook(&self, image: &Image) -> Vec<PodOutlook> {
        let mut all = Vec::new();
        for pod in self.table.pods() {
            for own in pod.images.iter().filter(|own| own.image == *image) {
                let outlook = PodOutlook {
                    pod: pod.full_name(),
                    pull_secrets: pod.pull_secrets.to_vec(),
                    state: self.state_of(pod, Fetch::of(pod, own), own.policy),
                };
                if !all.contains(&outlook) {
                    all.push(outlook);
                }
            }
        }
        all.sort_by(|a, b| a.pod.cmp(&b.pod));
        all
    }

    fn state_of(&self, pod: &Pod, fetch: Option<Fetch>, policy: PullPolicy) -> String {
        let Some(fetch) = fetch else {
            let text = match policy {
                _ if pod.has_ended => "the pod has ended",
                PullPolicy::Never => "its pull policy is Never: it is not fetched",
                PullPolicy::Always | PullPolicy::IfNotPresent => "its container has started",
            };
            return text.to_owned();
        };
        let failed = self.failed.peek(&fetch);
        let is_settled = self.settled.get(&pod.uid).is_some_and(|settled| settled.contains(&fetch));
        if is_settled && failed.is_none() {
            return "it was fetched for the pod, or the runtime had it".to_owned();
        }
        if self.under_way.contains(&fetch) {
            return "it is being fetched for the pod".to_owned();
        }
        let registry = fetch.image.repository.registry();
        if self.unused.contains(registry) {
            return format!(
                "nothing is fetched ahead from {registry}: no runtime asked for the last images of it"
            );
        }
        match failed {
            Some(failed) => format!("it could not be fetched for the pod: {}", failed.why),
            None => "it waits until earlier images of the pod are here".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kubernetes::FetchedAhead;
    use crate::kubernetes::pod::{RawImage, RawPod};

    fn pod(uid: &str, image: &str) -> Pod {
        let container =
            RawImage { name: "c".to_owned(), image: image.to_owned(), policy: "Always".to_owned() };
        let raw = RawPod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: format!("pod-{uid}"),
            containers: vec![container],
            ..RawPod::default()
        };
        Pod::new(raw).unwrap()
    }

    fn here() -> Outcome {
        Outcome::Here(FetchedAhead { fetched_bytes: 1, is_whole: true })
    }

    fn lost(why: &str) -> PodEvent {
        PodEvent::Lost(why.to_owned())
    }

    #[test]
    fn a_source_that_fails_again_and_again_is_told_once() {
        let mut state = State::new(&["watch"], 3);
        let connection = |state: &mut State, event| state.apply(0, event).connection;
        assert_eq!(connection(&mut state, lost("refused")), Some(false));
        assert_eq!(connection(&mut state, lost("refused")), None);
        assert_eq!(connection(&mut state, lost("no answer")), None, "another reason is no other state");
        assert_eq!(connection(&mut state, PodEvent::ListBegins), None);
        assert_eq!(connection(&mut state, PodEvent::Applied(pod("a", "app"))), None);
        assert_eq!(connection(&mut state, PodEvent::ListEnds), Some(true));
        assert_eq!(connection(&mut state, PodEvent::Applied(pod("a", "app"))), None);
        assert_eq!(connection(&mut state, lost("cut off")), Some(false));
        assert_eq!(state.status().sources[0].problem.as_deref(), Some("cut off"));
        assert_eq!(state.counts().0, 1, "what was seen last stays");
    }

    #[tokio::test]
    async fn a_new_pod_with_the_policy_always_asks_anew_and_one_that_was_answered_does_not() {
        let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
        state.apply(0, PodEvent::Applied(pod("a", "app")));
        let begun = state.plan(HashSet::new(), now).begin;
        assert_eq!((begun.len(), state.plan(HashSet::new(), now)), (1, Plan::default()));
        let image = begun[0].image.clone();
        assert!(state.outlook(&image)[0].state.contains("being fetched"));
        state.ended(&begun[0], &here(), now);
        assert_eq!(state.plan(HashSet::new(), now), Plan::default());
        assert!(state.outlook(&image)[0].state.contains("was fetched"));
        state.apply(0, PodEvent::Applied(pod("b", "app")));
        assert_eq!(state.plan(HashSet::new(), now).begin, begun);
        state.apply(0, PodEvent::Deleted { uid: "b".to_owned() });
        assert_eq!(state.plan(HashSet::new(), now).end, begun);
        state.apply(0, PodEvent::Deleted { uid: "a".to_owned() });
        assert!(state.settled.is_empty() && state.outlook(&image).is_empty() && state.images().is_empty());
    }

    #[tokio::test]
    async fn a_pod_that_follows_a_refused_one_does_not_ask_again_at_once() {
        let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
        state.apply(0, PodEvent::Applied(pod("a", "app")));
        let begun = state.plan(HashSet::new(), now).begin;
        state.ended(&begun[0], &Outcome::Refused("denied".to_owned()), now);
        state.apply(0, PodEvent::Deleted { uid: "a".to_owned() });
        state.apply(0, PodEvent::Applied(pod("b", "app")));
        let plan = state.plan(HashSet::new(), now);
        assert!(plan.begin.is_empty());
        assert!(state.outlook(&begun[0].image)[0].state.contains("denied"));
        assert_eq!(plan.look_again, Some(now + Duration::from_secs(20)));
        assert_eq!(state.plan(HashSet::new(), plan.look_again.unwrap()).begin, begun);
        assert_eq!(state.status().failed.len(), 1);
        state.apply(0, PodEvent::Deleted { uid: "b".to_owned() });
        assert!(state.status().failed.is_empty(), "no pod wants it");
    }

    #[tokio::test]
    async fn nothing_is_begun_from_a_registry_that_no_runtime_asks_for() {
        let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
        state.apply(0, PodEvent::Applied(pod("a", "reg.test/app:v1")));
        state.apply(0, PodEvent::Applied(pod("b", "other.test/app:v1")));
        let unused: HashSet<Registry> = ["reg.test".parse().unwrap()].into();
        let begun = state.plan(unused, now).begin;
        assert_eq!(
            begun.iter().map(|fetch| fetch.image.to_string()).collect::<Vec<_>>(),
            ["other.test/app:v1"]
        );
        assert_eq!(state.status().unused, ["reg.test"]);
        assert!(state.outlook(&"reg.test/app:v1".parse().unwrap())[0].state.contains("no runtime asked"));
        assert_eq!(state.plan(HashSet::new(), now).begin.len(), 1);
    }

    #[tokio::test]
    async fn a_static_pod_and_its_mirror_are_one_fetch_that_goes_on_for_as_long_as_one_source_tells_of_it() {
        let (now, mut state) = (Instant::now(), State::new(&["pods_api", "api_server"], 3));
        state.apply(0, PodEvent::Applied(pod("static", "app")));
        state.apply(1, PodEvent::Applied(pod("mirror", "app")));
        let begun = state.plan(HashSet::new(), now).begin;
        assert_eq!(begun.len(), 1);
        state.apply(1, PodEvent::Deleted { uid: "mirror".to_owned() });
        assert_eq!(state.plan(HashSet::new(), now), Plan::default());
        state.apply(0, PodEvent::Deleted { uid: "static".to_owned() });
        assert_eq!(state.plan(HashSet::new(), now).end, begun);
    }

    #[tokio::test]
    async fn what_the_store_does_not_take_is_asked_for_once_a_pod_and_not_by_the_pods_that_follow_at_once() {
        let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
        state.apply(0, PodEvent::Applied(pod("a", "app")));
        let begun = state.plan(HashSet::new(), now).begin;
        state.ended(&begun[0], &Outcome::NotStored("no room".to_owned()), now);
        let much_later = now + Duration::from_secs(10_000);
        assert_eq!(state.plan(HashSet::new(), much_later), Plan::default());
        assert!(state.outlook(&begun[0].image)[0].state.contains("no room"));
        state.apply(0, PodEvent::Applied(pod("b", "app")));
        let plan = state.plan(HashSet::new(), now);
        assert_eq!((plan.begin.len(), plan.look_again), (0, Some(now + Duration::from_secs(20))));
        assert_eq!(state.plan(HashSet::new(), much_later).begin, begun);
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_for_a_moment_costs_a_pod_no_more_than_that() {
        let (now, mut state) = (Instant::now(), State::new(&["watch"], 3));
        state.apply(0, PodEvent::Applied(pod("a", "app")));
        let begun = state.plan(HashSet::new(), now).begin;
        state.ended(&begun[0], &Outcome::Failed("no answer".to_owned()), now);
        assert_eq!(
            state.plan(HashSet::new(), now),
            Plan { look_again: Some(now + Duration::from_secs(2)), ..Plan::default() }
        );
        assert_eq!(state.plan(HashSet::new(), now + Duration::from_secs(2)).begin, begun);
        state.ended(&begun[0], &here(), now);
        assert_eq!(state.plan(HashSet::new(), now + Duration::from_secs(4)), Plan::default());
    }
}
