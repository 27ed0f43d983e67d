//! The daemon as a whole: built from settings, bound, run until it is asked to stop.
//!
//! Nothing here decides anything about a pull; this is where the parts are put together, in the order of the layers.

mod addresses;
mod check;
mod descriptors;
mod error;
mod named_files;
mod observed_metrics;
mod pods;
mod pulling;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub use addresses::LISTEN;
pub use check::{check, files, tier, unreadable};
pub use error::Error;

use crate::admin::control::{Control, EffectiveConfig, Explainer};
use crate::admin::{self, History, Readiness, Sources};
use crate::config::{self, Settings};
use crate::credentials::Keychain;
use crate::kubernetes::{PodSource, Pods, SecretSource};
use crate::listener::{self, ConnectionLimits, ConnectionOptions, Hosts, Inherited, Listen};
use crate::prepull::{Fetcher, List};
use crate::pull::Puller;
use crate::reload::{ConfigMetrics, Reload};
use crate::serve::RequestLog;
use crate::store::Store;
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::Registry;
use crate::support::process;
use crate::support::shutdown::{self, Shutdown};
use crate::support::tasks::Tasks;
use crate::tier::Tier;
use crate::traces::Counts;
use crate::upstream::{RegistryLabels, Upstream};
use crate::{kubernetes, prepull, serve, store};
use addresses::Addresses;
use observed_metrics::Counters;
use pulling::Pulling;
use status::StatusSources;

/// How long a stop waits for downloads that no client waits for any more.
const SETTLE_WAIT: Duration = Duration::from_secs(3);
/// How long a stop waits for requests to the shared tier that end an upload.
const TIER_WAIT: Duration = Duration::from_secs(1);
/// Connections to the admin plane at the same time.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// How long a stop waits for answers of the admin plane.
const ADMIN_DRAIN_WAIT: Duration = Duration::from_secs(1);

/// A daemon that has bound its addresses and waits to be run.
pub struct App {
    /// Those that it was started with.
    settings: Settings,
    /// The parts that take new settings while it runs.
    reload: Reload,
    store: Store,
    puller: Puller,
    fetcher: Fetcher,
    tier: Tier,
    pods: Pods,
    pod_metrics: kubernetes::Metrics,
    observer: Arc<serve::Observer>,
    log: Arc<RequestLog>,
    registry: Registry,
    counters: Counters,
    addresses: Addresses,
    limits: ConnectionLimits,
}

impl App {
    /// Builds everything and binds every address that is not among the `inherited` sockets. Those that are neither the
    /// admin plane's nor the control socket's are the data plane, instead of what is configured. Must be called within
    /// a runtime; blocks for a moment.
    ///
    /// # Errors
    /// Whatever could not be had.
    pub fn build(settings: Settings, clock: Clock, inherited: Vec<Inherited>) -> Result<Self, Error> {
        let registry = Registry::new();
        process::register(&registry, clock.now())?;
        let shown = ConfigMetrics::register(&registry, &settings)?;
        let labels = Arc::new(RegistryLabels::new(
            settings.upstream.registries.keys().map(ToString::to_string).chain(["docker.io".to_owned()]),
        ));
        let gate = check::gate(&settings)?;
        let addresses = addresses::bind(&settings, inherited)?;
        let store_metrics = Arc::new(store::metrics::Metrics::register(&registry)?);
        let store = Store::open(&settings.store, clock.clone(), store_metrics)?;
        let addresses = addresses.with_control(&settings.admin.socket)?;
        let Pulling { keychain, upstream, tier, pull, puller } =
            Pulling::build(&settings, &registry, &labels, &store, &clock)?;
        let list = List::new(settings.prepull.clone(), prepull::Metrics::register(&registry)?);
        let pod_metrics = kubernetes::Metrics::register(&registry)?;
        let fetcher = Fetcher::new(puller.clone(), store.clone(), keychain.clone());
        let pods =
            pods::build(&settings.kubernetes, fetcher.clone(), &keychain, store.clone(), pod_metrics.clone());
        let observer = Arc::new(serve::Observer::new(
            serve::Metrics::register(&registry)?,
            Arc::clone(&labels),
            upstream.unserved(),
        ));
        observed_metrics::register(&registry, &puller, &upstream, &observer, &labels)?;
        let log = Arc::new(RequestLog::new(clock));
        let counters = Counters::register(&registry)?;
        let limits = descriptors::within(settings.limits, descriptors::raise_limit());
        let reload = Reload {
            upstream,
            keychain,
            gate: Live::new(gate),
            path_logins: Live::new(settings.serve.path_logins.clone()),
            pull,
            tier: tier.clone(),
            list,
            settings: Live::new(settings.clone()),
            shown,
        };
        Ok(Self {
            settings,
            reload,
            store,
            puller,
            fetcher,
            tier,
            pods,
            pod_metrics,
            observer,
            log,
            registry,
            counters,
            addresses,
            limits,
        })
    }

