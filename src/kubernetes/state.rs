//! What is known of this node's pods and the fetches for them, and how it changes: no task, no clock but what is given.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::fetch::{NotFetched, Outcome};
use super::plan::{BackOff, FAILED, Failed, Fetch, Known, Plan, REFUSED, plan, wanted};
use super::pod::{Pod, PodName, PullPolicy};
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

/// The images whose containers have started, of pods that have not ended, by namespace.
pub(super) type RunningImages = HashMap<String, HashSet<Image>>;

/// The pods, the fetches, and the sources.
pub(super) struct State {
    table: Table,
    under_way: HashSet<Fetch>,
    settled: HashMap<String, HashSet<Fetch>>,
    failed: BoundedMap<Fetch, Failed>,
    sources: Vec<Source>,
    ahead: usize,
    held_back: HeldBack,
}

/// A source of pods.
struct Source {
    name: String,
    told: Told,
}

/// What a source tells.
enum Told {
    /// Nothing yet.
    Nothing,
    /// The pods that there are.
    Pods,
    /// None, and why.
    Trouble(String),
}

/// For what nothing is begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeldBack {
    /// Registries that no runtime asks Larder for.
    pub(super) registries: HashSet<Registry>,
    /// Namespaces for whose pods much was fetched that no runtime has asked for.
    pub(super) namespaces: HashSet<String>,
}

/// What an event changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Other pods, or the same in another state.
    pub(super) pods: bool,
    /// Whether the source tells of pods.
    pub(super) source: SourceChange,
    /// There are more pods than are followed, and there were not before.
    pub(super) is_full: bool,
}

/// What an event says of its source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum SourceChange {
    /// Nothing new.
    #[default]
    None,
    /// It tells of pods, and did not before.
    Seen,
    /// It tells of none any more, or from the start, and why.
    Lost(String),
    /// It still tells of none, and why.
    StillLost(String),
}

impl Source {
    /// For people.
    fn status(&self) -> SourceStatus {
        let problem = match &self.told {
            Told::Nothing => Some("it has told nothing yet".to_owned()),
            Told::Pods => None,
            Told::Trouble(why) => Some(why.clone()),
        };
        SourceStatus { name: self.name.clone(), connected: problem.is_none(), problem }
    }
}

impl Told {
    /// What is new about it.
    fn change_from(&self, before: &Self) -> SourceChange {
        match (before, self) {
            (Self::Pods, Self::Pods) | (_, Self::Nothing) => SourceChange::None,
            (_, Self::Pods) => SourceChange::Seen,
            (Self::Trouble(_), Self::Trouble(why)) => SourceChange::StillLost(why.clone()),
            (_, Self::Trouble(why)) => SourceChange::Lost(why.clone()),
        }
    }
}

impl State {
    /// Nothing is known yet from the sources of these names.
    pub(super) fn new(sources: &[&str], ahead: usize) -> Self {
        let source = |name: &&str| Source { name: (*name).to_owned(), told: Told::Nothing };
        Self {
            table: Table::default(),
            under_way: HashSet::new(),
            settled: HashMap::new(),
            failed: BoundedMap::new(FAILED_MAX),
            sources: sources.iter().map(source).collect(),
            ahead,
            held_back: HeldBack::default(),
        }
    }

    /// Applies what a source tells.
    pub(super) fn apply(&mut self, source: usize, event: PodEvent) -> Changed {
        let change = self.note_told(source, &event);
        let was_full = self.table.has_left_out();
        let pods = self.table.apply(source, event);
        let is_full = self.table.has_left_out() && !was_full;
        if pods {
            self.settled.retain(|uid, _| self.table.contains(uid));
        }
        Changed { pods, source: change, is_full }
    }

