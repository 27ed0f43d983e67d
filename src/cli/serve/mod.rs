//! `larder serve`: the daemon, in sentences.

mod log;
mod reload;
mod systemd;
mod traces;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::app::{self, App};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::print_line;
use crate::config::Loaded;
use crate::credentials::NodeFiles;
use crate::listener::Listen;
use crate::store;
use crate::support::clock::Clock;
use crate::support::shutdown::{self, Trigger};
use log::Log;
use reload::Hangup;
use traces::Traces;

/// Threads that may block at most. 256 downloads have two each, and a disk that hangs keeps them and those that read
/// from it (`store::READS_MAX`): as many are left for everything else. A thread that is not needed is not there.
const BLOCKING_THREADS_MAX: usize = 1_024;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let loaded = context.load()?;
    let traces = Traces::new(&loaded.settings.traces)?;
    let log = log::start(loaded.settings.log, traces.spans());
    keep_out_of_cores();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let done = runtime.block_on(serve(loaded, context, &log, traces));
    // Downloads that did not finish in time end here; what they had is resumed or removed at the next start.
    runtime.shutdown_background();
    done
}

async fn serve(loaded: Loaded, context: &Context, log: &Log, traces: Traces) -> Result<(), Failure> {
    let (trigger, shutdown) = shutdown::channel();
    // First of all: a signal that comes during the start is heard when the start is over.
    let signals = StopSignals::new()?;
    let hangup = signal(SignalKind::hangup()).map_err(Failure::caused)?;
    let introduction = Introduction::of(&loaded);
    let drain_wait = loaded.settings.limits.drain_wait;
    let inherited = systemd::sockets().map_err(|error| {
        Failure::failed(format!("a socket that was handed to us cannot be used: {error}"))
    })?;
    let app = App::build(loaded.settings.clone(), Clock::system(), inherited).map_err(failure)?;
    app.count_lost_log_lines(log.dropped());
    app.count_spans(&traces.counts());
    introduction.print(&app).map_err(Failure::caused)?;
    let reload = Hangup {
        file: context.file.clone(),
        environment: context.environment.clone(),
        started: loaded.settings,
        parts: app.reload(),
        log: log.filter(),
    };
    let mut background = JoinSet::new();
    background.spawn(signals.fire(trigger, drain_wait));
    background.spawn(systemd::stay_alive());
    background.spawn(reload.listen(hangup));
    // The sockets are bound: a client that connects from now on is answered.
    systemd::ready();
    // Until the last request has its span.
    let (no_more_spans, stopped) = shutdown::channel();
    let sending = tokio::spawn(traces.run(stopped));
    let served = app.run(shutdown).await.map_err(Failure::caused);
    background.shutdown().await;
    no_more_spans.fire();
    let _ = sending.await;
    served?;
    tracing::info!("stopped");
    Ok(())
}

/// Why the daemon cannot be built; the unit does not start it again where that cannot help.
fn failure(error: app::Error) -> Failure {
    match error {
        app::Error::Store(store::Error::Format { .. }) => Failure::StoreFormat(error.to_string()),
        // As other mistakes of the configuration.
        app::Error::Gate(_) => Failure::usage(error),
        // Such as a directory that belongs to another user.
        app::Error::Store(error) if !error.cause().is_empty() => {
            Failure::failed(format!("{error}: {}", error.cause()))
        }
        _ => Failure::failed(error),
    }
}

/// The signals that stop the daemon.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Failure::caused)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::caused)?,
        })
    }

    /// Fires the trigger at the first of them.
    async fn fire(mut self, trigger: Trigger, drain_wait: Duration) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        systemd::stopping(drain_wait);
        tracing::info!("stopping: bodies under way may finish");
        trigger.fire();
    }
}

/// Pods' credentials pass through this process: none of its memory goes into a core file, or to another process of
/// the same user.
fn keep_out_of_cores() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core files of this process cannot be switched off");
    }
}

/// What an operator sees first: the addresses, the store, the credentials.
struct Introduction {
    config: String,
    store: String,
    credentials: NodeFiles,
    root: bool,
}

impl Introduction {
    fn of(Loaded { settings, from, .. }: &Loaded) -> Self {
        Self {
            config: from.clone(),
            store: settings.store.path.display().to_string(),
            credentials: settings.credentials.node.clone(),
            root: settings.root,
        }
    }

    fn credentials(&self, in_use: &[PathBuf], providers: bool) -> String {
        let files: Vec<_> = in_use.iter().map(|path| path.display().to_string()).collect();
        let node = match (&self.credentials, files.as_slice()) {
            (NodeFiles::Named(named), _) if named.is_empty() && !self.root => {
                "the node's docker config is used as root only, unless [credentials] node names its file"
                    .to_owned()
            }
            (NodeFiles::Named(named), _) if named.is_empty() => "the node has none".to_owned(),
            (NodeFiles::Named(_), []) => "none of the configured docker configs can be used".to_owned(),
            (NodeFiles::Kubelet(_), []) => "no docker config on kubelet's search path".to_owned(),
            (_, files) => format!("the node's: {}", files.join(", ")),
        };
        if providers { format!("{node}; kubelet's credential providers") } else { node }
    }

    fn print(&self, app: &App) -> Result<(), app::Error> {
        let (data, admin) = (app.data_addresses()?, app.admin_address()?);
        let credentials = self.credentials(&app.credential_files(), app.has_providers());
        let mut lines = vec![format!("larder {} with {}", env!("CARGO_PKG_VERSION"), self.config)];
        lines.extend(data.iter().map(|at| format!("registry     {at}")));
        lines.push(format!("admin        {admin}  (/metrics /livez /readyz /v1/status)"));
        lines.push(format!("store        {}", self.store));
        lines.push(format!("credentials  {credentials}"));
        if let Some(Listen::Tcp(at)) = data.first() {
            lines.push(format!("try          curl http://{at}/v2/docker.io/library/busybox/tags/list"));
            lines.push(format!(
                "containerd   in /etc/containerd/certs.d/_default/hosts.toml:  [host.\"http://{at}\"]  capabilities = [\"pull\", \"resolve\"]"
            ));
        }
        // A daemon whose terminal has gone serves on.
        let _ = print_line(&lines.join("\n"));
        Ok(())
    }
}
