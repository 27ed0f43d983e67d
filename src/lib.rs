//! Larder: a node-local pull-through registry cache.
//!
//! Container runtimes pull through it; it fetches what it lacks from any upstream registry and serves everything else
//! from one deduplicated, verified store on disk. `ARCHITECTURE.md` is the map; `tests/layering/rows.rs` lists the
//! modules from the lowest layer to the highest, and `tests/layering.rs` checks that none uses one above it.
//!
//! The library exists for the daemon, its demonstration and its tests. It promises no stable Rust interface.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod credentials;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod kubernetes;
pub mod listener;
pub mod prepull;
pub mod pull;
pub mod reference;
pub mod reload;
pub mod serve;
pub mod store;
pub mod support;
pub mod tier;
pub mod traces;
pub mod upstream;
