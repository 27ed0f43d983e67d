use std::fs;

use super::*;
use crate::cli::setup::for_tests;

fn request(url: &str) -> SetupRequest {
    for_tests::request("docker", url)
}

fn machine(daemon: Option<&str>) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("etc/docker")).unwrap();
    if let Some(text) = daemon {
        fs::write(directory.path().join("etc/docker/daemon.json"), text).unwrap();
    }
    let machine = Machine::under(directory.path());
    (directory, machine)
}

fn apply(machine: &Machine, request: &SetupRequest) {
    let plan = plan(machine, request).unwrap();
    plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply(machine).unwrap());
}

#[test]
fn the_mirror_comes_first_a_changed_port_leaves_no_dead_one_and_undo_gives_back_the_bytes() {
    let pretty = "{\n  \"storage-driver\": \"overlay2\",\n  \"registry-mirrors\": [\n    \"https://m.corp\"\n  ],\n  \"debug\": true\n}\n";
    let by_hand =
        "{\"registry-mirrors\":[\"https://m.corp\", \"http://127.0.0.1:5050/\"] , \"debug\" : true}";
    for before in
        [Some(pretty), Some(by_hand), Some("{}"), Some(""), Some("{\"registry-mirrors\":null}\n"), None]
    {
        let (_directory, machine) = machine(before);
        let old = SetupRequest { registries: vec!["quay.io".into()], ..request("127.0.0.1:6060") };
        apply(&machine, &old);
        apply(&machine, &request("127.0.0.1:5050"));
        let text = machine.read(CONFIG);
        let config: Value = serde_json::from_str(&text).unwrap();
        let mirrors: Vec<&str> =
            config[MIRRORS].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
        let others = usize::from(before.is_some_and(|text| text.contains("m.corp")));
        assert_eq!((mirrors[0], mirrors.len()), ("http://127.0.0.1:5050", 1 + others), "{text}");
        assert!(!machine.has("/etc/docker/certs.d/quay.io"), "it leads to a port that no daemon has");
        let again = plan(&machine, &request("127.0.0.1:5050")).unwrap();
        assert!(again.changes.iter().all(|change| !change.changes_anything()), "twice is once");
        apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:7070") });
        assert_eq!(machine.text(CONFIG).ok().as_deref(), before);
        assert_eq!(machine.names("/etc/docker/certs.d"), [""; 0]);
        assert!(machine.names("/etc/docker").iter().all(|name| name == "daemon.json" || name == "certs.d"));
    }
}

#[test]
fn an_old_port_is_removed_though_others_have_changed_the_file_since() {
    let (directory, machine) = machine(Some("{\"debug\":true}"));
    apply(&machine, &request("127.0.0.1:6060"));
    let text = machine.read(CONFIG).replace("true", "false");
    fs::write(directory.path().join("etc/docker/daemon.json"), text).unwrap();
    apply(&machine, &request("127.0.0.1:5050"));
    let text = machine.read(CONFIG);
    assert!(text.contains("5050") && !text.contains("6060") && text.contains("false"), "{text}");
    apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:5050") });
    assert_eq!(machine.read(CONFIG), "{\n  \"debug\":false\n}");
}

#[test]
fn an_operator_who_looks_at_the_difference_finds_the_mirror_and_no_other_change() {
    let theirs = "{\n\t\"debug\" : true,\r\n\n\t\"log-opts\":{\"max-size\":\"10m\",   \"max-file\":\"3\"}";
    for mirrors in
        ["", ",\n\t\"registry-mirrors\": null", ",\n\t\"registry-mirrors\" :[\n\t\t\"https://m.corp\"\n\t]"]
    {
        let before = format!("{theirs}{mirrors}\n}}\n\n");
        let (directory, machine) = machine(Some(&before));
        apply(&machine, &request("127.0.0.1:5050"));
        let after = machine.read(CONFIG);
        assert!(after.starts_with(theirs) && after.ends_with("\n}\n\n"), "{after:?}");
        let config: Value = serde_json::from_str(&after).unwrap();
        assert_eq!(config[MIRRORS][0], "http://127.0.0.1:5050", "{after}");
        assert_eq!(config[MIRRORS].as_array().unwrap().len(), 1 + usize::from(mirrors.contains("m.corp")));
        // Others have changed the file since, so that the copy that was kept does not count.
        let changed = after.replace("true", "false");
        fs::write(directory.path().join("etc/docker/daemon.json"), &changed).unwrap();
        apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:5050") });
        let theirs = theirs.replace("true", "false");
        assert!(machine.read(CONFIG).starts_with(&theirs), "{:?}", machine.read(CONFIG));
        assert!(!machine.read(CONFIG).contains("5050"));
    }
}

#[test]
fn what_an_operator_wrote_by_hand_stays_when_nothing_was_set_up() {
    for by_hand in [
        "{\"registry-mirrors\":[\"http://127.0.0.1:5050/\"]}",
        "{\"registry-mirrors\":[\"https://m.corp\",\"http://127.0.0.1:5050/\"]}",
    ] {
        let (_directory, machine) = machine(Some(by_hand));
        let undo = SetupRequest { undo: true, ..request("127.0.0.1:5050") };
        apply(&machine, &undo);
        assert_eq!(machine.read(CONFIG), by_hand);
        apply(&machine, &request("127.0.0.1:5050"));
        apply(&machine, &undo);
        assert_eq!(machine.read(CONFIG), by_hand);
    }
}

#[test]
fn a_file_that_docker_does_not_start_with_is_not_touched() {
    for text in ["{", "{\"registry-mirrors\": 5}"] {
        let (_directory, machine) = machine(Some(text));
        assert!(plan(&machine, &request("127.0.0.1:5050")).is_err(), "{text}");
    }
}

#[test]
fn a_mirror_that_would_refuse_every_pull_is_not_written_and_that_is_said() {
    let (directory, machine) = machine(Some("{}\n"));
    let file = directory.path().join("gate");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let gate = crate::config::resolve(
        &format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = \"{}\"", file.display()),
        &crate::config::Environment { home: Some("/h".into()), ..Default::default() },
    );
    let gate = crate::serve::Gate::read(&gate.unwrap().serve.gate.unwrap()).unwrap();
    apply(&machine, &request("127.0.0.1:5050"));
    let gated = SetupRequest { gate: Some(gate), ..request("127.0.0.1:5050") };
    assert!(plan(&machine, &gated).unwrap().notes.iter().any(|note| note.contains("no header")));
    apply(&machine, &gated);
    assert_eq!(machine.read(CONFIG), "{}\n", "an earlier entry is taken back");
    assert!(machine.read("/etc/docker/certs.d/docker.io/hosts.toml").contains("x-node-key"));
    let hosts = directory.path().join("etc/docker/certs.d/docker.io/hosts.toml");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(hosts).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "every user who reads the file can speak to the cache");
}
