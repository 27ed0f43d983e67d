use std::fs;

use super::*;
use crate::cli::runtimes::containerd_config::{CONFIG, config_of};
use crate::cli::setup::for_tests;

fn machine(config: Option<&str>, hosts: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    if let Some(text) = config {
        write(CONFIG, text);
    }
    for (name, text) in hosts {
        write(&format!("{HOSTS}/{name}/hosts.toml"), text);
    }
    let machine = Machine::under(directory.path());
    (directory, machine)
}

fn request() -> SetupRequest {
    for_tests::request("containerd", "127.0.0.1:5050")
}

fn apply(machine: &Machine, plan: &SetupPlan) {
    plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply(machine).unwrap());
}

#[test]
fn every_version_gets_one_directory_and_gets_its_own_back() {
    for (config, expected) in [
        (None, HOSTS),
        (
            Some("version = 2\n# mine\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n"),
            HOSTS,
        ),
        (
            Some(
                "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d' # mine\n",
            ),
            HOSTS,
        ),
        (
            Some(
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/my/certs.d\" # mine\n",
            ),
            "/my/certs.d",
        ),
        (Some("[plugins.cri]\n"), HOSTS),
        // What `containerd config default` writes.
        (
            Some(
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"\"\n\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n",
            ),
            HOSTS,
        ),
    ] {
        let (directory, machine) = machine(config, &[]);
        apply(&machine, &plan(&machine, &request()).unwrap());
        let text =
            fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).unwrap_or_default();
        assert_eq!(config_of(&text).unwrap().config_path().as_deref(), Some(expected), "{text}");
        if let Some(before) = config {
            assert!(before.lines().all(|l| l.contains("config_path") || text.contains(l)), "{text}");
        }
        let hosts = directory.path().join(expected.trim_start_matches('/')).join("_default/hosts.toml");
        assert!(fs::read_to_string(&hosts).unwrap().contains("[host.\"http://127.0.0.1:5050\"]"));
        let again = plan(&machine, &request()).unwrap();
        assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
        let undo = SetupRequest { undo: true, ..request() };
        apply(&machine, &plan(&machine, &undo).unwrap());
        let text = fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).ok();
        assert_eq!(text.as_deref(), config, "as it was, and a file that was not there is gone");
        assert!(!hosts.exists());
    }
}

#[test]
fn hosts_of_others_stay_after_ours_and_what_hides_it_is_told() {
    let theirs = "server = \"https://registry-1.docker.io\"\n[host.\"https://mirror.corp\"]\n  capabilities = [\"pull\"]\n";
    let (directory, machine) =
        machine(None, &[("_default", theirs), ("quay.io", theirs), ("reg.corp_5000_", "")]);
    let made = plan(&machine, &request()).unwrap();
    apply(&machine, &made);
    let notes = made.notes.join("\n");
    assert!(notes.contains("quay.io hides _default") && notes.contains("reg.corp_5000_ hides"), "{notes}");
    let text =
        fs::read_to_string(directory.path().join("etc/containerd/certs.d/_default/hosts.toml")).unwrap();
    assert!(text.starts_with("server = "), "{text}");
    assert!(text.find("127.0.0.1:5050").unwrap() < text.find("mirror.corp").unwrap(), "{text}");
    let one = SetupRequest { registries: vec!["quay.io".into(), "reg.corp:5000".into()], ..request() };
    apply(&machine, &plan(&machine, &one).unwrap());
    for name in ["quay.io", "reg.corp_5000_"] {
        let path = directory.path().join(format!("etc/containerd/certs.d/{name}/hosts.toml"));
        assert!(fs::read_to_string(path).unwrap().contains("127.0.0.1:5050"), "{name}");
    }
}

