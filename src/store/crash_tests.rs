//! A process that stops at any failpoint of any write loses nothing that was committed and leaves nothing half written.
//!
//! The process under test is this test binary, started again with one ignored test; its environment names the failpoint
//! at which it aborts.

#![allow(
    clippy::disallowed_methods,
    reason = "the process of a test, whose environment names the failpoint at which it aborts"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use bytes::Bytes;

use super::disk::failpoints::{DIRECTORY, STOP_AT};
use super::tests::{open, repository};
use super::{Member, Store, for_tests};
use crate::reference::{Digest, MediaType, Principal, PrincipalKind, Repository, Tag};
use crate::support::clock::Timestamp;

/// A manifest that is written behind an answer.
const BEHIND: &[u8] = br#"{"schemaVersion":2,"config":{}}"#;

/// When the grants that are written were proved.
const FIRST_GRANT: Timestamp = Timestamp(900);
const SECOND_GRANT: Timestamp = Timestamp(901);

/// What is written: an image with its records.
struct Image {
    repository: Repository,
    layer: Bytes,
    manifest: Bytes,
    media_type: MediaType,
    tag: Tag,
    principal: Principal,
}

impl Image {
    fn new() -> Self {
        let layer: Vec<u8> = (0..150_000).map(|n| (n * 31 % 253) as u8).collect();
        Self {
            repository: repository("reg.test/team/app"),
            layer: layer.into(),
            manifest: Bytes::from_static(br#"{"schemaVersion":2}"#),
            media_type: MediaType::OCI_MANIFEST.parse().unwrap(),
            tag: "v1".parse().unwrap(),
            principal: Principal::new(PrincipalKind::Caller, [7; 16]),
        }
    }

    /// Does every kind of write, and calls `done` with its name after the store has reported it as done.
    async fn write(&self, store: &Store, done: &mut impl FnMut(&str)) {
        let Self { repository, layer, manifest, media_type, tag, principal } = self;
        let kinds = [(layer, Member::Blob), (manifest, Member::Manifest(media_type.clone()))];
        for (content, member) in kinds {
            store.put(for_tests::content(repository, content, member)).await.unwrap();
            done(if content == layer { "layer" } else { "manifest" });
        }
        store.records().confirm_tag(repository, tag, Digest::of(manifest)).await.unwrap();
        done("tag");
        let place = store.records().place().await;
        store.records().set_grant_later(place.unwrap(), repository, *principal, FIRST_GRANT);
        store.flush().await;
        done("grant");
        // So that crashes happen while it is there.
        store.put(for_tests::content(repository, layer, Member::Blob)).await.unwrap();
        done("removes the grant");
        store.records().remove_grant(repository, *principal).await.unwrap();
        done("no grant");
        // Behind an answer, in one batch: the content, its tag and a grant.
        let held = store.hold_writes().await;
        let (behind, later) = (Digest::of(BEHIND), "later".parse().unwrap());
        let member = Member::Manifest(media_type.clone());
        store.put_later(for_tests::content(repository, BEHIND, member), |_| {}).await;
        store.records().confirm_tag_later(repository, &later, behind).await;
        let place = store.records().place().await;
        store.records().set_grant_later(place.unwrap(), repository, *principal, SECOND_GRANT);
        drop(held);
        store.flush().await;
        done("behind");
        done("removes the second grant");
        store.records().remove_grant(repository, *principal).await.unwrap();
        // Once more over an existing blob.
        store.put(for_tests::content(repository, layer, Member::Blob)).await.unwrap();
        done("layer again");
    }

    /// Checks what must hold after a crash, given the writes that were done before.
    async fn check(&self, store: &Store, done: &[String]) -> Result<(), String> {
        let was_done = |name: &str| done.iter().any(|one| one == name);
        for (name, content) in [("layer", &self.layer), ("manifest", &self.manifest)] {
            let digest = Digest::of(content);
            let found = match store.blob(digest).await {
                Some(blob) => Some(blob.read_all(1 << 20).await.map_err(|e| e.to_string())?),
                None => None,
            };
            let member = store.records().member(&self.repository, digest).await;
            let registry = self.repository.registry();
            if found.as_ref().is_some_and(|found| found != content) {
                return Err(format!("the {name} has other bytes"));
            }
            if found.is_none() && was_done(name) {
                return Err(format!("the {name} is lost"));
            }
            // A request that finds the bytes must find the membership too, and not ask upstream for it.
            let may_be_served = member.is_some() && store.records().received_from(registry, digest).await;
            if found.is_some() && !may_be_served {
                return Err(format!("the {name} is there without its membership"));
            }
        }
        let tagged = store.records().tag(&self.repository, &self.tag).await.map(|record| record.digest);
        let manifest = Digest::of(&self.manifest);
        if tagged.is_some_and(|digest| digest != manifest) || tagged.is_none() && was_done("tag") {
            return Err("the tag is lost".to_owned());
        }
        let behind = Digest::of(BEHIND);
        let later = store.records().tag(&self.repository, &"later".parse().unwrap()).await;
        let content = store.blob(behind).await;
        match (&later, &content) {
            (Some(_), None) => return Err("a tag names content that is not there".to_owned()),
            (None, _) | (_, None) if was_done("behind") => {
                return Err("what was written behind an answer is lost".to_owned());
            }
            _ => {}
        }
        if let Some(blob) = content {
            let bytes = blob.read_all(100).await.map_err(|e| e.to_string())?;
            let registry = self.repository.registry();
            let is_member = store.records().member(&self.repository, behind).await.is_some()
                && store.records().received_from(registry, behind).await;
            if bytes != BEHIND || !is_member {
                return Err("what was written behind an answer is there by half".to_owned());
            }
        }
        self.check_grants(store, &was_done).await
    }

    /// From when a grant was reported as written until its end was begun it is there; from when its end was reported on
    /// it is not.
    async fn check_grants(&self, store: &Store, was_done: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let grants = store.records().grants(&self.repository).await.unwrap();
        for (proved_at, written, ending, ended) in [
            (FIRST_GRANT, "grant", "removes the grant", "no grant"),
            (SECOND_GRANT, "behind", "removes the second grant", "layer again"),
        ] {
            let is_there = grants.contains(&(self.principal, proved_at));
            if !is_there && was_done(written) && !was_done(ending) {
                return Err(format!("the grant of {proved_at:?} is lost"));
            }
            if is_there && was_done(ended) {
                return Err(format!("the revoked grant of {proved_at:?} is back"));
            }
        }
        Ok(())
    }
}

fn log(directory: &Path, name: &str) -> fs::File {
    OpenOptions::new().append(true).create(true).open(directory.join(name)).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "runs in a process of its own, started by the test below"]
fn a_process_that_is_stopped() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = open(&Path::new(&directory).join("store")).unwrap();
        let mut done = log(Path::new(&directory), "done");
        Image::new().write(&store, &mut |name| writeln!(done, "{name}").unwrap()).await;
        store.0.index.close();
    });
}

