//! Kubelet's keyring (kubernetes `pkg/credentialprovider/keyring.go`): which entries match an image, in which order.
//!
//! Pure. Keys are normalised as kubelet does it and looked up in reverse byte order, so that a longer path comes before
//! a shorter one *by key*, whatever file it came from; entries of one key keep the order in which they were added.
//! Adding one costs little, however many there are: the tenant who makes a pull secret chooses how many entries it
//! has. A path is a plain prefix: `host/pong` matches `host/pongz`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::glob;

/// The key under which Docker Hub's credentials are kept by `docker login`.
const DEFAULT_REGISTRY_KEY: &str = "index.docker.io";

/// Entries under normalised keys.
#[derive(Debug, Clone)]
pub(super) struct Keyring<T> {
    /// In reverse byte order of the keys.
    index: BTreeMap<Reverse<String>, Vec<T>>,
}

impl<T> Default for Keyring<T> {
    fn default() -> Self {
        Self { index: BTreeMap::new() }
    }
}

impl<T: Clone> Keyring<T> {
    /// Adds an entry under the key as it is written in a docker config. A key that is no URL is dropped, as kubelet
    /// does it; returns whether the key is one.
    pub(super) fn add(&mut self, raw: &str, entry: T) -> bool {
        let Some(key) = normalised(raw) else { return false };
        self.index.entry(Reverse(key)).or_default().push(entry);
        true
    }

    /// All entries that match `image` (a normalised name without tag), in the order in which they are tried, each
    /// with the key that matched.
    pub(super) fn lookup(&self, image: &str) -> Vec<(&str, T)> {
        let mut found = Vec::new();
        for (Reverse(key), entries) in &self.index {
            if urls_match(key, image) {
                found.extend(entries.iter().map(|entry| (key.as_str(), entry.clone())));
            }
        }
        if found.is_empty() && is_default_registry(image) {
            let of_hub = self.index.get(&Reverse(DEFAULT_REGISTRY_KEY.to_owned()));
            let of_hub = of_hub.into_iter().flatten();
            found.extend(of_hub.map(|entry| (DEFAULT_REGISTRY_KEY, entry.clone())));
        }
        found
    }
}

/// Says once of a docker config how many of its keys are no hosts, if any are.
pub(super) fn warn_of_dropped(count: usize) {
    if count > 0 {
        tracing::warn!(count, "entries of a docker config have keys that are no hosts, and are ignored");
    }
}

/// `host[:port][/path]` of a raw key; `None` where Go's `url.Parse` fails.
fn normalised(raw: &str) -> Option<String> {
    let rest = raw.strip_prefix("https://").or_else(|| raw.strip_prefix("http://")).unwrap_or(raw);
    let (host, path) = parse(rest)?;
    // A key written for the API's version means the whole registry.
    let path = ["/v1/", "/v2/"].iter().find(|v| path.starts_with(**v)).map_or(path.as_str(), |_| &path[3..]);
    Some(if path.is_empty() || path == "/" { host.to_owned() } else { format!("{host}{path}") })
}

/// Host (with port, without user information) and decoded path of what follows `https://`, as Go's `url.Parse` has
/// them.
fn parse(rest: &str) -> Option<(&str, String)> {
    if rest.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return None;
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !host.chars().all(may_be_in_host) || !has_valid_port(host) {
        return None;
    }
    Some((host, unescaped(path)?))
}

/// What Go lets through in a host.
fn may_be_in_host(c: char) -> bool {
    !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"".contains(c)
}

fn has_valid_port(host: &str) -> bool {
    let after = match (host.starts_with('['), host.rfind(']')) {
        (true, Some(end)) => &host[end + 1..],
        (true, None) => return false,
        (false, _) => host.rfind(':').map_or("", |colon| &host[colon..]),
    };
    after.is_empty() || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Kubelet's `URLsMatch`: ports equal as texts, as many labels, the path a prefix, each label a glob.
pub(super) fn urls_match(pattern: &str, image: &str) -> bool {
    let (Some((pattern_host, pattern_path)), Some((host, path))) = (parse(pattern), parse(image)) else {
        return false;
    };
    let ((pattern_host, pattern_port), (host, port)) = (split_port(pattern_host), split_port(host));
    pattern_port == port
        && path.starts_with(&pattern_path)
        && pattern_host.split('.').count() == host.split('.').count()
        && pattern_host.split('.').zip(host.split('.')).all(|(glob, label)| glob::matches(glob, label))
}

/// Go's `net.SplitHostPort`, with the whole as the host where there is no port.
fn split_port(host: &str) -> (&str, &str) {
    if let Some(end) = host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return match host[end + 2..].strip_prefix(':') {
            Some(port) => (&host[1..=end], port),
            None => (host, ""),
        };
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, port),
        _ => (host, ""),
    }
}

