//! What a report says of the machine and the day.

use std::fs;

use super::{congestion, program};

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The processor, the kernel, the congestion control of connections that choose none, and the program.
pub(crate) fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (congestion, program) = (congestion::current(), program::describe());
    format!("{} cores, {model}, Linux {}, {congestion} by default, {program}", cores(), kernel.trim())
}

/// The congestion control that the connections of a table have, for its head.
pub(crate) fn under() -> String {
    format!("under {}; Larder's sockets: reno", congestion::current())
}

/// The date.
pub(crate) fn today() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()[..10].to_owned()
}

/// The value below which this share of the values is.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
