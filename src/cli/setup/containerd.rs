//! containerd: one `hosts.toml` for all registries, and a `config_path` that names one single directory.
//!
//! What is known of its traps (docs/wiring.md): a `config_path` with a colon makes the transfer service read no mirror
//! at all; the old `registry.mirrors` beside a `config_path` keep the CRI from starting; a capability that a version does
//! not know makes it drop the whole file; `ca` or `skip_verify` on an http host makes it try TLS first; a directory of a
//! registry hides `_default`.

use toml_edit::DocumentMut;

use super::change::{Change, Files};
use super::plan::{SetupPlan, SetupRequest};
use crate::cli::containerd_config::{CONFIG, config_of};

/// Where hosts are looked up, unless it says otherwise.
const HOSTS: &str = "/etc/containerd/certs.d";
/// Where k3s and RKE2 have theirs, which they write themselves.
const RANCHER: [(&str, &str); 2] =
    [("/etc/rancher/k3s", "k3s"), ("/etc/rancher/rke2", "rke2-server or rke2-agent")];

pub(super) fn plan(files: &Files, request: &SetupRequest) -> Result<SetupPlan, String> {
    let mut plan = SetupPlan::default();
    for (directory, name) in RANCHER {
        if files.path(directory).exists() {
            plan.notes.push(format!(
                "{name} writes its containerd's configuration itself. In {directory}/registries.yaml put:\n\
                 mirrors:\n  \"*\":\n    endpoint:\n      - \"{}\"\nand restart {name}",
                request.url
            ));
        }
    }
    let mut config = files.read(CONFIG)?;
    let mut cri = config_of(config.text())?;
    let before = cri.config_path();
    if cri.is_off() && !request.undo {
        plan.notes.push(format!("{CONFIG} has the CRI in disabled_plugins: only ctr and nerdctl pull by this; for Docker: larder setup docker"));
    }
    if request.undo {
        let directory = directory_of(before.as_deref());
        if config.after.is_some() {
            config.after = cri.restored();
        }
        for name in files.names(&directory) {
            plan.changes.push(files.read(&format!("{directory}/{name}/hosts.toml"))?.without_ours());
        }
    } else {
        let old = cri.old_settings();
        if !old.is_empty() {
            return Err(format!(
                "{CONFIG} names registries in the old form (registry.{}), and containerd's CRI does not start with both. \
                 Move them to {HOSTS}/<registry>/hosts.toml first: https://github.com/containerd/containerd/blob/main/docs/hosts.md",
                old.join(", registry.")
            ));
        }
        let directory = directory_of(before.as_deref());
        if before.as_deref() != Some(&directory) {
            cri.set(&directory, config.before.is_some());
            config.after = Some(cri.text());
        }
        hosts(files, request, &directory, &mut plan)?;
        // After the change it must still be a file that containerd can read.
        config_of(config.text())?;
    }
    if config.changes_anything() {
        plan.restart = Some("systemctl restart containerd");
        plan.changes.insert(0, config);
    }
    Ok(plan)
}

/// The one directory: of a list the first, which is where containerd itself looks first.
fn directory_of(config_path: Option<&str>) -> String {
    let first = config_path.unwrap_or(HOSTS).split(':').find(|path| !path.is_empty());
    first.unwrap_or(HOSTS).trim_end_matches('/').to_owned()
}

fn hosts(files: &Files, request: &SetupRequest, directory: &str, plan: &mut SetupPlan) -> Result<(), String> {
    let wanted: Vec<String> =
        if request.registries.is_empty() { vec!["_default".to_owned()] } else { request.registries.clone() };
    for name in &wanted {
        // A port is written so, since a colon divides paths elsewhere.
        let name = name.rsplit_once(':').map_or(name.clone(), |(host, port)| format!("{host}_{port}_"));
        plan.changes.push(hosts_of(files, request, &format!("{directory}/{name}/hosts.toml"))?);
    }
    if request.registries.is_empty() {
        let hiding: Vec<String> = files
            .names(directory)
            .into_iter()
            .filter(|name| name != "_default" && files.path(&format!("{directory}/{name}")).is_dir())
            .collect();
        for name in hiding {
            if !files.read(&format!("{directory}/{name}/hosts.toml"))?.has_ours() {
                plan.notes.push(format!(
                    "{directory}/{name} hides _default: its images are pulled without this cache; to change that: larder setup containerd --registry {name}"
                ));
            }
        }
    }
    Ok(())
}

