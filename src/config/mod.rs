//! Configuration: what the operator wrote, and what it means for each domain.
//!
//! Each key is declared once, in `section/`: its type, kind and bounds, default, sentence, and whether a reload
//! applies it. From that follow reading, `larder config print`, `config/larder.toml`, the tables of
//! `docs/configuration.md`, environment variables, and what a reload does.
//!
//! Promises: unknown keys are refused; all mistakes are reported at once, each with its key and a remedy; no file at
//! all means defaults that work. Deliberately not here: what a setting does, which is its domain's `Config`.

mod document;
mod environment;
mod file;
mod load;
mod print;
mod report;
mod resolve;
mod schema;
mod section;
mod value;
mod variables;

use std::path::PathBuf;

pub use document::{reference, template};
pub use environment::Environment;
pub use load::{Error, Loaded, load};
pub use print::{print, print_with_sources};
pub use report::{Mistake, Source};
pub use resolve::resolve;
pub use section::{Change, LogConfig, LogFormat, LogLevel};

use crate::listener::{ConnectionLimits, Listen};
use crate::{admin, credentials, prepull, pull, serve, store, upstream};

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
    sections: section::Sections,
    sources: report::Sources,
}

impl Settings {
    /// What is not as in `before`, key by key.
    pub fn changes(&self, before: &Self) -> Vec<Change> {
        self.sections.changes(&before.sections)
    }
}

#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