    /// From [`App::run`] on, this node's pods are seen in `sources` and their pull secrets read in `secrets`, instead
    /// of where `[kubernetes]` says: for worlds without an API server.
    pub fn watch_pods(&mut self, sources: Vec<Arc<dyn PodSource>>, secrets: Option<Arc<dyn SecretSource>>) {
        let parts = kubernetes::Parts {
            sources,
            secrets,
            accounts: None,
            presence: Vec::new(),
            images: Arc::new(self.fetcher.clone()),
            store: self.store.clone(),
            ahead: self.settings.kubernetes.ahead,
        };
        self.pods = Pods::new(parts, self.pod_metrics.clone());
    }

    /// Where the data plane listens, ports chosen.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn data_addresses(&self) -> Result<Vec<Listen>, Error> {
        self.addresses.data.iter().map(|listener| listener.address().map_err(Error::from)).collect()
    }

    /// Where the admin plane listens, port chosen.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn admin_address(&self) -> Result<Listen, Error> {
        Ok(self.addresses.admin.address()?)
    }

    /// The docker configs in use. Blocks for a moment.
    pub fn credential_files(&self) -> Vec<PathBuf> {
        self.reload.keychain.files_in_use()
    }

    /// Whether kubelet's credential providers are configured.
    pub fn has_providers(&self) -> bool {
        self.settings.credentials.providers.is_some()
    }

    /// What is measured.
    pub fn metrics(&self) -> &Registry {
        &self.registry
    }

    /// Shows what `count` says as the lines that the log has lost.
    pub fn count_lost_log_lines(&self, count: Arc<dyn Fn() -> u64 + Send + Sync>) {
        self.counters.observe_lost_lines(count);
    }

    /// Shows how many spans of traces were delivered and dropped.
    pub fn count_spans(&self, counts: &Counts) {
        self.counters.observe_spans(counts);
    }

    /// Connections that are accepted at the same time, after the file limit had its say.
    pub fn connections_max(&self) -> usize {
        self.limits.connections_max
    }

    /// Serves until `shutdown`, then drains: no new connections, bodies under way finish within the drain time, the
    /// index is closed cleanly.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let connections = self.counters.connections.clone();
        let transfer = listener::file_transfer(&connections).await;
        let options = ConnectionOptions { limits: self.limits, transfer, metrics: connections };
        let readiness = Readiness::default();
        let status = self.status_sources(readiness.clone());
        let data_service = self.data_service()?;
        let commands = Tasks::default();
        let (control_trigger, control_shutdown) = shutdown::channel();
        let control = self.control(&status, commands.clone(), control_shutdown.clone());
        let fetcher = self.fetcher.clone();
        // Commands end when the data plane has; the store is maintained until then, and probes and metrics are answered
        // until the end.
        let (store_trigger, store_shutdown) = shutdown::channel();
        let (admin_trigger, admin_shutdown) = shutdown::channel();
        let maintenance = tokio::spawn(self.store.clone().maintain(store_shutdown));
        let history = History::default();
        let sources = self.sources(history.clone(), &readiness, status.clone());
        let addresses = self.addresses;
        let (control, small) = (admin::control::service(control), with_admin_limits(&options));
        let control =
            tokio::spawn(listener::run(addresses.control, control, small.clone(), control_shutdown));
        let sampling = tokio::spawn(history.run(async move || status.status().await, shutdown.clone()));
        let hosts = Hosts::new(&addresses::ports(&[addresses.admin.address()?]), &self.settings.serve.hosts);
        let mut pages = vec![(addresses.admin, admin::service(sources.clone(), hosts))];
        pages.extend(addresses.metrics.map(|metrics| (metrics, admin::metrics_service(sources))));
        let mut admin = JoinSet::new();
        for (listener, service) in pages {
            admin.spawn(listener::run(listener, service, small.clone(), admin_shutdown.clone()));
        }
        let folding = tokio::spawn(Arc::clone(&self.log).run(shutdown.clone()));
        let Reload { upstream, keychain, list, .. } = self.reload;
        let list = tokio::spawn(list.run(fetcher, self.store.clock().clone(), shutdown.clone()));
        let pods = tokio::spawn(self.pods.run(shutdown.clone()));
        let credential = tokio::spawn(self.tier.clone().keep_credential(shutdown.clone()));
        let mut data = JoinSet::new();
        for listener in addresses.data {
            data.spawn(listener::run(listener, data_service.clone(), options.clone(), shutdown.clone()));
        }
        readiness.set(true);
        let mut stop = shutdown;
        stop.requested().await;
        readiness.set(false);
        data.join_all().await;
        let _ = (folding.await, sampling.await, credential.await);
        self.log.write_folded();
        settle(&self.puller, &upstream, &keychain).await;
        self.tier.finish(TIER_WAIT).await;
        let _ = (list.await, pods.await);
        control_trigger.fire();
        let _ = control.await;
        commands.finish(ADMIN_DRAIN_WAIT).await;
        store_trigger.fire();
        let _ = maintenance.await;
        admin_trigger.fire();
        admin.join_all().await;
        Ok(())
    }

    /// What the admin plane shows.
    fn sources(&self, history: History, readiness: &Readiness, status: StatusSources) -> Sources {
        Sources {
            history,
            metrics: self.registry.clone(),
            readiness: readiness.clone(),
            disk_hangs: Arc::new({
                let store = self.store.clone();
                move || store.is_disk_hanging()
            }),
            status: Arc::new(move || {
                let status = status.clone();
                Box::pin(async move { status.status().await })
            }),
        }
    }

    /// The parts that take new settings while the daemon runs.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    fn status_sources(&self, readiness: Readiness) -> StatusSources {
        StatusSources {
            store: self.store.clone(),
            puller: self.puller.clone(),
            upstream: self.reload.upstream.clone(),
            observer: Arc::clone(&self.observer),
            list: self.reload.list.clone(),
            pods: self.pods.clone(),
            tier: self.tier.clone(),
            readiness,
            since: Instant::now(),
        }
    }

    fn control(&self, status: &StatusSources, tasks: Tasks, shutdown: Shutdown) -> Control {
        let status = status.clone();
        let (started, read) = (self.settings.clone(), self.reload.settings.clone());
        let listening: Vec<String> =
            self.data_addresses().unwrap_or_default().iter().map(as_setting).collect();
        Control {
            config: Arc::new(move || in_effect(&started, &read.current(), listening.clone())),
            puller: self.puller.clone(),
            store: self.store.clone(),
            keychain: self.reload.keychain.clone(),
            explainer: Explainer {
                puller: self.puller.clone(),
                store: self.store.clone(),
                keychain: self.reload.keychain.clone(),
                upstream: self.reload.upstream.clone(),
                tier: self.tier.clone(),
                recent: self.log.recent().clone(),
                pods: self.pods.clone(),
                fetcher: self.fetcher.clone(),
                list: self.reload.list.clone(),
            },
            tier: self.tier.clone(),
            fetcher: self.fetcher.clone(),
            report: Arc::new(move || {
                let status = status.clone();
                Box::pin(async move { status.report().await })
            }),
            tasks,
            shutdown,
        }
    }

    fn data_service(&self) -> Result<serve::Service, Error> {
        let pods = self.pods.clone();
        let components = serve::Components {
            puller: self.puller.clone(),
            keychain: self.reload.keychain.clone(),
            gate: self.reload.gate.clone(),
            path_logins: self.reload.path_logins.clone(),
            clock: self.store.clock().clone(),
            observer: Arc::clone(&self.observer),
            log: Arc::clone(&self.log),
            manifests: Arc::new(move |repository, reference| pods.asked(repository, reference)),
        };
        let ports = addresses::ports(&self.data_addresses()?);
        Ok(serve::service(&self.settings.serve, &ports, components))
    }
}

