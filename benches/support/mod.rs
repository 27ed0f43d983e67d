//! What the benchmarks share: a registry in this process, the daemon as a process of its own, slower lines, a chart; the program
//! that is measured, its processor time, the machine and its congestion control.
//!
//! Not here: the peers of `side_by_side`, and what only one benchmark needs.

#![allow(dead_code, reason = "each benchmark needs a part of it")]

pub(crate) mod chart;
pub(crate) mod congestion;
pub(crate) mod content;
pub(crate) mod daemon;
pub(crate) mod images;
pub(crate) mod line;
pub(crate) mod machine;
pub(crate) mod processor;
pub(crate) mod program;
pub(crate) mod registry;
pub(crate) mod shaper;
