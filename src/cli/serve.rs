//! `larder serve`: the daemon, in sentences.

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::log::{self, LogLevelHandle};
use super::reload::Hangup;
use super::{Failure, service};
use crate::app::App;
use crate::config::{self, Environment, Loaded};
use crate::credentials::NodeFiles;
use crate::listener::Listen;
use crate::support::clock::Clock;
use crate::support::shutdown;

pub(super) fn run(file: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let loaded = config::load(file, environment).map_err(|error| Failure::Usage(error.to_string()))?;
    let log = log::start(loaded.settings.log);
    keep_out_of_cores();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    let done = runtime.block_on(serve(loaded, file, environment, log));
    // Fills that nobody waits for any more end here; what they had is swept at the next start.
    runtime.shutdown_background();
    done
}

async fn serve(
    loaded: Loaded,
    file: Option<&Path>,
    environment: &Environment,
    log: LogLevelHandle,
) -> Result<(), Failure> {
    let failed = |error: crate::app::Error| Failure::Failed(error.to_string());
    let (trigger, shutdown) = shutdown::channel();
    // First of all: whoever stops us while we begin is heard when we have begun.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::Failed(e.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::Failed(e.to_string()))?;
    let hangup = signal(SignalKind::hangup()).map_err(|e| Failure::Failed(e.to_string()))?;
    let introduction = Introduction::of(&loaded);
    let inherited = service::sockets().map_err(|error| {
        Failure::Failed(format!("a socket that was handed to us cannot be used: {error}"))
    })?;
    let app = App::build(loaded.settings.clone(), Clock::system(), inherited).map_err(failed)?;
    introduction.print(&app).map_err(failed)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        service::stopping();
        tracing::info!("stopping: bodies under way may finish");
        trigger.fire();
    });
    tokio::spawn(service::stay_alive());
    let reload = Hangup {
        file: file.map(Path::to_owned),
        environment: environment.clone(),
        started: loaded.settings,
        parts: app.reload(),
        log,
    };
    tokio::spawn(reload.listen(hangup));
    // The sockets are bound: whoever connects from now on is answered.
    service::ready();
    app.run(shutdown).await.map_err(failed)?;
    tracing::info!("stopped");
    Ok(())
}

/// Pods' credentials pass through this process: none of its memory goes into a core file, or to another process of
/// the same user.
fn keep_out_of_cores() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core files of this process cannot be switched off");
    }
}

/// What an operator sees first.
struct Introduction {
    config: String,
    store: String,
    credentials: NodeFiles,
    root: bool,
}

impl Introduction {
    fn of(Loaded { settings, from }: &Loaded) -> Self {
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

    #[allow(clippy::print_stdout, reason = "the introduction is what a person at the terminal asked for")]
    fn print(&self, app: &App) -> Result<(), crate::app::Error> {
        let (data, admin) = (app.data_addresses()?, app.admin_address()?);
        let credentials = self.credentials(&app.credential_files(), app.has_providers());
        println!("larder {} with {}", env!("CARGO_PKG_VERSION"), self.config);
        for at in &data {
            println!("registry     {at}");
        }
        println!("admin        {admin}  (/metrics /livez /readyz /v1/status)");
        println!("store        {}", self.store);
        println!("credentials  {}", credentials);
        if let Some(Listen::Tcp(at)) = data.first() {
            println!("try          curl http://{at}/v2/docker.io/library/busybox/tags/list");
            println!(
                "containerd   in /etc/containerd/certs.d/_default/hosts.toml:  [host.\"http://{at}\"]  capabilities = [\"pull\", \"resolve\"]"
            );
        }
        Ok(())
    }
}