/// Runs the process, stopped at a failpoint. `None` if it ended by itself.
fn run(directory: &Path, stop_at: usize) -> Option<Output> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::crash_tests::a_process_that_is_stopped", "--ignored"])
        .env(STOP_AT, stop_at.to_string())
        .env(DIRECTORY, directory)
        .output()
        .unwrap();
    let aborted = output.status.signal().is_some();
    assert!(aborted || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    aborted.then_some(output)
}

#[tokio::test]
async fn a_process_that_stops_at_any_failpoint_loses_nothing_and_leaves_nothing_half_written() {
    let image = Image::new();
    for stop_at in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let stopped = run(directory.path(), stop_at).is_some();
        let reached = lines(&directory.path().join("failpoints"));
        let done = lines(&directory.path().join("done"));
        let store = open(&directory.path().join("store")).unwrap();
        let at = reached.last().cloned().unwrap_or_default();
        let found = image.check(&store, &done).await;
        assert_eq!(found, Ok(()), "stopped at failpoint {stop_at}, {at:?}, after {done:?}");
        let left = fs::read_dir(directory.path().join("store/ingest")).unwrap().count();
        assert_eq!(left, 0, "left behind by failpoint {stop_at}, {at:?}");
        let mut again = Vec::new();
        image.write(&store, &mut |name| again.push(name.to_owned())).await;
        assert_eq!(image.check(&store, &again).await, Ok(()), "after failpoint {stop_at}, {at:?}");
        store.0.index.close();
        if !stopped {
            assert!(stop_at > 40, "only {stop_at} failpoints: {reached:?}");
            return;
        }
    }
}

#[test]
fn a_power_cut_does_not_bring_back_the_marker_of_a_clean_stop() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store")).unwrap();
    store.0.index.close();
    drop(store);
    run(directory.path(), usize::MAX);
    let reached = lines(&directory.path().join("failpoints"));
    // It would vouch for rows that this process has changed since. Then the grants.
    let removals: Vec<&String> = reached.iter().filter(|name| name.contains("remov")).collect();
    assert_eq!(removals, ["removed", "removal synced"].repeat(3));
}
