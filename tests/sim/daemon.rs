//! The daemon under test: the whole of it, over the disk, the network and the clock of the world.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder::app::App;
use larder::config::{Environment, Settings, resolve};
use larder::listener::Inherited;
use larder::listener::memory::{Dialer, MemoryListener};
use larder::reload::Reload;
use larder::support::metrics::Registry;
use larder::support::shutdown::{self, Trigger};
use larder::upstream::Reach;
use tokio::task::JoinHandle;

use crate::bucket;
use crate::disk::Disk;
use crate::plan::Setup;
use crate::pods::Pods;
use crate::registry::Upstreams;
use crate::time::Now;

/// A daemon that runs.
pub(crate) struct Daemon {
    pub(crate) dialer: Dialer,
    pub(crate) metrics: Registry,
    pub(crate) control: PathBuf,
    reload: Reload,
    trigger: Trigger,
    running: JoinHandle<Result<(), larder::app::Error>>,
}

/// What the daemon is configured with.
fn configuration(setup: &Setup, disk: &Disk) -> String {
    let budget = setup.budget_mib.map_or("1TiB".to_owned(), |mib| format!("{mib}MiB"));
    let free = match (setup.no_room, setup.floor_mib) {
        (true, _) => "1024TiB".to_owned(),
        (false, Some(mib)) => format!("{mib}MiB"),
        (false, None) => "0%".to_owned(),
    };
    let mirror = if setup.mirror { "\"http://mirror.corp\", " } else { "" };
    let node = if setup.node { format!("{:?}", disk.node_config()) } else { String::new() };
    let cluster = disk.cluster_key();
    let names = setup.names.then_some(cluster.as_path());
    let tier = if setup.tier { bucket::configuration(&disk.tier_key(), names) } else { String::new() };
    let negative = if setup.no_negative { "0s" } else { "3s" };
    format!(
        "[server]\nlisten = [\"unix:/memory\"]\ndrain_wait = \"20s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [store]\nmax_bytes = \"{budget}\"\nmin_free = \"{free}\"\n[freshness]\nnegative_ttl = \"{negative}\"\n\
         [credentials]\nnode = [{node}]\n[[registry]]\nhost = \"reg.corp\"\n\
         endpoints = [{mirror}\"http://reg.corp\"]\n[[registry]]\nhost = \"store.corp\"\n\
         endpoints = [\"http://store.corp\"]\n{tier}"
    )
}

fn settings(disk: &Disk, upstreams: &Upstreams, setup: &Setup) -> Result<Settings, String> {
    let environment = Environment { state_home: Some(disk.state()), ..Environment::default() };
    let resolved = resolve(&configuration(setup, disk), &environment);
    let mut settings = resolved.map_err(|mistakes| format!("{mistakes:?}"))?;
    settings.upstream.reach = Reach::through(upstreams.network());
    if let Some(tier) = &mut settings.tier {
        tier.reach = larder::tier::Reach::through(upstreams.way_to_bucket());
    }
    Ok(settings)
}

impl Daemon {
    /// Starts it on what is on disk.
    ///
    /// # Errors
    /// Why it did not start.
    pub(crate) fn start(
        disk: &Disk,
        upstreams: &Upstreams,
        now: &Now,
        setup: &Setup,
        pods: &Arc<Pods>,
    ) -> Result<Self, String> {
        let settings = settings(disk, upstreams, setup)?;
        let control = settings.admin.socket.clone();
        let (listener, dialer) = MemoryListener::new();
        let inherited = vec![Inherited::Memory(listener, Path::new("/memory").to_owned())];
        let mut app = App::build(settings, now.clock(), inherited).map_err(|error| error.to_string())?;
        if setup.pods {
            app.watch_pods(vec![Arc::clone(pods) as _], Some(Arc::clone(pods) as _));
        }
        let (metrics, reload) = (app.metrics().clone(), app.reload());
        let (trigger, shutdown) = shutdown::channel();
        let running = tokio::spawn(app.run(shutdown));
        Ok(Self { dialer, metrics, control, reload, trigger, running })
    }

    /// Gives it new settings, as SIGHUP does.
    ///
    /// # Errors
    /// Why it keeps the old ones.
    pub(crate) async fn reload(
        &self,
        disk: &Disk,
        upstreams: &Upstreams,
        setup: &Setup,
    ) -> Result<(), String> {
        let (reload, settings) = (self.reload.clone(), settings(disk, upstreams, setup)?);
        let applied = tokio::task::spawn_blocking(move || reload.apply(&settings)).await;
        applied.map_err(|panic| panic.to_string())?.map_err(|error| error.to_string())
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(self) -> Result<(), String> {
        self.trigger.fire();
        match self.running.await {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// Ends it as SIGKILL does; what it has spawned finds neither disk nor network any more.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// The numbers, by the name with its labels.
    pub(crate) fn numbers(&self) -> std::collections::BTreeMap<String, f64> {
        let text = String::from_utf8(self.metrics.render().unwrap_or_default()).unwrap_or_default();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// What `/metrics` shows.
    pub(crate) fn page(&self) -> String {
        String::from_utf8(self.metrics.render().unwrap_or_default()).unwrap_or_default()
    }
}
