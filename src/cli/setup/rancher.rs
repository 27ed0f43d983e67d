//! k3s and RKE2: `registries.yaml`, from which they write their containerd's configuration at every start.
//!
//! Nothing is written that they write themselves (`config.toml`, `certs.d` below their data directory). What is not
//! edited as text is refused, with the lines that are to be added by hand.

use serde_json::{Map, Value};

use super::change::Change;
use super::plan::{SetupPlan, SetupRequest};
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::registries_yaml::{
    ALL, Emptied, endpoints, endpoints_mut, extended, leads_to, read, reduced, rewritten, shown,
};

const HEAD: &str = "# Written by `larder setup`, removed by `larder setup --undo`.\n";
/// Above what was there before.
const HEAD_OF_THEIRS: &str =
    "# Extended by `larder setup`. As it was, it is kept beside this file for `larder setup --undo`.\n";
/// What stood there before that.
const HEAD_OF_EARLIER: &str = "# Extended by `larder setup`. As it was, with its comments, it is kept beside this file for `larder setup --undo`.\n";

/// What is to be done about a mirror with a rewrite, so that its images are pulled through this cache.
pub(in crate::cli) const REWRITE_REMEDY: &str = "If the mirror has the images by their own names too, remove the rewrite here and name the mirror in endpoints of a [[registry]] of this cache";

/// Where a distribution has its files, and how it is restarted.
pub(super) struct Rancher {
    pub(super) directory: &'static str,
    pub(super) restart: &'static str,
}

pub(super) const K3S: Rancher =
    Rancher { directory: "/etc/rancher/k3s", restart: "systemctl restart k3s (on an agent: k3s-agent)" };
pub(super) const RKE2: Rancher = Rancher {
    directory: "/etc/rancher/rke2",
    restart: "systemctl restart rke2-server (on an agent: rke2-agent)",
};

pub(super) fn plan(machine: &Machine, request: &SetupRequest, of: &Rancher) -> Result<SetupPlan, String> {
    let path = format!("{}/registries.yaml", of.directory);
    let name = request.runtime;
    refuse(request, &path)?;
    let mut change = Change::read(machine, &path)?;
    change.carries_no_mark = true;
    let malformed = |at: String| format!("{path} is malformed, and {name} does not start with it: {at}");
    let mut urls: Vec<String> = request.urls();
    urls.extend(change.led_to().map(str::to_owned));
    let remove = |text: &str| without(text, &urls).unwrap_or_else(|NotEdited| Some(text.to_owned()));
    let mut plan = SetupPlan { restart: Some(of.restart), shown: Some(shown), ..SetupPlan::default() };
    let by_hand = |what: &str| {
        format!("{path} has a form that is not edited here, and nothing was written. By hand: {what}")
    };
    if change.is_changed_by_others() && without(change.text(), &urls).is_err() {
        return Err(by_hand(&format!("remove the endpoint {}", urls.join(" and "))));
    }
    if request.undo {
        plan.changes.push(change.undone(&remove));
        return Ok(plan);
    }
    let original = change.original(&remove);
    let mut text = original.clone().unwrap_or_default();
    let mut file = read(&text).map_err(malformed)?;
    let named = endpoints(&file);
    let mut wanted: Vec<String> = request.registries.clone();
    if wanted.is_empty() {
        // Those that are named are not among all the others.
        wanted =
            named.iter().map(|(registry, _)| registry.clone()).filter(|registry| registry != ALL).collect();
        wanted.insert(0, ALL.to_owned());
    }
    let rewritten = rewritten(&file);
    wanted.retain(|registry| !rewritten.contains(registry));
    plan.notes.extend(rewritten.iter().map(|registry| {
        format!("{path}: the mirror of {registry} has a rewrite, and was not changed: {name} would ask this cache by the rewritten name. {REWRITE_REMEDY}")
    }));
    for registry in &wanted {
        let listed = endpoints_mut(&mut file, registry)
            .ok_or_else(|| format!("{path}: mirrors of {registry} in a form that {name} does not read"))?;
        let is_first = listed.first().is_some_and(|first| first.as_str() == Some(&request.url));
        if is_first && !listed.iter().skip(1).any(|endpoint| is_ours(endpoint, &urls)) {
            continue;
        }
        listed.retain(|endpoint| !is_ours(endpoint, &urls));
        listed.insert(0, Value::from(request.url.as_str()));
        let list = strings(listed);
        // What is written must be what was meant.
        let done = list.and_then(|list| extended(&text, registry, &list));
        text = done.filter(|text| read(text).as_ref() == Ok(&file)).ok_or_else(|| {
            let registries = wanted.join(" and ");
            by_hand(&format!(
                "in mirrors, for {registries}, put {} first in the list \"endpoint\"",
                request.url
            ))
        })?;
    }
    let head = match &original {
        // By hand.
        Some(original) if *original == text => "",
        Some(_) => HEAD_OF_THEIRS,
        None => HEAD,
    };
    plan.changes.push(change.becomes(format!("{head}{text}"), &request.url, &remove));
    plan.notes.push(format!("{name} makes its containerd's files from {path} when it starts, and sends the pods' credentials to a mirror as containerd does"));
    Ok(plan)
}

