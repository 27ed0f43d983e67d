//! microk8s and k0s: `hosts.toml` where their containerd looks for it. What they write themselves is not touched.

use super::change::Change;
use super::containerd::{LOGINS, LOGINS_REMEDY, first_directory, hosts, hosts_of, hosts_undone};
use super::hosts::Certificates;
use super::plan::{SetupPlan, SetupRequest};
use crate::cli::runtimes::containerd_config::{Cri, config_at, restored};
use crate::cli::runtimes::machine::Machine;
use crate::reference::DOCKER_HUB;

/// Where microk8s' containerd looks hosts up; its own template says so.
pub(in crate::cli) const MICROK8S_HOSTS: &str = "/var/snap/microk8s/current/args/certs.d";
/// The configuration that k0s writes itself as long as its first line says so.
const K0S_CONFIG: &str = "/etc/k0s/containerd.toml";
const K0S_MANAGED: &str = "# k0s_managed=true";
/// Where k0s merges from what an operator writes.
const K0S_DROP_INS: &str = "/etc/k0s/containerd.d";
/// As k0s' own documentation has it.
const K0S_HOSTS: &str = "/etc/k0s/containerd.d/certs.d";
const K0S_DROP_IN: &str = "/etc/k0s/containerd.d/larder.toml";

pub(super) fn microk8s(machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    if request.undo {
        hosts_undone(machine, MICROK8S_HOSTS, &mut plan)?;
        return Ok(plan);
    }
    hosts(machine, request, MICROK8S_HOSTS, &mut plan)?;
    // microk8s ships a directory for Docker Hub, which hides `_default`.
    let hub = format!("{MICROK8S_HOSTS}/{DOCKER_HUB}");
    if request.registries.is_empty() && machine.has_directory(&hub) {
        let change = hosts_of(machine, request, &format!("{hub}/hosts.toml"), Certificates::default())?;
        plan.changes.retain(|other| other.path != change.path);
        plan.changes.push(change);
        plan.notes.retain(|note| !note.starts_with(&format!("{hub} ")));
    }
    Ok(plan)
}

pub(super) fn k0s(machine: &Machine, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    let directory = k0s_hosts(machine)?.unwrap_or_else(|| K0S_HOSTS.to_owned());
    let first = first_directory(Some(&directory));
    let managed = k0s_is_managed(machine);
    let path = if managed { K0S_DROP_IN } else { K0S_CONFIG };
    let change = Change::read(machine, path)?;
    if request.undo {
        plan.changes.push(change.undone(&restored));
        plan.restart =
            plan.changes.iter().any(Change::changes_anything).then_some("systemctl restart k0sworker");
        hosts_undone(machine, &first, &mut plan)?;
        return Ok(plan);
    }
    let original = change.original(&restored);
    // A drop-in has the version of the file that it is merged into.
    let version = config_at(K0S_CONFIG, &machine.read(K0S_CONFIG)).map_or(3, |cri| cri.version());
    let empty = format!("version = {}\n", if machine.has(K0S_CONFIG) { version } else { 3 });
    let mut cri = config_at(path, original.as_deref().unwrap_or(&empty))?;
    let old = cri.old_settings().join(", ");
    if !old.is_empty() {
        return Err(format!(
            "{path} names registries in the old form ({old}), and containerd's CRI does not start with both"
        ));
    }
    if cri.has_logins() {
        plan.notes.push(format!("{path} {LOGINS}. {LOGINS_REMEDY}"));
    }
    let others = k0s_said_by_others(machine, path)?;
    if cri.config_path().is_none() && others.is_none() {
        cri.set(&first, original.is_some());
        plan.changes.push(change.becomes(cri.text(), &request.url, &restored));
        plan.restart =
            plan.changes.iter().any(Change::changes_anything).then_some("systemctl restart k0sworker");
    }
    if directory.contains(':') {
        plan.notes.extend(judged_list(machine, &directory)?);
    }
    if !managed {
        plan.notes.push(format!("{K0S_CONFIG} does not begin with {K0S_MANAGED}: k0s reads nothing in {K0S_DROP_INS}, and the file itself was extended"));
    }
    hosts(machine, request, &first, &mut plan)?;
    Ok(plan)
}

