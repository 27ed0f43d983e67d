//! The daemon as a whole: built from settings, bound, run until it is asked to stop.
//!
//! Nothing here decides anything about a pull; this is where the parts are put together, in the order of the layers.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::admin::control::Owned;
use crate::admin::{self, Readiness, Report, Served, Sources, Status, StoreStatus};
use crate::config::Settings;
use crate::credentials::{Keychain, KeychainError, Keys, KeysError};
use crate::listener::{self, ConnectionLimits, Hosts, Inherited, Listen, ListenError, Listener};
use crate::prepull::{Fetcher, List};
use crate::pull::Puller;
use crate::reload::Reload;
use crate::serve::{Gate, GateError};
use crate::store::Store;
use crate::support::clock::Clock;
use crate::support::live::Live;
use crate::support::metrics::{MetricsError, Registry, RegistryLabels};
use crate::support::shutdown::{self, Shutdown};
use crate::upstream::Upstream;
use crate::{prepull, pull, serve, store, upstream};

/// File descriptors kept for everything that is not a client: upstream connections, the store, the log.
const DESCRIPTORS_RESERVED: u64 = 256;
/// A client has a connection and, usually, a blob open.
const DESCRIPTORS_A_CLIENT: u64 = 2;
/// How long a stop waits for downloads that no client waits for any more.
const SETTLE_WAIT: Duration = Duration::from_secs(3);
/// Connections to the admin plane.
const ADMIN_CONNECTIONS_MAX: usize = 64;