/// Kubelet's `isDefaultRegistryMatch`: the name means Docker Hub. That `localhost/foo` does too is kubelet's way.
fn is_default_registry(image: &str) -> bool {
    match image.split_once('/') {
        Some(("", _)) => false,
        Some(("docker.io" | "index.docker.io", _)) => true,
        Some((first, _)) => !first.contains(['.', ':']),
        None => !image.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(keys: &[(&str, &str)], image: &str) -> Vec<String> {
        let mut ring = Keyring::default();
        for (key, entry) in keys {
            ring.add(key, (*entry).to_owned());
        }
        ring.lookup(image).into_iter().map(|(_, entry)| entry).collect()
    }

    #[test]
    fn a_longer_path_comes_first_and_is_a_plain_prefix() {
        let keys = [("bar.example.com/pong", "grace"), ("bar.example.com", "ada")];
        for (image, expected) in [
            ("bar.example.com", vec!["ada"]),
            ("bar.example.com/pong", vec!["grace", "ada"]),
            ("bar.example.com/ping", vec!["ada"]),
            ("bar.example.com/pongz", vec!["grace", "ada"]),
            ("bar.example.com/pong/pang", vec!["grace", "ada"]),
            ("example.com", vec![]),
            ("foo.example.com", vec![]),
        ] {
            assert_eq!(found(&keys, image), expected, "{image}");
        }
    }

    #[test]
    fn docker_hub_has_its_own_rules() {
        let hub = [("https://index.docker.io/v1/", "hub")];
        for image in [
            "docker.io/library/nginx",
            "docker.io/foo/bar",
            "google/docker-registry",
            "jenkins",
            "index.docker.io/v1//google/docker-registry",
            "localhost/foo",
        ] {
            assert_eq!(found(&hub, image), ["hub"], "{image}");
        }
        for image in ["world.mesos.org/foo/bar", "registry:5000/foo/bar", "myhostdocker.io/foo/bar", ""] {
            assert!(found(&hub, image).is_empty(), "{image}");
        }
        assert!(found(&[("https://index.docker.io/v1", "hub")], "docker.io/library/nginx").is_empty());
        for (image, expected) in [
            ("foo/bar", true),
            ("docker.io/foo/bar", true),
            ("index.docker.io/foo/bar", true),
            ("foo", true),
            ("", false),
            ("registry.tld/foo/bar", false),
            ("registry:5000/foo/bar", false),
            ("myhostdocker.io/foo/bar", false),
        ] {
            assert_eq!(is_default_registry(image), expected, "{image}");
        }
    }

    #[test]
    fn one_key_is_matched_as_kubelet_matches_it() {
        for (key, hits, misses) in [
            ("https://quay.io/v1/", vec!["quay.io", "quay.io/foo", "quay.io/foo/bar"], vec!["quay.com/foo"]),
            (
                "*.kubernetes.io",
                vec!["prefix.kubernetes.io/foo"],
                vec!["kubernetes.io", "a.b.kubernetes.io", "kubernetes.io/x"],
            ),
            ("prefix.*.io", vec!["prefix.kubernetes.io"], vec!["prefix.io"]),
            ("prefix.kubernetes.*", vec!["prefix.kubernetes.io"], vec![]),
            ("*-good.kubernetes.io", vec!["prefix-good.kubernetes.io"], vec!["prefix-bad.kubernetes.io"]),
            ("k*.io", vec!["kuay.io"], vec!["quay.io"]),
            (
                "*.kubernetes.io:1111/blah",
                vec!["prefix.kubernetes.io:1111/blah"],
                vec!["prefix.kubernetes.io/blah"],
            ),
            ("*.kubernetes.io:1234/blah", vec![], vec!["prefix.kubernetes.io:1111/blah"]),
            (
                "prefix.*.io/foo",
                vec!["prefix.kubernetes.io/foo/bar"],
                vec!["prefix.kubernetes.io:1111/foo/bar"],
            ),
            ("https://*.docker.io/path:1111", vec!["prefix.docker.io/path:1111/foo/bar"], vec![]),
            ("https://*.docker.io/v1/", vec!["prefix.docker.io/path:1111/foo/bar"], vec![]),
            ("https://*.docker.io/v2/", vec!["prefix.docker.io/path:1111/foo/bar"], vec![]),
            ("*:5000", vec!["registry:5000/x", "localhost:5000/x"], vec!["registry:5001/x"]),
            ("[::1]:5000", vec!["[::1]:5000/x"], vec!["[::1]:5001/x"]),
            ("https://user:pw@reg.io", vec!["reg.io/x"], vec![]),
            ("Reg.io", vec![], vec!["reg.io/x"]),
            ("reg.io/a%2Fb", vec!["reg.io/a/b"], vec!["reg.io/a"]),
            ("reg.io?x=y", vec!["reg.io/a"], vec![]),
            ("reg io", vec![], vec!["reg io/a"]),
            ("reg.io:port", vec![], vec!["reg.io/a"]),
            ("reg.io/%zz", vec![], vec!["reg.io/a"]),
        ] {
            for image in hits {
                assert_eq!(found(&[(key, "it")], image), ["it"], "{key} should match {image}");
            }
            for image in misses {
                assert!(found(&[(key, "it")], image).is_empty(), "{key} should not match {image}");
            }
        }
    }

    #[test]
    fn a_default_port_is_not_the_same_as_none() {
        let keys = [("registry.io:443", "a"), ("registry.io", "b")];
        assert_eq!(found(&keys, "registry.io/x"), ["b"]);
        assert_eq!(found(&keys, "registry.io:443/x"), ["a"]);
    }

    #[test]
    fn entries_of_one_key_keep_their_order_and_differently_written_keys_are_one() {
        let keys =
            [("quay.io", "1"), ("https://quay.io", "2"), ("http://quay.io/v2/", "3"), ("quay.io/", "4")];
        assert_eq!(found(&keys, "quay.io/x"), ["1", "2", "3", "4"]);
    }

    #[test]
    fn a_secret_of_a_hundred_thousand_keys_moves_no_entry_for_another() {
        let mut ring = Keyring::default();
        // In the order in which the keys of a document come, which is the reverse of that of the look-up.
        let added = (0..100_000).filter(|n| ring.add(&format!("host{n:06}.test"), *n)).count();
        assert_eq!(added, 100_000);
        assert_eq!(ring.lookup("host000007.test/app"), [("host000007.test", 7)]);
    }

    proptest! {
        #[test]
        fn a_plain_host_matches_itself_under_any_path_and_no_other_host(
            host in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}(:[0-9]{2,4})?",
            other in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}(:[0-9]{2,4})?",
            path in "(/[a-z]{1,5}){0,3}",
        ) {
            let (own, foreign) = (format!("{host}{path}"), format!("{other}{path}"));
            prop_assert!(urls_match(&host, &own));
            prop_assert_eq!(urls_match(&host, &foreign), host == other);
            prop_assert!(urls_match(&own, &own));
        }

        #[test]
        fn the_order_does_not_depend_on_the_order_of_adding(mut keys in proptest::collection::vec("[a-c]\\.io(/[a-c]){0,2}", 0..6)) {
            keys.sort();
            keys.dedup();
            let forwards: Vec<(&str, &str)> = keys.iter().map(|k| (k.as_str(), k.as_str())).collect();
            let backwards: Vec<(&str, &str)> = forwards.iter().rev().copied().collect();
            prop_assert_eq!(found(&forwards, "a.io/a/b"), found(&backwards, "a.io/a/b"));
        }

        #[test]
        fn no_key_and_no_image_panics(key in ".{0,60}", image in ".{0,60}") {
            let _ = found(&[(&key, "x")], &image);
        }
    }
}
