//! Real programs take the place of a cloud's plugin.

use std::os::unix::fs::PermissionsExt;

use tokio::time::Instant;

use super::*;
use crate::credentials::patience::PATIENCE;

struct Plugin {
    directory: tempfile::TempDir,
    providers: Providers,
    tasks: Tasks,
}

/// A shell script that counts its runs and answers; `%` in it stands for its directory.
fn plugin(script: &str) -> Plugin {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_str().unwrap();
    let program = directory.path().join("plugin");
    std::fs::write(&program, format!("#!/bin/sh\necho x >> {at}/runs\n{}\n", script.replace('%', at)))
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = directory.path().join("config.yaml");
    std::fs::write(
        &config,
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: plugin\n  matchImages: [\"*.test\", \"*.evil.test\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [one, two]\n  env: [{name: MARK, value: m}]\n",
    )
    .unwrap();
    let tasks = Tasks::default();
    let providers = Providers::new(read(&config).unwrap(), directory.path(), &tasks, RunPlaces::default());
    Plugin { directory, providers, tasks }
}

impl Plugin {
    fn runs(&self) -> usize {
        std::fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
    }

    async fn users(&self, image: &str) -> Vec<String> {
        let ring = self.providers.ring(image).await.ring;
        let name = |provided: &ProvidedCredential| {
            provided.credential.as_ref().map_or("-".to_owned(), |c| c.username().to_owned())
        };
        ring.lookup(image).iter().map(|(_, provided)| name(provided)).collect()
    }
}

fn answer(cache_key_type: &str, duration: &str, auth: &str) -> String {
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"{cache_key_type}","cacheDuration":{duration},"auth":{auth}}}'"#
    )
}

const ANY: &str = r#"{"*.test":{"username":"u","password":"p"}}"#;

#[tokio::test]
async fn a_plugin_is_run_as_kubelet_runs_it() {
    let plugin =
        plugin(&format!("cat > %/stdin; echo \"$@ $MARK $PATH\" > %/args; {}", answer("Image", "null", ANY)));
    assert_eq!(plugin.users("a.test/team/app").await, ["u"]);
    let stdin: serde_json::Value =
        serde_json::from_slice(&std::fs::read(plugin.directory.path().join("stdin")).unwrap()).unwrap();
    assert_eq!(stdin["image"], "a.test/team/app");
    let args = std::fs::read_to_string(plugin.directory.path().join("args")).unwrap();
    assert!(
        args.starts_with("one two m /"),
        "the configured variables come after our own environment: {args}"
    );
    assert!(plugin.users("a.b.test/x").await.is_empty() && plugin.users("other.io/x").await.is_empty());
    assert!(
        plugin.providers.is_responsible_for("a.test/x") && !plugin.providers.is_responsible_for("b.io/x")
    );
    assert_eq!(plugin.runs(), 1, "and for nothing else");
}

#[tokio::test]
async fn a_response_is_cached_for_the_images_that_it_names() {
    for (cache_key_type, images, runs) in [
        ("Image", ["a.test/x", "a.test/x", "a.test/y"], 2),
        ("Registry", ["a.test/x", "a.test/y", "b.test/x"], 2),
        ("Global", ["a.test/x", "a.test/y", "b.test/x"], 1),
    ] {
        let plugin = plugin(&answer(cache_key_type, "\"1h\"", ANY));
        for image in images {
            assert_eq!(plugin.users(image).await, ["u"], "{cache_key_type} {image}");
        }
        assert_eq!(plugin.runs(), runs, "{cache_key_type}");
        plugin.providers.forget("a.test/x");
        plugin.users("a.test/x").await;
        assert_eq!(plugin.runs(), runs + 1, "{cache_key_type}: a forgotten response is requested again");
    }
    let not_cached = plugin(&answer("Global", "\"0s\"", ANY));
    for _ in 0..2 {
        not_cached.users("a.test/x").await;
    }
    assert_eq!(not_cached.runs(), 2);
}

#[tokio::test]
async fn equal_requests_at_the_same_time_run_a_plugin_once() {
    let plugin =
        plugin(&format!("while [ ! -e %/go ]; do sleep 0.01; done; {}", answer("Image", "\"0s\"", ANY)));
    let all = join_all((0..20).map(|_| plugin.users("a.test/x")));
    let open = async {
        while plugin.runs() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(plugin.directory.path().join("go"), "").unwrap();
    };
    let (all, ()) = tokio::join!(all, open);
    assert!(all.iter().all(|users| users == &["u"]));
    assert_eq!(plugin.runs(), 1);
}