#[test]
fn what_would_keep_containerd_from_starting_is_not_written() {
    let old = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://x\"]\n";
    for (config, hosts, strict, part) in [
        (Some(old), "", false, "registry.mirrors"),
        (Some("version = [\n"), "", false, "malformed"),
        (
            Some("[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n"),
            "",
            false,
            "and no version",
        ),
        (Some("version = 9\n"), "", false, "version 9, which is not known"),
        (None, "server = \"https://x\"\n", true, "server of its own"),
        (None, "server = [", false, "malformed"),
    ] {
        let (directory, machine) = machine(config, &[("_default", hosts)]);
        let error = plan(&machine, &SetupRequest { strict, ..request() }).err().unwrap();
        assert!(error.contains(part), "{error}");
        let kept = fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).ok();
        assert_eq!(kept.as_deref(), config);
    }
}

#[test]
fn a_node_with_a_login_of_its_own_is_set_up_and_is_told_who_sees_the_login() {
    let login = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r.corp\".auth]\n  username = \"u\"\n";
    let (_directory, machine) = machine(Some(login), &[]);
    let made = plan(&machine, &request()).unwrap();
    apply(&machine, &made);
    assert!(made.notes[0].contains("not to this cache"), "{:?}", made.notes);
    assert_eq!(config_of(&machine.read(CONFIG)).unwrap().config_path().as_deref(), Some(HOSTS));
    let tls = login.replace(".auth]", ".tls]");
    let (_directory, machine) = self::machine(Some(&tls), &[]);
    assert!(plan(&machine, &request()).err().unwrap().contains("registry.configs.*.tls"));
}

/// What each version prints of itself, and a machine of each kind.
const PRINTED: [(&str, &str); 6] = [
    ("1.6.20", include_str!("../../../tests/containerd-config/v1.6.20-default.toml")),
    ("1.7.34", include_str!("../../../tests/containerd-config/v1.7.34-dump.toml")),
    ("2.1.9", include_str!("../../../tests/containerd-config/v2.1.9-dump.toml")),
    ("2.2.7", include_str!("../../../tests/containerd-config/v2.2.7-dump.toml")),
    ("2.3.4", include_str!("../../../tests/containerd-config/v2.3.4-dump.toml")),
    ("2.4.0-beta.0", include_str!("../../../tests/containerd-config/v2.4.0-beta.0-dump.toml")),
];

#[test]
fn the_configuration_that_each_version_prints_is_wired_and_given_back() {
    for (version, printed) in PRINTED {
        // 1.7 prints itself as its own import.
        let (_directory, machine) = machine(Some(printed), &[]);
        apply(&machine, &plan(&machine, &request()).unwrap());
        let text = machine.read(CONFIG);
        assert_eq!(config_of(&text).unwrap().config_path().as_deref(), Some(HOSTS), "{version}");
        assert_eq!(text.lines().count(), printed.lines().count(), "{version}: one line is another");
        assert!(machine.read(&format!("{HOSTS}/_default/hosts.toml")).contains("127.0.0.1:5050"));
        let again = plan(&machine, &request()).unwrap();
        assert!(again.changes.iter().all(|c| !c.changes_anything()), "{version}: twice is once");
        apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
        assert_eq!(machine.read(CONFIG), printed, "{version}");
    }
}

#[test]
fn an_unknown_version_with_a_known_table_is_wired_and_that_is_said() {
    let config = "version = 5\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = ''\n";
    let (_directory, machine) = machine(Some(config), &[]);
    let made = plan(&machine, &request()).unwrap();
    apply(&machine, &made);
    assert!(made.notes.join("\n").contains("version 5, which is not known here"), "{:?}", made.notes);
    assert!(machine.read(CONFIG).contains(HOSTS));
}

