//! How a blob begins, as far as it was received: what is hashed goes on from here, and what comes in its place is
//! compared with it.

use crate::reference::Hasher;

/// The first bytes of a blob, hashed.
#[derive(Debug, Clone)]
pub(crate) struct HashedStart {
    len: u64,
    hasher: Hasher,
}

impl HashedStart {
    /// So many bytes, which `hasher` has seen, and none beside them.
    pub(crate) fn new(len: u64, hasher: Hasher) -> Self {
        Self { len, hasher }
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The hash of these bytes, to go on with.
    pub(crate) fn hasher(&self) -> Hasher {
        self.hasher.clone()
    }

    /// Whether `other`, which has seen as many bytes, has seen the same.
    pub(crate) fn is_seen_by(&self, other: &Hasher) -> bool {
        self.hasher.clone().finish() == other.clone().finish()
    }
}