/// What is to be said of a list of directories, the first of which is looked at first: containerd 1.x and 2.0 read it,
/// and later ones where the CRI pulls without the transfer service.
///
/// # Errors
/// k0s' containerd reads nothing of the list, or a file is malformed.
pub(in crate::cli) fn judged_list(machine: &Machine, list: &str) -> Result<Option<String>, String> {
    let names = machine.names(K0S_DROP_INS).into_iter().filter(|name| name.ends_with(".toml"));
    let paths = names.map(|name| format!("{K0S_DROP_INS}/{name}")).filter(|_| k0s_is_managed(machine));
    let parts = [K0S_CONFIG.to_owned()].into_iter().chain(paths).filter(|path| machine.has(path));
    let parts =
        parts.map(|path| config_at(&path, &machine.text_or_empty(&path)?)).collect::<Result<Vec<_>, _>>()?;
    if parts.iter().any(Cri::pulls_locally) {
        return Ok(None);
    }
    if !parts.iter().all(Cri::may_be_old) {
        return Err(format!(
            "config_path is a list ({list}), of which containerd's transfer service reads nothing: name one directory there"
        ));
    }
    Ok(Some(format!(
        "config_path is a list ({list}), which k0s reads up to containerd 2.0: check it with larder doctor --canary IMAGE"
    )))
}

/// Where k0s' containerd looks hosts up, if anything says so.
///
/// # Errors
/// A file that is malformed.
pub(in crate::cli) fn k0s_hosts(machine: &Machine) -> Result<Option<String>, String> {
    let own = if k0s_is_managed(machine) { K0S_DROP_IN } else { K0S_CONFIG };
    let said = config_at(own, &machine.text_or_empty(own)?)?.config_path();
    Ok(k0s_said_by_others(machine, own)?.or(said))
}

fn k0s_said_by_others(machine: &Machine, own: &str) -> Result<Option<String>, String> {
    if !k0s_is_managed(machine) {
        return Ok(None);
    }
    let mut said = None;
    for name in machine.names(K0S_DROP_INS).into_iter().filter(|name| name.ends_with(".toml")) {
        let path = format!("{K0S_DROP_INS}/{name}");
        if path != own {
            said = config_at(&path, &machine.text_or_empty(&path)?)?.config_path().or(said);
        }
    }
    Ok(said)
}

