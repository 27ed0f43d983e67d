use std::fs;

use super::*;
use crate::cli::runtimes::registries_conf::{CONFIG, DROP_INS, is_readable};
use crate::cli::setup::for_tests::{self, machine};

fn request() -> SetupRequest {
    let configured = vec!["registry.corp".into()];
    SetupRequest { configured, ..for_tests::request("crio", "127.0.0.1:5050") }
}

fn apply(machine: &Machine, request: &SetupRequest) -> Vec<String> {
    let plan = plan(machine, request).unwrap();
    plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply(machine).unwrap());
    plan.notes
}

/// What counts on a machine, as podman and CRI-O read it.
fn counts(machine: &Machine) -> Vec<Entry> {
    let all = files(machine);
    in_force(all.iter().flat_map(|file| entries(file, &machine.read(file)).unwrap()).collect())
}

const SITE: &str = "/etc/containers/registries.conf.d/050-site.conf";

#[test]
fn what_a_site_has_blocked_stays_blocked_and_its_mirrors_are_still_asked() {
    let main = "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\nlocation = \"quay.io\"\nblocked = true\n\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"m.corp/hub\" # theirs\ninsecure = true\n\n[[registry.mirror]]\nlocation = \"a.corp\"\n";
    let site = "[[registry]]\nprefix = \"*.io\"\nblocked = true\n[[registry]]\nprefix = \"docker.io/secret\"\nblocked = true\n[[registry]]\nprefix = \"registry.corp/team\"\nlocation = \"registry.corp/team\"\n";
    let inline = "registry = [{location = \"ghcr.io\", mirror = [{location = \"b.corp\"}]}]\n";
    let third = "/etc/containers/registries.conf.d/060-inline.conf";
    let before = [(CONFIG, main), (SITE, site), (third, inline)];
    let (_directory, machine) = machine(&before);
    let notes = apply(&machine, &request()).join("\n");
    let counted = counts(&machine);
    let of = |name: &str| matching(&counted, name).unwrap_or_else(|| panic!("{name}: {counted:#?}"));
    assert!(
        of("quay.io").blocked && of("gcr.io").blocked && of("docker.io/secret/x").blocked,
        "{counted:#?}"
    );
    assert_eq!(of("docker.io").mirrors, ["127.0.0.1:5050/docker.io", "a.corp"]);
    assert_eq!(of("docker.io").location.as_deref(), Some("m.corp/hub"));
    assert_eq!(of("ghcr.io").mirrors, ["127.0.0.1:5050/ghcr.io", "b.corp"]);
    assert_eq!(of("registry.corp/team/x").mirrors, ["127.0.0.1:5050/registry.corp/team"]);
    assert_eq!(of("registry.corp/other").mirrors, ["127.0.0.1:5050/registry.corp"]);
    assert_eq!(of("mcr.microsoft.com").mirrors, ["127.0.0.1:5050/mcr.microsoft.com"]);
    assert_eq!(of("127.0.0.1:5050/docker.io/app").mirrors, [""; 0], "CRI-O pulls by this cache's own name");
    assert!(
        machine
            .read(OURS)
            .contains("prefix = \"127.0.0.1:5050\"\nlocation = \"127.0.0.1:5050\"\ninsecure = true")
    );
    for part in ["blocks quay.io", "blocks *.io, and with it gcr.io", "at m.corp/hub"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    let again = plan(&machine, &request()).unwrap();
    assert!(again.changes.iter().all(|change| !change.changes_anything()), "twice is once");
    // Another port, and back.
    let moved =
        SetupRequest { authority: "127.0.0.1:6060".into(), url: "http://127.0.0.1:6060".into(), ..request() };
    apply(&machine, &moved);
    for file in files(&machine) {
        assert!(!machine.read(&file).contains("5050"), "{file} leads to a port that no daemon has");
    }
    apply(&machine, &SetupRequest { undo: true, ..request() });
    for (path, text) in before {
        assert_eq!(machine.read(path), text, "{path}");
    }
    assert_eq!(machine.names(DROP_INS), ["050-site.conf", "060-inline.conf"]);
}

#[test]
fn no_location_is_written_that_podman_cannot_read() {
    let site = "[[registry]]\nprefix = \"reg.corp:5000/team\"\nlocation = \"reg.corp:5000/team\"\n";
    let (_directory, machine) = machine(&[(CONFIG, site)]);
    let configured = ["reg.corp:5000", "localhost:21000", "registry:5000"].map(str::to_owned).to_vec();
    for strict in [false, true] {
        let request = SetupRequest { configured: configured.clone(), strict, ..request() };
        let notes = apply(&machine, &request).join("\n");
        assert!(notes.contains("registry:5000 cannot be named"), "{notes}");
        let counted = counts(&machine);
        for (name, location) in [
            ("reg.corp:5000/team/app", "127.0.0.1:5050/reg.corp_5000/team"),
            ("reg.corp:5000/other", "127.0.0.1:5050/reg.corp_5000"),
            ("localhost:21000/app", "127.0.0.1:5050/localhost_21000"),
        ] {
            let entry = matching(&counted, name).unwrap_or_else(|| panic!("{name}: {counted:#?}"));
            assert_eq!(entry.mirrors.first().or(entry.location.as_ref()).unwrap(), location, "{name}");
        }
        for entry in &counted {
            assert!(
                entry.mirrors.iter().chain(&entry.location).all(|at| at == &entry.prefix || is_readable(at)),
                "{entry:?}"
            );
        }
        assert_eq!(matching(&counted, "registry:5000"), None, "it is pulled as ever");
        apply(&machine, &SetupRequest { undo: true, ..request });
        assert_eq!(machine.read(CONFIG), site);
    }
    let v6 = SetupRequest { authority: "[::1]:5050".into(), url: "http://[::1]:5050".into(), ..request() };
    let error = plan(&machine, &v6).err().unwrap();
    assert!(error.contains("IPv6") && error.contains("[server] listen"), "{error}");
}

#[test]
fn what_a_package_has_blocked_stays_blocked_and_its_files_are_not_changed() {
    const SHIPPED: &str = "/usr/share/containers/registries.conf.d/000-vendor.conf";
    let shipped =
        "[[registry]]\nlocation = \"quay.io\"\nblocked = true\n[[registry]]\nlocation = \"ghcr.io\"\n";
    let hidden = "[[registry]]\nlocation = \"gcr.io\"\nblocked = true\n";
    let (root, machine) = machine(&[
        (SHIPPED, shipped),
        (
            "/usr/share/containers/registries.rootful.conf.d/020-root.conf",
            "[[registry]]\nlocation = \"docker.io\"\nblocked = true\n",
        ),
        // The site's own of the same name counts in its place.
        ("/usr/share/containers/registries.conf.d/050-site.conf", hidden),
        ("/usr/share/containers/registries.conf", hidden),
        (SITE, ""),
        (CONFIG, ""),
    ]);
    let notes = apply(&machine, &request()).join("\n");
    let counted = counts(&machine);
    let of = |name: &str| matching(&counted, name).unwrap_or_else(|| panic!("{name}: {counted:#?}"));
    assert!(of("quay.io").blocked && of("docker.io").blocked, "{counted:#?}");
    assert_eq!(of("gcr.io").mirrors, ["127.0.0.1:5050/gcr.io"]);
    assert_eq!(of("ghcr.io").mirrors, [""; 0], "what a package says of it is overridden");
    assert!(notes.contains("has ghcr.io, and belongs to a package"), "{notes}");
    assert_eq!(machine.read(SHIPPED), shipped);
    // Where the site has no file of its own, the package's counts.
    fs::remove_file(root.path().join(CONFIG.trim_start_matches('/'))).unwrap();
    assert!(files(&machine).contains(&"/usr/share/containers/registries.conf".to_owned()));
    apply(&machine, &SetupRequest { undo: true, ..request() });
    assert_eq!(machine.read(SHIPPED), shipped);
    assert!(!machine.has(OURS));
}

#[test]
fn nothing_is_pulled_around_this_cache_with_strict_and_undo_gives_back_the_location() {
    let main = "[[registry]]\nlocation = \"docker.io\" # theirs\n";
    let (directory, machine) = machine(&[(CONFIG, main)]);
    let strict = SetupRequest { strict: true, ..request() };
    apply(&machine, &strict);
    let counted = counts(&machine);
    for name in ["docker.io", "quay.io"] {
        let entry = matching(&counted, name).unwrap();
        let here = format!("127.0.0.1:5050/{name}");
        assert_eq!((&entry.location, &entry.mirrors), (&Some(here.clone()), &vec![here]));
    }
    // Others change the file: what they wrote stays.
    let file = directory.path().join(CONFIG.trim_start_matches('/'));
    let blocked = |text: &str| text.replacen("[[registry]]\n", "[[registry]]\nblocked = true\n", 1);
    fs::write(&file, blocked(&machine.read(CONFIG))).unwrap();
    apply(&machine, &SetupRequest { undo: true, ..request() });
    assert_eq!(machine.read(CONFIG), blocked(main));
    fs::write(&file, "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"a\"\n")
        .unwrap();
    assert!(plan(&machine, &strict).err().unwrap().contains("has mirrors for docker.io"));
}

#[test]
fn a_runtime_that_cannot_send_the_gates_header_is_not_silently_led_around_the_cache() {
    let (directory, machine) = machine(&[]);
    let file = directory.path().join("gate");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!("[server]\ngate_header = \"X-Node-Key\"\ngate_file = \"{}\"", file.display());
    let environment = crate::config::Environment { home: Some("/h".into()), ..Default::default() };
    let settings = crate::config::resolve(&text, &environment).unwrap();
    let gate = crate::serve::Gate::read(&settings.serve.gate.unwrap()).unwrap();
    let error = plan(&machine, &SetupRequest { gate: Some(gate), ..request() }).err().unwrap();
    assert!(error.contains("no header"), "{error}");
}

#[test]
fn no_setup_leads_a_registry_with_a_port_to_what_podman_cannot_read() {
    let main = "[[registry]]\nlocation = \"reg.corp\"\n";
    let site = "[[registry]]\nprefix = \"*.closed.corp\"\nblocked = true\n";
    let (_directory, machine) = machine(&[(CONFIG, main), (SITE, site)]);
    let names = ["reg.corp", "reg.corp:5000", "a.closed.corp:5000"].map(str::to_owned);
    let notes = apply(&machine, &SetupRequest { configured: names.to_vec(), ..request() }).join("\n");
    assert!(notes.contains("Name reg.corp:5000 there by itself"), "{notes}");
    let counted = counts(&machine);
    let of = |name: &str| matching(&counted, name).unwrap_or_else(|| panic!("{name}: {counted:#?}"));
    assert!(
        of("reg.corp:5000/app").mirrors.is_empty() && of("a.closed.corp:5000/app").blocked,
        "{counted:#?}"
    );
}

#[test]
fn no_setup_turns_off_the_verification_of_certificates_in_pushes_and_logins() {
    let main = "[[registry]]\nlocation = \"docker.io\"\n\n[[registry]]\nlocation = \"ghcr.io\"\ninsecure = false\n\n[[registry]]\nlocation = \"registry.corp\"\ninsecure = true\n";
    // As an earlier version wrote it with --strict.
    let earlier = main
        .replace("docker.io\"\n", &format!("127.0.0.1:5050/docker.io\" {MARK}{BEFORE}\"docker.io\"\nprefix = \"docker.io\" {MARK}{BEFORE}{NONE}\ninsecure = true {MARK}{BEFORE}{NONE}\n"))
        .replace("insecure = false", &format!("insecure = true {MARK}{BEFORE}false"));
    assert!(without_mirrors(&earlier).as_deref() == Some(main), "{earlier}");
    for before in [main, earlier.as_str()] {
        let (_directory, machine) = machine(&[(CONFIG, before)]);
        for strict in [true, false] {
            apply(&machine, &SetupRequest { strict, ..request() });
            for file in files(&machine) {
                let document: DocumentMut = machine.read(&file).parse().unwrap();
                for table in document["registry"].as_array_of_tables().unwrap() {
                    let insecure = table.get("insecure").and_then(Item::as_bool).unwrap_or_default();
                    let prefix = prefix_of(table).unwrap();
                    let may = ["127.0.0.1:5050", "registry.corp"].contains(&prefix.as_str());
                    assert!(!insecure || may, "{strict}: {prefix} in {file}");
                    let mirrors = table.get("mirror").and_then(Item::as_array_of_tables);
                    let mirror = mirrors.and_then(|mirrors| mirrors.get(0)?.get("insecure")?.as_bool());
                    assert!(
                        prefix == "127.0.0.1:5050" || mirror == Some(true),
                        "{strict}: {prefix} in {file}"
                    );
                }
            }
        }
        apply(&machine, &SetupRequest { undo: true, ..request() });
        assert_eq!(machine.read(CONFIG), main);
    }
}

#[test]
fn what_must_be_signed_gets_no_mirror_through_which_no_signature_is_found() {
    let policy = r#"{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {
        "ghcr.io/team": [{"type": "sigstoreSigned"}], "quay.io": [{"type": "signedBy"}],
        "docker.io/a/app": [{"type": "signedBy"}], "docker.io/b": [{"type": "signedBy"}],
        "registry.corp/team": [{"type": "signedBy"}], "other.corp": [{"type": "signedBy"}]}}}"#;
    let main = "[[registry]]\nlocation = \"docker.io\"\n[[registry]]\nlocation = \"docker.io/a\"\n[[registry]]\nlocation = \"docker.io/b\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/docker.io/b\"\n[[registry]]\nlocation = \"registry.corp\"\nmirror = [{location = \"127.0.0.1:5050/registry.corp\"}]\n";
    let before = [(CONFIG, main), ("/etc/containers/policy.json", policy)];
    let (_directory, machine) = machine(&before);
    let error = plan(&machine, &SetupRequest { strict: true, ..request() }).err().unwrap();
    assert!(error.contains("policy.json demands signatures of docker.io/a/app, "), "{error}");
    let registries = vec!["gcr.io".to_owned()];
    assert!(plan(&machine, &SetupRequest { strict: true, registries, ..request() }).is_ok());
    let notes = apply(&machine, &request());
    let counted = counts(&machine);
    for (name, is_cached) in [
        ("ghcr.io/other", true),
        ("ghcr.io/team/app", false),
        ("quay.io/app", false),
        ("docker.io/library/app", true),
        ("docker.io/a/app", false),
        ("docker.io/b/app", false),
        ("registry.corp/other", false),
        ("gcr.io/app", true),
    ] {
        let entry = matching(&counted, name);
        assert_eq!(entry.is_some_and(|entry| !entry.mirrors.is_empty()), is_cached, "{name}: {counted:#?}");
        assert!(entry.is_none_or(|entry| entry.location.as_ref() == Some(&entry.prefix)), "{name}");
    }
    for part in [
        "signatures of ghcr.io/team, which podman and CRI-O do not find through a mirror: that is pulled without",
        "signatures of quay.io, ",
        "registry.corp of /etc/containers/registries.conf is pulled without this cache. Give that an entry",
    ] {
        assert!(notes.iter().any(|note| note.contains(part)), "{part}: {notes:#?}");
    }
    let again = plan(&machine, &request()).unwrap();
    assert!(again.changes.iter().all(|change| !change.changes_anything()), "twice is once");
    apply(&machine, &SetupRequest { undo: true, ..request() });
    assert_eq!((machine.read(CONFIG).as_str(), machine.has(OURS)), (main, false), "what a hand wrote too");
}

