//! The disk beneath the store: a directory in memory, and calls that fail as the plan says (`shim.c`).
//!
//! The control page is written as a file; the preloaded library has it mapped. Without the library nothing fails,
//! which `Disk::is_armed` tells.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::files::taken;
use crate::plan::{DiskCall, DiskError, DiskFault};

const RULE_BYTES: usize = 128;
const RULES_AT: u64 = 24;
const RULES_MAX: usize = 16;
const ROOT_AT: u64 = RULES_AT + (RULE_BYTES * RULES_MAX) as u64;
const LIVE_AT: u64 = ROOT_AT + 512;
/// Where the seed of the history that runs is, its time, and the number of threads that could run and do not.
pub(crate) const SEED_AT: u64 = LIVE_AT + 512;
pub(crate) const NOW_AT: u64 = SEED_AT + 8;
pub(crate) const READY_AT: u64 = NOW_AT + 8;
const SIZE_AT: u64 = READY_AT + 8;
const TAKEN_AT: u64 = SIZE_AT + 8;
const HANGING_AT: u64 = TAKEN_AT + 8;
const BLOCKED_AT: u64 = HANGING_AT + 4;
/// Bytes of the control page.
pub(crate) const CONTROL_BYTES: u64 = BLOCKED_AT + 4;
/// Bytes of the filesystem.
const SIZE: u64 = 64 << 30;

/// The control page, and the directory of one history.
pub(crate) struct Disk {
    control: File,
    root: PathBuf,
    epoch: u32,
    rules: usize,
}

impl Disk {
    /// A fresh directory beneath `root`, which is emptied.
    pub(crate) fn new(control: &Path, root: &Path) -> Self {
        let _ = fs::remove_dir_all(root);
        fs::create_dir_all(root.join("0")).unwrap();
        let control = OpenOptions::new().read(true).write(true).open(control).unwrap();
        let disk = Self { control, root: root.to_owned(), epoch: 0, rules: 0 };
        disk.arm();
        disk.put(BLOCKED_AT, &[0; 4]);
        disk.leave(None);
        disk
    }

