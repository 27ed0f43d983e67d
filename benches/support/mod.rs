//! What the benchmarks share: a registry in this process, the daemon as a process of its own, slower lines, a chart.
//!
//! Not here: the peers of `side_by_side`, and what only one benchmark needs.

#![allow(dead_code, reason = "each benchmark needs a part of it")]

pub(crate) mod chart;
pub(crate) mod content;
pub(crate) mod daemon;
pub(crate) mod images;
pub(crate) mod line;
pub(crate) mod machine;
pub(crate) mod registry;
pub(crate) mod shaper;