#[tokio::test]
async fn the_images_of_a_pod_that_ask_at_once_run_a_plugin_as_often_as_kubelet_does() {
    for (kind, runs) in [("Registry", 1 + 2), ("Global", 1 + 1), ("Image", 1 + 4)] {
        let script = format!(
            "while [ -e %/hold ] && [ ! -e %/go ]; do sleep 0.01; done; {}",
            answer(kind, "\"1h\"", ANY)
        );
        let plugin = plugin(&script);
        // Its first response says for which images it counts; it ends.
        plugin.users("first.test/x").await;
        plugin.providers.forget("first.test/x");
        std::fs::write(plugin.directory.path().join("hold"), "").unwrap();
        let all = join_all(["a.test/x", "a.test/y", "a.test/z", "b.test/x"].map(|image| plugin.users(image)));
        let open = async {
            while plugin.runs() < runs {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            std::fs::write(plugin.directory.path().join("go"), "").unwrap();
        };
        let (all, ()) = tokio::join!(all, open);
        assert!(all.iter().all(|users| users == &["u"]), "{kind}: {all:?}");
        assert_eq!(plugin.runs(), runs, "{kind}");
    }
}

#[tokio::test]
async fn a_plugin_that_answers_otherwise_than_last_time_gives_each_image_its_own() {
    let plugin = plugin(&format!(
        "if [ -e %/second ]; then {}; else touch %/second; {}; fi",
        answer("Image", "\"0s\"", ANY),
        answer("Global", "\"0s\"", ANY)
    ));
    plugin.users("first.test/x").await;
    let all = join_all(["a.test/x", "a.test/y", "b.test/x"].map(|image| plugin.users(image))).await;
    assert!(all.iter().all(|users| users == &["u"]), "{all:?}");
    assert_eq!(plugin.runs(), 1 + 3);
}

#[tokio::test]
async fn a_plugin_that_fails_gives_no_credential_and_is_not_run_at_once_again() {
    for script in [
        "exit 1".to_owned(),
        "echo oops >&2; kill -9 $$".to_owned(),
        "echo '{}'".to_owned(),
        "true".to_owned(),
        "yes | head -c 1000000".to_owned(),
        answer("Image", "null", ANY).replace("k8s.io/v1\"", "k8s.io/v1beta1\""),
        answer("Cluster", "null", ANY),
    ] {
        let plugin = plugin(&script);
        for _ in 0..3 {
            assert!(plugin.users("a.test/x").await.is_empty(), "{script}");
        }
        assert_eq!(plugin.runs(), 1, "{script}");
    }
    let missing = plugin("true");
    std::fs::remove_file(missing.directory.path().join("plugin")).unwrap();
    assert!(missing.users("a.test/x").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_hangs_costs_one_pull_seconds_and_is_ended_after_kubelets_minute() {
    let plugin = plugin("exec sleep 100000");
    let before = Instant::now();
    // The clock of this test jumps as soon as nothing else is to be done.
    let all = join_all((0..3).map(|_| plugin.providers.ring("a.test/x"))).await;
    assert!(all.iter().all(|provided| provided.incomplete));
    assert_eq!(before.elapsed(), PATIENCE, "more than one run was waited for");
    assert!(plugin.users("a.test/x").await.is_empty());
    assert_eq!(before.elapsed(), PATIENCE, "it was waited for again");
    // The program is real and keeps no paused clock: it may not have begun yet.
    while plugin.runs() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(plugin.runs(), 1);
    assert_eq!(plugin.tasks.finish(WAIT).await, 0, "the program outlived its time");
    assert!(before.elapsed() >= WAIT - PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn names_that_clients_invent_start_no_more_plugins_than_may_run_at_a_time() {
    let plugin = plugin("exec sleep 100000");
    // The clock of this test jumps as soon as nothing else is to be done.
    let images: Vec<String> = (0..200).map(|n| format!("x{n}.test/a")).collect();
    let all = join_all(images.iter().map(|image| plugin.providers.ring(image))).await;
    assert!(all.iter().all(|provided| provided.incomplete), "that there was no place is no denial");
    // The programs are real and keep no paused clock: they may not have begun yet.
    while plugin.runs() < 16 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(plugin.runs(), 16);
    assert_eq!(plugin.tasks.finish(WAIT).await, 0);
    assert_eq!(plugin.runs(), 16, "a run that nobody waited for was begun after all");
}

#[tokio::test]
async fn plugins_that_run_for_the_names_of_one_owner_leave_places_for_others() {
    let script = format!(
        "if grep -q evil; then echo x >> %/evil; while [ ! -e %/go ]; do sleep 0.01; done; fi; {}",
        answer(
            "Image",
            "\"1h\"",
            r#"{"*.test":{"username":"u","password":"p"},"*.evil.test":{"username":"e","password":"p"}}"#
        )
    );
    let plugin = plugin(&script);
    let evil =
        || std::fs::read_to_string(plugin.directory.path().join("evil")).unwrap_or_default().lines().count();
    let images: Vec<String> = (0..20).map(|n| format!("x{n}.evil.test/a")).collect();
    let hanging = join_all(images.iter().map(|image| plugin.users(image)));
    let other = async {
        while evil() < 8 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let users = plugin.users("a.test/x").await;
        let others_ran = evil();
        std::fs::write(plugin.directory.path().join("go"), "").unwrap();
        (users, others_ran)
    };
    let (_, (users, others_ran)) = tokio::join!(hanging, other);
    assert_eq!((users, others_ran), (vec!["u".to_owned()], 8));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_found_no_place_for_its_plugin_is_not_taken_for_one_whose_plugin_fails() {
    let plugin = plugin(&answer("Image", "\"1h\"", ANY));
    let places = &plugin.providers.0.places;
    let held = join_all((0..16).map(|n| async move { places.take(&format!("x{n}.org/a")).await })).await;
    assert!(held.iter().all(Option::is_some));
    for _ in 0..2 {
        let before = Instant::now();
        assert!(plugin.providers.ring("a.test/x").await.incomplete);
        assert!(before.elapsed() > PATIENCE / 2, "it was not waited for again");
    }
    assert_eq!(plugin.runs(), 0);
    drop(held);
    tokio::time::resume();
    assert_eq!(plugin.users("a.test/x").await, ["u"], "a failure is remembered that there was not");
}