/// Refuses what the distribution cannot be told by that file.
fn refuse(request: &SetupRequest, path: &str) -> Result<(), String> {
    let name = request.runtime;
    if request.strict {
        return Err(format!(
            "{name} turns to the registry itself when a mirror does not have something, unless it was started with \
             --disable-default-registry-endpoint: start it so, and run this without --strict"
        ));
    }
    if request.gate.is_some() && !request.undo {
        return Err(format!(
            "[server] gate_header is set, and {name} has no header for a mirror in {path}: this cache would refuse its every \
             request, and {name} would pull around it. Nothing was written. allow_uids restricts who may connect without a header"
        ));
    }
    Ok(())
}

fn is_ours(endpoint: &Value, urls: &[String]) -> bool {
    endpoint.as_str().is_some_and(|endpoint| urls.iter().any(|url| leads_to(endpoint, url)))
}

fn strings(list: &[Value]) -> Option<Vec<String>> {
    list.iter().map(|endpoint| endpoint.as_str().map(str::to_owned)).collect()
}

/// A file has a form that is not edited here.
struct NotEdited;

/// The file without these endpoints, `None` if nothing is left; a registry that had no other is not named any more.
fn without(text: &str, urls: &[String]) -> Result<Option<String>, NotEdited> {
    let heads = [HEAD, HEAD_OF_THEIRS, HEAD_OF_EARLIER];
    let mut left = heads.iter().find_map(|head| text.strip_prefix(head)).unwrap_or(text).to_owned();
    let Ok(mut file) = read(text) else { return Ok(Some(text.to_owned())) };
    let named: Vec<String> = endpoints(&file).into_iter().map(|(registry, _)| registry).collect();
    let mut found = false;
    for registry in named {
        let Some(listed) = endpoints_mut(&mut file, &registry) else { continue };
        let before = listed.len();
        listed.retain(|endpoint| !is_ours(endpoint, urls));
        if listed.len() == before {
            continue;
        }
        found = true;
        let list = strings(listed).ok_or(NotEdited)?;
        let emptied = if list.is_empty() { forget(&mut file, &registry) } else { Emptied::Nothing };
        left = reduced(&left, &registry, &list, emptied).ok_or(NotEdited)?;
        if read(&left).as_ref() != Ok(&file) {
            return Err(NotEdited);
        }
    }
    match found {
        false => Ok(Some(text.to_owned())),
        true => Ok((!left.trim().is_empty()).then_some(left)),
    }
}

