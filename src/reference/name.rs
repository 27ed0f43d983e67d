//! Registries and repositories.
//!
//! A [`Registry`] is `host[:port]` as image names write it; a [`RepositoryPath`] is the part between registry and
//! tag; a [`Repository`] is both, and identifies a repository in the whole world. Each is at most 255 bytes, so
//! that it fits a path component or a log line, and none can hold `..`, an empty segment or an escape.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// The registry that a name without one means, under the name that containerd sends for it.
pub const DOCKER_HUB: &str = "docker.io";

/// Bytes at most of a whole name, registry included (distribution/reference `NameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Bytes at most of a host name (RFC 1035 §2.3.4, less the trailing dot).
const HOST_MAX: usize = 253;

/// Why a text names no registry or repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The registry part is not `host[:port]`.
    #[error("malformed registry {0:?}: expected host or host:port")]
    Registry(String),
    /// The repository part breaks the grammar of the distribution specification.
    #[error(
        "malformed repository name: lower-case letters and digits, separated by '.', '_', '__', '-' or '/'"
    )]
    Path,
    /// The whole name is longer than clients accept.
    #[error("name longer than {NAME_MAX} characters")]
    TooLong,
}

/// A registry: `host` or `host:port`, ASCII, its case as written.
///
/// Two spellings that differ in a default port are two registries, as they are for kubelet's keyring.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(Arc<str>);

impl Registry {
    /// Docker Hub, as `docker.io`.
    pub fn docker_hub() -> Self {
        Self(Arc::from(DOCKER_HUB))
    }

    /// The registry as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without the port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// Whether the host is an IP address rather than a DNS name.
    pub fn is_ip_literal(&self) -> bool {
        self.0.starts_with('[') || self.host().parse::<Ipv4Addr>().is_ok()
    }

    /// Whether a first path segment can only be a registry: it has a dot, a colon, an upper-case letter, or is
    /// `localhost` (distribution/reference `splitDockerDomain`).
    pub fn looks_like_one(segment: &str) -> bool {
        segment == "localhost" || segment.bytes().any(|b| b == b'.' || b == b':' || b.is_ascii_uppercase())
    }

    /// The registry as one component of a repository path, which may hold no colon and no upper-case letter:
    /// `reg.corp_5000`. `None` where it would be read as something else: an IPv6 address, and a host without a dot,
    /// since `team` and `team_1` are parts of a repository's name.
    pub fn path_component(&self) -> Option<String> {
        let lower = self.to_lowercase();
        let component = lower.as_str().replacen(':', "_", 1);
        let read = match lower.as_str().contains(':') {
            true => Self::of_path_component(&component),
            false if Self::looks_like_one(&component) => component.parse().ok(),
            false => None,
        };
        read.filter(|read| *read == lower && is_component(&component)).map(|_| component)
    }

    /// The registry of a component that has an underscore before the port; `None` for every other text. No host name
    /// has an underscore.
    pub fn of_path_component(component: &str) -> Option<Self> {
        let (host, port) = component.rsplit_once('_')?;
        let is_host = host.contains('.') || host == "localhost";
        is_host.then(|| format!("{host}:{port}").parse().ok()).flatten()
    }

    /// The registry under the one name that the store, the rights and the metrics know: host names have no case, and
    /// Docker Hub has two names.
    pub fn canonical(&self) -> Self {
        let lower = self.to_lowercase();
        if lower.as_str() == "index.docker.io" { Self::docker_hub() } else { lower }
    }

    /// The same registry in lower case: host names are, and requests may spell them either way.
    pub fn to_lowercase(&self) -> Self {
        if self.0.bytes().any(|b| b.is_ascii_uppercase()) {
            Self(self.0.to_ascii_lowercase().into())
        } else {
            self.clone()
        }
    }
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rfind([':', ']']) {
        Some(at) if text.as_bytes()[at] == b':' => (&text[..at], Some(&text[at + 1..])),
        _ => (text, None),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok();
    }
    host.len() <= HOST_MAX
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (host, port) = split_port(text);
        let port_is_one = match port {
            None => true,
            Some(port) => {
                port.len() <= 5
                    && port.bytes().all(|b| b.is_ascii_digit())
                    && port.parse::<u16>().is_ok_and(|p| p > 0)
            }
        };
        if is_host(host) && port_is_one {
            Ok(Self(Arc::from(text)))
        } else {
            Err(NameError::Registry(text.chars().take(NAME_MAX).collect()))
        }
    }
}

/// The path of a repository within its registry (distribution-spec, "Pulling manifests").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPath(Arc<str>);

impl RepositoryPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_well = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_well
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
        })
}

impl FromStr for RepositoryPath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_MAX {
            Err(NameError::TooLong)
        } else if text.split('/').all(is_component) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(NameError::Path)
        }
    }
}

/// A repository of a registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: Registry,
    path: RepositoryPath,
}

