//! Whose content a blob is, and which part of the store one registry may take.
//!
//! A registry that the operator did not name must not be able to push out what others had stored: whatever it serves,
//! it takes at most its share, and beyond that it gets only what lies free. Names below one registered domain are one
//! registry's, and all such registries together push out others' content only up to a share of theirs. A registry that
//! the operator named is not limited. Pure values; `admission` applies them.

use crate::reference::{Digest, Registry};

/// Percent of the store's capacity that one registry may hold which the operator did not name. Half: a node that pulls
/// from one such registry alone still caches its images, and what other registries stored cannot be pushed out by it.
const ONE_PERCENT: u64 = 50;
/// Percent of the store's capacity that may be reserved for downloads of all such registries together, and up to which
/// they push out what others stored. Reserved bytes cannot be evicted, so the rest stays for registries that the
/// operator named.
const TOGETHER_PERCENT: u64 = 75;

/// A registry by a hash of its registered domain, so that a row of the index stays small. Not a checksum: a registry
/// must not be able to choose a name that is taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::store) struct OwnerId(pub(in crate::store) u64);

impl OwnerId {
    /// For a blob whose registry is not known: it counts for none.
    pub(in crate::store) const UNKNOWN: Self = Self(0);

    pub(in crate::store) fn of(registry: &Registry) -> Self {
        let hash = Digest::of(registry.owner_domain().as_bytes());
        Self(hash.as_bytes().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }
}

/// The registry that content comes from, and whether its part of the store is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub(in crate::store) id: OwnerId,
    standing: Standing,
}

/// Why a registry's part of the store is limited, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The operator named it.
    Named,
    /// The operator did not.
    Limited,
    /// Nor here, and the content is small.
    LimitedSmall,
    /// It is not asked for this content.
    Exempt,
}

impl Owner {
    /// A registry that the operator named.
    pub fn named(registry: &Registry) -> Self {
        Self { id: OwnerId::of(registry), standing: Standing::Named }
    }

    /// Content that the operator brought, of whichever registry: it is not limited, and that says nothing of the
    /// registry.
    pub fn unlimited(registry: &Registry) -> Self {
        Self { id: OwnerId::of(registry), standing: Standing::Exempt }
    }

    /// A registry that the operator did not name.
    pub fn limited(registry: &Registry) -> Self {
        Self { id: OwnerId::of(registry), standing: Standing::Limited }
    }

    /// The same, for small content such as a manifest: it evicts what others stored only up to the share, as all of
    /// that registry's content does, downloads under way included, and where space lies free it is not refused for what
    /// they hold.
    pub fn limited_small(registry: &Registry) -> Self {
        Self { id: OwnerId::of(registry), standing: Standing::LimitedSmall }
    }

    pub(in crate::store) fn is_limited(&self) -> bool {
        matches!(self.standing, Standing::Limited | Standing::LimitedSmall)
    }

    /// Whether it is refused what downloads of limited registries may not hold at a time.
    pub(in crate::store) fn is_limited_while_downloading(&self) -> bool {
        self.standing == Standing::Limited
    }

    pub(in crate::store) fn is_named(&self) -> bool {
        self.standing == Standing::Named
    }
}

/// Bytes that one limited registry may hold of a store of `capacity` bytes, downloads under way included.
pub(in crate::store) fn of_one(capacity: u64) -> u64 {
    percent(capacity, ONE_PERCENT)
}

/// Bytes that may be reserved for all limited registries together, and that they may hold by pushing out others'
/// content.
pub(in crate::store) fn of_all(capacity: u64) -> u64 {
    percent(capacity, TOGETHER_PERCENT)
}

fn percent(capacity: u64, share: u64) -> u64 {
    capacity / 100 * share + capacity % 100 * share / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_part_of_the_capacity_whatever_its_size() {
        for (capacity, one, all) in
            [(0, 0, 0), (10, 5, 7), (1_000, 500, 750), (u64::MAX, u64::MAX / 2, 13_835_058_055_282_163_711)]
        {
            assert_eq!((of_one(capacity), of_all(capacity)), (one, all), "{capacity}");
        }
    }

    #[test]
    fn no_registry_has_the_identity_of_an_unknown_one() {
        let registry: Registry = "reg.test".parse().unwrap();
        assert_ne!(OwnerId::of(&registry), OwnerId::UNKNOWN);
        assert_eq!(Owner::limited(&registry).id, Owner::unlimited(&registry).id);
        let [one, other] = ["a.evil.test", "b.evil.test:5000"].map(|name| name.parse::<Registry>().unwrap());
        assert_eq!(OwnerId::of(&one), OwnerId::of(&other), "names of one stranger have a share each");
    }
}
