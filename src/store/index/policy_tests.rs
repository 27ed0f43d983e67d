//! The order of eviction against plain LRU, SIEVE and S3-FIFO, on a trace of a node's pulls.
//!
//! The trace is made here, from a fixed seed: 120 days of a node. 300 applications, popular by a power law, are built
//! on 60 runtimes, which are built on 20 bases; every few days an application gets a new version with a new top layer,
//! every fifth time with new dependencies too. Pods start all day; the runtime itself holds what it pulled in the last
//! three days, as kubelet's image garbage collection leaves it, so that Larder sees the rest. Once a week a batch job
//! pulls 80 images that nothing else needs, and once in ten days a layer of 6 GiB. A service with a layer of 5 GiB, a
//! model, is started every fourth day.
//!
//! `cargo nextest run --lib policy_tests --no-capture` prints the figures of docs/on-disk-format.md, "Eviction".

use std::collections::{HashMap, HashSet, VecDeque};

use super::rows::{Row, Rows};
use crate::reference::Digest;
use crate::store::budget::evict::Order;
use crate::store::budget::large::Passed;
use crate::store::budget::share::OwnerId;
use crate::support::clock::Timestamp;

const MIB: u64 = 1024 * 1024;
const DAY: u64 = 86_400;
const DAYS: u64 = 120;

/// A request for a blob.
#[derive(Clone, Copy)]
struct Request {
    at: u64,
    blob: u32,
    size: u64,
}

/// A cache with a budget.
trait Policy {
    /// Whether the blob was there; it is afterwards.
    fn request(&mut self, request: Request) -> bool;
}

#[derive(Default)]
struct Trace {
    requests: Vec<Request>,
    /// The size of each blob.
    sizes: Vec<u64>,
    /// When the runtime last used each blob.
    held: HashMap<u32, u64>,
}

impl Trace {
    fn blob(&mut self, size: u64) -> u32 {
        self.sizes.push(size);
        (self.sizes.len() - 1) as u32
    }

    /// A pod starts: what the runtime does not hold is pulled.
    fn start(&mut self, at: u64, blobs: &[u32]) {
        for &blob in blobs {
            let held = self.held.insert(blob, at);
            if held.is_none_or(|used| at - used > 3 * DAY) {
                self.requests.push(Request { at, blob, size: self.sizes[blob as usize] });
            }
        }
    }

    fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(14);
        let mut trace = Self::default();
        let between = |random: &mut fastrand::Rng, from: u64, to: u64| from + random.u64(0..to - from);
        // A number below `count`, small ones far more often.
        let popular = |random: &mut fastrand::Rng, count: usize| {
            ((count as f64).powf(random.f64()) - 1.0) as usize % count
        };
        let bases: Vec<u32> = (0..20).map(|_| trace.blob(between(&mut random, 5, 80) * MIB)).collect();
        let runtimes: Vec<[u32; 2]> = (0..60)
            .map(|_| [bases[popular(&mut random, 20)], trace.blob(between(&mut random, 30, 250) * MIB)])
            .collect();
        struct Application {
            runtime: [u32; 2],
            dependencies: u32,
            own: [u32; 3],
            versions: u32,
            next: u64,
        }
        let version = |trace: &mut Trace, random: &mut fastrand::Rng| {
            let (manifest, config) = (trace.blob(2_000), trace.blob(8_000));
            [manifest, config, trace.blob(between(random, 1, 60) * MIB)]
        };
        let mut applications: Vec<Application> = (0..300)
            .map(|_| Application {
                runtime: runtimes[popular(&mut random, 60)],
                dependencies: trace.blob(between(&mut random, 10, 150) * MIB),
                own: version(&mut trace, &mut random),
                versions: 0,
                next: random.u64(0..14 * DAY),
            })
            .collect();
        let model = [trace.blob(2_000), trace.blob(5 * 1_024 * MIB)];
        for at in (0..DAYS * DAY).step_by(600) {
            let application = &mut applications[popular(&mut random, 300)];
            if at >= application.next {
                application.own = version(&mut trace, &mut random);
                application.versions += 1;
                if application.versions.is_multiple_of(5) {
                    application.dependencies = trace.blob(between(&mut random, 10, 150) * MIB);
                }
                application.next = at + between(&mut random, DAY, 14 * DAY);
            }
            let Application {
                own: [manifest, config, layer], runtime: [base, runtime], dependencies, ..
            } = *application;
            trace.start(at, &[manifest, config, base, runtime, dependencies, layer]);
            if at % (7 * DAY) == 3 * DAY {
                for _ in 0..80 {
                    let once = [trace.blob(2_000), trace.blob(between(&mut random, 20, 200) * MIB)];
                    trace.start(at, &once);
                }
            }
            if at % (4 * DAY) == 2 * DAY {
                trace.start(at, &model);
            }
            if at % (10 * DAY) == 5 * DAY {
                let large = trace.blob(6 * 1_024 * MIB);
                trace.start(at, &[large]);
            }
        }
        trace
    }
}

