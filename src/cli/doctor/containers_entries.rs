//! Entries of `registries.conf` that lead here and do harm: as earlier setups or a hand wrote them, or since the policy
//! for signatures changed.

use std::collections::BTreeMap;

use super::finding::{CONTAINERS, Findings, Level};
use super::unreadable;
use crate::cli::runtimes::machine::Machine;
use crate::cli::runtimes::registries_conf::{Entry, OURS, matching};
use crate::cli::runtimes::signature_policy::{PolicyError, SignaturePolicies};

/// `all`: the entries that count. `authorities`: this cache's addresses. `is_ours`: whether a location is this cache.
/// Returns what must be signed.
pub(super) fn check(
    machine: &Machine,
    all: &[Entry],
    authorities: &[&str],
    is_ours: &impl Fn(&str) -> bool,
    setup: &str,
    findings: &mut Findings,
) -> SignaturePolicies {
    unverified(all, is_ours, setup, findings);
    match SignaturePolicies::read(machine, authorities) {
        Ok(policies) => {
            without_signatures(all, &policies, is_ours, setup, findings);
            return policies;
        }
        Err(PolicyError::Unreadable(why)) => unreadable::add(findings, CONTAINERS, &why),
        Err(PolicyError::Malformed(why)) => {
            let what = format!("{why}: podman and CRI-O pull nothing with it");
            findings.add(Level::Problem, CONTAINERS, what, "correct it");
        }
    }
    SignaturePolicies::default()
}

/// Earlier versions wrote it so with `--strict`.
fn unverified(all: &[Entry], is_ours: &impl Fn(&str) -> bool, setup: &str, findings: &mut Findings) {
    let leads_here = |entry: &&Entry| entry.location.as_deref().is_some_and(is_ours);
    let mut found = BTreeMap::<&str, Vec<&str>>::new();
    for entry in all.iter().filter(|entry| entry.insecure && !entry.blocked).filter(leads_here) {
        found.entry(&entry.file).or_default().push(&entry.prefix);
    }
    for (file, prefixes) in found {
        let what = format!(
            "{file} has insecure = true for {}: podman and CRI-O verify no certificate in pushes and logins there, which go to the registry directly, and may send the password in the clear",
            prefixes.join(", ")
        );
        findings.add(Level::Problem, CONTAINERS, what, format!("{setup}; with --strict, as before"));
    }
}

/// What must be signed and leads here is not pulled: `signature_policy` says why.
fn without_signatures(
    all: &[Entry],
    policies: &SignaturePolicies,
    is_ours: &impl Fn(&str) -> bool,
    setup: &str,
    findings: &mut Findings,
) {
    for entry in all.iter().filter(|entry| !entry.blocked) {
        if !entry.mirrors.iter().chain(&entry.location).any(|at| is_ours(at)) {
            continue;
        }
        let mut signed = policies.signed_in(&entry.prefix);
        signed.retain(|part, _| matching(all, part) == Some(entry));
        let Some((_, policy)) = signed.first_key_value() else { continue };
        let names: Vec<&str> = signed.keys().map(String::as_str).collect();
        let what = format!(
            "{policy} demands signatures of {}, which {} leads here: podman and CRI-O do not find them through a mirror, and cannot pull it",
            names.join(", "),
            entry.file
        );
        let by_hand = entry.location.as_ref().filter(|at| entry.file != OURS && is_ours(at));
        let remedy = match by_hand {
            Some(at) => format!("{setup}; if {at} is still its location then, name the registry's own there"),
            None => setup.to_owned(),
        };
        findings.add(Level::Problem, CONTAINERS, what, remedy);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::runtimes::registries_conf::{entries, in_force};

    const HERE: &str = "127.0.0.1:5050";

    fn found(conf: &str, policy: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("etc/containers");
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join("policy.json"), policy).unwrap();
        let all = in_force(entries(OURS, conf).unwrap());
        let is_ours = |at: &str| at.strip_prefix(HERE).is_some_and(|rest| rest.starts_with('/'));
        let mut findings = Findings::default();
        check(
            &Machine::under(directory.path()),
            &all,
            &[HERE],
            &is_ours,
            "larder setup podman",
            &mut findings,
        );
        assert!(findings.0.iter().all(|one| one.level == Level::Problem), "{findings:?}");
        findings.0.into_iter().map(|one| one.what).collect()
    }

    #[test]
    fn a_node_whose_pushes_an_earlier_setup_left_unverified_is_named() {
        let here =
            "[[registry]]\nprefix = \"127.0.0.1:5050\"\nlocation = \"127.0.0.1:5050\"\ninsecure = true\n";
        let earlier = "[[registry]]\nprefix = \"ghcr.io\"\nlocation = \"127.0.0.1:5050/ghcr.io\"\n";
        let mirror = "[[registry.mirror]]\nlocation = \"127.0.0.1:5050/ghcr.io\"\ninsecure = true\n";
        let mark = crate::cli::runtimes::marks::MARK;
        let sites = format!(
            "[[registry]]\nprefix = \"a.corp\"\nlocation = \"127.0.0.1:5050/a.corp\" {mark}; before: none\ninsecure = true\n"
        );
        for (conf, is_named) in [
            (
                format!(
                    "{here}{earlier}insecure = true\n{}insecure = true\n",
                    earlier.replace("ghcr", "quay")
                ),
                true,
            ),
            (format!("{sites}[[registry]]\nlocation = \"b.corp\"\ninsecure = true\n"), false),
            (format!("{here}{earlier}{mirror}"), false),
            (sites.replace("insecure = true", &format!("insecure = true {mark}; before: false")), true),
        ] {
            let found = found(&conf, "{}");
            let named = found.iter().filter(|what| what.contains("insecure = true for "));
            assert_eq!(
                (named.count(), found.len()),
                (usize::from(is_named), usize::from(is_named)),
                "{conf}"
            );
        }
    }

    #[test]
    fn what_must_be_signed_and_leads_here_is_said_not_to_be_pulled() {
        let of = |prefix: &str, location: &str| {
            format!(
                "[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\n[[registry.mirror]]\nlocation = \"{HERE}/{prefix}\"\n"
            )
        };
        let policy = r#"{"transports": {"docker": {"ghcr.io/team": [{"type": "sigstoreSigned"}]}}}"#;
        let leads_here = of("ghcr.io", "ghcr.io");
        let found_here = found(&leads_here, policy);
        let [what] = &found_here[..] else { panic!("{found_here:?}") };
        assert!(what.contains("/etc/containers/policy.json demands signatures of ghcr.io/team"), "{what}");
        let own =
            format!("{leads_here}[[registry]]\nprefix = \"ghcr.io/team\"\nlocation = \"ghcr.io/team\"\n");
        for (conf, policy) in [(own.as_str(), policy), (leads_here.as_str(), "{}")] {
            assert_eq!(found(conf, policy), [""; 0], "{conf}");
        }
        assert!(found(&leads_here, "{")[0].contains("malformed"));
    }
}
