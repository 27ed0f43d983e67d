//! Names to addresses, so that a name whose DNS does not answer holds up that name alone.
//!
//! Promises: the resolver of the machine, which blocks and cannot be cancelled, runs on threads of its own, so that
//! none that the store or the runtime needs waits for DNS. A name is looked up once at a time, for all that ask; names
//! of one domain have a share of the threads, and hosts that the configuration names have threads for themselves. A
//! look-up that takes long goes on, on a thread that is counted among those of its like, so that names whose DNS hangs
//! leave room for names whose DNS answers; 32 domains whose DNS hangs can hold all. Where the threads are taken, a name
//! that resolved a while ago has its last addresses (`last_addresses`), and another one waits a moment for a thread.
//! A caller that waits no longer for an answer may have the last addresses, too.
//!
//! Deliberately not here: which addresses may be connected to (`dial`), and a cache for when DNS can be asked, which is
//! the machine's.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::reference::registered_domain;
use crate::support::shortage::{is_shortage, of_threads};
use crate::support::singleflight::Singleflight;
use crate::support::tasks::Tasks;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::last_addresses::LastAddresses;
use crate::upstream::transport::network::Reach;

/// Names that the configuration leads to, looked up at once.
const CONFIGURED_MAX: usize = 16;
/// Other names, looked up at once: a thread that waits for DNS costs little, and DNS answers within milliseconds.
const OTHERS_MAX: usize = 32;
/// A look-up that takes longer is slow: DNS answers within milliseconds, or does not for seconds.
const SLOW_AFTER: Duration = Duration::from_millis(500);
/// Slow look-ups at once, besides those: the resolver gives up after some ten seconds, and so many domains without an
/// answer at a time are an attack, or an outage of DNS.
const SLOW_MAX: usize = 96;
/// Names of one domain, looked up at once.
const DOMAIN_MAX: usize = 4;
/// The same, while one of them is slow: it is likely that the others hang, too.
const SLOW_DOMAIN_MAX: usize = 2;
/// The longest wait for a thread: a part of what a caller waits for DNS, so that the rest is left for DNS itself.
const PLACE_WAIT: Duration = Duration::from_secs(1);

type LookedUp = Result<Vec<SocketAddr>, LookUpError>;

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookUpError {
    /// DNS was not asked: too many other names wait for it. This says nothing of the name.
    NotAsked,
    /// DNS was not asked, or not heard: this node lacks threads, memory or file descriptors.
    NodeIsShort(Arc<str>),
    /// What DNS said.
    Failed(Arc<str>),
}

/// Looks names up. Cheap to clone; clones share the threads.
#[derive(Clone)]
pub(crate) struct Names {
    reach: Reach,
    places: Places,
    running: Singleflight<(String, bool), LookedUp>,
    last: Arc<Mutex<LastAddresses>>,
}

impl Names {
    pub(crate) fn new(reach: Reach) -> Self {
        // No stop waits for DNS.
        let running = Singleflight::new(Tasks::default());
        Self { reach, places: Places::default(), running, last: Arc::default() }
    }

    /// The network that names are looked up in, and connections are opened through.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The addresses of a name, all with port 0 or any other. Takes as long as DNS does: the caller bounds the wait.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn look_up(&self, name: &str, trust: HostTrust) -> LookedUp {
        let configured = trust == HostTrust::Configured;
        let (this, wanted) = (self.clone(), name.to_owned());
        let work = move || async move {
            let place = match this.places.take(&wanted, configured) {
                Some(place) => place,
                None => match this.find_last(&wanted) {
                    Some(addresses) => return Ok(addresses),
                    None => this.places.wait_for(&wanted, configured).await.ok_or(LookUpError::NotAsked)?,
                },
            };
            match this.ask(wanted.clone(), place).await {
                Ok(found) => {
                    let domain = domain_of(&wanted);
                    this.last.lock().record(wanted, domain, &found);
                    Ok(found)
                }
                Err(error) if is_shortage(&error) => Err(LookUpError::NodeIsShort(error.to_string().into())),
                Err(error) => Err(LookUpError::Failed(error.to_string().into())),
            }
        };
        let ended = || Err(LookUpError::Failed("the look-up ended in a defect of Larder".into()));
        self.running.run((name.to_owned(), configured), work).await.unwrap_or_else(ended)
    }

    /// The addresses that a name had when it resolved last, if that is not long ago.
    pub(crate) fn find_last(&self, name: &str) -> Option<Vec<SocketAddr>> {
        self.last.lock().find(name)
    }

    /// The place is free again when DNS has answered or given up, however long its asker waited.
    async fn ask(&self, name: String, place: Place) -> io::Result<Vec<SocketAddr>> {
        let number = place.number;
        let mut answer = match self.reach.other() {
            Some(network) => {
                let answer = network.resolve(&name);
                async move {
                    let found = answer.await;
                    drop(place);
                    found
                }
                .boxed()
            }
            None => look_up_on_a_thread(name, place)?.boxed(),
        };
        match timeout(SLOW_AFTER, &mut answer).await {
            Ok(found) => found,
            Err(_) => {
                self.places.becomes_slow(number);
                answer.await
            }
        }
    }
}

