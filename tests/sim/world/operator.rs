//! What is done to the daemon and its disk: commands of the operator, restarts and kills, the node's login, damage.

use std::fs;
use std::time::Duration;

use base64::Engine;
use larder::admin::control;
use larder::store::Verifier;

use super::World;
use crate::catalog::catalog;
use crate::files::{damaged, taken};
use crate::plan::{Damage, NodeLogin, Repo, Who};
use crate::truth::Full;

/// Until a process that is to be killed is killed, whatever it does.
const KILLED_WITHIN: Duration = Duration::from_secs(3);

impl World {
    pub(super) async fn command<C: control::ControlCommand>(&mut self, command: &C)
    where
        C::Reply: std::fmt::Debug,
    {
        let Some(daemon) = &self.daemon else { return };
        let said = control::send(&daemon.control, command).await;
        self.note(format!("{}: {said:?}", C::PATH));
    }

    pub(super) async fn prefetch(&mut self, repo: Repo, pin: bool) {
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

    pub(super) async fn verify(&mut self, repair: bool) {
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

    pub(super) async fn reload(&mut self, mirror: bool) {
        self.setup.mirror = mirror;
        let Some(daemon) = &self.daemon else { return };
        if let Err(why) = daemon.reload(&self.disk, &self.upstreams, &self.setup).await {
            self.note(format!("did not reload: {why}"));
        }
    }

    /// Writes the node's docker config anew.
    pub(super) fn log_in(&mut self, login: NodeLogin) {
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

    /// A stop waits for the disk, and so does a start.
    async fn end_hang(&mut self) {
        if self.disk.is_hanging() {
            self.heal_disk();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    pub(super) async fn restart(&mut self) {
        self.end_hang().await;
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

    pub(super) async fn kill(&mut self, after_calls: u64) {
        self.end_hang().await;
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

    /// Others fill the filesystem, or make room again; how things stood until then is written down.
    pub(super) fn leave(&mut self, free_mib: Option<u64>) {
        let (free, blobs) = (self.disk.free(), taken(&self.disk.store().join("blobs")));
        self.disk.leave(free_mib.map(|mib| mib << 20));
        self.upstreams.truth(|truth, at| {
            for full in truth.full.iter_mut().filter(|full| full.until.is_none()) {
                (full.until, full.free, full.blobs) = (Some(at), free, blobs);
            }
            if free_mib.is_some() {
                truth.full.push(Full { from: at, until: None, free, blobs });
            }
        });
    }

    pub(super) fn damage(&mut self, damage: &Damage) {
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
}
