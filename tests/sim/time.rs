//! Time: it moves only while every thread of the process is asleep, so that a simulated day takes seconds.
//!
//! tokio's paused clock moves by itself as soon as its runtime has nothing to do, but not while a blocking task runs, and
//! a download has one for as long as it lasts. So a blocking task of ours holds that back for ever, and the clock is
//! moved here, before the runtime parks: once every other thread sleeps, in steps that grow while nothing happens. One
//! thread runs at a time, and the seed decides which (`threads.c`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::disk::{NOW_AT, READY_AT, SEED_AT};

use larder::support::clock::{Clock, Timestamp};

/// The first step, and how much of the time that nothing has happened the next one is.
const STEP_US: u64 = 1_000;
const STEP_SHARE: u64 = 4;
/// The longest steps: while a client waits for an answer, and while none does.
const STEP_WAITED_US: u64 = 200_000;
const STEP_IDLE_US: u64 = 5_000_000;
/// When simulated time begins.
pub(crate) const START: u64 = 1_700_000_000;
/// How often the other threads are let run before a history is given up: one of them does not come to rest.
const TURNS_MAX: u32 = 50_000_000;

/// The time of one history.
pub(crate) struct Time {
    inner: Arc<Inner>,
}

struct Inner {
    now_us: AtomicU64,
    quiet_us: AtomicU64,
    /// Counts up with every byte and answer that the world sees.
    activity: AtomicU64,
    seen: AtomicU64,
    /// Requests whose answers clients wait for.
    waiting: AtomicUsize,
    clock: Clock,
    /// When who sleeps in the world is to be woken, and how many.
    sleeping: Mutex<BTreeMap<u64, usize>>,
    threads: Threads,
    root: Mutex<Option<Waker>>,
}

/// A handle for everything in the world.
#[derive(Clone)]
pub(crate) struct Now(Arc<Inner>);

impl Now {
    /// Milliseconds since the history began.
    pub(crate) fn ms(&self) -> u64 {
        self.0.now_us.load(Ordering::Relaxed) / 1_000
    }

    /// Something has happened: time goes slowly again.
    pub(crate) fn stir(&self) {
        self.0.activity.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits, and is woken on time: no step of the clock goes further than this.
    pub(crate) async fn sleep(&self, time: Duration) {
        let until = self.0.now_us.load(Ordering::Relaxed) + time.as_micros() as u64 + STEP_US;
        let sleeping = Sleeping { inner: Arc::clone(&self.0), until };
        *self.0.sleeping.lock().unwrap().entry(until).or_default() += 1;
        tokio::time::sleep(time).await;
        drop(sleeping);
        self.stir();
    }

    /// A client waits until this is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.0))
    }

    /// The daemon's clock.
    pub(crate) fn clock(&self) -> Clock {
        self.0.clock.clone()
    }
}

struct Sleeping {
    inner: Arc<Inner>,
    until: u64,
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        let mut all = self.inner.sleeping.lock().unwrap();
        if let Some(count) = all.get_mut(&self.until) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.until);
            }
        }
    }
}

pub(crate) struct Waiting(Arc<Inner>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a history to its end in a thread, a runtime and a time of its own: a fresh thread has drawn nothing yet.
pub(crate) fn run<F, T>(seed: u64, history: impl FnOnce(Now) -> F + Send + 'static) -> T
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let threads = Threads(control().unwrap());
    threads.begin(seed.wrapping_mul(2).wrapping_add(1));
    let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
        fastrand::seed(seed);
        within(history)
    });
    let ended = thread.unwrap().join();
    threads.begin(0);
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn control() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(crate::preload::control())
}

/// What the thread of a history is called.
pub(crate) const THREAD: &str = "history";

