//! The endpoints of a registry, or why no request is sent to it. Pure.
//!
//! Promises: a registry without an entry in the configuration has a public DNS name and is reached over TLS. A mirror
//! gets no caller's credential and proves no right unless the configuration says so.

use std::sync::Arc;

use url::{Origin, Url};

use crate::reference::{DOCKER_HUB, PrincipalKind, Registry, Repository};
use crate::support::loopback;
use crate::upstream::config::{Allow, Config, CredentialUse, EndpointConfig, RegistryConfig};
use crate::upstream::endpoint::key::EndpointKey;
use crate::upstream::error::Error;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;

/// How the shared tier is named in logs and errors, where an endpoint is.
const SHARED_TIER: &str = "shared tier";

/// Names an endpoint that delivered something. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointId {
    base_url: Arc<str>,
    host: Arc<str>,
    role: Role,
}

/// What it is to the registry whose content it delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The registry itself: its responses prove rights.
    Authoritative,
    /// Another endpoint, whose responses prove none.
    Mirror,
    /// No endpoint of any registry.
    SharedTier,
}

impl EndpointId {
    /// `host:port`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether its responses prove rights: it is the registry itself, and not a mirror.
    pub fn is_authoritative(&self) -> bool {
        self.role == Role::Authoritative
    }

    /// What is no endpoint of any registry, and delivers all the same: the shared tier. Its bytes prove no right.
    pub(crate) fn shared_tier() -> Self {
        Self { base_url: SHARED_TIER.into(), host: SHARED_TIER.into(), role: Role::SharedTier }
    }

    /// Whether it names the shared tier, and no endpoint.
    pub(crate) fn is_shared_tier(&self) -> bool {
        self.role == Role::SharedTier
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    #[cfg(test)]
    pub(crate) fn for_test(host: &str) -> Self {
        let base_url = format!("https://{host}/v2").into();
        let role = if host == "mirror" { Role::Mirror } else { Role::Authoritative };
        Self { base_url, host: host.into(), role }
    }
}

/// One endpoint of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Ends with `/v2`, or has it in its path.
    base: Url,
    id: EndpointId,
    key: EndpointKey,
    pub(crate) trust: HostTrust,
    credentials: CredentialUse,
}

impl Endpoint {
    /// `/v2` is appended as containerd does it, unless the path has it already (a mirror under a prefix).
    fn new(url: &Url, trust: HostTrust, credentials: CredentialUse, role: Role) -> Self {
        let mut base = url.clone();
        let path = url.path().trim_end_matches('/');
        let path = if path.split('/').any(|segment| segment == "v2") {
            path.to_owned()
        } else {
            format!("{path}/v2")
        };
        base.set_path(&path);
        base.set_query(None);
        base.set_fragment(None);
        let base_url: Arc<str> = base.as_str().into();
        let key = EndpointKey::new(Arc::clone(&base_url), trust, None);
        let id = EndpointId { base_url, host: authority(&base).into(), role };
        Self { base, id, key, trust, credentials }
    }

    /// The same, of a registry that has settings of its own.
    fn of(self, settings: &RegistryConfig) -> Self {
        let key = EndpointKey::new(Arc::clone(&self.id.base_url), self.trust, Some(settings));
        Self { key, ..self }
    }

    #[cfg(test)]
    pub(crate) fn for_test(url: &str) -> Self {
        Self::of_registry(&url.parse().expect("a URL"), HostTrust::Configured)
    }

    /// The registry itself.
    fn of_registry(url: &Url, trust: HostTrust) -> Self {
        Self::new(url, trust, CredentialUse::Caller, Role::Authoritative)
    }

    /// An endpoint of the configuration. A mirror saves the transfer and not the proof: unless it is marked, only the
    /// registry's own host, or an endpoint that is the only one, is authoritative.
    fn configured(config: &EndpointConfig, registry: &Registry, only_one: bool) -> Self {
        let is_registry = only_one || is_host_of(&config.url, registry);
        let default = if is_registry { CredentialUse::Caller } else { CredentialUse::None };
        let is_authoritative = config.authoritative.unwrap_or(is_registry);
        let role = if is_authoritative { Role::Authoritative } else { Role::Mirror };
        Self::new(&config.url, HostTrust::Configured, config.credentials.unwrap_or(default), role)
    }

    /// The URL that says whether the endpoint is there at all (distribution-spec, "Determining Support").
    pub(crate) fn version_url(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/", self.base.path()));
        url
    }

    /// `host:port`, as errors name it.
    pub(crate) fn host_and_port(&self) -> &str {
        self.id.host()
    }

