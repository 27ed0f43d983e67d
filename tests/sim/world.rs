//! The world: acts out a plan, act by act, and writes down everything that anybody saw.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use larder::admin::control;
use larder::listener::memory::Dialer;
use larder::reference::Digest;
use larder::store::Verifier;
use tokio::task::JoinSet;

use crate::catalog::catalog;
use crate::client::{self, Ask, Reply};
use crate::daemon::Daemon;
use crate::disk::Disk;
use crate::files::{damaged, leaks, sizes};
use crate::plan::{Act, Damage, Get, Host, Manner, NodeLogin, Plan, Pull, Repo, Setup, What, Who};
use crate::registry::{Seen, Upstreams};
use crate::time::Now;
use crate::truth::{Span, Truth};

/// How long everybody may take after the last act.
const LAST_ANSWERS: Duration = Duration::from_secs(900);
/// After the last fault: the longest that a registry may be left alone (a 429), and some.
const RECOVERY: Duration = Duration::from_secs(400);
/// Until a process that is to be killed is killed, whatever it does.
const KILLED_WITHIN: Duration = Duration::from_secs(3);

/// What happened.
pub(crate) struct History {
    pub(crate) plan: Plan,
    pub(crate) asks: Vec<Ask>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) tokens: Vec<(String, Host)>,
    pub(crate) truth: Truth,
    pub(crate) notes: Vec<(u64, String)>,
    pub(crate) quiet: Vec<Quiet>,
    /// Where the answers after the last fault begin.
    pub(crate) calm_from: usize,
    pub(crate) calm_at: u64,
    pub(crate) log: String,
    pub(crate) pages: Vec<String>,
    /// Files that hold a secret.
    pub(crate) leaks: Vec<String>,
    pub(crate) disk_hits: u64,
    pub(crate) ended_at: u64,
}

/// How things stand while nothing happens.
#[derive(Debug, Clone)]
pub(crate) struct Quiet {
    pub(crate) at: u64,
    pub(crate) when: &'static str,
    pub(crate) numbers: BTreeMap<String, f64>,
    /// Files of the store, relative, with their sizes.
    pub(crate) files: BTreeMap<String, u64>,
    /// Files of the store that are open.
    pub(crate) open: Vec<String>,
}

impl Quiet {
    pub(crate) fn number(&self, name: &str) -> f64 {
        self.numbers.get(name).copied().unwrap_or(0.0)
    }

    pub(crate) fn under<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.files.iter().filter(move |(name, _)| name.starts_with(directory)).map(|(n, s)| (n.as_str(), *s))
    }
}

struct World {
    now: Now,
    plan: Plan,
    /// The plan's, as reloads have changed it.
    setup: Setup,
    disk: Disk,
    upstreams: Upstreams,
    daemon: Option<Daemon>,
    dialer: Arc<Mutex<Option<Dialer>>>,
    asks: JoinSet<Vec<Ask>>,
    done: Vec<Ask>,
    notes: Vec<(u64, String)>,
    quiet: Vec<Quiet>,
    pages: Vec<String>,
    disk_hits: u64,
}

/// Acts out `plan` over a directory beneath `root`.
pub(crate) async fn act(now: Now, plan: Plan, control: PathBuf, root: PathBuf) -> History {
    let disk = Disk::new(&control, &root);
    let upstreams = Upstreams::new(now.clone(), plan.setup.clone());
    let mut world = World {
        now,
        plan: plan.clone(),
        setup: plan.setup.clone(),
        disk,
        upstreams,
        daemon: None,
        dialer: Arc::default(),
        asks: JoinSet::new(),
        done: Vec::new(),
        notes: Vec::new(),
        quiet: Vec::new(),
        pages: Vec::new(),
        disk_hits: 0,
    };
    if plan.setup.node {
        world.log_in(NodeLogin::Right);
    }
    world.start().await;
    for (number, step) in plan.steps.iter().enumerate() {
        world.now.sleep(Duration::from_millis(step.after_ms)).await;
        world.step(number, &step.act).await;
    }
    world.finish().await
}

impl World {
    fn note(&mut self, what: impl Into<String>) {
        self.notes.push((self.now.ms(), what.into()));
    }