/// Waits for what goes on although no client waits for it, within [`SETTLE_WAIT`].
async fn settle(puller: &Puller, upstream: &Upstream, keychain: &Keychain) {
    let ((), requests, programs) =
        tokio::join!(puller.finish(SETTLE_WAIT), upstream.finish(SETTLE_WAIT), keychain.finish(SETTLE_WAIT));
    if requests + programs > 0 {
        tracing::info!(
            requests,
            programs,
            "requests to registries and credential programs are ended by the stop"
        );
    }
}

/// An address as `[server] listen` has it.
fn as_setting(at: &Listen) -> String {
    match at {
        Listen::Tcp(at) => at.to_string(),
        unix @ Listen::Unix(_) => unix.to_string(),
    }
}

fn in_effect(started: &Settings, read: &Settings, listening: Vec<String>) -> EffectiveConfig {
    let changes = read.changes(started).into_iter();
    EffectiveConfig {
        text: config::print_in_effect(started, read),
        from_the_next_start: changes.filter(|change| change.needs_restart).map(|change| change.key).collect(),
        listening,
    }
}

/// For connections of the admin plane: few, and cut off soon at a stop.
fn with_admin_limits(options: &ConnectionOptions) -> ConnectionOptions {
    let limits = ConnectionLimits {
        connections_max: ADMIN_CONNECTIONS_MAX,
        drain_wait: ADMIN_DRAIN_WAIT,
        ..options.limits
    };
    ConnectionOptions { limits, ..options.clone() }
}