/// Removes what has nothing in it any more.
fn forget(file: &mut Map<String, Value>, registry: &str) -> Emptied {
    let Some(mirrors) = file.get_mut("mirrors").and_then(Value::as_object_mut) else {
        return Emptied::Nothing;
    };
    let Some(mirror) = mirrors.get_mut(registry).and_then(Value::as_object_mut) else {
        return Emptied::Nothing;
    };
    mirror.shift_remove("endpoint");
    if !mirror.is_empty() {
        return Emptied::Endpoints;
    }
    mirrors.shift_remove(registry);
    if !mirrors.is_empty() {
        return Emptied::Registry;
    }
    file.shift_remove("mirrors");
    Emptied::Mirrors
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::setup::for_tests;

    fn request(url: &str) -> SetupRequest {
        for_tests::request("k3s", url)
    }

    fn apply(machine: &Machine, request: &SetupRequest) {
        let plan = plan(machine, request, &K3S).unwrap();
        plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply(machine).unwrap());
    }

    const FILE: &str = "/etc/rancher/k3s/registries.yaml";

    #[test]
    fn every_registry_leads_here_first_and_undo_gives_back_comments_too() {
        let theirs = "# ours since 2021\nmirrors:\n  docker.io:\n    endpoint: [\"https://m.corp\"] # hub\nconfigs:\n  m.corp:\n    auth: {username: u, password: p}\n";
        for before in [
            None,
            Some(theirs),
            Some("# empty\n"),
            Some("mirrors:\n  '*':\n    endpoint:\n    - http://127.0.0.1:5050/v2\n"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let machine = Machine::under(directory.path());
            fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
            let file = directory.path().join("etc/rancher/k3s/registries.yaml");
            before.iter().for_each(|text| fs::write(&file, text).unwrap());
            let made = plan(&machine, &request("127.0.0.1:6060"), &K3S).unwrap();
            let shown = made.changes[0].difference(made.shown);
            assert!(shown.contains("6060") && !shown.contains("password"), "{shown}");
            apply(&machine, &request("127.0.0.1:6060"));
            apply(&machine, &request("127.0.0.1:5050"));
            let text = machine.read(FILE);
            let named = endpoints(&read(&text).unwrap());
            assert!(named.iter().all(|(_, urls)| urls[0] == "http://127.0.0.1:5050"), "{text}");
            assert!(named.iter().any(|(registry, _)| registry == ALL) && !text.contains("6060"), "{text}");
            assert_eq!(
                text.contains("m.corp") && text.contains("username"),
                before == Some(theirs),
                "{text}"
            );
            before.iter().flat_map(|text| text.lines()).for_each(|line| {
                let is_kept = text.contains(line) || line.contains("endpoint:") || line.contains("5050");
                assert!(is_kept, "{line} is lost: {text}");
            });
            let again = plan(&machine, &request("127.0.0.1:5050"), &K3S).unwrap();
            assert!(again.changes.iter().all(|change| !change.changes_anything()), "twice is once");
            apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:5050") });
            assert_eq!(machine.text(FILE).ok().as_deref(), before);
        }
    }

    #[test]
    fn this_cache_is_asked_once_though_an_operator_put_it_behind_others() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
        let text =
            "mirrors:\n  docker.io:\n    endpoint:\n    - https://m.corp\n    - http://127.0.0.1:5050\n";
        fs::write(directory.path().join("etc/rancher/k3s/registries.yaml"), text).unwrap();
        apply(&machine, &request("127.0.0.1:5050"));
        let named = endpoints(&read(&machine.read(FILE)).unwrap());
        let hub = named.iter().find(|(registry, _)| registry == "docker.io").unwrap();
        assert_eq!(hub.1, ["http://127.0.0.1:5050", "https://m.corp"]);
        apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:5050") });
        assert_eq!(machine.read(FILE), text);
    }

    #[test]
    fn no_other_image_is_pulled_under_a_pods_name_where_a_mirror_has_a_rewrite() {
        // The example of k3s' documentation.
        let text = "mirrors:\n  docker.io:\n    endpoint:\n      - \"https://registry.example.com:5000\"\n    rewrite:\n      \"^rancher/(.*)\": \"mirrorproject/rancher-images/$1\"\n  quay.io:\n    endpoint:\n      - \"https://m.corp\"\n";
        let all = "mirrors:\n  \"*\":\n    endpoint:\n      - \"https://m.corp\"\n    rewrite:\n      \"(.*)\": \"all/$1\"\n";
        for (text, registries, led_here) in [
            (text, vec![], vec!["quay.io", ALL]),
            (text, vec!["docker.io".to_owned()], vec![]),
            (all, vec![], vec![]),
        ] {
            let (_root, machine) = for_tests::machine(&[(FILE, text)]);
            let request = SetupRequest { registries, ..request("127.0.0.1:5050") };
            let made = plan(&machine, &request, &K3S).unwrap();
            assert!(made.notes[0].contains("has a rewrite, and was not changed"), "{:?}", made.notes);
            apply(&machine, &request);
            let named = endpoints(&read(&machine.read(FILE)).unwrap());
            let here = named.iter().filter(|(_, urls)| urls.contains(&request.url));
            let mut here: Vec<_> = here.map(|(registry, _)| registry.as_str()).collect();
            here.sort_unstable_by_key(|name| *name == ALL);
            assert_eq!(here, led_here, "{}", machine.read(FILE));
        }
    }

    #[test]
    fn what_others_wrote_since_stays_when_it_is_undone() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        apply(&machine, &request("127.0.0.1:5050"));
        let file = directory.path().join("etc/rancher/k3s/registries.yaml");
        fs::write(&file, machine.read(FILE) + "configs:\n  a.corp: {}\n").unwrap();
        apply(&machine, &SetupRequest { undo: true, ..request("127.0.0.1:7070") });
        assert_eq!(machine.read(FILE), "configs:\n  a.corp: {}\n");
    }

    #[test]
    fn a_file_that_is_not_edited_is_refused_with_what_to_add_by_hand() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
        let text = "{mirrors: {docker.io: {endpoint: []}}, configs: {a: {auth: {password: 00123}}}}\n";
        fs::write(directory.path().join("etc/rancher/k3s/registries.yaml"), text).unwrap();
        let error = plan(&machine, &request("127.0.0.1:5050"), &K3S).err().unwrap();
        assert!(error.contains("for * and docker.io, put http://127.0.0.1:5050 first"), "{error}");
        assert_eq!(machine.read(FILE), text);
        let url = "\"http://127.0.0.1:5050\"";
        let text = format!("{{mirrors: {{docker.io: {{endpoint: [{url}]}}, '*': {{endpoint: [{url}]}}}}}}\n");
        fs::write(directory.path().join("etc/rancher/k3s/registries.yaml"), &text).unwrap();
        apply(&machine, &request("127.0.0.1:5050"));
        assert_eq!(machine.read(FILE), text, "it is so, by hand");
    }

    #[test]
    fn what_an_operator_wrote_by_hand_stays_when_nothing_was_set_up() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
        let text = "mirrors:\n  '*':\n    endpoint:\n    - http://127.0.0.1:5050\n";
        fs::write(directory.path().join("etc/rancher/k3s/registries.yaml"), text).unwrap();
        let undo = SetupRequest { undo: true, ..request("127.0.0.1:5050") };
        apply(&machine, &undo);
        assert_eq!(machine.read(FILE), text);
        apply(&machine, &request("127.0.0.1:5050"));
        apply(&machine, &undo);
        assert_eq!(machine.read(FILE), text);
    }

    #[test]
    fn what_k3s_cannot_do_is_said_and_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        let strict = plan(&machine, &SetupRequest { strict: true, ..request("127.0.0.1:5050") }, &K3S);
        assert!(strict.err().unwrap().contains("--disable-default-registry-endpoint"));
        fs::create_dir_all(directory.path().join("etc/rancher/k3s")).unwrap();
        for text in ["mirrors: [", "mirrors: 5\n"] {
            fs::write(directory.path().join("etc/rancher/k3s/registries.yaml"), text).unwrap();
            assert!(plan(&machine, &request("127.0.0.1:5050"), &K3S).is_err(), "{text}");
        }
    }
}