    async fn start(&mut self) {
        let started = Daemon::start(&self.disk, &self.upstreams, &self.now, &self.setup);
        match started {
            Ok(daemon) => {
                *self.dialer.lock().unwrap() = Some(daemon.dialer.clone());
                self.daemon = Some(daemon);
            }
            Err(why) => {
                self.note(format!("did not start: {why}"));
                self.heal_disk();
                tokio::time::sleep(Duration::from_secs(1)).await;
                match Daemon::start(&self.disk, &self.upstreams, &self.now, &self.setup) {
                    Ok(daemon) => {
                        *self.dialer.lock().unwrap() = Some(daemon.dialer.clone());
                        self.daemon = Some(daemon);
                    }
                    Err(why) => self.note(format!("does not start on a sound disk either: {why}")),
                }
            }
        }
        // Until it has found its feet.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn step(&mut self, number: usize, act: &Act) {
        match act {
            Act::Pull(pull) => self.pull(number, pull),
            Act::Get(get) => self.get(number, get),
            Act::Fault(fault) => self.upstreams.begin_fault(fault),
            Act::Heal(id) => self.upstreams.heal(Some(*id)),
            Act::HealAll => self.heal(),
            Act::Right { who, repo, may } => {
                self.upstreams.truth(|truth, at| truth.set_right(at, *who, *repo, *may));
            }
            Act::Move { repo, version } => {
                self.upstreams.truth(|truth, at| truth.move_tag(at, *repo, *version));
            }
            Act::Revoke(repo) => {
                self.upstreams.truth(|truth, at| truth.revoked.push((at, *repo)));
                let command = control::Revoke { repository: repo.map(Repo::name) };
                self.command(&command).await;
            }
            Act::Remove(repo) => {
                self.upstreams.truth(|truth, at| truth.removed.push((at, *repo)));
                self.command(&control::Remove { image: format!("{}:v1", repo.name()) }).await;
            }
            Act::MakeRoom => self.command(&control::CollectGarbage {}).await,
            Act::Prefetch { repo, pin } => self.prefetch(*repo, *pin).await,
            Act::Verify { repair } => self.verify(*repair).await,
            Act::Restart => self.restart().await,
            Act::Kill { after_calls } => self.kill(*after_calls).await,
            Act::Disk(fault) => {
                self.disk.fail(fault);
                let span = |at| Span { what: *fault, from: at, until: None, hit: None };
                self.upstreams.truth(|truth, at| truth.disk.push(span(at)));
            }
            Act::Damage(damage) => self.damage(damage),
            Act::ClockJump { seconds } => {
                self.now.clock().advance(Duration::from_secs(*seconds));
                self.upstreams.truth(|truth, at| truth.jumps.push((at, *seconds)));
            }
            Act::ClockBack { seconds } => {
                self.now.clock().set_back(Duration::from_secs(*seconds));
                self.upstreams.truth(|truth, at| truth.set_back.push(at));
            }
            Act::Reload { mirror } => self.reload(*mirror).await,
            Act::NodeLogin(login) => self.log_in(*login),
            Act::Wait { seconds } => self.now.sleep(Duration::from_secs(*seconds)).await,
        }
    }

    fn heal_disk(&mut self) {
        self.disk_hits += self.disk.hits();
        self.disk.heal();
        self.upstreams.truth(|truth, at| {
            truth.disk.iter_mut().filter(|span| span.until.is_none()).for_each(|span| span.until = Some(at));
        });
    }

    fn heal(&mut self) {
        self.upstreams.heal(None);
        self.heal_disk();
    }

    fn get(&mut self, number: usize, get: &Get) {
        let digest = self.upstreams.truth(|truth, _| truth.digest_of(get.repo, get.what));
        let ask = new_ask(get.who, get.repo, get.what, digest, get.head, get.range, &get.manner, number);
        let (now, dialer) = (self.now.clone(), self.dialer.lock().unwrap().clone());
        self.asks.spawn(async move { vec![client::ask(dialer, &now, ask).await] });
    }

    fn pull(&mut self, number: usize, pull: &Pull) {
        let (now, dialer, pull) = (self.now.clone(), Arc::clone(&self.dialer), pull.clone());
        self.asks.spawn(async move { pull_image(&now, &dialer, &pull, number).await });
    }

    async fn command<C: control::ControlCommand>(&mut self, command: &C)
    where
        C::Reply: std::fmt::Debug,
    {
        let Some(daemon) = &self.daemon else { return };
        let said = control::send(&daemon.control, command).await;
        self.note(format!("{}: {said:?}", C::PATH));
    }

    async fn prefetch(&mut self, repo: Repo, pin: bool) {
        let Some(daemon) = &self.daemon else { return };
        let image = control::PullImage { image: format!("{}:v1", repo.name()), secrets: Vec::new() };
        let command = control::Pull {
            images: vec![image],
            secrets: Vec::new(),
            platforms: vec!["linux/amd64".to_owned()],
            all_platforms: false,
            pin,
        };
        let mut last = String::new();
        let control = daemon.control.clone();
        let done = control::pull(&control, &command, |event| last = format!("{event:?}"));
        let done = tokio::time::timeout(Duration::from_secs(120), done).await;
        self.note(format!("larder pull {}: {done:?}, {last}", repo.name()));
    }

