//! Connections that stay open between requests, by host.
//!
//! A NAT or a firewall that forgets its connections leaves all of them open at both ends and dead between: the first
//! that does not answer says that of the others, so that all idle ones to a host can be closed together. The one that
//! was used last is used next, and the others reach their end.
//!
//! Deliberately not here: what a connection is (`connection`), and which requests are repeated (`connect`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::bounded_map::BoundedMap;
use crate::upstream::transport::address::HostTrust;

/// Idle connections that stay open to one host that the configuration names: as many as questions are asked at a time
/// on a busy node, so that none of them opens a connection of its own.
const CONFIGURED_IDLE_MAX: usize = 64;
/// Idle connections that stay open to one other host, of which strangers can name many.
const UNTRUSTED_IDLE_MAX: usize = 8;
/// How long an idle connection stays open: registries close theirs after about a minute.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(50);
/// How often those are closed that were idle for long enough, and those that the other side has closed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Hosts with idle connections at most; those of one that is forgotten are closed.
const HOSTS_MAX: usize = 1_024;

/// A connection that can be kept.
pub(super) trait Keepable: Send + 'static {
    /// Whether a request can be sent over it. Does not wait.
    fn is_open(&mut self) -> bool;
}

/// The connections to all hosts of one trust.
pub(super) struct Hosts<T> {
    by_name: Mutex<BoundedMap<String, Arc<Host<T>>>>,
    idle_max: usize,
}

/// The idle connections to one host.
pub(super) struct Host<T> {
    name: String,
    idle_max: usize,
    kept: Mutex<Kept<T>>,
    /// Told of each connection that is kept.
    freed: Notify,
}

struct Kept<T> {
    /// Counts how often they were closed together.
    period: u64,
    /// In the order in which they became idle, with the time.
    idle: Vec<(Instant, T)>,
    is_swept: bool,
}

/// Says to which host a connection goes back, and since when it counts as one of its connections: not after all of
/// these were closed together.
pub(super) struct Belonging<T> {
    host: Arc<Host<T>>,
    period: u64,
}

impl<T> Clone for Belonging<T> {
    fn clone(&self) -> Self {
        Self { host: Arc::clone(&self.host), period: self.period }
    }
}

impl<T: Keepable> Hosts<T> {
    pub(super) fn new(trust: HostTrust) -> Self {
        let idle_max = match trust {
            HostTrust::Configured => CONFIGURED_IDLE_MAX,
            HostTrust::Untrusted => UNTRUSTED_IDLE_MAX,
        };
        Self { by_name: Mutex::new(BoundedMap::new(HOSTS_MAX)), idle_max }
    }

    /// The host of a scheme, a name and a port.
    pub(super) fn host(&self, name: &str) -> Arc<Host<T>> {
        let mut hosts = self.by_name.lock();
        if let Some(host) = hosts.get(name) {
            return Arc::clone(host);
        }
        let kept = Mutex::new(Kept { period: 0, idle: Vec::new(), is_swept: false });
        let (name_of_it, freed) = (name.to_owned(), Notify::new());
        let host = Arc::new(Host { name: name_of_it, idle_max: self.idle_max, kept, freed });
        hosts.insert(name.to_owned(), Arc::clone(&host));
        host
    }
}

impl<T: Keepable> Host<T> {
    /// An open connection that is idle for less than `idle_max`, and for how long it is.
    pub(super) fn take(self: &Arc<Self>, idle_max: Duration) -> Option<(T, Duration, Belonging<T>)> {
        loop {
            let (mut connection, idle, period) = {
                let mut kept = self.kept.lock();
                let idle = kept.idle.last()?.0.elapsed();
                if idle >= idle_max {
                    return None;
                }
                (kept.idle.pop()?.1, idle, kept.period)
            };
            if connection.is_open() {
                return Some((connection, idle, Belonging { host: Arc::clone(self), period }));
            }
        }
    }

    /// As [`Self::take`], once there is one.
    pub(super) async fn freed(self: &Arc<Self>, idle_max: Duration) -> (T, Duration, Belonging<T>) {
        loop {
            let freed = self.freed.notified();
            if let Some(taken) = self.take(idle_max) {
                return taken;
            }
            freed.await;
        }
    }

    /// Where a connection belongs that is opened now.
    pub(super) fn belonging(self: &Arc<Self>) -> Belonging<T> {
        let period = self.kept.lock().period;
        Belonging { host: Arc::clone(self), period }
    }

    /// Closes what was idle for long enough or is closed at the other side; whether nothing is left to look after.
    fn sweep(&self) -> bool {
        let (mut at, period) = (0, self.kept.lock().period);
        // One at a time, the oldest first: to look at one may close its socket, so that it is done without the lock,
        // and requests, which begin with the youngest, find the others.
        while let Some((since, mut connection)) = self.nth_of(at, period) {
            if since.elapsed() >= IDLE_TIME || !connection.is_open() {
                continue;
            }
            let mut kept = self.kept.lock();
            if kept.period != period {
                break;
            }
            let place = at.min(kept.idle.len());
            kept.idle.insert(place, (since, connection));
            at += 1;
            let surplus = (kept.idle.len() > self.idle_max).then(|| kept.idle.remove(0));
            without_lock(kept, surplus);
            self.freed.notify_one();
        }
        let mut kept = self.kept.lock();
        kept.is_swept = !kept.idle.is_empty();
        !kept.is_swept
    }

    /// Takes the connection at a place out, as long as they were not closed together since `period`.
    fn nth_of(&self, at: usize, period: u64) -> Option<(Instant, T)> {
        let mut kept = self.kept.lock();
        (kept.period == period && at < kept.idle.len()).then(|| kept.idle.remove(at))
    }
}