/// How many names are being looked up. Cheap to clone.
#[derive(Clone, Default)]
struct Places(Arc<Inner>);

#[derive(Default)]
struct Inner {
    taken: Mutex<Taken>,
    /// Notified when a place is free again.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// By the number of the place.
    held: HashMap<u64, Held>,
}

/// Who has a place.
struct Held {
    /// `None` for a name that the configuration leads to.
    domain: Option<String>,
    is_slow: bool,
}

/// One of them, until it is dropped.
struct Place {
    places: Places,
    number: u64,
}

impl Places {
    /// A place, free already or within [`PLACE_WAIT`].
    async fn wait_for(&self, name: &str, configured: bool) -> Option<Place> {
        let taking = async {
            loop {
                // Created before the look, so that a place that is freed in between is not missed.
                let freed = self.0.freed.notified();
                if let Some(place) = self.take(name, configured) {
                    return place;
                }
                freed.await;
            }
        };
        timeout(PLACE_WAIT, taking).await.ok()
    }

    fn take(&self, name: &str, configured: bool) -> Option<Place> {
        let mut taken = self.0.taken.lock();
        let domain = (!configured).then(|| domain_of(name));
        if !taken.has_room_for(domain.as_deref()) {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        taken.held.insert(number, Held { domain, is_slow: false });
        Some(Place { places: self.clone(), number })
    }

    /// A look-up takes long: its place is one of the slow ones, as long as there are some.
    fn becomes_slow(&self, number: u64) {
        let mut taken = self.0.taken.lock();
        if taken.count(|held| held.is_slow) >= SLOW_MAX {
            return;
        }
        if let Some(held) = taken.held.get_mut(&number) {
            held.is_slow = held.domain.is_some();
        }
        drop(taken);
        self.0.freed.notify_waiters();
    }
}

impl Taken {
    fn count(&self, which: impl Fn(&Held) -> bool) -> usize {
        self.held.values().filter(|held| which(held)).count()
    }

    fn has_room_for(&self, domain: Option<&str>) -> bool {
        let Some(domain) = domain else {
            return self.count(|held| held.domain.is_none()) < CONFIGURED_MAX;
        };
        let is_of_domain = |held: &Held| held.domain.as_deref() == Some(domain);
        let is_slow = self.count(|held| is_of_domain(held) && held.is_slow) > 0;
        self.count(is_of_domain) < if is_slow { SLOW_DOMAIN_MAX } else { DOMAIN_MAX }
            && self.count(|held| held.domain.is_some() && !held.is_slow) < OTHERS_MAX
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.taken.lock().held.remove(&self.number);
        self.places.0.freed.notify_waiters();
    }
}

/// Begins a look-up by the machine's resolver.
fn look_up_on_a_thread(
    name: String,
    place: Place,
) -> io::Result<impl Future<Output = io::Result<Vec<SocketAddr>>> + Send> {
    let (sender, receiver) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect);
        drop(place);
        // An asker that has left needs no answer.
        let _ = sender.send(found);
    });
    spawned.map_err(|error| of_threads(&error))?;
    let ended = || Err(io::Error::other("the look-up ended without a result"));
    Ok(async move { receiver.await.unwrap_or_else(|_| ended()) })
}