    /// Takes note of what an event says of its source.
    fn note_told(&mut self, source: usize, event: &PodEvent) -> SourceChange {
        let told = match event {
            PodEvent::Lost(why) => Told::Trouble(why.clone()),
            PodEvent::ListEnds | PodEvent::Resumed => Told::Pods,
            // A source whose list comes and whose events do not is not connected.
            PodEvent::ListBegins | PodEvent::Applied(_) | PodEvent::Deleted { .. } => {
                return SourceChange::None;
            }
        };
        let Some(source) = self.sources.get_mut(source) else { return SourceChange::None };
        let change = told.change_from(&source.told);
        source.told = told;
        change
    }

    /// What is to be done now. What begins and ends counts as begun and ended.
    pub(super) fn plan(&mut self, held_back: HeldBack, now: Instant) -> Plan {
        self.held_back = held_back;
        let failed = |fetch: &Fetch| self.failed.peek(fetch).map(|failed| failed.until);
        let HeldBack { registries, namespaces } = &self.held_back;
        let held_back = |namespace: &str, registry: &Registry| {
            registries.contains(registry) || namespaces.contains(namespace)
        };
        let (under_way, settled) = (&self.under_way, &self.settled);
        let known = Known { under_way, settled, failed: &failed, held_back: &held_back };
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
            Outcome::NotHere(NotFetched::Refused(why)) => self.fail(fetch, REFUSED, why, now),
            // Its pods' own pulls pass the store by: what was asked for once is not asked for again.
            Outcome::NotHere(NotFetched::NotStored(why)) => {
                self.fail(fetch, REFUSED, why, now);
                self.settle(fetch);
            }
            Outcome::NotHere(NotFetched::Failed(why)) => self.fail(fetch, FAILED, why, now),
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
        let service_account = fetch.identity.as_ref()?.account.clone()?;
        let pod = self.table.pods().find(|pod| wanted(pod).contains(fetch))?;
        Some(PodAccount {
            namespace: pod.namespace.clone(),
            service_account,
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
        })
    }

    /// How many pods and fetches there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.table.len(), self.under_way.len())
    }

    /// What runs here, by namespace: images of pods that have not ended, whose containers have started once. Not those
    /// of the policy `Never`, which are not pulled.
    pub(super) fn running(&self) -> RunningImages {
        let mut running = RunningImages::new();
        for pod in self.table.pods().filter(|pod| !pod.has_ended) {
            let own = pod.images.iter().filter(|own| own.has_started && own.policy != PullPolicy::Never);
            let mut own = own.map(|own| own.image.clone()).peekable();
            if own.peek().is_some() {
                running.entry(pod.namespace.clone()).or_default().extend(own);
            }
        }
        running
    }

    /// A pod that wants this.
    pub(super) fn pod_of(&self, fetch: &Fetch) -> PodName {
        let pod = self.table.pods().find(|pod| wanted(pod).contains(fetch));
        let name = |pod: &Pod| PodName { namespace: pod.namespace.clone(), name: pod.name.clone() };
        pod.map(name).unwrap_or_default()
    }

    /// The state for people.
    pub(super) fn status(&self) -> PodsStatus {
        // What a pod wants that is here; what a deleted pod could not have is of no interest any more.
        let wanted: HashSet<Fetch> = self.table.pods().flat_map(wanted).collect();
        let failed = self.failed.iter().filter(|(fetch, _)| wanted.contains(*fetch)).take(FAILED_SHOWN);
        let mut unused: Vec<String> = self.held_back.registries.iter().map(ToString::to_string).collect();
        unused.sort();
        PodsStatus {
            sources: self.sources.iter().map(Source::status).collect(),
            failed: failed.map(|(fetch, failed)| (fetch.image.to_string(), failed.why.clone())).collect(),
            unused,
            runtime_problem: None,
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
        if self.held_back.namespaces.contains(&pod.namespace) {
            return "it waits: much that was fetched ahead for the pods of its namespace no runtime has asked for"
                .to_owned();
        }
        if self.held_back.registries.contains(registry) {
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
#[path = "state_tests.rs"]
mod tests;