impl<T: Keepable> Belonging<T> {
    /// Keeps a connection for the next request to its host. One that is idle for longest makes way for it: there are
    /// requests that may use a young one only.
    pub(super) fn keep(&self, connection: T) {
        let mut kept = self.host.kept.lock();
        if kept.period != self.period {
            return;
        }
        let is_full = kept.idle.len() >= self.host.idle_max;
        let closed = is_full.then(|| kept.idle.remove(0));
        kept.idle.push((Instant::now(), connection));
        if !std::mem::replace(&mut kept.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.host)));
        }
        without_lock(kept, closed);
        self.host.freed.notify_one();
    }

    /// Closes the idle connections to the host, unless that happened since this one was taken or opened. Requests that
    /// are under way go on.
    pub(super) fn close_idle(&self) {
        let mut kept = self.host.kept.lock();
        if kept.period == self.period {
            kept.period += 1;
            let closed = std::mem::take(&mut kept.idle);
            without_lock(kept, closed);
            tracing::debug!(host = self.host.name, "idle connections are closed: one of them did not answer");
        }
    }
}

/// Closes connections once the lock is free: closing a socket is a call of the kernel, and requests wait for the lock.
fn without_lock<T>(lock: MutexGuard<'_, Kept<T>>, closed: impl IntoIterator<Item = (Instant, T)>) {
    drop(lock);
    closed.into_iter().for_each(drop);
}

/// Looks after the idle connections of a host until there are none.
async fn sweep<T: Keepable>(host: Weak<Host<T>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if host.upgrade().is_none_or(|host| host.sweep()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A connection, and whether its other side has closed it.
    #[derive(Default, Clone)]
    struct Fake(Arc<AtomicBool>);

    impl Keepable for Fake {
        fn is_open(&mut self) -> bool {
            !self.0.load(Ordering::Relaxed)
        }
    }

    impl Fake {
        fn is_kept(&self) -> bool {
            Arc::strong_count(&self.0) > 1
        }
    }

    fn host() -> Arc<Host<Fake>> {
        Hosts::new(HostTrust::Untrusted).host("http://reg.test")
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_that_is_open_is_used_next_and_none_that_is_idle_for_too_long() {
        let (host, [first, second, third]) = (host(), <[Fake; 3]>::default());
        for connection in [&first, &second, &third] {
            host.belonging().keep(connection.clone());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        third.0.store(true, Ordering::Relaxed);
        assert!(host.take(Duration::from_secs(1)).is_none());
        let (taken, idle, _) = host.take(Duration::from_secs(10)).unwrap();
        assert!(Arc::ptr_eq(&taken.0, &second.0) && !third.is_kept());
        assert_eq!(idle, Duration::from_secs(2));
        assert!(host.take(Duration::from_secs(3)).is_none(), "the first is idle for three seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_idle_for_long_and_what_the_other_side_closed_is_closed_without_a_request() {
        let (host, [old, closed, young]) = (host(), <[Fake; 3]>::default());
        host.belonging().keep(old.clone());
        tokio::time::sleep(Duration::from_secs(45)).await;
        host.belonging().keep(closed.clone());
        host.belonging().keep(young.clone());
        closed.0.store(true, Ordering::Relaxed);
        tokio::time::sleep(SWEEP_EVERY + Duration::from_secs(1)).await;
        assert_eq!([&old, &closed, &young].map(Fake::is_kept), [false, false, true]);
        tokio::time::sleep(IDLE_TIME).await;
        assert!(!young.is_kept());
        let again = Fake::default();
        host.belonging().keep(again.clone());
        tokio::time::sleep(IDLE_TIME + SWEEP_EVERY).await;
        assert!(!again.is_kept(), "nothing looks after what is kept after a time without any");
    }

    /// A connection that is looked at by who asks whether its host's lock is free.
    struct Watching(Weak<Host<Watching>>);

    impl Keepable for Watching {
        fn is_open(&mut self) -> bool {
            let host = self.0.upgrade().unwrap();
            assert!(host.kept.try_lock().is_some(), "looked at, and perhaps closed, under the lock");
            true
        }
    }

    #[tokio::test]
    async fn idle_connections_are_looked_at_without_the_lock_and_keep_their_order() {
        let host = Hosts::<Watching>::new(HostTrust::Untrusted).host("http://reg.test");
        for _ in 0..3 {
            host.belonging().keep(Watching(Arc::downgrade(&host)));
        }
        let since = || host.kept.lock().idle.iter().map(|(since, _)| *since).collect::<Vec<_>>();
        let before = since();
        assert!(!host.sweep());
        assert_eq!(since(), before);
    }

    #[tokio::test]
    async fn those_that_are_closed_together_are_closed_once_and_do_not_come_back() {
        let (host, [idle, under_way, new]) = (host(), <[Fake; 3]>::default());
        host.belonging().keep(idle.clone());
        let before = host.belonging();
        before.close_idle();
        before.keep(under_way.clone());
        assert!(!idle.is_kept() && !under_way.is_kept());
        host.belonging().keep(new.clone());
        before.close_idle();
        assert!(new.is_kept(), "closed for a connection of the time before");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_stay_open_to_a_host() {
        let (host, many) = (host(), Fake::default());
        for _ in 0..UNTRUSTED_IDLE_MAX + 5 {
            host.belonging().keep(many.clone());
        }
        assert_eq!(Arc::strong_count(&many.0), UNTRUSTED_IDLE_MAX + 1);
        tokio::time::advance(Duration::from_secs(6)).await;
        let (five, young) = (Duration::from_secs(5), Fake::default());
        assert!(host.take(five).is_none());
        host.belonging().keep(young.clone());
        let (taken, ..) = host.take(five).unwrap();
        assert!(Arc::ptr_eq(&taken.0, &young.0), "old ones leave no place for what may be used");
    }
}
