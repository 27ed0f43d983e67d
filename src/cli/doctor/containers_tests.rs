//! What doctor says of podman and CRI-O.

use super::super::finding::Finding;
use super::tests::{found, found_with};
use super::*;
use crate::support::clock::Timestamp;

#[test]
fn a_crio_node_that_pulls_around_this_cache_is_seen_and_a_podman_raises_no_alarm() {
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    let hosts =
        "[host.\"http://127.0.0.1:5050\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"1s\"\n";
    let containerd =
        [("/etc/containerd/config.toml", config), ("/etc/containerd/certs.d/_default/hosts.toml", hosts)];
    let docker = ("/etc/docker/daemon.json", "{\"registry-mirrors\":[\"http://127.0.0.1:5050\"]}");
    let (crio, podman) = (("/etc/crio/crio.conf", ""), ("/usr/bin/podman", ""));
    for (files, level, metric) in [
        (vec![crio], Level::Problem, Some("0")),
        (vec![crio, podman], Level::Problem, Some("0")),
        // kubelet does not pull by this Docker.
        (vec![crio, docker], Level::Problem, Some("0")),
        (vec![crio, containerd[0], containerd[1]], Level::Warning, None),
        (vec![podman], Level::Warning, None),
    ] {
        let mut findings = Findings(found(&files));
        let of = |findings: &Findings| {
            let found = findings.0.iter().find(|one| one.about == CONTAINERS);
            found.unwrap_or_else(|| panic!("{files:?}: {:#?}", findings.0)).level
        };
        assert_eq!(of(&findings), level, "{files:?}: {:#?}", findings.0);
        findings.0.retain(|one| one.about == CONTAINERS);
        let text = super::super::metrics::text(&Findings::default(), &findings, Timestamp(1));
        let shown = text
            .lines()
            .find_map(|line| line.strip_prefix("larder_runtime_leads_here{runtime=\"podman/crio\"} "));
        assert_eq!(shown, metric, "{files:?}");
    }
}

#[test]
fn a_mirror_that_podman_cannot_read_is_a_problem_and_not_said_to_lead_here() {
    let ours = |name: &str, at: &str| {
        format!(
            "[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n[[registry.mirror]]\nlocation = \"{at}\"\n"
        )
    };
    let config = "[server]\nlisten = [\"127.0.0.1:5050\", \"[::1]:5050\"]\n[[registry]]\nhost = \"reg.corp:5000\"\n[[registry]]\nhost = \"registry:5000\"\n";
    let found = |at: &str| {
        let text = ours("quay.io", "127.0.0.1:5050/quay.io") + &ours("reg.corp:5000", at);
        found_with(config, &[("/usr/bin/podman", ""), (OURS, &text)])
    };
    let leads_here = "lead here: quay.io, reg.corp:5000";
    let good = found("127.0.0.1:5050/reg.corp_5000");
    assert!(good.iter().all(|one| one.level != Level::Problem), "{good:?}");
    assert!(good.iter().any(|one| one.what.ends_with(leads_here)), "{good:?}");
    assert!(
        good.iter().all(|one| !one.what.contains("registry:5000")),
        "setup can do nothing for it: {good:?}"
    );
    for (at, remedy) in [
        ("127.0.0.1:5050/reg.corp:5000", "larder setup podman"),
        ("[::1]:5050/reg.corp_5000", "[server] listen"),
    ] {
        let bad = found(at);
        let problem = bad.iter().find(|one| one.level == Level::Problem);
        let problem = problem.unwrap_or_else(|| panic!("{at}: {bad:?}"));
        assert!(problem.what.contains(at) && problem.remedy.contains(remedy), "{problem:?}");
        assert!(bad.iter().all(|one| !one.what.ends_with(leads_here)), "{bad:?}");
    }
}

#[test]
fn an_entry_that_leads_here_is_judged_by_what_podman_makes_of_each_image_that_it_matches() {
    let entry = |prefix: &str, at: &str| {
        format!(
            "[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{prefix}\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/{at}\"\n"
        )
    };
    let problems = |config: &str, text: &str| {
        let found = found_with(config, &[("/usr/bin/podman", ""), (OURS, text)]);
        let problems = found.into_iter().filter(|one| one.level == Level::Problem);
        problems.map(|one| one.what).collect::<Vec<_>>()
    };
    // podman adds the port to the mirror's path.
    let with_port = "[[registry]]\nhost = \"reg.corp:5000\"\n";
    let [problem] = &problems(with_port, &entry("reg.corp", "reg.corp"))[..] else { panic!("one") };
    assert!(problem.contains("leads reg.corp:5000 to 127.0.0.1:5050/reg.corp:5000"), "{problem}");
    let both = entry("reg.corp", "reg.corp") + &entry("reg.corp:5000", "reg.corp_5000");
    assert_eq!(problems(with_port, &both), [""; 0], "it has an entry of its own");
    let tagged = entry("quay.io/team/app:v1", "quay.io/team/app:v1");
    assert_eq!(problems("", &(entry("quay.io", "quay.io") + &tagged)), [""; 0]);
}

#[test]
fn a_node_whose_policy_demands_signatures_is_not_told_to_set_up_what_setup_left_out() {
    const POLICY: &str = "/etc/containers/policy.json";
    let own = "[[registry]]\nprefix = \"127.0.0.1:5050\"\nlocation = \"127.0.0.1:5050\"\ninsecure = true\n";
    let mirror = |name: &str| {
        format!(
            "[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5050/{name}\"\n"
        )
    };
    let but_quay: String =
        BEST_KNOWN.iter().filter(|name| **name != "quay.io").map(|name| mirror(name)).collect();
    for (policy, conf, left_out) in [
        (r#"{"default": [{"type": "signedBy"}]}"#, own.to_owned(), BEST_KNOWN.join(", ")),
        (
            r#"{"transports": {"docker": {"quay.io": [{"type": "signedBy"}]}}}"#,
            own.to_owned() + &but_quay,
            "quay.io".to_owned(),
        ),
    ] {
        let found = found(&[("/etc/crio/crio.conf", ""), (POLICY, policy), (OURS, &conf)]);
        assert!(found.iter().all(|one| one.level < Level::Warning), "{found:#?}");
        let expected = format!("must be signed: {left_out}");
        let is_said = |one: &Finding| one.level == Level::Note && one.what.ends_with(&expected);
        assert!(found.iter().any(is_said), "{found:#?}");
    }
}

#[test]
fn a_location_that_a_hand_led_here_and_setup_cannot_correct_is_named_as_what_is_to_be_corrected() {
    let by_hand = "[[registry]]\nprefix = \"quay.io\"\nlocation = \"127.0.0.1:5050/quay.io\"\n";
    let policy = r#"{"transports": {"docker": {"quay.io": [{"type": "signedBy"}]}}}"#;
    let found = found(&[
        ("/usr/bin/podman", ""),
        ("/etc/containers/policy.json", policy),
        ("/etc/containers/registries.conf", by_hand),
    ]);
    let problem = found.iter().find(|one| one.level == Level::Problem).unwrap();
    assert!(problem.what.contains("cannot pull it"), "{problem:?}");
    assert!(problem.remedy.contains("name the registry's own there"), "{problem:?}");
}
