//! The addresses that names had when they resolved last, for when DNS cannot be asked.
//!
//! Promises: the names of one domain have a share, so that a stranger whose domain answers for any name does not push
//! out those of others. Pure but for the clock.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::bounded_map::BoundedMap;

/// For how long they stand in: registries and object stores keep theirs for hours.
pub(super) const LAST_ADDRESSES_COUNT_FOR: Duration = Duration::from_secs(3_600);
/// Names at most; one that is forgotten waits for a thread.
const NAMES_MAX: usize = 1_024;
/// Names of one domain at most: object stores have a name for each bucket.
const NAMES_OF_ONE_MAX: usize = 64;
/// Addresses of one name at most.
const ADDRESSES_MAX: usize = 32;

/// The last addresses of names.
pub(super) struct LastAddresses(BoundedMap<String, Last>);

struct Last {
    domain: String,
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Default for LastAddresses {
    fn default() -> Self {
        Self(BoundedMap::new(NAMES_MAX))
    }
}

impl LastAddresses {
    /// Those of a name, if they are not old.
    pub(super) fn find(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let last = self.0.peek(name)?;
        (last.at.elapsed() < LAST_ADDRESSES_COUNT_FOR).then(|| last.addresses.clone())
    }

    /// DNS gave them just now, for a name of `domain`.
    pub(super) fn record(&mut self, name: String, domain: String, addresses: &[SocketAddr]) {
        if self.0.peek(&name).is_none() {
            let of_domain = self.0.iter().filter(|(_, last)| last.domain == domain).map(|(name, _)| name);
            // Last used first.
            let oldest = of_domain.skip(NAMES_OF_ONE_MAX - 1).last().cloned();
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        let addresses = addresses.iter().take(ADDRESSES_MAX).copied().collect();
        self.0.insert(name, Last { domain, addresses, at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_ever_so_many_addresses_has_a_few_of_them_remembered() {
        let mut last = LastAddresses::default();
        let all: Vec<SocketAddr> = (0..200).map(|n| ([10, 0, 0, n], 0).into()).collect();
        last.record("n.evil.test".to_owned(), "evil.test".to_owned(), &all);
        assert_eq!(last.find("n.evil.test").unwrap(), all[..ADDRESSES_MAX]);
        last.record("n.evil.test".to_owned(), "evil.test".to_owned(), &all[100..101]);
        assert_eq!(last.find("n.evil.test").unwrap(), all[100..101], "those before are no more");
    }
}
