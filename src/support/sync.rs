//! What threads and tasks synchronise by, where the order in which they run is checked and not left to luck.
//!
//! In a daemon these are `parking_lot`'s locks and the standard library's atomics, channels and threads. With the
//! feature `model` they are shuttle's, which run one at a time and in an order that a test draws: `schedule_tests` of a
//! module then run the module's own code under thousands of orders (`make model`). What waits by `tokio::sync` stays as
//! it is: its wakers are shuttle's tasks then.

#[cfg(not(feature = "model"))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(feature = "model"))]
pub(crate) use std::sync::{atomic, mpsc};
#[cfg(not(feature = "model"))]
pub(crate) use std::thread;

#[cfg(feature = "model")]
pub(crate) use super::model_channel as mpsc;
#[cfg(feature = "model")]
pub(crate) use shuttle::sync::atomic;
#[cfg(feature = "model")]
pub(crate) use shuttle::thread;
#[cfg(feature = "model")]
pub(crate) use shuttle_parking_lot::{Mutex, MutexGuard};

/// Runs `execution` under so many orders of its threads: half of them drawn at each step, half of them with three
/// interruptions at most, which finds what needs a thread to be stopped for long. The orders are those of `MODEL_SEED`,
/// which is 1 where it is not set, so that two runs of a test try the same. A failure prints the order, for
/// `shuttle::replay`.
#[cfg(test)]
#[cfg(feature = "model")]
#[allow(clippy::disallowed_methods, reason = "a setting of the test, not of the daemon")]
pub(crate) fn explore(orders: usize, execution: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let execution = std::sync::Arc::new(execution);
    let mut config = shuttle::Config::new();
    // Formatting an error or opening a file takes more than what a thread has by default.
    config.stack_size = 512 * 1024;
    config.silence_warnings = true;
    let seed = std::env::var("MODEL_SEED").map_or(1, |seed| seed.parse().expect("MODEL_SEED is a number"));
    let (random, few) =
        (RandomScheduler::new_from_seed(seed, orders / 2), PctScheduler::new_from_seed(seed, 3, orders / 2));
    let run = std::sync::Arc::clone(&execution);
    shuttle::Runner::new(random, config.clone()).run(move || run());
    shuttle::Runner::new(few, config).run(move || execution());
}