    async fn verify(&mut self, repair: bool) {
        let store = self.disk.store();
        let looked = tokio::task::spawn_blocking(move || {
            let Ok(verifier) = Verifier::open(&store) else { return String::new() };
            let found: Vec<String> = verifier
                .digests()
                .iter()
                .map(|digest| format!("{digest}: {:?}", verifier.verify(digest, repair)))
                .collect();
            found.join(", ")
        });
        let found = looked.await.unwrap_or_default();
        self.note(format!("larder verify: {found}"));
    }

    async fn reload(&mut self, mirror: bool) {
        self.setup.mirror = mirror;
        let Some(daemon) = &self.daemon else { return };
        if let Err(why) = daemon.reload(&self.disk, &self.upstreams, &self.setup).await {
            self.note(format!("did not reload: {why}"));
        }
    }

    /// Writes the node's docker config anew.
    fn log_in(&mut self, login: NodeLogin) {
        let Some((user, password)) = Who::Node.credential() else { return };
        let entry = |password: &str| {
            let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            format!(r#"{{"auths":{{"reg.corp":{{"auth":"{auth}"}}}}}}"#)
        };
        let text = match login {
            NodeLogin::Right => entry(password),
            NodeLogin::WrongPassword => entry("wrong-secret-77c0"),
            NodeLogin::Nothing => r#"{"auths":{}}"#.to_owned(),
            NodeLogin::HalfWritten => entry(password)[..20].to_owned(),
        };
        let path = self.disk.node_config();
        self.disk.as_another(|| fs::write(&path, text).unwrap());
        if login != NodeLogin::HalfWritten {
            self.upstreams.truth(|truth, at| truth.logins.push((at, login)));
        }
    }

    async fn restart(&mut self) {
        let from = self.now.ms();
        if let Some(daemon) = self.daemon.take() {
            self.pages.push(daemon.page());
            if let Err(why) = daemon.stop().await {
                self.note(format!("did not stop well: {why}"));
            }
        }
        // A process that has ended has no connections.
        self.upstreams.cut_off();
        self.start().await;
        let until = self.now.ms();
        self.upstreams.truth(|truth, _| truth.stops.push((from, until, true)));
    }

    async fn kill(&mut self, after_calls: u64) {
        let from = self.now.ms();
        self.disk.stop_after(after_calls);
        let killed = async {
            while !self.disk.is_stopped() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(KILLED_WITHIN, killed).await;
        self.disk.stop();
        self.upstreams.cut_off();
        if let Some(daemon) = self.daemon.take() {
            daemon.kill().await;
        }
        // What the process had begun on other threads ends now, without a trace.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let calls = self.disk.calls();
        self.disk.next_epoch();
        self.note(format!("killed after {calls} calls"));
        self.heal_disk();
        self.start().await;
        let until = self.now.ms();
        self.upstreams.truth(|truth, _| truth.stops.push((from, until, false)));
    }

    fn damage(&mut self, damage: &Damage) {
        let image = catalog().image(damage.repo, 0);
        let digest = image.layers[usize::from(damage.layer) % image.layers.len()];
        let store = self.disk.store();
        let stored = store.join("blobs/sha256").join(digest.hex());
        let growing = || {
            let entries = fs::read_dir(store.join("ingest")).into_iter().flatten().flatten();
            entries.map(|e| e.path()).find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&digest.hex()))
            })
        };
        let path = if stored.exists() { Some(stored) } else { growing() };
        let done = self.disk.as_another(|| damaged(path.as_deref(), &store, digest, damage.how));
        if done {
            self.upstreams.truth(|truth, at| truth.damage.push((at, *damage)));
        }
        self.note(format!(
            "damage {:?} of {digest}: {}",
            damage.how,
            if done { "done" } else { "not there" }
        ));
    }

    async fn collect(&mut self, wait: Duration) -> usize {
        let all = async {
            while let Some(asks) = self.asks.join_next().await {
                match asks {
                    Ok(asks) => self.done.extend(asks),
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => {}
                }
            }
        };
        let _ = tokio::time::timeout(wait, all).await;
        self.asks.len()
    }

    /// How things stand, once nothing moves any more.
    async fn quieten(&mut self, when: &'static str) {
        tokio::time::sleep(Duration::from_secs(150)).await;
        let Some(daemon) = &self.daemon else { return };
        let numbers = daemon.numbers();
        self.pages.push(daemon.page());
        let store = self.disk.store();
        let mut files = BTreeMap::new();
        sizes(&store, &store, &mut files);
        let prefix = store.to_string_lossy().into_owned();
        let open = fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter_map(|path| Some(path.to_string_lossy().strip_prefix(&prefix)?.to_owned()))
            .filter(|path| !path.starts_with("/index") && !path.starts_with("/LOCK"))
            .collect();
        self.quiet.push(Quiet { at: self.now.ms(), when, numbers, files, open });
    }

    async fn finish(mut self) -> History {
        let left = self.collect(LAST_ANSWERS).await;
        if left > 0 {
            self.note(format!("{left} clients still wait"));
            self.asks.abort_all();
        }
        self.heal();
        tokio::time::sleep(RECOVERY).await;
        if self.daemon.is_none() {
            self.start().await;
        }
        let (calm_from, calm_at) = (self.done.len(), self.now.ms());
        self.probe().await;
        self.quieten("after the last fault").await;
        self.restart().await;
        self.quieten("after a restart").await;
        self.probe().await;
        self.quieten("at the end").await;
        if let Some(daemon) = self.daemon.take() {
            let _ = daemon.stop().await;
        }
        let leaks = leaks(&self.disk.state(), &self.upstreams.tokens());
        let ended_at = self.now.ms();
        History {
            plan: self.plan,
            asks: self.done,
            seen: self.upstreams.seen(),
            tokens: self.upstreams.tokens(),
            truth: self.upstreams.truth(|truth, _| std::mem::take(truth)),
            notes: self.notes,
            quiet: self.quiet,
            calm_from,
            calm_at,
            log: crate::log::take(),
            pages: self.pages,
            leaks,
            disk_hits: self.disk_hits,
            ended_at,
        }
    }

    /// Everybody asks again for what the plan was about.
    async fn probe(&mut self) {
        let mut repos: Vec<Repo> = self.plan.steps.iter().filter_map(|step| repo_of(&step.act)).collect();
        repos.sort();
        repos.dedup();
        for repo in repos.into_iter().filter(|repo| *repo != Repo::Evil) {
            let all: &[Who] = if repo.is_public() { &[Who::Nobody] } else { &[Who::Alice, Who::Bob] };
            for who in all {
                let pull = Pull { who: *who, repo, manner: Manner::default() };
                self.pull(usize::MAX, &pull);
            }
            self.collect(LAST_ANSWERS).await;
        }
    }
}

