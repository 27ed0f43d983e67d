//! The store against a model in memory: whatever operations come in whatever order, its content is right, it stays
//! within its budget, and no blob is evicted under its reader.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{open_within, repository};
use super::*;

const BUDGET: u64 = 300_000;

#[derive(Debug, Clone)]
enum Op {
    /// Store content number `n`.
    Put(u8),
    /// Read it, if it is in the store.
    Read(u8),
    /// Open it and keep it open.
    Hold(u8),
    /// Close all blobs that are held open.
    Release,
    /// Damage it on disk.
    Damage(u8),
    /// Time goes by.
    Wait(u16),
    /// Stop, cleanly or not, and start again.
    Restart(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u8).prop_map(Op::Put),
        6 => (0..12u8).prop_map(Op::Read),
        2 => (0..12u8).prop_map(Op::Hold),
        1 => Just(Op::Release),
        1 => (0..12u8).prop_map(Op::Damage),
        2 => (0..5_000u16).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(Op::Restart),
    ]
}

/// From nothing to two thirds of the budget; every number has its own.
fn content(n: u8) -> Bytes {
    let len =
        [0, 1, 5_000, 65_536, 65_537, 200_000, 100_000, 131_072, 40_000, 3, 90_000, 310_000][usize::from(n)];
    (0..len).map(|at: u32| (at.wrapping_mul(31) >> 3) as u8 ^ n).collect::<Vec<u8>>().into()
}

struct Model {
    directory: tempfile::TempDir,
    store: Option<Store>,
    /// What may be in the store: some of it may have been evicted.
    stored: HashMap<u8, Bytes>,
    held: Vec<(u8, Blob)>,
}

impl Model {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn blob_file(&self, n: u8) -> PathBuf {
        self.directory.path().join("blobs/sha256").join(Digest::of(&content(n)).hex())
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Put(n) => {
                let (repository, content) = (repository("a.test/r"), content(n));
                let put = self.store().put(for_tests::content(&repository, &content, Member::Blob)).await;
                match put {
                    Ok(()) => drop(self.stored.insert(n, content)),
                    Err(Error::Full { .. }) => {
                        let held: u64 = self.held.iter().map(|(_, blob)| blob.size()).sum();
                        // What is received again is not evicted for itself.
                        let same = if self.blob_file(n).exists() { content.len() as u64 } else { 0 };
                        let held = held + same;
                        prop_assert!(held + content.len() as u64 > BUDGET, "there was space for {n}");
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            Op::Read(n) => {
                if let Some(blob) = self.store().blob(Digest::of(&content(n))).await {
                    match blob.read_all(1 << 20).await {
                        Ok(bytes) => {
                            prop_assert!(
                                self.stored.contains_key(&n),
                                "{n} was never stored, or was damaged"
                            );
                            prop_assert_eq!(bytes, content(n));
                        }
                        Err(Error::Damaged { reason, .. }) => {
                            prop_assert!(!self.stored.contains_key(&n), "{n} was not damaged");
                            self.store().quarantine(&blob, reason).await;
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
            }
            Op::Hold(n) => {
                let blob = self.store().blob(Digest::of(&content(n))).await;
                // A damaged blob is not held: the first reader who finds the damage moves it to quarantine.
                self.held.extend(blob.filter(|_| self.stored.contains_key(&n)).map(|blob| (n, blob)));
            }
            Op::Release => self.held.clear(),
            Op::Damage(n) => {
                // A held blob is left intact: its readers share the open file.
                let held = self.held.iter().any(|(held, _)| *held == n);
                let flipped: Vec<u8> = content(n).iter().map(|byte| !byte).collect();
                if self.blob_file(n).exists() && !held && !flipped.is_empty() {
                    // In place: the index may be counting the file just now.
                    let file = fs::OpenOptions::new().write(true).open(self.blob_file(n)).unwrap();
                    file.write_all_at(&flipped, 0).unwrap();
                    self.stored.remove(&n);
                }
            }
            Op::Wait(seconds) => self.store().clock().advance(Duration::from_secs(seconds.into())),
            Op::Restart(cleanly) => {
                self.held.clear();
                let store = self.store.take().unwrap();
                if cleanly {
                    store.close().await;
                }
                // A process that is killed takes its threads along.
                let thread = store.0.index.take_thread();
                drop(store);
                if let Some(thread) = thread {
                    thread.join().unwrap();
                }
                self.store = Some(open(self.directory.path()));
                // Until the blobs are counted the budget is not known to be used up.
                self.store().0.index.catch_up();
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (n, _) in &self.held {
            prop_assert!(self.blob_file(*n).exists(), "{n} was evicted under its reader");
        }
        let on_disk: u64 = fs::read_dir(self.directory.path().join("blobs/sha256"))
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        prop_assert!(on_disk <= BUDGET, "{on_disk} bytes");
        prop_assert_eq!(fs::read_dir(self.directory.path().join("ingest")).unwrap().count(), 0);
        Ok(())
    }
}

/// A store that counts no blob as one without space because its index is slow to answer on a busy machine.
fn open(path: &Path) -> Store {
    let budget = Budget { max: Amount::Bytes(BUDGET), min_free: Amount::Bytes(0) };
    let store = open_within(path, budget).unwrap();
    store.0.index.wait_for_every_answer();
    store
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_the_content_is_right_and_within_the_budget(ops in proptest::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store = Some(open(directory.path()));
            let mut model = Model { directory, store, stored: HashMap::new(), held: Vec::new() };
            for op in &ops {
                model.apply(op).await?;
                model.check()?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