/// The domain that its owner registered: the DNS of one owner answers for all names below it. A public suffix stands
/// for itself.
fn domain_of(name: &str) -> String {
    registered_domain(name)
        .map_or_else(|| name.trim_end_matches('.').to_ascii_lowercase(), |(domain, _)| domain)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::upstream::transport::last_addresses::LAST_ADDRESSES_COUNT_FOR;
    use crate::upstream::transport::network::{Io, Network, Pending};

    /// DNS that never answers for names with `hangs` in them.
    struct Dns;

    impl Network for Dns {
        fn resolve(&self, name: &str) -> Pending<Vec<SocketAddr>> {
            let hangs = name.contains("hangs");
            Box::pin(async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(vec![([127, 0, 0, 1], 0).into()])
            })
        }

        fn connect(&self, _: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
            Box::pin(async { Err(io::Error::other("not here")) })
        }
    }

    impl Places {
        fn held(&self) -> usize {
            self.0.taken.lock().held.len()
        }
    }

    /// Whether DNS answers in time.
    async fn is_found(names: &Names, name: &str, trust: HostTrust) -> bool {
        let waiting = timeout(Duration::from_secs(3), names.look_up(name, trust)).await;
        waiting.is_ok_and(|found| found.is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_whose_dns_hangs_holds_no_place_that_others_need() {
        let names = Names::new(Reach::through(Arc::new(Dns)));
        for n in 0..100 {
            assert!(!is_found(&names, &format!("n{n}.hangs.test"), HostTrust::Untrusted).await);
            assert!(!is_found(&names, "one.hangs.example", HostTrust::Untrusted).await);
        }
        assert_eq!(names.places.held(), SLOW_DOMAIN_MAX + 1, "a hang for each request");
        assert!(is_found(&names, "reg.test", HostTrust::Untrusted).await);
        for n in 0..SLOW_MAX + OTHERS_MAX {
            assert!(!is_found(&names, &format!("reg.hangs{n}.test"), HostTrust::Untrusted).await);
        }
        let begun = Instant::now();
        let refused = names.look_up("other.test", HostTrust::Untrusted).await;
        assert_eq!(refused, Err(LookUpError::NotAsked), "there is a limit, and the name is not to blame");
        assert_eq!(begun.elapsed(), PLACE_WAIT);
        assert!(is_found(&names, "reg.test", HostTrust::Untrusted).await, "it resolved a moment ago");
        tokio::time::advance(LAST_ADDRESSES_COUNT_FOR).await;
        assert!(!is_found(&names, "reg.test", HostTrust::Untrusted).await, "its addresses are old");
        assert!(is_found(&names, "mirror.corp", HostTrust::Configured).await, "a stranger's names");
    }

    #[tokio::test(start_paused = true)]
    async fn the_names_of_one_domain_do_not_push_out_the_last_addresses_of_a_name_of_another() {
        let names = Names::new(Reach::through(Arc::new(Dns)));
        assert!(is_found(&names, "registry.example.com", HostTrust::Untrusted).await);
        for n in 0..2_000 {
            assert!(is_found(&names, &format!("n{n}.evil.test"), HostTrust::Untrusted).await);
        }
        for n in 0..SLOW_MAX + OTHERS_MAX {
            assert!(!is_found(&names, &format!("reg.hangs{n}.test"), HostTrust::Untrusted).await);
        }
        let refused = names.look_up("n0.evil.test", HostTrust::Untrusted).await;
        assert_eq!(refused, Err(LookUpError::NotAsked), "its domain has had its share");
        for known in ["registry.example.com", "n1999.evil.test"] {
            assert!(is_found(&names, known, HostTrust::Untrusted).await, "{known} resolved a moment ago");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_of_many_domains_whose_dns_hangs_leave_room_for_a_name_whose_dns_answers() {
        let names = Names::new(Reach::through(Arc::new(Dns)));
        let hanging: Vec<_> = (0..OTHERS_MAX).map(|n| format!("reg.hangs{n}.test")).collect();
        let all = hanging.iter().map(|name| names.look_up(name, HostTrust::Untrusted));
        let answers = async {
            let begun = Instant::now();
            let found = names.look_up("reg.example.com", HostTrust::Untrusted).await;
            (found.is_ok(), begun.elapsed())
        };
        let (_, (found, waited)) =
            tokio::join!(timeout(Duration::from_secs(3), futures_util::future::join_all(all)), answers);
        assert!(found && waited <= SLOW_AFTER, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_finds_no_place_waits_for_one() {
        let places = Places::default();
        let held: Vec<_> =
            (0..DOMAIN_MAX).map(|n| places.take(&format!("a{n}.example.com"), false)).collect();
        let (place, ()) = tokio::join!(places.wait_for("b.example.com", false), async {
            tokio::time::sleep(PLACE_WAIT / 2).await;
            drop(held);
        });
        assert!(place.is_some());
    }

    #[test]
    fn an_owner_below_a_public_suffix_takes_no_place_of_its_neighbour() {
        for (name, domain) in [
            ("a.b.Evil.co.uk.", "evil.co.uk"),
            ("registry.victim.co.uk", "victim.co.uk"),
            ("evil.github.io", "evil.github.io"),
            ("a.b.example.com", "example.com"),
            ("n1.hangs.test", "hangs.test"),
            ("co.uk", "co.uk"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(domain_of(name), domain, "{name}");
        }
    }

    #[test]
    fn places_are_free_again_and_counted_by_domain() {
        let places = Places::default();
        let take = |name: &str| places.take(name, false);
        let held: Vec<_> = (0..DOMAIN_MAX).map(|n| take(&format!("a{n}.b.example.com")).unwrap()).collect();
        assert!(take("c.EXAMPLE.com.").is_none() && take("example.org").is_some() && take("com").is_some());
        drop(held);
        assert!(take("c.example.com").is_some());
        assert_eq!(places.held(), 0);
    }

    #[tokio::test]
    async fn the_machine_resolves_its_own_name() {
        let names = Names::new(Reach::default());
        let found = names.look_up("localhost", HostTrust::Configured).await.unwrap();
        assert!(found.iter().all(|at| at.ip().is_loopback()) && !found.is_empty());
    }
}