    /// Its name, to be kept with what it delivers.
    pub(crate) fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Whether its responses prove rights.
    pub(crate) fn is_authoritative(&self) -> bool {
        self.id.is_authoritative()
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> Origin {
        self.base.origin()
    }

    /// Its URL, by which it differs from other endpoints of its registry.
    pub(crate) fn base_url(&self) -> &str {
        self.id.base_url()
    }

    /// What its health is kept by.
    pub(crate) fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Whether a credential of this kind may be presented to it.
    pub(crate) fn accepts(&self, kind: PrincipalKind) -> bool {
        match kind {
            PrincipalKind::Caller => self.credentials >= CredentialUse::Caller,
            PrincipalKind::Node | PrincipalKind::Provider => self.credentials >= CredentialUse::Node,
            PrincipalKind::Anonymous => true,
        }
    }

    /// The URL of a resource of `repository`: `path` is what follows the repository's name, made of parsed values only.
    pub(crate) fn resource_url(&self, repository: &Repository, path: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}/{path}", self.base.path(), repository.path()));
        url.set_query(query);
        url
    }
}

/// Whether any of these endpoints proves rights to `registry`.
pub fn has_authoritative_endpoint(endpoints: &[EndpointConfig], registry: &Registry) -> bool {
    let only_one = endpoints.len() == 1;
    endpoints.iter().any(|e| Endpoint::configured(e, registry, only_one).is_authoritative())
}

/// Whether `registry` is asked on the node itself: every one of these endpoints that proves rights to it is on
/// loopback.
pub fn is_on_loopback(endpoints: &[EndpointConfig], registry: &Registry) -> bool {
    let only_one = endpoints.len() == 1;
    let proves = |e: &&EndpointConfig| Endpoint::configured(e, registry, only_one).is_authoritative();
    endpoints.iter().filter(proves).all(|e| e.url.host_str().is_some_and(loopback::is_host))
}

fn is_host_of(url: &Url, registry: &Registry) -> bool {
    let names: &[&str] = if registry.as_str() == DOCKER_HUB {
        &["registry-1.docker.io", "index.docker.io", DOCKER_HUB]
    } else {
        &[registry.as_str()]
    };
    let at = url.host_str().unwrap_or_default();
    let at = url.port().map_or(at.to_owned(), |port| format!("{at}:{port}"));
    names.iter().any(|name| at.eq_ignore_ascii_case(name) || authority(url).eq_ignore_ascii_case(name))
}

/// The endpoints of `registry`, in the order in which they are tried.
///
/// # Errors
/// [`Error::Declined`], with the setting that would permit the registry.
pub(crate) fn endpoints(config: &Config, registry: &Registry) -> Result<Vec<Endpoint>, Error> {
    let configured = config.registries.get(registry);
    if let Some(configured) = configured.filter(|c| !c.endpoints.is_empty()) {
        let only_one = configured.endpoints.len() == 1;
        let all = configured.endpoints.iter();
        return Ok(all.map(|e| Endpoint::configured(e, registry, only_one).of(configured)).collect());
    }
    let declined = |why: String| Error::Declined { registry: registry.clone(), why };
    let host = if registry.as_str() == DOCKER_HUB { "registry-1.docker.io" } else { registry.as_str() };
    let url = Url::parse(&format!("https://{host}/")).map_err(|e| declined(e.to_string()))?;
    if let Some(configured) = configured {
        return Ok(vec![Endpoint::of_registry(&url, HostTrust::Configured).of(configured)]);
    }
    match &config.allow {
        Allow::Only(listed) if listed.contains(registry) => {}
        Allow::Only(_) => {
            return Err(declined(format!(
                "it is not in [upstream] allow; add \"{registry}\" there to permit it"
            )));
        }
        Allow::Public if is_public_name(registry) => {}
        Allow::Public => {
            return Err(declined(format!(
                "it is no public DNS name; to permit it add: [[registry]] host = \"{registry}\""
            )));
        }
    }
    Ok(vec![Endpoint::of_registry(&url, HostTrust::Untrusted)])
}

