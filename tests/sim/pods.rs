//! Pods of the node and their pull secrets, scripted: what an API server would tell of tenants' pods, and its absence.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use larder::kubernetes::{Pod, PodEvent, PodSource, RawImage, RawPod, Secret, SecretError, SecretSource};
use larder::support::shutdown::Shutdown;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::plan::{PodSecret, Repo, Who};

/// The name of every tenant's pull secret, in the tenant's own namespace.
const SECRET: &str = "pull";

#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    pods: BTreeMap<u32, Pod>,
    away: bool,
}

/// The API server, as far as a watch of pods sees it.
pub(crate) struct Pods {
    state: watch::Sender<State>,
    /// Pull secrets that are not as they were.
    secrets: Mutex<BTreeMap<Who, PodSecret>>,
    /// Secrets that were read, for the story.
    read: Mutex<Vec<String>>,
}

fn namespace(who: Who) -> &'static str {
    match who {
        Who::Nobody => "nobody",
        Who::Alice => "alice",
        Who::Bob => "bob",
        Who::Mallory => "mallory",
        Who::Node => "kube-system",
    }
}

impl Pods {
    pub(crate) fn new() -> Self {
        Self { state: watch::Sender::default(), secrets: Mutex::default(), read: Mutex::default() }
    }

    /// A tenant's pod with these images is bound to the node; it names the tenant's pull secret, if the tenant has one.
    pub(crate) fn bind(&self, id: u32, who: Who, repos: &[Repo]) {
        let container = |repo: &Repo| {
            let image = format!("{}:v1", repo.name());
            RawImage { name: format!("{repo:?}"), image, policy: "Always".to_owned() }
        };
        let raw = RawPod {
            uid: format!("pod-{id}"),
            namespace: namespace(who).to_owned(),
            name: format!("pod-{id}"),
            created_at: i64::from(id),
            phase: "Pending".to_owned(),
            pull_secrets: who.credential().map(|_| SECRET.to_owned()).into_iter().collect(),
            containers: repos.iter().map(container).collect(),
            ..RawPod::default()
        };
        if let Some(pod) = Pod::new(raw) {
            self.state.send_modify(|state| drop(state.pods.insert(id, pod)));
        }
    }

    /// A tenant's pull secret is another one from now on.
    pub(crate) fn set_secret(&self, who: Who, is: PodSecret) {
        self.secrets.lock().unwrap().insert(who, is);
    }

    pub(crate) fn delete(&self, id: u32) {
        self.state.send_modify(|state| drop(state.pods.remove(&id)));
    }

    /// All pods have ended. One that still waits for its images would have them fetched again after each start, and what
    /// does not fit beside them evicted.
    pub(crate) fn end(&self) {
        self.state.send_modify(|state| *state = State::default());
    }

    /// The API server goes away, or comes back.
    pub(crate) fn set_away(&self, away: bool) {
        self.state.send_modify(|state| state.away = away);
    }

    /// The secrets that were read until now.
    pub(crate) fn read(&self) -> Vec<String> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl PodSource for Pods {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn run(&self, events: mpsc::Sender<PodEvent>, mut shutdown: Shutdown) -> BoxFuture<'_, ()> {
        let mut states = self.state.subscribe();
        Box::pin(async move {
            let mut before = State { away: true, ..State::default() };
            loop {
                let now = states.borrow_and_update().clone();
                for event in told(&before, &now) {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                before = now;
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    () = shutdown.requested() => return,
                }
            }
        })
    }
}

/// What a watch tells when one state has become another.
fn told(before: &State, now: &State) -> Vec<PodEvent> {
    let applied = |pod: &Pod| PodEvent::Applied(pod.clone());
    match (before.away, now.away) {
        (_, true) => vec![PodEvent::Lost("the API server is away".to_owned())],
        (true, false) => {
            let pods = now.pods.values().map(applied);
            std::iter::once(PodEvent::ListBegins).chain(pods).chain([PodEvent::ListEnds]).collect()
        }
        (false, false) => {
            let gone = before.pods.iter().filter(|(id, _)| !now.pods.contains_key(id));
            let gone = gone.map(|(_, pod)| PodEvent::Deleted { uid: pod.uid.clone() });
            let new = now.pods.iter().filter(|(id, pod)| before.pods.get(id) != Some(pod));
            gone.chain(new.map(|(_, pod)| applied(pod))).collect()
        }
    }
}

impl SecretSource for Pods {
    fn secret<'a>(
        &'a self,
        namespace_of_pod: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Secret, SecretError>> {
        Box::pin(async move {
            if self.state.borrow().away {
                return Err(SecretError::Unavailable("the API server is away".to_owned()));
            }
            let tenants = [Who::Alice, Who::Bob, Who::Mallory];
            let tenant =
                tenants.into_iter().find(|who| name == SECRET && namespace(*who) == namespace_of_pod);
            let Some(tenant) = tenant else { return Err(SecretError::Missing) };
            let is = self.secrets.lock().unwrap().get(&tenant).copied().unwrap_or(PodSecret::Right);
            self.read.lock().unwrap().push(format!("{namespace_of_pod}/{name}"));
            let owner = match is {
                PodSecret::Gone => return Err(SecretError::Missing),
                PodSecret::Unanswered => return Err(SecretError::Unavailable("no answer".to_owned())),
                PodSecret::Wrong => Who::Mallory,
                PodSecret::Right | PodSecret::Malformed => tenant,
            };
            let (user, password) = owner.credential().ok_or(SecretError::Missing)?;
            let mut config =
                json!({"auths": {"reg.corp": {"username": user, "password": password}}}).to_string();
            if is == PodSecret::Malformed {
                config.pop();
            }
            let manifest = json!({"kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": config}});
            Ok(Secret { manifest: manifest.to_string().into_bytes().into() })
        })
    }
}