    /// Where the daemon keeps its state.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join(self.epoch.to_string())
    }

    /// The node's docker config.
    pub(crate) fn node_config(&self) -> PathBuf {
        self.root.join("node.json")
    }

    /// The credential of the bucket.
    /// The key that the nodes of the cluster share.
    pub(crate) fn cluster_key(&self) -> PathBuf {
        self.tier_key().with_file_name("cluster.key")
    }

    pub(crate) fn tier_key(&self) -> PathBuf {
        self.root.join("tier.key")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.state().join("larder/store")
    }

    /// Calls that changed something so far.
    pub(crate) fn calls(&self) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Everything stops at the call after so many more.
    pub(crate) fn stop_after(&self, calls: u64) {
        self.put(8, &(self.calls() + calls.max(1)).to_le_bytes());
    }

    pub(crate) fn is_stopped(&self) -> bool {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, 16).unwrap();
        bytes != [0; 4]
    }

    /// Nothing changes any more: what is on disk now is what a process that was killed has left.
    pub(crate) fn stop(&self) {
        self.put(16, &1_u32.to_le_bytes());
    }

    /// Another process begins on a copy of what was left.
    pub(crate) fn next_epoch(&mut self) {
        let from = self.state();
        self.epoch += 1;
        let to = self.state();
        // The copy is made by this process too, and by the same calls.
        self.put(ROOT_AT, &[0; 1]);
        copy(&from, &to);
        self.arm();
    }

    /// One more way to fail. Calls that hang do so until `until_us`.
    pub(crate) fn fail(&mut self, fault: &DiskFault, until_us: u64) {
        if self.rules == RULES_MAX {
            return;
        }
        let mut rule = [0; RULE_BYTES];
        let (kinds, part) = (kinds(fault.call), part(fault.call));
        rule[..4].copy_from_slice(&kinds.to_le_bytes());
        rule[4..8].copy_from_slice(&errno(fault.error).to_le_bytes());
        rule[8..12].copy_from_slice(&fault.times.map_or(-1, |times| times as i32).to_le_bytes());
        rule[16..24].copy_from_slice(&until_us.to_le_bytes());
        rule[24..24 + part.len()].copy_from_slice(part.as_bytes());
        self.put(RULES_AT + (RULE_BYTES * self.rules) as u64, &rule);
        self.rules += 1;
        self.put(20, &(self.rules as u32).to_le_bytes());
        if until_us > 0 {
            self.put(HANGING_AT, &1_u32.to_le_bytes());
        }
    }

    /// Whether calls have been made to hang since the last [`Disk::heal`].
    pub(crate) fn is_hanging(&self) -> bool {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, HANGING_AT).unwrap();
        bytes != [0; 4]
    }

    /// Calls that hung on the thread of the daemon's tasks, which must wait for no disk.
    pub(crate) fn blocked(&self) -> u32 {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, BLOCKED_AT).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Nothing fails any more.
    pub(crate) fn heal(&mut self) {
        self.rules = 0;
        self.put(HANGING_AT, &0_u32.to_le_bytes());
        self.put(20, &0_u32.to_le_bytes());
    }

    /// Others leave so many bytes of the filesystem; plenty, with `None`.
    pub(crate) fn leave(&self, free: Option<u64>) {
        let others = free.map_or(0, |free| SIZE.saturating_sub(free + taken(&self.state())));
        self.put(TAKEN_AT, &others.to_le_bytes());
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let mut others = [0; 8];
        self.control.read_exact_at(&mut others, TAKEN_AT).unwrap();
        SIZE.saturating_sub(u64::from_le_bytes(others) + taken(&self.state()))
    }

    /// How often calls have been made to fail since the last [`Disk::heal`].
    pub(crate) fn hits(&self) -> u64 {
        (0..self.rules)
            .map(|at| {
                let mut bytes = [0; 4];
                let offset = RULES_AT + (RULE_BYTES * at) as u64 + 12;
                self.control.read_exact_at(&mut bytes, offset).unwrap();
                u64::from(u32::from_le_bytes(bytes))
            })
            .sum()
    }

    /// Does something as another process would: no fault touches it, and it is not counted.
    pub(crate) fn as_another<T>(&self, work: impl FnOnce() -> T) -> T {
        self.put(ROOT_AT, &[0; 1]);
        let done = work();
        self.put(ROOT_AT, b"/");
        done
    }

    fn arm(&self) {
        let text = |path: &Path| {
            let mut field = [0; 512];
            let bytes = path.as_os_str().as_encoded_bytes();
            field[..bytes.len()].copy_from_slice(bytes);
            field[bytes.len()] = b'/';
            field
        };
        self.put(0, &[0; RULES_AT as usize]);
        self.put(HANGING_AT, &[0; 4]);
        self.put(SIZE_AT, &SIZE.to_le_bytes());
        self.put(LIVE_AT, &text(&self.state()));
        self.put(ROOT_AT, &text(&self.root));
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.control.write_all_at(bytes, at).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.put(ROOT_AT, &[0; 1]);
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn kinds(call: DiskCall) -> u32 {
    match call {
        DiskCall::Create => 1,
        DiskCall::Write => 2,
        DiskCall::Sync => 4,
        DiskCall::Rename => 8,
        DiskCall::Unlink | DiskCall::UnlinkBlob => 16,
        DiskCall::MakeDirectory => 32,
        DiskCall::Open => 64,
        DiskCall::Read => 128,
        DiskCall::Change => 1 | 2 | 8 | 16 | 32 | 256,
        DiskCall::EveryChange => 1 | 2 | 4 | 8 | 16 | 32 | 256,
        DiskCall::Every => 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256,
    }
}

fn part(call: DiskCall) -> &'static str {
    // The state beside the store is another matter.
    if call == DiskCall::UnlinkBlob { "/store/blobs/" } else { "/store/" }
}

fn errno(error: DiskError) -> i32 {
    match error {
        DiskError::NoSpace => 28,
        DiskError::ReadOnly => 30,
        DiskError::Io => 5,
        DiskError::Short | DiskError::Hangs => 0,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&entry.path(), &target),
            Ok(kind) if kind.is_file() => {
                let _ = fs::copy(entry.path(), target);
            }
            _ => {}
        }
    }
}