/// Why the daemon could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The client.
    #[error(transparent)]
    Upstream(#[from] upstream::BuildError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An address that was bound and cannot be told.
    #[error("a bound socket has no address: {0}")]
    Address(#[from] std::io::Error),
    /// The node's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The node's credentials.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// The gate's value.
    #[error("[server] gate_file: {0}")]
    Gate(#[from] GateError),
    /// A metric registered twice: a defect of ours.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// A daemon that has bound its addresses and waits to be run.
pub struct App {
    settings: Settings,
    store: Store,
    puller: Puller,
    upstream: Upstream,
    keychain: Keychain,
    gate: Live<Option<Gate>>,
    list: List,
    registry: Registry,
    labels: Arc<RegistryLabels>,
    requests: Arc<serve::metrics::Metrics>,
    connections: listener::Metrics,
    data: Vec<Listener>,
    admin: Listener,
    control: Listener,
    metrics: Option<Listener>,
    limits: ConnectionLimits,
}

impl App {
    /// Builds everything and binds every address that is not among the `inherited` sockets. Those that are neither the
    /// admin plane's nor the control socket's are the data plane, instead of what is configured. Must be called within a
    /// runtime; blocks for a moment.
    ///
    /// # Errors
    /// Whatever could not be had.
    pub fn build(settings: Settings, clock: Clock, inherited: Vec<Inherited>) -> Result<Self, Error> {
        let registry = Registry::new();
        let labels = Arc::new(RegistryLabels::new(
            settings.upstream.registries.keys().map(ToString::to_string).chain(["docker.io".to_owned()]),
        ));
        let gate = settings.serve.gate.as_ref().map(Gate::read).transpose()?;
        let Bound { mut data, admin, control, metrics } = bind(&settings, inherited)?;
        if let Some(uids) = &settings.uids {
            data.iter_mut().for_each(|listener| listener.admit_only(uids));
        }
        let store_metrics = Arc::new(store::metrics::Metrics::register(&registry)?);
        let store = Store::open(&settings.store, clock.clone(), store_metrics)?;
        let control = match control {
            Some(held) => held,
            None => control_socket(&settings.admin.socket)?,
        };
        let upstream_metrics = upstream::metrics::Metrics::register(&registry)?;
        let keychain = Keychain::build(&settings.credentials, Arc::new(Keys::open(&settings.keys)?))?;
        let upstream = Upstream::new(
            upstream::Configured::new(settings.upstream.clone())?,
            keychain.anonymous(),
            upstream_metrics,
            Arc::clone(&labels),
            clock.clone(),
        );
        let pull_metrics = pull::metrics::Metrics::register(&registry)?;
        let puller = Puller::new(
            Live::new(settings.pull.clone()),
            store.clone(),
            upstream.clone(),
            keychain.clone(),
            pull_metrics,
            Arc::clone(&labels),
        );
        let list = List::new(settings.prepull.clone(), prepull::metrics::Metrics::register(&registry)?);
        let requests = Arc::new(serve::metrics::Metrics::register(&registry)?);
        let connections = listener::Metrics::register(&registry)?;
        let limits = within_descriptors(settings.limits, raise_descriptor_limit());
        Ok(Self {
            settings,
            store,
            puller,
            upstream,
            keychain,
            gate: Live::new(gate),
            list,
            registry,
            labels,
            requests,
            connections,
            data,
            admin,
            control,
            metrics,
            limits,
        })
    }

    /// Where the data plane listens, ports chosen.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn data_addresses(&self) -> Result<Vec<Listen>, Error> {
        self.data.iter().map(|listener| listener.address().map_err(Error::from)).collect()
    }

    /// Where the admin plane listens, port chosen.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn admin_address(&self) -> Result<Listen, Error> {
        Ok(self.admin.address()?)
    }

    /// The docker configs in use. Blocks for a moment.
    pub fn credential_files(&self) -> Vec<PathBuf> {
        self.keychain.files_in_use()
    }

    /// Whether kubelet's credential providers are configured.
    pub fn has_providers(&self) -> bool {
        self.settings.credentials.providers.is_some()
    }

    /// What is measured.
    pub fn metrics(&self) -> &Registry {
        &self.registry
    }

    /// Connections that are accepted at the same time, after the file limit had its say.
    pub fn connections_max(&self) -> usize {
        self.limits.connections_max
    }

    /// Serves until `shutdown`, then drains: no new connections, bodies under way finish within the drain time, the
    /// index is closed cleanly.
    ///
    /// # Errors
    /// An address that cannot be told.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let transfer = listener::file_transfer(&self.connections).await;
        let data_ports = ports(&self.data_addresses()?);
        let admin_ports = ports(&[self.admin_address()?]);
        // The store is maintained until the last body has left.
        let (store_trigger, store_shutdown) = shutdown::channel();
        let maintenance = tokio::spawn(self.store.clone().maintain(store_shutdown));
        // So is the admin plane: probes and metrics answer while the data plane drains.
        let (admin_trigger, admin_shutdown) = shutdown::channel();
        let control_shutdown = admin_shutdown.clone();
        let readiness = Readiness::default();
        let sources = self.sources(&readiness);
        let commands = admin::control::service(self.owned(&sources));
        let fetcher = self.fetcher();

        let mut admin = JoinSet::new();
        let small = ConnectionLimits { connections_max: ADMIN_CONNECTIONS_MAX, ..self.limits };
        let quick = ConnectionLimits { drain_wait: Duration::from_secs(1), ..small };
        let hosts = Hosts::new(&admin_ports, &self.settings.serve.hosts);
        let page = admin::service(sources.clone(), hosts);
        admin.spawn(listener::run(
            self.admin,
            page,
            quick,
            transfer,
            self.connections.clone(),
            admin_shutdown.clone(),
        ));
        if let Some(metrics) = self.metrics {
            let page = admin::metrics_service(sources.clone());
            admin.spawn(listener::run(
                metrics,
                page,
                quick,
                transfer,
                self.connections.clone(),
                admin_shutdown,
            ));
        }

        admin.spawn(listener::run(
            self.control,
            commands,
            quick,
            transfer,
            self.connections.clone(),
            control_shutdown,
        ));

        let clock = self.store.clock().clone();
        tokio::spawn(self.list.clone().run(fetcher, clock, shutdown.clone()));
        let puller = self.puller.clone();
        let clock = self.store.clock().clone();
        let parts = serve::Parts {
            puller: self.puller,
            keychain: self.keychain,
            gate: self.gate,
            clock,
            labels: self.labels,
            metrics: self.requests,
        };
        let service = serve::service(&self.settings.serve, &data_ports, parts);
        let mut data = JoinSet::new();
        for listener in self.data {
            let metrics = self.connections.clone();
            data.spawn(listener::run(
                listener,
                service.clone(),
                self.limits,
                transfer,
                metrics,
                shutdown.clone(),
            ));
        }
        readiness.set(true);
        let mut asked = shutdown;
        asked.requested().await;
        readiness.set(false);
        data.join_all().await;
        puller.finish(SETTLE_WAIT).await;
        store_trigger.fire();
        let _ = maintenance.await;
        admin_trigger.fire();
        admin.join_all().await;
        Ok(())
    }

    /// The parts that take new settings while the daemon runs.
    pub fn reload(&self) -> Reload {
        Reload {
            upstream: self.upstream.clone(),
            keychain: self.keychain.clone(),
            gate: self.gate.clone(),
            list: self.list.clone(),
        }
    }

    fn owned(&self, sources: &Sources) -> Owned {
        let (puller, upstream) = (self.puller.clone(), self.upstream.clone());
        let (list, numbers) = (self.list.clone(), Arc::clone(&sources.status));
        let clock = self.store.clock().clone();
        let report = move || Report {
            numbers: numbers(),
            registries: admin::registries(&puller, &upstream, clock.now()),
            prepull: list.status(),
        };
        Owned {
            puller: self.puller.clone(),
            store: self.store.clone(),
            keychain: self.keychain.clone(),
            fetcher: self.fetcher(),
            report: Arc::new(report),
        }
    }

    fn fetcher(&self) -> Fetcher {
        Fetcher { puller: self.puller.clone(), store: self.store.clone(), keychain: self.keychain.clone() }
    }

    fn sources(&self, readiness: &Readiness) -> Sources {
        let (store, puller, upstream) = (self.store.clone(), self.puller.clone(), self.upstream.clone());
        let requests = Arc::clone(&self.requests);
        let (since, ready) = (Instant::now(), readiness.clone());
        let status = Arc::new(move || {
            let totals = store.totals();
            let limits = store.limits();
            let (caching, pins) = (store.is_caching(), store.pins().len());
            Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_seconds: since.elapsed().as_secs(),
                ready: ready.get(),
                store: StoreStatus {
                    blobs: totals.blobs,
                    bytes: totals.bytes,
                    max_bytes: limits.map(|limits| limits.max_bytes),
                    free_bytes: limits.map(|limits| limits.free_bytes),
                    capacity_bytes: limits.map(|limits| limits.capacity_bytes),
                    caching,
                    pins,
                },
                served: Served::of(requests.bytes_by_source(), upstream.received_bytes()),
                flights: puller.downloads() as u64,
                requests: requests.requests_by_outcome(),
                outages: puller.outages().len(),
            }
        });
        Sources { metrics: self.registry.clone(), readiness: readiness.clone(), status }
    }
}

