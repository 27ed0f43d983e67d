//! `policy.json`, which podman, CRI-O and skopeo read: which images must be signed.
//!
//! They judge an image by its own name, and look for its signatures, as `registries.d` says, by the name of the mirror
//! that gave its manifest. Of that one nothing is said there, or the server of signatures has nothing under its path:
//! the pull ends with "A signature was required, but no signature exists", and nobody else is asked (seen with podman
//! 4.3.1). So what must be signed cannot have this cache as its mirror.
//!
//! Except for sigstore signatures that are kept beside an image, as a tag of its repository: this cache has those too.
//! They are looked for only where `registries.d` says `use-sigstore-attachments`, of this cache's address or by
//! default.
//!
//! Promises: read as containers/image reads it: for an image the longest scope that matches it counts, else a wildcard
//! of its host (`*.corp`), else `""`, else `default`. A user's own policy and `signature_policy` of `crio.conf` are not
//! read.

use std::collections::BTreeMap;

use serde_json::Value;

use super::machine::{Machine, Unreadable};
use crate::support::yaml;

/// The site's, else that of a package, which podman 6 reads.
const POLICIES: [&str; 2] = ["/etc/containers/policy.json", "/usr/share/containers/policy.json"];
/// CRI-O's for the pods of a namespace, each in the place of the node's.
const OF_NAMESPACES: &str = "/etc/crio/policies";
/// Where signatures are looked for.
const LOOKUPS: &str = "/etc/containers/registries.d";
/// Requirements that look at no signature.
const WITHOUT_SIGNATURES: [&str; 2] = ["insecureAcceptAnything", "reject"];
/// The requirement whose signatures may be kept beside an image.
const SIGSTORE: &str = "sigstoreSigned";

/// The policies of a machine.
#[derive(Debug, Default)]
pub(in crate::cli) struct SignaturePolicies(Vec<Policy>);

#[derive(Debug)]
struct Policy {
    file: String,
    by_default: bool,
    /// Scopes of registries, and whether what is in them must be signed.
    scopes: BTreeMap<String, bool>,
}

/// What must be signed, as an entry of `registries.conf` can name it, and the policy that says so.
pub(in crate::cli) type Signed = BTreeMap<String, String>;

/// Why no policy was read.
#[derive(Debug)]
pub(in crate::cli) enum PolicyError {
    Unreadable(Unreadable),
    /// podman and CRI-O pull nothing then.
    Malformed(String),
}

impl From<PolicyError> for String {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Unreadable(error) => error.into(),
            PolicyError::Malformed(why) => why,
        }
    }
}

impl SignaturePolicies {
    /// Of a machine whose runtimes know this cache by these addresses.
    ///
    /// # Errors
    /// One is there and cannot be read, or is malformed.
    pub(in crate::cli) fn read(machine: &Machine, authorities: &[&str]) -> Result<Self, PolicyError> {
        let finds_attached = finds_attached(machine, authorities)?;
        let of_node = POLICIES.into_iter().find(|path| machine.has(path)).map(str::to_owned);
        let names = machine.names_or_empty(OF_NAMESPACES).map_err(PolicyError::Unreadable)?;
        let of_namespaces = names.iter().filter(|name| name.ends_with(".json"));
        let files = of_node.into_iter().chain(of_namespaces.map(|name| format!("{OF_NAMESPACES}/{name}")));
        let read = |file: String| {
            let text = machine.text_or_empty(&file).map_err(PolicyError::Unreadable)?;
            Policy::parse(file, &text, finds_attached)
        };
        Ok(Self(files.map(read).collect::<Result<_, _>>()?))
    }

    /// What must be signed of a registry, or of a part of one: all of it, or parts of it.
    pub(in crate::cli) fn signed_in(&self, prefix: &str) -> Signed {
        let is_within = |scope: &str| scope.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        let mut found = Signed::new();
        for policy in &self.0 {
            let scopes = policy.scopes.iter().filter(|(scope, demands)| **demands && is_within(scope));
            let parts = scopes.map(|(scope, _)| without_reference(scope));
            let all_of_it = policy.demands(prefix).then_some(prefix);
            let signed = all_of_it.map_or_else(|| parts.collect(), |prefix| vec![prefix]);
            found.extend(signed.into_iter().map(|prefix| (prefix.to_owned(), policy.file.clone())));
        }
        found
    }
}

impl Policy {
    fn parse(file: String, text: &str, finds_attached: bool) -> Result<Self, PolicyError> {
        let policy: Value = serde_json::from_str(text)
            .map_err(|error| PolicyError::Malformed(format!("{file} is malformed: {error}")))?;
        let scopes = policy["transports"]["docker"].as_object();
        let scopes = scopes.into_iter().flatten();
        let demands = |requirements| demands(requirements, finds_attached);
        Ok(Self {
            by_default: demands(&policy["default"]),
            scopes: scopes.map(|(scope, requirements)| (scope.clone(), demands(requirements))).collect(),
            file,
        })
    }

    /// Whether what has this name, and no scope of its own, must be signed.
    fn demands(&self, name: &str) -> bool {
        let parents = std::iter::successors(Some(name), |name| Some(name.rsplit_once('/')?.0));
        let host = name.split('/').next().unwrap_or_default();
        let domain = host.split(':').next().unwrap_or_default();
        let wildcards = domain.match_indices('.').map(|(dot, _)| format!("*{}", &domain[dot..]));
        let mut named = parents.map(str::to_owned).chain(wildcards).chain([String::new()]);
        named.find_map(|name| self.scopes.get(&name)).copied().unwrap_or(self.by_default)
    }
}

