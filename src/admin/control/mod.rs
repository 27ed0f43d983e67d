//! The control socket: commands that name repositories or change something, for the owner of the daemon.
//!
//! A unix socket of mode 0600, spoken to by the `larder` program itself in JSON over HTTP; no interface for others.
//!
//! Promises: a command that cannot be understood changes nothing; no error text repeats what a command holds.

mod client;
mod commands;
mod describe;
mod error;
mod explain;
mod handler;
mod images;
mod import;
mod writes_often;

pub use client::{ControlError, pull, put, send};
pub use commands::{
    CollectGarbage, Collected, ControlCommand, Explain, GetReport, ImageRow, ImportNames, Imported,
    ListImages, Pull, PullImage, PullSecret, Readers, Remove, Removed, Revoke, Revoked, Unpin, Unpinned,
};
pub use describe::{EffectiveConfig, GetConfig, MatchCredentials, MatchedCredentials, ProbeTier};
pub use explain::Explainer;
pub use handler::{Control, service};
pub use import::{BLOB as IMPORT_BLOB, MANIFEST as IMPORT_MANIFEST};