/// The addresses of the daemon.
struct Bound {
    data: Vec<Listener>,
    admin: Listener,
    /// Bound later, once the store is known to be ours.
    control: Option<Listener>,
    metrics: Option<Listener>,
}

/// Sorts the sockets that are held for us, and binds what is missing.
fn bind(settings: &Settings, inherited: Vec<Inherited>) -> Result<Bound, Error> {
    let (mut data, mut admin, mut control, mut metrics) = (Vec::new(), None, None, None);
    for socket in inherited {
        let at = socket.address();
        let listener = Listener::adopt(socket)?;
        if at == Listen::Tcp(settings.admin.listen) {
            admin = Some(listener);
        } else if at == Listen::Unix(settings.admin.socket.clone()) {
            control = Some(listener);
        } else if settings.admin.metrics_listen.map(Listen::Tcp) == Some(at.clone()) {
            metrics = Some(listener);
        } else {
            if !settings.listen.contains(&at) {
                tracing::warn!(%at, "this socket was handed to us, and is not what [server] listen says; it is used");
            }
            data.push(listener);
        }
    }
    // Addresses first: a second daemon should fail on what the operator sees first.
    if data.is_empty() {
        data = settings.listen.iter().map(Listener::bind).collect::<Result<_, _>>()?;
    }
    let admin = match admin {
        Some(held) => held,
        None => Listener::bind(&Listen::Tcp(settings.admin.listen))?,
    };
    if metrics.is_none() {
        metrics = settings.admin.metrics_listen.map(|at| Listener::bind(&Listen::Tcp(at))).transpose()?;
    }
    Ok(Bound { data, admin, control, metrics })
}

/// A socket that only our own user can open, in a directory that is made if it is missing.
fn control_socket(path: &Path) -> Result<Listener, Error> {
    let at = Listen::Unix(path.to_owned());
    let failed = |source| ListenError { at: at.clone(), source };
    if let Some(directory) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed)?;
    }
    let listener = Listener::bind(&at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn ports(addresses: &[Listen]) -> Vec<u16> {
    let port = |at: &Listen| match at {
        Listen::Tcp(at) => Some(at.port()),
        Listen::Unix(_) => None,
    };
    addresses.iter().filter_map(port).collect()
}

/// Raises the soft limit of open files to the hard one, and returns what it is now.
fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => now.maximum,
        Err(_) => now.current,
    }
}

/// Fewer connections where the file limit does not allow for as many as configured.
fn within_descriptors(limits: ConnectionLimits, descriptors: Option<u64>) -> ConnectionLimits {
    let allowed =
        descriptors.map_or(u64::MAX, |d| d.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_A_CLIENT);
    let allowed = usize::try_from(allowed.max(16)).unwrap_or(usize::MAX);
    if allowed < limits.connections_max {
        tracing::warn!(
            allowed,
            configured = limits.connections_max,
            "the file limit allows fewer connections"
        );
    }
    ConnectionLimits { connections_max: limits.connections_max.min(allowed), ..limits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_limit_bounds_the_connections() {
        let at = |descriptors| within_descriptors(ConnectionLimits::default(), descriptors).connections_max;
        assert_eq!(at(None), 4_096);
        assert_eq!(at(Some(1_048_576)), 4_096);
        assert_eq!(at(Some(1_024)), 384);
        assert_eq!(at(Some(10)), 16);
    }
}