impl Repository {
    /// The repository `path` of `registry`. On Docker Hub a path of one segment is an official image and gains
    /// `library/`, as every client does it.
    ///
    /// # Errors
    /// When registry and path together are longer than 255 characters.
    pub fn new(registry: Registry, path: RepositoryPath) -> Result<Self, NameError> {
        let path = if registry.as_str() == DOCKER_HUB && !path.as_str().contains('/') {
            RepositoryPath(format!("library/{}", path.as_str()).into())
        } else {
            path
        };
        if registry.as_str().len() + 1 + path.as_str().len() > NAME_MAX {
            return Err(NameError::TooLong);
        }
        Ok(Self { registry, path })
    }

    /// Where the repository lives.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The same repository under the one name of its registry.
    ///
    /// # Errors
    /// When registry and path together are longer than 255 characters.
    pub fn canonical(&self) -> Result<Self, NameError> {
        Self::new(self.registry.canonical(), self.path.clone())
    }

    /// Its path there.
    pub fn path(&self) -> &RepositoryPath {
        &self.path
    }
}

impl FromStr for Repository {
    type Err = NameError;

    /// Reads `registry/path`, as [`Repository`] is shown: nothing is left out and nothing is assumed.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (registry, path) = text.split_once('/').ok_or_else(|| NameError::Registry(text.to_owned()))?;
        Self::new(registry.parse()?, path.parse()?)
    }
}

macro_rules! shown_as_text {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
shown_as_text!(Registry, RepositoryPath);

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn registries_are_hosts_with_an_optional_port() {
        for good in [
            "docker.io",
            "localhost",
            "localhost:5000",
            "Foo",
            "127.0.0.1:5000",
            "[::1]:5000",
            "[fe80::1]",
            "a-b.c",
        ] {
            assert_eq!(good.parse::<Registry>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "a_b",
            "-a.b",
            "a-.b",
            "a.b.",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:00000080",
            "a@b",
            "a/b",
            "a?b",
            "a#b",
            "a%b",
            "a b",
            "a\0",
            "dömain",
            "[::1",
            "::1",
            "[fe80::1%eth0]",
            "[evil]",
            "a:1:2",
        ] {
            assert!(bad.parse::<Registry>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(254).parse::<Registry>().is_err());
    }

    #[test]
    fn an_address_is_told_from_a_name() {
        for (text, host, literal) in [
            ("[::1]:5000", "[::1]", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("reg.test:5000", "reg.test", false),
        ] {
            let registry: Registry = text.parse().unwrap();
            assert_eq!((registry.host(), registry.is_ip_literal()), (host, literal));
        }
    }

    #[test]
    fn a_registry_written_as_a_component_of_a_path_is_read_back_and_no_part_of_a_name_is_taken_for_one() {
        for (registry, component) in [
            ("reg.corp:5000", Some("reg.corp_5000")),
            ("Reg.corp", Some("reg.corp")),
            ("localhost:5000", Some("localhost_5000")),
            ("Reg.Corp:5000", Some("reg.corp_5000")),
            ("10.0.0.1:80", Some("10.0.0.1_80")),
            ("registry:5000", None),
            ("registry", None),
            ("[::1]:5000", None),
            ("[::1]", None),
        ] {
            let parsed: Registry = registry.parse().unwrap();
            assert_eq!(parsed.path_component().as_deref(), component, "{registry}");
            let Some(component) = component.filter(|_| registry.contains(':')) else { continue };
            assert_eq!(Registry::of_path_component(component), Some(parsed.to_lowercase()));
        }
        for other in
            ["team_1", "my.team_app", "a_b.c_80", "reg.corp", "reg.corp_", "reg.corp_0", "reg.corp__80"]
        {
            assert_eq!(Registry::of_path_component(other), None, "{other}");
        }
    }

    #[test]
    fn paths_follow_the_grammar() {
        for good in ["a", "library/nginx", "a.b/c_d/e__f/g-h/i---j", "0/1"] {
            assert!(good.parse::<RepositoryPath>().is_ok(), "{good:?}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", ".a", "a.", "_tags", "a/_tags", "../x",
            "a/../b", "a%2f", "a._b", "ä",
        ] {
            assert!(bad.parse::<RepositoryPath>().is_err(), "{bad:?}");
        }
        assert_eq!("a".repeat(256).parse::<RepositoryPath>(), Err(NameError::TooLong));
    }

    #[test]
    fn official_images_live_under_library_on_docker_hub_alone() {
        let repository = |registry: &str, path: &str| {
            Repository::new(registry.parse().unwrap(), path.parse().unwrap()).unwrap().to_string()
        };
        assert_eq!(repository("docker.io", "nginx"), "docker.io/library/nginx");
        assert_eq!(repository("docker.io", "acme/app"), "docker.io/acme/app");
        assert_eq!(repository("quay.io", "nginx"), "quay.io/nginx");
    }

    proptest! {
        #[test]
        fn no_parsed_name_can_leave_its_directory(text in "\\PC{0,40}") {
            if let Ok(path) = text.parse::<RepositoryPath>() {
                prop_assert!(path.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.starts_with('_')));
            }
            if let Ok(registry) = text.parse::<Registry>() {
                prop_assert!(!registry.as_str().contains('/') && !registry.as_str().starts_with('.'));
            }
        }
    }
}
