//! Configuration: what the operator wrote, and what it means for each domain.
//!
//! Promises: unknown keys are refused; all mistakes are reported at once, each with its key and a remedy; no file at
//! all means defaults that work. Deliberately not here: what a setting does, which is its domain's `Config`.

mod access;
mod environment;
mod file;
mod print;
mod resolve;

use std::path::{Path, PathBuf};

pub use environment::Environment;
pub use file::Mistake;
pub use print::print;
pub use resolve::resolve;

use crate::listener::{ConnectionLimits, Listen};
use crate::{admin, credentials, prepull, pull, serve, store, upstream};

/// Where a file is looked for when neither `--config` nor `LARDER_CONFIG` names one.
const DEFAULT_PATH: &str = "/etc/larder/larder.toml";

/// Everything that the daemon is built from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the data plane listens.
    pub listen: Vec<Listen>,
    /// Bounds of its connections.
    pub limits: ConnectionLimits,
    /// The data plane.
    pub serve: serve::Config,
    /// The admin plane.
    pub admin: admin::Config,
    /// The store.
    pub store: store::Config,
    /// Registries.
    pub upstream: upstream::Config,
    /// The images that are kept without being asked for.
    pub prepull: prepull::Config,
    /// The log.
    pub log: LogConfig,
    /// Where credentials are.
    pub credentials: credentials::Config,
    /// The directory of the node's own keys.
    pub keys: PathBuf,
    /// Rights and freshness.
    pub pull: pull::Config,
    /// The local users that may connect; `None`: all.
    pub uids: Option<Vec<u32>>,
    /// Whether the process is root.
    pub root: bool,
}

/// The log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was asked for cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It has mistakes.
    #[error("{} has {} mistake(s):{}", path.display(), mistakes.len(), shown(mistakes))]
    Mistaken {
        /// The file, or what stands for one.
        path: PathBuf,
        /// All of them.
        mistakes: Vec<Mistake>,
    },
}

fn shown(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

/// Finds and reads the configuration: `asked`, else `LARDER_CONFIG`, else `/etc/larder/larder.toml` if it is there,
/// else the defaults. Returns it with the file it came from.
///
/// # Errors
/// A named file that cannot be read; any mistake.
pub fn load(asked: Option<&Path>, environment: &Environment) -> Result<(Settings, Option<PathBuf>), Error> {
    let named = asked.map(Path::to_owned).or_else(|| environment.config.clone());
    let (path, text) = match named {
        Some(path) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| Error::Unreadable { path: path.clone(), source })?;
            (Some(path), text)
        }
        None => match std::fs::read_to_string(DEFAULT_PATH) {
            Ok(text) => (Some(DEFAULT_PATH.into()), text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (None, String::new()),
            Err(source) => {
                return Err(Error::Unreadable { path: DEFAULT_PATH.into(), source });
            }
        },
    };
    let shown = || path.clone().unwrap_or_else(|| "the environment".into());
    let settings =
        resolve(&text, environment).map_err(|mistakes| Error::Mistaken { path: shown(), mistakes })?;
    Ok((settings, path))
}

#[cfg(test)]
mod tests;