fn is_public_name(registry: &Registry) -> bool {
    let host = registry.host();
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains('.')
        && !registry.is_ip_literal()
        && !last.bytes().all(|b| b.is_ascii_digit())
        && !["localhost", "local", "internal"].iter().any(|private| last.eq_ignore_ascii_case(private))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::config::RegistryConfig;

    fn urls(config: &Config, registry: &str) -> Result<Vec<String>, Error> {
        let repository = Repository::new(registry.parse().unwrap(), "a/b".parse().unwrap()).unwrap();
        let endpoints = endpoints(config, repository.registry())?;
        Ok(endpoints
            .iter()
            .map(|e| e.resource_url(&repository, "tags/list", Some("n=5")).to_string())
            .collect())
    }

    #[test]
    fn any_public_name_is_reached_over_tls() {
        let config = Config::default();
        assert_eq!(urls(&config, "quay.io").unwrap(), ["https://quay.io/v2/a/b/tags/list?n=5"]);
        assert_eq!(
            urls(&config, "docker.io").unwrap(),
            ["https://registry-1.docker.io/v2/a/b/tags/list?n=5"]
        );
        assert_eq!(urls(&config, "reg.test:5000").unwrap(), ["https://reg.test:5000/v2/a/b/tags/list?n=5"]);
    }

    #[test]
    fn a_name_that_is_not_public_is_declined_with_the_line_to_add() {
        for registry in [
            "localhost",
            "localhost:10250",
            "127.0.0.1:5000",
            "[::1]:2379",
            "169.254.169.254",
            "metadata",
            "2130706433",
            "127.1",
            "0x7f.0.0.1",
            "metadata.google.internal",
            "a.localhost",
            "printer.local",
        ] {
            let error = urls(&Config::default(), registry).unwrap_err();
            assert!(error.to_string().contains(&format!("host = \"{registry}\"")), "{error}");
        }
    }

    #[test]
    fn a_closed_list_is_closed() {
        let only = Allow::Only(["quay.io".parse().unwrap()].into());
        let config = Config { allow: only, ..Config::default() };
        assert!(urls(&config, "quay.io").is_ok());
        assert!(urls(&config, "docker.io").is_err());
    }

    #[test]
    fn configured_endpoints_are_tried_in_order_under_their_own_path() {
        let listed = ["http://127.0.0.1:5000", "https://mirror.corp/v2/hub/", "https://mirror.corp/cache"];
        let endpoints = listed.iter().map(|u| u.parse::<Url>().unwrap().into()).collect();
        let entry = RegistryConfig { endpoints, ..RegistryConfig::default() };
        let registries = [("docker.io".parse().unwrap(), entry)].into();
        let config = Config { registries, ..Config::default() };
        assert_eq!(
            urls(&config, "docker.io").unwrap(),
            [
                "http://127.0.0.1:5000/v2/a/b/tags/list?n=5",
                "https://mirror.corp/v2/hub/a/b/tags/list?n=5",
                "https://mirror.corp/cache/v2/a/b/tags/list?n=5",
            ]
        );
    }

    #[test]
    fn a_mirror_proves_nothing_and_gets_no_credential_unless_it_is_marked() {
        let of = |registry: &str, endpoints: Vec<EndpointConfig>| {
            let registry: Registry = registry.parse().unwrap();
            let registries =
                [(registry.clone(), RegistryConfig { endpoints, ..RegistryConfig::default() })].into();
            let config = Config { registries, ..Config::default() };
            let kinds = [PrincipalKind::Caller, PrincipalKind::Node, PrincipalKind::Anonymous];
            let summary = |e: Endpoint| (e.is_authoritative(), kinds.map(|kind| e.accepts(kind)));
            super::endpoints(&config, &registry).unwrap().into_iter().map(summary).collect::<Vec<_>>()
        };
        let url = |text: &str| EndpointConfig::from(text.parse::<Url>().unwrap());
        let (all, none) = ((true, [true, true, true]), (false, [false, false, true]));
        assert_eq!(of("reg.test", vec![url("http://10.0.0.1:5000")]), [all]);
        let two = vec![url("https://mirror.corp"), url("https://reg.test")];
        assert_eq!(of("reg.test", two), [none, all]);
        assert_eq!(of("reg.test:443", vec![url("https://m.corp"), url("https://reg.test")]), [none, all]);
        assert_eq!(of("reg.test:80", vec![url("https://m.corp"), url("https://reg.test")]), [none, none]);
        assert_eq!(
            of("docker.io", vec![url("https://m.corp"), url("https://registry-1.docker.io")]),
            [none, all]
        );
        let marked = EndpointConfig {
            credentials: Some(CredentialUse::Node),
            authoritative: Some(true),
            ..url("https://m.corp")
        };
        assert_eq!(of("reg.test", vec![marked, url("https://reg.test")]), [(true, [false, true, true]), all]);
        let unmarked = EndpointConfig {
            credentials: Some(CredentialUse::None),
            authoritative: Some(false),
            ..url("https://m.corp")
        };
        assert_eq!(of("reg.test", vec![unmarked]), [none]);
    }
}
