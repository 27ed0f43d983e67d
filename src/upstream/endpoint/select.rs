//! Where a registry is asked, or why it is not.

use url::Url;

use crate::reference::{DOCKER_HUB, PrincipalKind, Registry, Repository};
use crate::upstream::config::{Allow, Config, CredentialUse, EndpointConfig};
use crate::upstream::error::Error;
use crate::upstream::transport::address::Trust;

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    base: Url,
    /// Who chose the host.
    pub(crate) trust: Trust,
    shown: CredentialUse,
    /// Whether its word proves a right.
    pub(crate) authoritative: bool,
}

impl Endpoint {
    /// `/v2` is appended as containerd does it, unless the path has it already (a mirror under a prefix).
    fn new(url: &Url, trust: Trust, shown: CredentialUse, authoritative: bool) -> Self {
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
        Self { base, trust, shown, authoritative }
    }

    #[cfg(test)]
    pub(crate) fn for_test(url: &str) -> Self {
        Self::origin(&url.parse().expect("a URL"), Trust::Operator)
    }

    /// The registry itself.
    fn origin(url: &Url, trust: Trust) -> Self {
        Self::new(url, trust, CredentialUse::Caller, true)
    }

    /// What the operator named. A mirror saves the transfer and never the proof: unless it is marked, only the
    /// registry's own host, or an endpoint that is the only one, stands for the registry.
    fn configured(config: &EndpointConfig, registry: &Registry, only_one: bool) -> Self {
        let stands_for_it = only_one || is_host_of(&config.url, registry);
        let default = if stands_for_it { CredentialUse::Caller } else { CredentialUse::None };
        let authoritative = config.authoritative.unwrap_or(stands_for_it);
        Self::new(&config.url, Trust::Operator, config.credentials.unwrap_or(default), authoritative)
    }

    /// Where a client begins (distribution-spec, "Determining Support").
    pub(crate) fn root(&self) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/", self.base.path()));
        url
    }

    /// `host:port`, as errors name who failed.
    pub(crate) fn host(&self) -> String {
        authority(&self.base)
    }

    /// Its name, to tell it from others.
    pub(crate) fn name(&self) -> &str {
        self.base.as_str()
    }

    /// Whether it may see a credential of this kind.
    pub(crate) fn may_see(&self, kind: PrincipalKind) -> bool {
        match kind {
            PrincipalKind::Caller => self.shown >= CredentialUse::Caller,
            PrincipalKind::Node | PrincipalKind::Provider => self.shown >= CredentialUse::Node,
            PrincipalKind::Anonymous => true,
        }
    }

    /// The URL of something in `repository`: `rest` is what follows the name, parsed parts only.
    pub(crate) fn url(&self, repository: &Repository, rest: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{}/{rest}", self.base.path(), repository.path()));
        url.set_query(query);
        url
    }
}

/// `host:port` with the port spelled out: how operators list hosts and how we compare them.
pub(crate) fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
}

/// Whether any of these endpoints stands for `registry`.
pub fn has_authoritative_endpoint(endpoints: &[EndpointConfig], registry: &Registry) -> bool {
    let only_one = endpoints.len() == 1;
    endpoints.iter().any(|e| Endpoint::configured(e, registry, only_one).authoritative)
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

/// The endpoints of `registry`, in order.
///
/// # Errors
/// [`Error::Declined`], with what the operator may do about it.
pub(crate) fn endpoints(config: &Config, registry: &Registry) -> Result<Vec<Endpoint>, Error> {
    let configured = config.registries.get(registry);
    if let Some(configured) = configured.filter(|c| !c.endpoints.is_empty()) {
        let only_one = configured.endpoints.len() == 1;
        let all = configured.endpoints.iter().map(|e| Endpoint::configured(e, registry, only_one));
        return Ok(all.collect());
    }
    let declined = |why: String| Error::Declined { registry: registry.clone(), why };
    let host = if registry.as_str() == DOCKER_HUB { "registry-1.docker.io" } else { registry.as_str() };
    let url = Url::parse(&format!("https://{host}/")).map_err(|e| declined(e.to_string()))?;
    if configured.is_some() {
        return Ok(vec![Endpoint::origin(&url, Trust::Operator)]);
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
    Ok(vec![Endpoint::origin(&url, Trust::Stranger)])
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

    fn asked(config: &Config, registry: &str) -> Result<Vec<String>, Error> {
        let repository = Repository::new(registry.parse().unwrap(), "a/b".parse().unwrap()).unwrap();
        let endpoints = endpoints(config, repository.registry())?;
        Ok(endpoints.iter().map(|e| e.url(&repository, "tags/list", Some("n=5")).to_string()).collect())
    }

    #[test]
    fn any_public_name_is_asked_over_tls() {
        let config = Config::default();
        assert_eq!(asked(&config, "quay.io").unwrap(), ["https://quay.io/v2/a/b/tags/list?n=5"]);
        assert_eq!(
            asked(&config, "docker.io").unwrap(),
            ["https://registry-1.docker.io/v2/a/b/tags/list?n=5"]
        );
        assert_eq!(asked(&config, "reg.test:5000").unwrap(), ["https://reg.test:5000/v2/a/b/tags/list?n=5"]);
    }

    #[test]
    fn what_is_no_public_name_is_declined_with_the_line_to_add() {
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
            let error = asked(&Config::default(), registry).unwrap_err();
            assert!(error.to_string().contains(&format!("host = \"{registry}\"")), "{error}");
        }
    }

    #[test]
    fn a_closed_list_is_closed() {
        let only = Allow::Only(["quay.io".parse().unwrap()].into());
        let config = Config { allow: only, ..Config::default() };
        assert!(asked(&config, "quay.io").is_ok());
        assert!(asked(&config, "docker.io").is_err());
    }

    #[test]
    fn configured_endpoints_are_asked_in_order_under_their_own_path() {
        let urls = ["http://127.0.0.1:5000", "https://mirror.corp/v2/hub/", "https://mirror.corp/cache"];
        let endpoints = urls.iter().map(|u| u.parse::<Url>().unwrap().into()).collect();
        let entry = RegistryConfig { endpoints, ..RegistryConfig::default() };
        let registries = [("docker.io".parse().unwrap(), entry)].into();
        let config = Config { registries, ..Config::default() };
        assert_eq!(
            asked(&config, "docker.io").unwrap(),
            [
                "http://127.0.0.1:5000/v2/a/b/tags/list?n=5",
                "https://mirror.corp/v2/hub/a/b/tags/list?n=5",
                "https://mirror.corp/cache/v2/a/b/tags/list?n=5",
            ]
        );
    }

    #[test]
    fn a_mirror_proves_nothing_and_sees_no_credential_unless_it_is_marked() {
        let of = |registry: &str, endpoints: Vec<EndpointConfig>| {
            let registry: Registry = registry.parse().unwrap();
            let registries =
                [(registry.clone(), RegistryConfig { endpoints, ..RegistryConfig::default() })].into();
            let config = Config { registries, ..Config::default() };
            let kinds = [PrincipalKind::Caller, PrincipalKind::Node, PrincipalKind::Anonymous];
            let told = |e: Endpoint| (e.authoritative, kinds.map(|kind| e.may_see(kind)));
            super::endpoints(&config, &registry).unwrap().into_iter().map(told).collect::<Vec<_>>()
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
