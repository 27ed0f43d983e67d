//! `larder serve`: the daemon, in sentences.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::app::App;
use crate::clock::Clock;
use crate::config::{self, Environment, LogConfig, LogFormat, Settings};
use crate::listener::Listen;
use crate::{credentials, shutdown};

pub(super) fn run(file: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let (settings, path) =
        config::load(file, environment).map_err(|error| Failure::Usage(error.to_string()))?;
    start_log(&settings.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
    let done = runtime.block_on(serve(settings, path.as_deref()));
    // Fills that nobody waits for any more end here; what they had is swept at the next start.
    runtime.shutdown_background();
    done
}

async fn serve(settings: Settings, path: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: crate::app::Error| Failure::Failed(error.to_string());
    let (trigger, shutdown) = shutdown::channel();
    let introduction = Introduction::of(&settings, path);
    let app = App::build(settings, Clock::system()).map_err(failed)?;
    introduction.print(&app.data_addresses().map_err(failed)?, &app.admin_address().map_err(failed)?);
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::Failed(e.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::Failed(e.to_string()))?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: bodies under way may finish");
        trigger.fire();
    });
    app.run(shutdown).await.map_err(failed)?;
    tracing::info!("stopped");
    Ok(())
}

fn start_log(log: &LogConfig) {
    let filter = EnvFilter::new(format!("warn,larder={}", log.level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// What an operator sees first.
struct Introduction {
    config: String,
    store: String,
    credentials: String,
}

impl Introduction {
    fn of(settings: &Settings, path: Option<&Path>) -> Self {
        let found = credentials::search(&settings.credentials);
        let credentials = match found.as_slice() {
            _ if !settings.root => "none looked for without root; images are pulled anonymously".to_owned(),
            [] => "no docker config found; images are pulled anonymously".to_owned(),
            found => {
                let paths: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
                format!("found {}; not used by this version, images are pulled anonymously", paths.join(", "))
            }
        };
        Self {
            config: path.map_or("built-in defaults".to_owned(), |path| path.display().to_string()),
            store: settings.store.path.display().to_string(),
            credentials,
        }
    }

    #[allow(clippy::print_stdout, reason = "the introduction is what a person at the terminal asked for")]
    fn print(&self, data: &[Listen], admin: &Listen) {
        println!("larder {} with {}", env!("CARGO_PKG_VERSION"), self.config);
        for at in data {
            println!("registry     {at}");
        }
        println!("admin        {admin}  (/metrics /livez /readyz /v1/status)");
        println!("store        {}", self.store);
        println!("credentials  {}", self.credentials);
        if let Some(Listen::Tcp(at)) = data.first() {
            println!("try          curl http://{at}/v2/docker.io/library/busybox/tags/list");
            println!(
                "containerd   in /etc/containerd/certs.d/_default/hosts.toml:  [host.\"http://{at}\"]  capabilities = [\"pull\", \"resolve\"]"
            );
        }
    }
}