fn k0s_is_managed(machine: &Machine) -> bool {
    machine
        .text(K0S_CONFIG)
        .map_or(true, |text| text.lines().next().is_some_and(|line| line.trim() == K0S_MANAGED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setup::for_tests::{self, machine};

    fn request(runtime: &'static str) -> SetupRequest {
        for_tests::request(runtime, "127.0.0.1:5050")
    }

    fn apply(machine: &Machine, plan: &SetupPlan) {
        plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply(machine).unwrap());
    }

    #[test]
    fn docker_hub_of_microk8s_leads_here_though_it_ships_a_directory_for_it() {
        let hub = "server = \"https://docker.io\"\n\n[host.\"https://registry-1.docker.io\"]\n  capabilities = [\"pull\", \"resolve\"]\n";
        let local = "server = \"http://localhost:32000\"\n";
        let directory = MICROK8S_HOSTS.replace("current", "8511");
        let (root, machine) = machine(&[
            (&format!("{directory}/docker.io/hosts.toml"), hub),
            (&format!("{directory}/localhost:32000/hosts.toml"), local),
        ]);
        std::os::unix::fs::symlink("8511", root.path().join("var/snap/microk8s/current")).unwrap();
        let made = microk8s(&machine, &request("microk8s")).unwrap();
        apply(&machine, &made);
        assert_eq!(made.notes.len(), 1, "{:?}", made.notes);
        assert!(made.notes[0].contains("localhost:32000 hides _default"), "{:?}", made.notes);
        for name in ["_default", "docker.io"] {
            assert!(machine.read(&format!("{MICROK8S_HOSTS}/{name}/hosts.toml")).contains("127.0.0.1:5050"));
        }
        apply(&machine, &microk8s(&machine, &SetupRequest { undo: true, ..request("microk8s") }).unwrap());
        assert_eq!(machine.names(MICROK8S_HOSTS), ["docker.io", "localhost:32000"]);
        assert_eq!(machine.read(&format!("{MICROK8S_HOSTS}/docker.io/hosts.toml")), hub);
    }

    #[test]
    fn k0s_merges_a_drop_in_of_its_own_version_and_its_own_file_is_not_touched() {
        let config = "# k0s_managed=true\nversion = 2\nimports = [\"/run/k0s/containerd-cri.toml\"]\n";
        let (_root, machine) = machine(&[(K0S_CONFIG, config)]);
        apply(&machine, &k0s(&machine, &request("k0s")).unwrap());
        assert_eq!(machine.read(K0S_CONFIG), config);
        let drop_in = machine.read(K0S_DROP_IN);
        assert!(
            drop_in.starts_with("version = 2\n") && drop_in.contains("io.containerd.grpc.v1.cri"),
            "{drop_in}"
        );
        assert_eq!(k0s_hosts(&machine).unwrap().as_deref(), Some(K0S_HOSTS));
        assert!(machine.read(&format!("{K0S_HOSTS}/_default/hosts.toml")).contains("127.0.0.1:5050"));
        let again = k0s(&machine, &request("k0s")).unwrap();
        assert!(again.changes.iter().all(|change| !change.changes_anything()), "twice is once");
        apply(&machine, &k0s(&machine, &SetupRequest { undo: true, ..request("k0s") }).unwrap());
        assert!(!machine.has(K0S_DROP_IN) && !machine.has(&format!("{K0S_HOSTS}/_default")));
    }

    #[test]
    fn a_directory_that_a_site_has_given_k0s_is_used_and_a_file_that_k0s_does_not_manage_is_extended() {
        let theirs = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/k0s/certs.d\"\n";
        let (_root, one) = machine(&[("/etc/k0s/containerd.d/site.toml", theirs)]);
        apply(&one, &k0s(&one, &request("k0s")).unwrap());
        assert!(one.has("/etc/k0s/certs.d/_default/hosts.toml") && !one.has(K0S_DROP_IN));
        let (_root, two) = machine(&[(K0S_CONFIG, "version = 3\nroot = \"/var/lib/k0s/containerd\"\n")]);
        let made = k0s(&two, &request("k0s")).unwrap();
        apply(&two, &made);
        assert!(two.read(K0S_CONFIG).contains("config_path") && made.notes[0].contains("k0s_managed"));
    }

    #[test]
    fn a_list_that_k0s_reads_is_no_reason_to_refuse_a_node_and_one_that_it_does_not_read_is() {
        let list = |version: u8, cri: &str, more: &str| {
            format!(
                "version = {version}\n[plugins.\"io.containerd.{cri}\".registry]\nconfig_path = \"/etc/k0s/certs.d:/etc/docker/certs.d\"\n{more}"
            )
        };
        let site = "/etc/k0s/containerd.d/site.toml";
        let local = "[plugins.\"io.containerd.cri.v1.images\"]\nuse_local_image_pull = true\n";
        let (one, three) = (list(2, "grpc.v1.cri", ""), list(3, "cri.v1.images", ""));
        let local = list(3, "cri.v1.images", local);
        for (managed, text, notes) in [(2, &one, Some(1)), (3, &local, Some(0)), (3, &three, None)] {
            let managed = format!("{K0S_MANAGED}\nversion = {managed}\n");
            let (_root, machine) = machine(&[(K0S_CONFIG, &managed), (site, text)]);
            let made = k0s(&machine, &request("k0s"));
            assert_eq!(made.as_ref().ok().map(|plan| plan.notes.len()), notes, "{:?}", made.as_ref().err());
            let Ok(made) = made else { continue };
            apply(&machine, &made);
            assert!(machine.has("/etc/k0s/certs.d/_default/hosts.toml") && !machine.has(K0S_DROP_IN));
            apply(&machine, &k0s(&machine, &SetupRequest { undo: true, ..request("k0s") }).unwrap());
            assert!(!machine.has("/etc/k0s/certs.d/_default"));
            assert_eq!(&machine.read(site), text);
        }
    }
}
