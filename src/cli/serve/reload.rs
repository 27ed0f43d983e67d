//! SIGHUP: the configuration is read again, and what can change while the daemon runs changes.
//!
//! Promises: a configuration that cannot be used changes nothing, and the log says why; every key that changed is
//! named, with whether it counts from now on or from the next start.

use std::path::PathBuf;

use tokio::signal::unix::Signal;

use super::log::LogFilter;
use super::systemd;
use crate::config::{self, Change, Environment, Settings};
use crate::reload::Reload;
use crate::support::causes::with_causes;

/// What is needed to read the configuration again and to apply it.
pub(super) struct Hangup {
    /// The file that was named on the command line.
    pub(super) file: Option<PathBuf>,
    pub(super) environment: Environment,
    /// What the daemon was started with; a key that needs a restart is as it is here.
    pub(super) started: Settings,
    pub(super) parts: Reload,
    pub(super) log: LogFilter,
}

impl Hangup {
    /// Applies the configuration at each signal, until the runtime ends.
    pub(super) async fn listen(self, mut hangup: Signal) {
        let mut applied = self.started.clone();
        while hangup.recv().await.is_some() {
            systemd::reloading();
            match self.read_and_apply().await {
                Ok(settings) => {
                    tell(&settings.changes(&applied), &settings.changes(&self.started));
                    self.log.set(settings.log);
                    applied = settings;
                }
                Err(error) => {
                    self.parts.show_failure();
                    tracing::error!(
                        error,
                        "the configuration is not read again; what was read before counts"
                    );
                }
            }
            systemd::ready();
        }
    }

    async fn read_and_apply(&self) -> Result<Settings, String> {
        let (file, environment, parts) = (self.file.clone(), self.environment.clone(), self.parts.clone());
        let blocking = tokio::task::spawn_blocking(move || {
            let settings = config::load(file.as_deref(), &environment).map_err(|e| with_causes(&e))?.settings;
            parts.apply(&settings).map_err(|e| with_causes(&e))?;
            Ok(settings)
        });
        blocking.await.map_err(|e| e.to_string())?
    }
}

/// Names every key that changed: since the last time if it was applied, since the start if it could not be.
fn tell(since_last: &[Change], since_start: &[Change]) {
    for key in keys(since_start, true) {
        tracing::warn!(
            key,
            "this change counts from the next start: systemctl restart larder loses no request"
        );
    }
    tracing::info!(changed = keys(since_last, false).join(", "), "the configuration was read again");
}

fn keys(changes: &[Change], needs_restart: bool) -> Vec<&str> {
    changes.iter().filter(|c| c.needs_restart == needs_restart).map(|c| c.key.as_str()).collect()
}
