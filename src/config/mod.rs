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
mod settings;
mod value;
mod variables;

pub use document::{reference, template};
pub use environment::Environment;
pub use load::{Error, Loaded, load};
pub use print::{hash, print, print_in_effect, print_with_sources};
pub use report::{Mistake, Source};
pub use resolve::resolve;
pub use section::{Change, LogConfig, LogFormat, LogLevel};
pub use settings::Settings;

#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