#[test]
fn what_a_hand_led_to_another_address_of_this_cache_loses_its_mirror_where_it_must_be_signed() {
    let policy = r#"{"transports": {"docker": {"quay.io": [{"type": "signedBy"}], "ghcr.io/team": [{"type": "signedBy"}]}}}"#;
    let addresses = ["127.0.0.1:5050", "127.0.0.2:5050"];
    let request = || SetupRequest { authorities: addresses.map(str::to_owned).to_vec(), ..request() };
    for authority in addresses {
        let set_up = |conf: &str| {
            let files = [(CONFIG, conf), ("/etc/containers/policy.json", policy)];
            let (_directory, machine) = machine(&files);
            let notes = apply(&machine, &request()).join("\n");
            (machine.read(CONFIG), notes)
        };
        let mirror = format!(
            "[[registry]]\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"{authority}/quay.io\"\n"
        );
        let (text, notes) = set_up(&mirror);
        assert!(!text.contains(authority) && notes.contains("is pulled without this cache"), "{text}{notes}");
        let located =
            |name: &str| format!("[[registry]]\nprefix = \"{name}\"\nlocation = \"{authority}/{name}\"\n");
        let (_, notes) = set_up(&located("quay.io"));
        assert!(
            notes.contains(
                "quay.io of /etc/containers/registries.conf has its location here, and is not pulled at all"
            ),
            "{notes}"
        );
        // The rest of it is.
        let (_, notes) = set_up(&located("ghcr.io"));
        assert!(notes.contains("signatures of ghcr.io/team, which podman and CRI-O do not find through a mirror: that is not pulled at all, since ghcr.io of"), "{notes}");
        assert!(
            notes.contains("Give that an entry of its own") && !notes.contains("and is not pulled"),
            "{notes}"
        );
        // What need not be signed is asked for at the first address alone.
        let (text, _) = set_up(&mirror.replace("quay.io", "gcr.io"));
        assert_eq!(text.matches("127.0.0.").count(), 1, "{text}");
    }
}