fn within<F, T>(history: impl FnOnce(Now) -> F) -> T
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let inner = Arc::new(Inner {
        now_us: AtomicU64::new(0),
        quiet_us: AtomicU64::new(0),
        activity: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        waiting: AtomicUsize::new(0),
        clock: Clock::manual(Timestamp(START)),
        sleeping: Mutex::default(),
        threads: Threads(control().unwrap()),
        root: Mutex::default(),
    });
    let time = Time { inner: Arc::clone(&inner) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .on_thread_park(move || time.park())
        .build()
        .unwrap();
    let (release, held) = mpsc::channel::<()>();
    let future = history(Now(Arc::clone(&inner)));
    let done = runtime.block_on(async {
        tokio::task::spawn_blocking(move || {
            let _ = held.recv();
        });
        Root { inner: Arc::clone(&inner), history: tokio::spawn(future) }.await
    });
    drop(release);
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

/// The future that the runtime blocks on: woken whenever time has moved, so that the runtime looks at its timers.
struct Root<T> {
    inner: Arc<Inner>,
    history: tokio::task::JoinHandle<T>,
}

impl<T> Future for Root<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        *self.inner.root.lock().unwrap() = Some(cx.waker().clone());
        match Pin::new(&mut self.history).poll(cx) {
            Poll::Ready(Ok(done)) => Poll::Ready(done),
            Poll::Ready(Err(failed)) => std::panic::resume_unwind(failed.into_panic()),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Time {
    /// The runtime has nothing to do.
    fn park(&self) {
        let inner = &*self.inner;
        let metrics = tokio::runtime::Handle::current().metrics();
        if metrics.global_queue_depth() > 0 {
            return;
        }
        let ran = inner.threads.sleep();
        if metrics.global_queue_depth() > 0 {
            return;
        }
        let activity = inner.activity.load(Ordering::Relaxed);
        if ran || inner.seen.swap(activity, Ordering::Relaxed) != activity {
            inner.quiet_us.store(0, Ordering::Relaxed);
        }
        let quiet = inner.quiet_us.load(Ordering::Relaxed);
        let waited = inner.waiting.load(Ordering::Relaxed) > 0;
        let longest = if waited { STEP_WAITED_US } else { STEP_IDLE_US };
        let step = (quiet / STEP_SHARE / STEP_US * STEP_US).clamp(STEP_US, longest);
        let now = inner.now_us.load(Ordering::Relaxed);
        let next = inner.sleeping.lock().unwrap().keys().find(|until| **until > now).copied();
        let step = next.map_or(step, |next| step.min(next - now));
        inner.quiet_us.store(quiet + step, Ordering::Relaxed);
        let before = inner.now_us.fetch_add(step, Ordering::Relaxed);
        inner.threads.show(before + step);
        let seconds = (before + step) / 1_000_000 - before / 1_000_000;
        inner.clock.advance(Duration::from_secs(seconds));
        let mut advance = pin!(tokio::time::advance(Duration::from_micros(step)));
        let _ = advance.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::new(Nobody))));
        if let Some(root) = &*inner.root.lock().unwrap() {
            root.wake_by_ref();
        }
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// The other threads of this process, which the preloaded library lets run.
struct Threads(File);

impl Threads {
    /// From now on threads run as this seed says; with 0, none of them is left that does anything.
    fn begin(&self, seed: u64) {
        self.0.write_all_at(&[seed.to_le_bytes(), [0; 8]].concat(), SEED_AT).unwrap();
    }

    /// What the monotonic clock of all threads shows.
    fn show(&self, now_us: u64) {
        self.0.write_all_at(&now_us.to_le_bytes(), NOW_AT).unwrap();
    }

    /// Lets the others run until all of them sleep, and says whether any was awake.
    fn sleep(&self) -> bool {
        std::thread::yield_now();
        let mut turns = 0_u32;
        while !self.are_asleep() {
            std::thread::yield_now();
            turns += 1;
            assert!(turns < TURNS_MAX, "a thread does not come to rest: {}", all_threads());
        }
        turns > 0
    }

    fn are_asleep(&self) -> bool {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, READY_AT).unwrap();
        bytes == [0; 8]
    }
}

/// What each thread is called, and whether the kernel says that it sleeps.
fn all_threads() -> String {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| {
        let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let state = text("stat").rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        format!("{} {state:?} {}; ", text("comm").trim(), text("wchan"))
    };
    threads.map(of).collect()
}