/// Plain LRU, or Larder's own order.
struct Ordered {
    budget: u64,
    rows: Rows,
    /// Whether the order sees sizes; without them it is plain LRU.
    by_size: bool,
    /// Whether a large blob that is asked for the first time is passed by rather than push out others.
    passes: Option<Passed>,
    sizes: HashMap<Digest, u64>,
    used: u64,
}

impl Ordered {
    fn lru(budget: u64) -> Self {
        let (rows, sizes) = (Rows::new(), HashMap::new());
        Self { budget, rows, by_size: false, passes: None, sizes, used: 0 }
    }

    fn by_size(budget: u64) -> Self {
        Self { by_size: true, ..Self::lru(budget) }
    }

    fn larder(budget: u64) -> Self {
        Self { passes: Some(Passed::default()), ..Self::by_size(budget) }
    }
}

impl Policy for Ordered {
    fn request(&mut self, Request { at, blob, size }: Request) -> bool {
        let (digest, now) = (Digest::of(&blob.to_le_bytes()), Timestamp(at));
        let hit = self.sizes.contains_key(&digest);
        let (shown, reused) = if self.by_size { (size, hit) } else { (1, false) };
        if !hit
            && self.used + size > self.budget
            && let Some(passes) = &mut self.passes
            && passes.pass_by_unless_asked_before(digest, size, self.budget, now)
        {
            return false;
        }
        let row = Row { size: shown, used_at: now, owner: OwnerId::UNKNOWN, reused };
        if !hit {
            let mut search = self.rows.search(Order::BySize, None, now);
            while self.used + size > self.budget {
                let (victim, _) = self.rows.next_victim(&mut search, now, |_, _| true).unwrap();
                self.rows.remove(&victim);
                self.used -= self.sizes.remove(&victim).unwrap();
            }
            self.sizes.insert(digest, size);
            self.used += size;
        }
        self.rows.put(digest, row);
        hit
    }
}

/// SIEVE: a queue with a mark at each blob that was used again; a hand goes from the oldest to the newest, takes marks
/// off, and evicts the first blob without one.
struct Sieve {
    budget: u64,
    used: u64,
    /// Oldest first.
    queue: Vec<(u32, u64)>,
    marked: HashMap<u32, bool>,
    hand: usize,
}

impl Policy for Sieve {
    fn request(&mut self, Request { blob, size, .. }: Request) -> bool {
        if let Some(mark) = self.marked.get_mut(&blob) {
            *mark = true;
            return true;
        }
        while self.used + size > self.budget {
            if self.hand >= self.queue.len() {
                self.hand = 0;
            }
            let (at_hand, bytes) = self.queue[self.hand];
            let mark = self.marked.get_mut(&at_hand).unwrap();
            if std::mem::take(mark) {
                self.hand += 1;
            } else {
                self.queue.remove(self.hand);
                self.marked.remove(&at_hand);
                self.used -= bytes;
            }
        }
        self.queue.push((blob, size));
        self.marked.insert(blob, false);
        self.used += size;
        false
    }
}

