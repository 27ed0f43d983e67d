//! The steps of every write, by name, so that a test can stop the process at each of them. In the daemon itself this
//! is nothing.

/// A step has been taken.
#[cfg(not(test))]
pub(crate) const fn reached(_step: &'static str) {}

#[cfg(test)]
pub(crate) use tests::reached;

#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "a process of the test's own, told by its environment where to stop"
)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use crate::reference::{Digest, MediaType, Principal, PrincipalKind, Repository, Tag};
    use crate::store::tests::{open, repository};
    use crate::store::{Member, Store};
    use crate::support::clock::Timestamp;

    /// The number of the step at which the process stops.
    const STOP_AT: &str = "LARDER_TEST_STOP_AT";
    const DIRECTORY: &str = "LARDER_TEST_DIRECTORY";

    pub(crate) fn reached(step: &'static str) {
        static TAKEN: AtomicUsize = AtomicUsize::new(0);
        let Ok(stop_at) = std::env::var(STOP_AT) else { return };
        let number = TAKEN.fetch_add(1, Ordering::SeqCst);
        let mut log = log(Path::new(&std::env::var(DIRECTORY).unwrap()), "steps");
        writeln!(log, "{step}").unwrap();
        if number.to_string() == stop_at {
            std::process::abort();
        }
    }

    fn log(directory: &Path, name: &str) -> fs::File {
        OpenOptions::new().append(true).create(true).open(directory.join(name)).unwrap()
    }

    struct Things {
        repository: Repository,
        layer: Bytes,
        manifest: Bytes,
        media_type: MediaType,
        tag: Tag,
        who: Principal,
    }

    impl Things {
        fn new() -> Self {
            let layer: Vec<u8> = (0..150_000).map(|n| (n * 31 % 253) as u8).collect();
            Self {
                repository: repository("reg.test/team/app"),
                layer: layer.into(),
                manifest: Bytes::from_static(br#"{"schemaVersion":2}"#),
                media_type: MediaType::OCI_MANIFEST.parse().unwrap(),
                tag: "v1".parse().unwrap(),
                who: Principal::new(PrincipalKind::Caller, [7; 16]),
            }
        }

        /// Everything that is ever written, each noted down when the store has said that it is done.
        async fn write(&self, store: &Store, done: &mut impl FnMut(&str)) {
            let Self { repository, layer, manifest, media_type, tag, who } = self;
            let kinds = [(layer, Member::Blob), (manifest, Member::Manifest(media_type.clone()))];
            for (content, member) in kinds {
                store.put(repository, Digest::of(content), content.clone(), member).await.unwrap();
                done(if content == layer { "layer" } else { "manifest" });
            }
            store.confirm_tag(repository, tag, Digest::of(manifest)).await.unwrap();
            done("tag");
            store.set_grant(repository, *who, Timestamp(900)).await.unwrap();
            done("grant");
            store.remove_grant(repository, *who).await.unwrap();
            done("no grant");
            // Once more over what is there.
            store.put(repository, Digest::of(layer), layer.clone(), Member::Blob).await.unwrap();
            done("layer again");
        }

        /// What must hold whatever was done before the process stopped.
        async fn check(&self, store: &Store, done: &[String]) -> Result<(), String> {
            let was_done = |what: &str| done.iter().any(|one| one == what);
            for (name, content) in [("layer", &self.layer), ("manifest", &self.manifest)] {
                let digest = Digest::of(content);
                let found = match store.blob(digest).await.map_err(|e| e.to_string())? {
                    Some(blob) => Some(blob.read_all(1 << 20).await.map_err(|e| e.to_string())?),
                    None => None,
                };
                let member = store.member(&self.repository, digest).await;
                let registry = self.repository.registry();
                if found.as_ref().is_some_and(|found| found != content) {
                    return Err(format!("the {name} is not what it was"));
                }
                if found.is_none() && was_done(name) {
                    return Err(format!("the {name} is lost"));
                }
                // Whoever finds the bytes finds the right to them, too, and need not ask upstream for it.
                let right = member.is_some() && store.received_from(registry, digest).await;
                if found.is_some() && !right {
                    return Err(format!("the {name} is there without its right"));
                }
            }
            let tagged = store.tag(&self.repository, &self.tag).await.map(|record| record.digest);
            let manifest = Digest::of(&self.manifest);
            if tagged.is_some_and(|digest| digest != manifest) || tagged.is_none() && was_done("tag") {
                return Err("the tag is lost".to_owned());
            }
            if was_done("no grant") && !store.grants(&self.repository).await.is_empty() {
                return Err("a right that had ended is back".to_owned());
            }
            Ok(())
        }
    }

    #[test]
    #[ignore = "it is the other half of the test below, in a process of its own"]
    fn a_process_that_is_stopped() {
        let Ok(directory) = std::env::var(DIRECTORY) else { return };
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        runtime.block_on(async {
            let store = open(&Path::new(&directory).join("store")).unwrap();
            let mut notes = log(Path::new(&directory), "done");
            Things::new().write(&store, &mut |what| writeln!(notes, "{what}").unwrap()).await;
            store.0.index.close();
        });
    }

    /// Runs the other process, stopped at a step. `None` if it came to its end.
    fn run(directory: &Path, stop_at: usize) -> Option<Output> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::failpoints::tests::a_process_that_is_stopped", "--ignored"])
            .env(STOP_AT, stop_at.to_string())
            .env(DIRECTORY, directory)
            .output()
            .unwrap();
        let aborted = output.status.signal().is_some();
        assert!(aborted || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        aborted.then_some(output)
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_process_that_stops_at_any_step_of_a_write_loses_nothing_and_leaves_nothing_half_done() {
        let things = Things::new();
        for stop_at in 0.. {
            let directory = tempfile::tempdir().unwrap();
            let stopped = run(directory.path(), stop_at).is_some();
            let (steps, done) =
                (lines(&directory.path().join("steps")), lines(&directory.path().join("done")));
            let store = open(&directory.path().join("store")).unwrap();
            let at = steps.last().cloned().unwrap_or_default();
            let found = things.check(&store, &done).await;
            assert_eq!(found, Ok(()), "stopped at step {stop_at}, {at:?}, after {done:?}");
            let left = fs::read_dir(directory.path().join("store/ingest")).unwrap().count();
            assert_eq!(left, 0, "left behind by step {stop_at}, {at:?}");
            let mut again = Vec::new();
            things.write(&store, &mut |what| again.push(what.to_owned())).await;
            assert_eq!(things.check(&store, &again).await, Ok(()), "after step {stop_at}, {at:?}");
            store.0.index.close();
            if !stopped {
                assert!(stop_at > 40, "only {stop_at} steps: {steps:?}");
                return;
            }
        }
    }
}
