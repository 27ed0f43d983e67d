//! The store against a twin in memory: whatever is done to it in whatever order, what it holds is right, it stays
//! within its budget, and what somebody is reading is not taken away.

use std::collections::HashMap;
use std::fs;

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{open_within, repository};
use super::*;

const BUDGET: u64 = 300_000;

#[derive(Debug, Clone)]
enum Op {
    /// Store content number `n`.
    Put(u8),
    /// Read it, if it is there.
    Read(u8),
    /// Open it and keep it open.
    Hold(u8),
    /// Close everything that is kept open.
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

struct Twin {
    directory: tempfile::TempDir,
    store: Option<Store>,
    /// What may be there: eviction may have taken it.
    stored: HashMap<u8, Bytes>,
    held: Vec<(u8, Blob)>,
}

impl Twin {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn blob_file(&self, n: u8) -> PathBuf {
        self.directory.path().join("blobs/sha256").join(Digest::of(&content(n)).hex())
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Put(n) => {
                let (digest, content) = (Digest::of(&content(n)), content(n));
                let put =
                    self.store().put(&repository("a.test/r"), digest, content.clone(), Member::Blob).await;
                match put {
                    Ok(()) => drop(self.stored.insert(n, content)),
                    Err(Error::Full { .. }) => {
                        let held: u64 = self.held.iter().map(|(_, blob)| blob.size()).sum();
                        prop_assert!(held + content.len() as u64 > BUDGET, "there was room for {n}");
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            Op::Read(n) => {
                if let Some(blob) = self.store().blob(Digest::of(&content(n))).await.unwrap() {
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
                let blob = self.store().blob(Digest::of(&content(n))).await.unwrap();
                // A damaged one is set aside by whoever notices, its readers have what they opened.
                self.held.extend(blob.filter(|_| self.stored.contains_key(&n)).map(|blob| (n, blob)));
            }
            Op::Release => self.held.clear(),
            Op::Damage(n) => {
                // A held one keeps its file; what is damaged is what the next reader would open.
                let held = self.held.iter().any(|(held, _)| *held == n);
                let flipped: Vec<u8> = content(n).iter().map(|byte| !byte).collect();
                if self.blob_file(n).exists() && !held && !flipped.is_empty() {
                    fs::write(self.blob_file(n), flipped).unwrap();
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
                self.store = Some(open_within(self.directory.path(), budget()).unwrap());
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (n, _) in &self.held {
            prop_assert!(self.blob_file(*n).exists(), "{n} was taken from under its reader");
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

fn budget() -> Budget {
    Budget { max: Amount::Bytes(BUDGET), min_free: Amount::Bytes(0) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_it_holds_what_is_right_and_no_more_than_it_may(ops in proptest::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store = Some(open_within(directory.path(), budget()).unwrap());
            let mut twin = Twin { directory, store, stored: HashMap::new(), held: Vec::new() };
            for op in &ops {
                twin.apply(op).await?;
                twin.check()?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