/// Whether signatures are needed that are not found through this cache.
fn demands(requirements: &Value, finds_attached: bool) -> bool {
    let types = requirements.as_array().into_iter().flatten().filter_map(|one| one["type"].as_str());
    let is_found = |kind| WITHOUT_SIGNATURES.contains(&kind) || finds_attached && kind == SIGSTORE;
    types.into_iter().any(|kind| !is_found(kind))
}

/// Whether sigstore signatures beside an image are looked for at this cache.
fn finds_attached(machine: &Machine, authorities: &[&str]) -> Result<bool, PolicyError> {
    let (mut of_us, mut by_default) = (None, None);
    let names = machine.names_or_empty(LOOKUPS).map_err(PolicyError::Unreadable)?;
    for name in names.iter().filter(|name| name.ends_with(".yaml")) {
        let text = machine.text_or_empty(&format!("{LOOKUPS}/{name}")).map_err(PolicyError::Unreadable)?;
        // With one that is malformed nothing is pulled.
        for file in yaml::documents::<Value>(&text).unwrap_or_default() {
            let says = |of: &Value| of["use-sigstore-attachments"].as_bool();
            of_us = of_us.or_else(|| authorities.iter().find_map(|at| says(&file["docker"][*at])));
            by_default = by_default.or_else(|| says(&file["default-docker"]));
        }
    }
    Ok(of_us.or(by_default).unwrap_or(false))
}

/// A scope without the tag or digest that it may end with.
fn without_reference(scope: &str) -> &str {
    let name = scope.rfind('/').map_or(0, |slash| slash + 1);
    scope[name..].find([':', '@']).map_or(scope, |end| &scope[..name + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_scope_counts_then_a_wildcard_then_the_default() {
        let scopes = r#"{"default": [{"type": "reject"}], "transports": {"docker": {
            "": [{"type": "signedBy"}],
            "quay.io": [{"type": "insecureAcceptAnything"}],
            "quay.io/team": [{"type": "sigstoreSigned"}],
            "quay.io/team/open": [{"type": "insecureAcceptAnything"}],
            "quay.io/other/app:v1": [{"type": "signedBy"}],
            "quay.io/third/app@sha256:00": [{"type": "signedBy"}],
            "quay.io/fourth": [{"type": "reject"}],
            "*.corp": [{"type": "insecureAcceptAnything"}],
            "*.closed.corp": [{"type": "signedBy"}],
            "open.closed.corp": [{"type": "insecureAcceptAnything"}],
            "reg.corp:5000/team": [{"type": "signedBy"}]
        }, "docker-daemon": {"": [{"type": "signedBy"}]}}}"#;
        let policies = SignaturePolicies(vec![Policy::parse("p".into(), scopes, false).unwrap()]);
        for (prefix, expected) in [
            ("quay.io", &["quay.io/other/app", "quay.io/team", "quay.io/third/app"][..]),
            ("quay.io/team/app", &["quay.io/team/app"]),
            ("quay.io/team/open", &[]),
            ("quay.iox", &["quay.iox"]),
            ("docker.io", &["docker.io"]),
            ("a.corp", &[]),
            ("open.closed.corp", &[]),
            ("a.closed.corp:5000", &["a.closed.corp:5000"]),
            ("reg.corp:5000", &["reg.corp:5000/team"]),
        ] {
            let found: Vec<_> = policies.signed_in(prefix).into_keys().collect();
            assert_eq!(found, expected, "{prefix}");
        }
        assert!(Policy::parse("p".into(), "{", false).is_err());
    }

    #[test]
    fn what_is_verified_by_signatures_that_this_cache_has_keeps_its_mirror() {
        let policy = r#"{"transports": {"docker": {"ghcr.io": [{"type": "sigstoreSigned"}],
            "quay.io": [{"type": "sigstoreSigned"}, {"type": "signedBy"}]}}}"#;
        let (on, off) = ("{use-sigstore-attachments: true}", "{use-sigstore-attachments: false}");
        let here = "127.0.0.1:5050";
        for (lookup, is_found) in [
            (format!("default-docker: {on}\n"), true),
            (format!("docker: {{\"{here}\": {on}}}\n"), true),
            (format!("default-docker: {on}\ndocker: {{\"{here}\": {off}}}\n"), false),
            // The image's own name is not what is looked for.
            (format!("docker: {{ghcr.io: {on}}}\n"), false),
            ("default-docker: {lookaside: \"file:///var/lib/containers/sigstore\"}\n".to_owned(), false),
            ("docker: [\n".to_owned(), false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let at = directory.path().join("etc/containers");
            std::fs::create_dir_all(at.join("registries.d")).unwrap();
            std::fs::write(at.join("policy.json"), policy).unwrap();
            std::fs::write(at.join("registries.d/default.yaml"), &lookup).unwrap();
            let machine = Machine::under(directory.path());
            let policies = SignaturePolicies::read(&machine, &[here]).unwrap();
            assert_eq!(policies.signed_in("ghcr.io").is_empty(), is_found, "{lookup}");
            assert!(!policies.signed_in("quay.io").is_empty(), "signedBy is not found: {lookup}");
        }
    }
}
