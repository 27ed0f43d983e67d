//! The numbers of this process, under the names that Prometheus' own client libraries give them: read from `/proc` when
//! they are shown.

use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process, Stat};

use super::clock::Timestamp;
use super::metrics::{MetricsError, Registry};

/// Registers them. `started` is when this process began.
///
/// # Errors
/// A name registered twice.
pub fn register(registry: &Registry, started: Timestamp) -> Result<(), MetricsError> {
    registry.of_process("process_cpu_seconds_total", "counter", "Seconds of processor time.", || {
        stat().map(|stat| (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
    })?;
    registry.of_process("process_max_fds", "gauge", "File descriptors at most.", max_fds)?;
    registry.of_process("process_open_fds", "gauge", "File descriptors that are open.", || {
        Process::myself().ok()?.fd_count().ok().map(|count| count as f64)
    })?;
    registry.of_process("process_resident_memory_bytes", "gauge", "Bytes of memory in use.", || {
        stat().map(|stat| stat.rss_bytes().get() as f64)
    })?;
    registry.of_process("process_start_time_seconds", "gauge", "When it began (Unix time).", move || {
        Some(started.0 as f64)
    })?;
    registry
        .of_process("process_threads", "gauge", "Threads.", || stat().map(|stat| stat.num_threads as f64))?;
    registry.of_process("process_virtual_memory_bytes", "gauge", "Bytes of address space.", || {
        stat().map(|stat| stat.vsize as f64)
    })
}

fn stat() -> Option<Stat> {
    Process::myself().ok()?.stat().ok()
}

fn max_fds() -> Option<f64> {
    match Process::myself().ok()?.limits().ok()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit as f64),
        LimitValue::Unlimited => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_there_and_plausible() {
        let registry = Registry::new();
        register(&registry, Timestamp(7)).unwrap();
        let page = String::from_utf8(registry.render().unwrap()).unwrap();
        for described in registry.described() {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("{} ", described.name)));
            let value: f64 = line.unwrap_or_else(|| panic!("{} in {page}", described.name)).parse().unwrap();
            assert!(
                value > 0.0 || described.name == "process_cpu_seconds_total",
                "{}: {value}",
                described.name
            );
        }
        assert!(page.contains("process_start_time_seconds 7\n"), "{page}");
    }
}