#[test]
fn a_file_that_is_imported_does_not_override_the_directory() {
    let main = "version = 3\nimports = [\"/etc/containerd/config.d/*.toml\", \"more.toml\"]\n";
    let list = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/site/certs.d:/etc/docker/certs.d' # site\n";
    let (directory, machine) = machine(Some(main), &[]);
    let write = |name: &str, text: &str| {
        let path = directory.path().join("etc/containerd").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("config.d/10-site.toml", list);
    write("config.d/ignored.txt", "[");
    write("more.toml", "version = 3\n");
    apply(&machine, &plan(&machine, &request()).unwrap());
    let site = machine.read("/etc/containerd/config.d/10-site.toml");
    assert!(site.contains("config_path = \"/site/certs.d\""), "{site}");
    assert_eq!(machine.read(CONFIG), main, "the file that counts is another");
    assert!(machine.has("/site/certs.d/_default/hosts.toml"));
    let again = plan(&machine, &request()).unwrap();
    assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
    apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
    assert_eq!(machine.read("/etc/containerd/config.d/10-site.toml"), list);
    assert!(!machine.has("/site/certs.d/_default"));
    write("more.toml", "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry.mirrors.\"x\"]\n");
    assert!(plan(&machine, &request()).err().unwrap().contains("more.toml names registries in the old form"));
}

#[test]
fn a_drop_in_for_a_gpu_does_not_take_the_directory_away_in_containerd_1() {
    let main = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n  config_path = \"/etc/containerd/certs.d\"\n";
    let gpu = "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\n  runtime_type = \"io.containerd.runc.v2\"\n";
    for (main, gpu, path_there) in [
        (main.to_owned(), gpu.to_owned(), Some(HOSTS)),
        (main.to_owned(), format!("version = 2\n{gpu}"), Some(HOSTS)),
        (main.replace("  config_path", "  # config_path"), gpu.to_owned(), Some(HOSTS)),
        // 2.x merges them.
        (
            main.replace("version = 2", "version = 3").replace("grpc.v1.cri", "cri.v1.images"),
            gpu.to_owned(),
            None,
        ),
        (main.to_owned(), "[metrics]\n  address = \"127.0.0.1:1338\"\n".to_owned(), None),
    ] {
        let drop_in = "/etc/containerd/conf.d/gpu.toml";
        let (_root, machine) = for_tests::machine(&[(CONFIG, &main), (drop_in, &gpu)]);
        apply(&machine, &plan(&machine, &request()).unwrap());
        let text = machine.read(drop_in);
        assert_eq!(config_of(&text).unwrap().config_path().as_deref(), path_there, "{text}");
        assert_eq!(config_of(&machine.read(CONFIG)).unwrap().config_path().as_deref(), Some(HOSTS));
        let again = plan(&machine, &request()).unwrap();
        assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
        apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
        assert_eq!((machine.read(CONFIG), machine.read(drop_in)), (main, gpu));
    }
}

#[test]
fn drop_ins_that_are_read_by_default_are_read_still() {
    let (directory, machine) = machine(None, &[]);
    let drop_in = directory.path().join("etc/containerd/conf.d/gpu.toml");
    fs::create_dir_all(drop_in.parent().unwrap()).unwrap();
    fs::write(&drop_in, "version = 3\n").unwrap();
    apply(&machine, &plan(&machine, &request()).unwrap());
    assert!(!machine.has(CONFIG), "a config.toml without imports might end the default ones");
    assert!(machine.read("/etc/containerd/conf.d/larder.toml").contains(HOSTS));
    let again = plan(&machine, &request()).unwrap();
    assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
    apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
    assert_eq!(machine.names("/etc/containerd/conf.d"), ["gpu.toml"]);
}

#[test]
fn certificates_in_a_directory_that_is_dropped_still_count_or_are_named() {
    let list = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n";
    let (directory, machine) = machine(Some(list), &[("own.corp", "server = \"https://own.corp\"\n")]);
    for (name, text) in [
        ("reg.corp:5000/ca.crt", "PEM"),
        ("reg.corp:5000/client.cert", "PEM"),
        ("reg.corp:5000/client.key", "PEM"),
        ("own.corp/ca.crt", "PEM"),
        ("other.corp/hosts.toml", "server = \"https://x\"\n"),
        ("empty.corp/README", ""),
    ] {
        let path = directory.path().join("etc/docker/certs.d").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let made = plan(&machine, &request()).unwrap();
    apply(&machine, &made);
    let kept = machine.read(&format!("{HOSTS}/reg.corp_5000_/hosts.toml"));
    assert!(kept.contains("ca = [\"/etc/docker/certs.d/reg.corp:5000/ca.crt\"]"), "{kept}");
    assert!(kept.contains("client.key") && kept.contains("127.0.0.1:5050"), "{kept}");
    let notes = made.notes.join("\n");
    for name in ["own.corp", "other.corp"] {
        assert!(notes.contains(&format!("/etc/docker/certs.d/{name} is not read")), "{notes}");
    }
    assert!(!notes.contains("empty.corp"), "{notes}");
    let again = plan(&machine, &request()).unwrap();
    assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
    apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
    assert_eq!((machine.read(CONFIG).as_str(), machine.names(HOSTS)), (list, vec!["own.corp".to_owned()]));
}

#[test]
fn a_changed_port_leaves_no_dead_mirror_behind() {
    let (_directory, machine) = machine(None, &[("quay.io", "server = \"https://quay.io\"\n")]);
    let old = SetupRequest { url: "http://127.0.0.1:6060".into(), ..request() };
    apply(&machine, &plan(&machine, &old).unwrap());
    apply(&machine, &plan(&machine, &SetupRequest { registries: vec!["quay.io".into()], ..old }).unwrap());
    apply(&machine, &plan(&machine, &request()).unwrap());
    for name in ["_default", "quay.io"] {
        let text = machine.read(&format!("{HOSTS}/{name}/hosts.toml"));
        assert!(text.contains("5050") && !text.contains("6060"), "{text}");
    }
}

#[test]
fn a_directory_that_is_named_with_a_colon_is_edited_and_not_hidden() {
    let theirs = "server = \"https://reg.corp:5000\"\nca = \"/etc/reg.pem\"\n";
    let (_directory, machine) = machine(None, &[("reg.corp:5000", theirs)]);
    let one = SetupRequest { registries: vec!["reg.corp:5000".into(), "new.corp:5000".into()], ..request() };
    apply(&machine, &plan(&machine, &one).unwrap());
    assert_eq!(machine.names(HOSTS), ["new.corp_5000_", "reg.corp:5000"]);
    let text = machine.read(&format!("{HOSTS}/reg.corp:5000/hosts.toml"));
    assert!(text.starts_with(theirs) && text.contains("127.0.0.1:5050"), "{text}");
    apply(&machine, &plan(&machine, &SetupRequest { undo: true, ..request() }).unwrap());
    assert_eq!(machine.read(&format!("{HOSTS}/reg.corp:5000/hosts.toml")), theirs);
}

#[test]
fn certificates_stay_trusted_where_their_directory_is_not_seen() {
    let list = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n  config_path = '/etc/containerd/certs.d:/etc/docker/certs.d'\n";
    let (directory, machine) = machine(Some(list), &[]);
    let theirs = directory.path().join("etc/docker/certs.d/reg.corp:5000");
    fs::create_dir_all(&theirs).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        fs::write(theirs.join(name), "PEM").unwrap();
    }
    apply(&machine, &plan(&machine, &request()).unwrap());
    let path = format!("{HOSTS}/reg.corp_5000_/hosts.toml");
    let before = machine.read(&path);
    assert!(before.contains("ca.crt") && before.contains("client.key"), "{before}");
    fs::remove_dir_all(directory.path().join("etc/docker")).unwrap();
    let mut alone = SetupPlan::default();
    let moved = SetupRequest { url: "http://127.0.0.1:6060".into(), ..request() };
    hosts(&machine, &moved, HOSTS, &mut alone).unwrap();
    apply(&machine, &alone);
    assert_eq!(machine.read(&path), before.replace("5050", "6060"));
    // Where it is seen, and the file is gone, nothing names it.
    fs::create_dir_all(directory.path().join("etc/docker/certs.d")).unwrap();
    apply(&machine, &plan(&machine, &request()).unwrap());
    assert!(!machine.read(&path).contains("ca.crt"));
}