fn repo_of(act: &Act) -> Option<Repo> {
    match act {
        Act::Pull(pull) => Some(pull.repo),
        Act::Get(get) => Some(get.repo),
        Act::Prefetch { repo, .. } | Act::Remove(repo) => Some(*repo),
        _ => None,
    }
}

#[allow(clippy::too_many_arguments, reason = "they are the request")]
fn new_ask(
    who: Who,
    repo: Repo,
    what: What,
    digest: Option<Digest>,
    head: bool,
    range: Option<(u64, u64)>,
    manner: &Manner,
    step: usize,
) -> Ask {
    let (manner, reply) = (manner.clone(), Reply::default());
    Ask { who, repo, what, digest, head, range, manner, step, begun: 0, reply }
}

/// A whole image, as a runtime pulls it: tag, index, manifest, config and layers.
async fn pull_image(now: &Now, dialer: &Arc<Mutex<Option<Dialer>>>, pull: &Pull, number: usize) -> Vec<Ask> {
    let current = || dialer.lock().unwrap().clone();
    let ask =
        |what, digest, head| new_ask(pull.who, pull.repo, what, digest, head, None, &pull.manner, number);
    let mut done = Vec::new();
    let resolved = client::ask(current(), now, ask(What::Tag, None, true)).await;
    let top = resolved.reply.header("docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
    let success = resolved.reply.is_success();
    done.push(resolved);
    let (true, Some(top)) = (success, top) else { return done };
    let Some(image) = catalog().versions(pull.repo).iter().find(|image| image.top == top) else {
        return done;
    };
    let mut manifests = vec![image.top];
    if image.manifest != image.top {
        manifests.push(image.manifest);
    }
    for digest in manifests {
        let got = client::ask(current(), now, ask(What::Manifest, Some(digest), false)).await;
        let well = got.reply.is_success() && got.reply.complete;
        done.push(got);
        if !well {
            return done;
        }
    }
    let mut parts = JoinSet::new();
    let blobs = std::iter::once(image.config).chain(image.layers.iter().copied());
    for (at, digest) in blobs.enumerate() {
        let what = What::Layer(at.saturating_sub(1) as u8);
        let (ask, now, dialer) = (ask(what, Some(digest), false), now.clone(), current());
        parts.spawn(async move { client::ask(dialer, &now, ask).await });
    }
    done.extend(parts.join_all().await);
    done
}
