//! Places for downloads, for connections beside their first, and for images that are prefetched: how many there may be
//! at once, in all and for one registry.
//!
//! A registry whose downloads are slow must not take the places of others. One that the operator did not name has a
//! quarter of them (half where there are few), all such registries together three quarters, and so has one that the
//! operator named: there is always a place for another registry. Names below one registered domain that the operator
//! did not name are one registry's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pull::config::Config;
use crate::reference::Registry;
use crate::support::live::Live;

/// How many places there are of one kind, and who may take them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// For all registries together.
    pub(crate) all: usize,
    /// For one registry that the operator named, and for all together that the operator did not name.
    pub(crate) most: usize,
    /// For one registry that the operator did not name.
    pub(crate) unnamed: usize,
}

impl Shares {
    /// Of so many places.
    pub(crate) const fn of(all: usize) -> Self {
        Self { all, most: all / 4 * 3, unnamed: all / 4 }
    }

    /// Of so few places that a quarter of them is little for one registry.
    pub(crate) const fn of_few(all: usize) -> Self {
        Self { unnamed: all / 2, ..Self::of(all) }
    }
}

/// The places. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shares: Shares,
    /// Says which registries the operator named.
    config: Live<Config>,
    taken: Mutex<Taken>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    unnamed: usize,
    /// Of each holder that has any.
    by_holder: HashMap<Holder, usize>,
}

/// Whom a place is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A registry that the operator named.
    Named(Registry),
    /// All registries below a domain that the operator did not name.
    Domain(String),
}

impl Holder {
    /// Of what is taken for `registry`.
    pub(crate) fn of(registry: &Registry, config: &Config) -> Self {
        match config.is_named(registry) {
            true => Self::Named(registry.clone()),
            false => Self::Domain(registry.owner_domain()),
        }
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    holder: Holder,
}

impl Places {
    pub(crate) fn new(shares: Shares, config: Live<Config>) -> Self {
        let (taken, given_back) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { shares, config, taken, given_back }))
    }

    /// A place for `registry`, if it may have one more.
    pub(crate) fn take(&self, registry: &Registry) -> Option<Place> {
        let shares = self.0.shares;
        let holder = Holder::of(registry, &self.0.config.current());
        let is_named = matches!(holder, Holder::Named(_));
        let mut taken = self.0.taken.lock();
        let own = taken.by_holder.get(&holder).copied().unwrap_or(0);
        let own_max = if is_named { shares.most } else { shares.unnamed };
        if taken.all >= shares.all || own >= own_max || !is_named && taken.unnamed >= shares.most {
            return None;
        }
        taken.all += 1;
        taken.unnamed += usize::from(!is_named);
        taken.by_holder.insert(holder.clone(), own + 1);
        Some(Place { places: self.clone(), holder })
    }

    /// Waits until no place is taken.
    pub(crate) async fn all_given_back(&self) {
        loop {
            let mut given_back = std::pin::pin!(self.0.given_back.notified());
            given_back.as_mut().enable();
            if self.0.taken.lock().all == 0 {
                return;
            }
            given_back.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.taken.lock();
        taken.all -= 1;
        taken.unnamed -= usize::from(matches!(self.holder, Holder::Domain(_)));
        if let Some(own) = taken.by_holder.get_mut(&self.holder) {
            *own -= 1;
            if *own == 0 {
                taken.by_holder.remove(&self.holder);
            }
        }
        drop(taken);
        self.places.0.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(name: &str) -> Registry {
        name.parse().unwrap()
    }

    /// So many places, where the operator named `reg.test` and `other.test`.
    fn places(all: usize) -> Places {
        let named = ["reg.test", "other.test"].map(registry).into();
        Places::new(Shares::of(all), Live::new(Config { named, ..Config::default() }))
    }

    fn take_all(places: &Places, name: &str) -> Vec<Place> {
        std::iter::from_fn(|| places.take(&registry(name))).collect()
    }

    #[test]
    fn however_many_downloads_registries_have_there_is_a_place_for_another_one() {
        let places = places(256);
        let unnamed: Vec<_> = (0..9).flat_map(|n| take_all(&places, &format!("evil{n}.test"))).collect();
        assert_eq!(unnamed.len(), 192, "all that are not named together");
        assert_eq!(take_all(&places, "reg.test").len(), 64);
        drop(unnamed);
        let of_one = ["evil.test", "a.evil.test", "b.evil.test:5000"];
        let of_one: Vec<_> = of_one.iter().flat_map(|name| take_all(&places, name)).collect();
        assert_eq!(of_one.len(), 64, "one owner, whatever its names");
        drop(of_one);
        let ours = take_all(&places, "reg.test");
        assert_eq!(ours.len(), 192, "one that the operator named");
        assert!(places.take(&registry("other.test")).is_some());
    }

    #[tokio::test]
    async fn a_place_that_is_given_back_leaves_nothing_behind() {
        let places = places(8);
        let taken = take_all(&places, "reg.test");
        let (waited, ()) = tokio::join!(places.all_given_back(), async { drop(taken) });
        assert_eq!(waited, ());
        assert!(places.0.taken.lock().by_holder.is_empty());
    }
}