/// S3-FIFO: what is new waits in a small queue of a tenth of the budget; what was used again there, or comes back soon
/// after it left, gets into the main queue.
struct S3Fifo {
    budget: u64,
    small: VecDeque<(u32, u64)>,
    small_bytes: u64,
    main: VecDeque<(u32, u64)>,
    main_bytes: u64,
    uses: HashMap<u32, u8>,
    ghosts: VecDeque<u32>,
    is_ghost: HashSet<u32>,
}

impl S3Fifo {
    fn evict(&mut self) {
        if self.small_bytes > self.budget / 10 || self.main.is_empty() {
            let (blob, size) = self.small.pop_front().unwrap();
            self.small_bytes -= size;
            if self.uses[&blob] > 0 {
                self.uses.insert(blob, 0);
                self.main.push_back((blob, size));
                self.main_bytes += size;
                return;
            }
            self.uses.remove(&blob);
            self.ghosts.push_back(blob);
            self.is_ghost.insert(blob);
            if self.ghosts.len() > self.main.len().max(100)
                && let Some(old) = self.ghosts.pop_front()
            {
                self.is_ghost.remove(&old);
            }
            return;
        }
        let (blob, size) = self.main.pop_front().unwrap();
        let uses = self.uses.get_mut(&blob).unwrap();
        if *uses > 0 {
            *uses -= 1;
            self.main.push_back((blob, size));
        } else {
            self.uses.remove(&blob);
            self.main_bytes -= size;
        }
    }
}

impl Policy for S3Fifo {
    fn request(&mut self, Request { blob, size, .. }: Request) -> bool {
        if let Some(uses) = self.uses.get_mut(&blob) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        while self.small_bytes + self.main_bytes + size > self.budget {
            self.evict();
        }
        self.uses.insert(blob, 0);
        if self.is_ghost.remove(&blob) {
            self.main.push_back((blob, size));
            self.main_bytes += size;
        } else {
            self.small.push_back((blob, size));
            self.small_bytes += size;
        }
        false
    }
}

/// The shares of requests and of bytes that were there, in percent.
fn hits(trace: &Trace, mut policy: impl Policy) -> (f64, f64) {
    let (mut requests, mut bytes, mut all) = (0, 0, 0);
    for request in &trace.requests {
        all += request.size;
        if policy.request(*request) {
            requests += 1;
            bytes += request.size;
        }
    }
    (100.0 * f64::from(requests) / trace.requests.len() as f64, 100.0 * bytes as f64 / all as f64)
}

#[test]
fn the_order_of_eviction_keeps_more_requests_and_no_fewer_bytes_than_plain_lru() {
    let trace = Trace::new();
    println!("{} requests for {} blobs", trace.requests.len(), trace.sizes.len());
    for gib in [8, 16, 32] {
        let budget = gib * 1_024 * MIB;
        let lru = hits(&trace, Ordered::lru(budget));
        let by_size = hits(&trace, Ordered::by_size(budget));
        let own = hits(&trace, Ordered::larder(budget));
        let sieve = Sieve { budget, used: 0, queue: Vec::new(), marked: HashMap::new(), hand: 0 };
        let s3 = S3Fifo {
            budget,
            small: VecDeque::new(),
            small_bytes: 0,
            main: VecDeque::new(),
            main_bytes: 0,
            uses: HashMap::new(),
            ghosts: VecDeque::new(),
            is_ghost: HashSet::new(),
        };
        for (name, (requests, bytes)) in [
            ("LRU", lru),
            ("by size and use", by_size),
            ("Larder", own),
            ("SIEVE", hits(&trace, sieve)),
            ("S3-FIFO", hits(&trace, s3)),
        ] {
            println!("{gib:>2} GiB {name:<15} {requests:.1} % of the requests, {bytes:.1} % of the bytes");
        }
        assert!(own.0 > lru.0 && own.1 > lru.1 - 0.5, "{gib} GiB: {own:?} against {lru:?}");
        assert!(own.0 >= by_size.0 && own.1 >= by_size.1, "{gib} GiB: {own:?} against {by_size:?}");
    }
}
