//! The world: acts out a plan, act by act, and writes down everything that anybody saw.

mod clients;
mod operator;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::admin::control;
use larder::listener::memory::Dialer;
use tokio::task::JoinSet;

use crate::bucket;
use crate::client::Ask;
use crate::daemon::Daemon;
use crate::disk::Disk;
use crate::files::{leaks, sizes};
use crate::plan::{Act, BucketAct, DiskCall, DiskError, DiskFault, Host, NodeLogin, Plan, Repo, Setup, Who};
use crate::pods::Pods;
use crate::registry::{Seen, Upstreams};
use crate::shared_names::Keys;
use crate::time::Now;
use crate::truth::{BoundPod, Span, Truth};

/// How long everybody may take after the last act.
const LAST_ANSWERS: Duration = Duration::from_secs(900);
/// After the last fault: the longest that a registry may be left alone (a 429), and some.
const RECOVERY: Duration = Duration::from_secs(400);

/// What happened.
pub(crate) struct History {
    pub(crate) plan: Plan,
    pub(crate) asks: Vec<Ask>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) tokens: Vec<(String, Host)>,
    pub(crate) token_owners: BTreeMap<String, Who>,
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
    pub(crate) bucket: bucket::Left,
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
    pods: Arc<Pods>,
    daemon: Option<Daemon>,
    dialer: Arc<Mutex<Option<Dialer>>>,
    asks: JoinSet<Vec<Ask>>,
    done: Vec<Ask>,
    notes: Vec<(u64, String)>,
    quiet: Vec<Quiet>,
    pages: Vec<String>,
    disk_hits: u64,
    keys: Option<Keys>,
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
        pods: Arc::new(Pods::new()),
        daemon: None,
        dialer: Arc::default(),
        asks: JoinSet::new(),
        done: Vec::new(),
        notes: Vec::new(),
        quiet: Vec::new(),
        pages: Vec::new(),
        disk_hits: 0,
        keys: None,
    };
    if plan.setup.node {
        world.log_in(NodeLogin::Right);
    }
    if plan.setup.tier {
        world.disk.as_another(|| {
            fs::write(world.disk.tier_key(), bucket::key_file()).unwrap();
            fs::set_permissions(world.disk.tier_key(), fs::Permissions::from_mode(0o600)).unwrap();
        });
    }
    if plan.setup.names {
        let key = world.disk.cluster_key();
        let keys = world.disk.as_another(|| {
            for (path, content) in Keys::files(&key) {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            Keys::read(&key)
        });
        world.keys = Some(keys);
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
        let begin =
            |this: &Self| Daemon::start(&this.disk, &this.upstreams, &this.now, &this.setup, &this.pods);
        let started = begin(self);
        match started {
            Ok(daemon) => {
                *self.dialer.lock().unwrap() = Some(daemon.dialer.clone());
                self.daemon = Some(daemon);
            }
            Err(why) => {
                self.note(format!("did not start: {why}"));
                self.heal_disk();
                tokio::time::sleep(Duration::from_secs(1)).await;
                match begin(self) {
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
            Act::DiskHangs { gives_back, seconds } => self.hang_disk(*gives_back, *seconds),
            Act::Disk(fault) => {
                self.disk.fail(fault, 0);
                let span = |at| Span { what: *fault, from: at, until: None, hit: None };
                self.upstreams.truth(|truth, at| truth.disk.push(span(at)));
            }
            Act::Room { free_mib } => self.leave(*free_mib),
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
            Act::Pod { id, who, repo, also } => {
                let repos: Vec<Repo> = [*repo].into_iter().chain(*also).collect();
                self.pods.bind(*id, *who, &repos);
                self.upstreams.truth(|truth, at| truth.pods.push(BoundPod { at, who: *who, repos }));
            }
            Act::Secret { who, is } => {
                self.pods.set_secret(*who, *is);
                self.upstreams.truth(|truth, at| truth.secrets.push((at, *who, *is)));
            }
            Act::PodGone(id) => self.pods.delete(*id),
            Act::ApiServer { away } => self.pods.set_away(*away),
            Act::Bucket(act) => self.change_bucket(act),
            Act::Wait { seconds } => self.now.sleep(Duration::from_secs(*seconds)).await,
        }
    }

    fn change_bucket(&mut self, act: &BucketAct) {
        let bucket = self.upstreams.bucket().clone();
        let (keys, now) = (self.keys.as_ref(), self.now.clock().now().0);
        let done = self.upstreams.truth(|truth, at| {
            if let BucketAct::Names { repo, how } = act {
                truth.names.push((at, *repo, *how));
            }
            bucket::act(&bucket, truth, act, keys, now)
        });
        self.note(done);
    }

    fn hang_disk(&mut self, gives_back: bool, seconds: u64) {
        let call = if gives_back { DiskCall::EveryChange } else { DiskCall::Every };
        let fault = DiskFault { call, error: DiskError::Hangs, times: None };
        let until = self.now.ms() + seconds * 1_000;
        self.disk.fail(&fault, until * 1_000);
        let span = |at| Span { what: fault, from: at, until: Some(until), hit: None };
        self.upstreams.truth(|truth, at| truth.disk.push(span(at)));
    }

    fn heal_disk(&mut self) {
        self.disk_hits += self.disk.hits();
        self.disk.heal();
        self.leave(None);
        self.upstreams.truth(|truth, at| {
            let under_way = |span: &&mut Span<DiskFault>| span.until.is_none_or(|until| until > at);
            truth.disk.iter_mut().filter(under_way).for_each(|span| span.until = Some(at));
        });
    }

    fn heal(&mut self) {
        self.upstreams.heal(None);
        self.heal_disk();
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
        self.pods.end();
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
        let read = self.pods.read();
        if !read.is_empty() {
            self.note(format!("pull secrets that were read for pods: {}", read.join(", ")));
        }
        let blocked = self.disk.blocked();
        if blocked > 0 {
            self.note(format!(
                "{blocked} calls of the daemon's tasks would have waited for a disk that hangs"
            ));
        }
        let leaks = leaks(&self.disk.state(), &self.upstreams.tokens());
        let ended_at = self.now.ms();
        let secrets: Vec<String> = self.upstreams.tokens().into_iter().map(|(token, _)| token).collect();
        let damaged = self.upstreams.truth(|truth, _| truth.bucket_damage.clone());
        let mut bucket = bucket::left(self.upstreams.bucket(), &damaged, &secrets);
        bucket.seen = self.upstreams.bucket_seen();
        History {
            plan: self.plan,
            asks: self.done,
            seen: self.upstreams.seen(),
            tokens: self.upstreams.tokens(),
            token_owners: self.upstreams.token_owners(),
            truth: self.upstreams.truth(|truth, _| std::mem::take(truth)),
            notes: self.notes,
            quiet: self.quiet,
            calm_from,
            calm_at,
            log: crate::log::take(),
            pages: self.pages,
            leaks,
            bucket,
            disk_hits: self.disk_hits,
            ended_at,
        }
    }
}
