//! In which state the store's disk is, and what an operator sets: one sentence each, for `larder status` and
//! `larder doctor`. A pure function of the numbers of `/v1/status`.

use super::status::StoreStatus;
use crate::store::WriteFailure;
use crate::support::size;

/// Bytes below which a store holds too little to be of use: a few images.
const SMALL_BYTES: u64 = 1 << 30;

/// What the store's disk is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// It does not hold what is written to it.
    Failing,
    /// It has not ended a call for seconds.
    Hanging,
    /// It took nothing when it was last tried.
    Unwritable {
        /// Why.
        why: WriteFailure,
    },
    /// Other files hold its inodes.
    NoInodes,
    /// Other files leave nothing of it to the store.
    NoRoom,
    /// The store may take little.
    Small {
        /// Bytes that it may have now.
        capacity: u64,
    },
    /// Other files leave less to the store than its budget.
    CrowdedOut {
        /// Bytes that it may have now.
        capacity: u64,
    },
    /// The store has the budget that it was given, or its filesystem does not say its size.
    AsConfigured,
}

impl DiskState {
    /// The worst that the numbers say.
    pub fn of(store: &StoreStatus) -> Self {
        match store.capacity_bytes {
            _ if store.disk_failing => Self::Failing,
            _ if store.disk_hanging => Self::Hanging,
            _ if !store.caching => {
                Self::Unwritable { why: store.write_failure.unwrap_or(WriteFailure::Disk) }
            }
            _ if store.lacks_inodes => Self::NoInodes,
            Some(0) => Self::NoRoom,
            Some(capacity) if capacity < SMALL_BYTES => Self::Small { capacity },
            Some(capacity) if store.max_bytes.is_some_and(|max| capacity < max) => {
                Self::CrowdedOut { capacity }
            }
            _ => Self::AsConfigured,
        }
    }

    /// Whether nothing is stored, or what is stored is lost.
    pub fn is_problem(self) -> bool {
        matches!(
            self,
            Self::Failing | Self::Hanging | Self::Unwritable { .. } | Self::NoInodes | Self::NoRoom
        )
    }

    /// The state in a sentence; empty if there is nothing to say.
    pub fn sentence(self) -> String {
        match self {
            Self::Failing => {
                "its disk does not hold what is written to it: the same blob was damaged again and again".to_owned()
            }
            Self::Hanging => {
                "its disk hangs; what it does not give comes from upstream, and nothing is stored".to_owned()
            }
            Self::Unwritable { why } => {
                let what = match why {
                    WriteFailure::NotPermitted => "the daemon may not write a file or directory of it",
                    WriteFailure::ReadOnly => "its filesystem is mounted read-only",
                    WriteFailure::NoSpace => "its filesystem was full, or a quota used up, in the middle of a write",
                    WriteFailure::Hangs => "its disk hung",
                    WriteFailure::Disk => "its disk failed",
                };
                format!("{what}, and nothing could be stored since: what is fetched is passed through")
            }
            Self::NoInodes => "its filesystem has less than 6 % of its inodes free: what is fetched is passed through and not stored"
                .to_owned(),
            Self::NoRoom => "other files fill its filesystem ([store] min_free): what is fetched is passed through and not stored"
                .to_owned(),
            Self::Small { capacity } => format!("it may have {} only", size::shown(capacity)),
            Self::CrowdedOut { capacity } => format!(
                "capacity now {}: other files fill its filesystem ([store] min_free)",
                size::shown(capacity)
            ),
            Self::AsConfigured => String::new(),
        }
    }

    /// What to do or to set; empty if nothing.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Failing => {
                "replace the disk, or mount another one at the directory of the store (docs/reference-deployment.md)"
            }
            Self::Hanging => "look at the disk, or the server behind it: dmesg names what waits for it",
            Self::Unwritable { why: WriteFailure::NotPermitted } => {
                "the log names the file (journalctl -u larder, or kubectl logs): give the directory of the store back to the \
                 user of the daemon (chown -R)"
            }
            Self::Unwritable { why: WriteFailure::ReadOnly } => {
                "mount it read-write (mount -o remount,rw; dmesg says whether the kernel made it read-only after an error); \
                 under systemd the store lies in the unit's StateDirectory, or in ReadWritePaths="
            }
            Self::Unwritable { .. } => {
                "look at the disk, its quota and the log (journalctl -u larder, or kubectl logs); storing is tried again with \
                 what is fetched next"
            }
            Self::NoInodes => {
                "remove files (df -i shows how many there are), or mount another filesystem at the directory of the store \
                 (docs/reference-deployment.md); kubelet evicts pods below 5 %"
            }
            Self::NoRoom => {
                "free some of it, or mount another filesystem at the directory of the store (docs/reference-deployment.md); \
                 lower [store] min_free only where kubelet does not watch this filesystem, because it keeps kubelet from \
                 evicting pods"
            }
            Self::Small { .. } => {
                "set [store] max_bytes, or mount a larger or emptier filesystem at the directory of the store \
                 (docs/reference-deployment.md)"
            }
            Self::CrowdedOut { .. } | Self::AsConfigured => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_said_and_with_it_what_to_do() {
        let on_inodes = |lacks_inodes, capacity, caching, disk_failing| StoreStatus {
            blobs: 1,
            bytes: 1,
            max_bytes: Some(100 << 30),
            free_bytes: Some(50 << 30),
            capacity_bytes: capacity,
            lacks_inodes,
            caching,
            write_failure: None,
            disk_failing,
            disk_hanging: false,
            pins: 0,
        };
        let unwritable = |why| DiskState::Unwritable { why };
        let store = |capacity, caching, disk_failing| on_inodes(false, capacity, caching, disk_failing);
        for (store, expected) in [
            (store(Some(100 << 30), true, false), DiskState::AsConfigured),
            (store(None, true, false), DiskState::AsConfigured),
            (store(Some(20 << 30), true, false), DiskState::CrowdedOut { capacity: 20 << 30 }),
            (store(Some(5), true, false), DiskState::Small { capacity: 5 }),
            (store(Some(0), true, false), DiskState::NoRoom),
            (on_inodes(true, Some(0), true, false), DiskState::NoInodes),
            (on_inodes(true, Some(0), false, false), unwritable(WriteFailure::Disk)),
            (
                StoreStatus { write_failure: Some(WriteFailure::ReadOnly), ..store(Some(0), false, false) },
                unwritable(WriteFailure::ReadOnly),
            ),
            (StoreStatus { disk_hanging: true, ..store(None, false, false) }, DiskState::Hanging),
            (store(Some(0), false, true), DiskState::Failing),
        ] {
            let state = DiskState::of(&store);
            assert_eq!(state, expected);
            let well = state == DiskState::AsConfigured;
            assert_eq!(state.sentence().is_empty(), well, "{state:?}");
            assert!(!state.is_problem() || !state.remedy().is_empty(), "{state:?}");
        }
    }
}