fn hosts_of(files: &Files, request: &SetupRequest, path: &str) -> Result<Change, String> {
    let mut change = files.read(path)?;
    let theirs: DocumentMut = change
        .clone()
        .without_ours()
        .text()
        .parse()
        .map_err(|error| format!("{path} is malformed, and containerd does not use it: {error}"))?;
    let mut ours = String::new();
    if request.strict {
        if theirs.contains_key("server") {
            return Err(format!(
                "{path} has a server of its own, which --strict would have to replace; remove it first"
            ));
        }
        ours.push_str(&format!("server = \"{}\"\n", request.url));
    }
    // No ca, no skip_verify, no client: on an http host they make containerd try TLS first. No "referrers": versions that
    // do not know a capability drop the whole file.
    ours.push_str(&format!(
        "[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n",
        request.url
    ));
    let gate = request.gate.as_ref();
    if request.strict || gate.is_some() {
        ours.push_str(&format!("  [host.\"{}\".header]\n", request.url));
    }
    if request.strict {
        ours.push_str("    X-Larder-Mode = \"strict\"\n");
    }
    if let Some(gate) = gate {
        ours.push_str(&format!("    {} = \"{}\"\n", gate.header(), gate.value().reveal()));
        // Every process that can read the file can speak to the cache.
        change.mode = 0o600;
    }
    let change = change.with_ours(&ours, |line| line.trim_start().starts_with('['));
    let _: DocumentMut =
        change.text().parse().map_err(|error| format!("{path} cannot be extended: {error}"))?;
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn machine(config: Option<&str>, hosts: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
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
        let files = Files::under(directory.path());
        (directory, files)
    }

    fn request() -> SetupRequest {
        let authority = "127.0.0.1:5050".to_owned();
        SetupRequest {
            url: format!("http://{authority}"),
            authority,
            strict: false,
            undo: false,
            registries: Vec::new(),
            configured: Vec::new(),
            default_registry: crate::reference::Registry::docker_hub(),
            gate: None,
        }
    }

    fn apply(plan: &SetupPlan) {
        plan.changes.iter().filter(|c| c.changes_anything()).for_each(|c| c.apply().unwrap());
    }

    #[test]
    fn every_version_gets_one_directory_and_gets_its_own_back() {
        for (config, expected) in [
            (None, HOSTS),
            (
                Some(
                    "version = 2\n# mine\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n",
                ),
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
            let (directory, files) = machine(config, &[]);
            apply(&plan(&files, &request()).unwrap());
            let text =
                fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).unwrap_or_default();
            assert_eq!(config_of(&text).unwrap().config_path().as_deref(), Some(expected), "{text}");
            if let Some(before) = config {
                assert!(before.lines().all(|l| l.contains("config_path") || text.contains(l)), "{text}");
            }
            let hosts = directory.path().join(expected.trim_start_matches('/')).join("_default/hosts.toml");
            assert!(fs::read_to_string(&hosts).unwrap().contains("[host.\"http://127.0.0.1:5050\"]"));
            let again = plan(&files, &request()).unwrap();
            assert!(again.changes.iter().all(|c| !c.changes_anything()), "twice is once");
            let undo = SetupRequest { undo: true, ..request() };
            apply(&plan(&files, &undo).unwrap());
            let text = fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).ok();
            assert_eq!(text.as_deref(), config, "as it was, and a file that was not there is gone");
            assert!(!hosts.exists());
        }
    }

    #[test]
    fn hosts_of_others_stay_after_ours_and_what_hides_it_is_told() {
        let theirs = "server = \"https://registry-1.docker.io\"\n[host.\"https://mirror.corp\"]\n  capabilities = [\"pull\"]\n";
        let (directory, files) =
            machine(None, &[("_default", theirs), ("quay.io", theirs), ("reg.corp_5000_", "")]);
        let made = plan(&files, &request()).unwrap();
        apply(&made);
        let notes = made.notes.join("\n");
        assert!(
            notes.contains("quay.io hides _default") && notes.contains("reg.corp_5000_ hides"),
            "{notes}"
        );
        let text =
            fs::read_to_string(directory.path().join("etc/containerd/certs.d/_default/hosts.toml")).unwrap();
        assert!(text.starts_with("server = "), "{text}");
        assert!(text.find("127.0.0.1:5050").unwrap() < text.find("mirror.corp").unwrap(), "{text}");
        let one = SetupRequest { registries: vec!["quay.io".into(), "reg.corp:5000".into()], ..request() };
        apply(&plan(&files, &one).unwrap());
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
            (Some("version = 9\n"), "", false, "version 9"),
            (None, "server = \"https://x\"\n", true, "server of its own"),
            (None, "server = [", false, "malformed"),
        ] {
            let (directory, files) = machine(config, &[("_default", hosts)]);
            let error = plan(&files, &SetupRequest { strict, ..request() }).err().unwrap();
            assert!(error.contains(part), "{error}");
            let kept = fs::read_to_string(directory.path().join(CONFIG.trim_start_matches('/'))).ok();
            assert_eq!(kept.as_deref(), config);
        }
    }
}
