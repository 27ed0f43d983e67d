//! The processor time of other processes.
//!
//! Each process has a clock of its processor time (clock_getcpuclockid(3)): nanoseconds, all of its threads, those that have
//! ended too. `/proc/PID/stat` counts in ticks of 10 ms, and `/proc/PID/task/*/schedstat` lacks the threads that have
//! ended, which are most of a download's.

use nix::time::ClockId;
use nix::unistd::Pid;

/// Processor seconds of the process since its start; `None` once it has ended.
pub(crate) fn seconds(pid: u32) -> Option<f64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let now = ClockId::pid_cpu_clock_id(pid).ok()?.now().ok()?;
    Some(now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9)
}
