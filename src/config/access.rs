//! The parts of the configuration that are about credentials and rights.

use std::path::PathBuf;
use std::time::Duration;

use super::environment::Environment;
use super::file::{OneOrAll, Section, TextOrSection, shown};
use super::resolve::{absolute, endpoint};
use crate::credentials::{self, KubeletDirectories, NodeFiles, ProviderFiles};
use crate::pull::{self, Freshness, Policy, Rule, Rules, TagTtl, Terms};
use crate::reference::Registry;
use crate::serve::{Gate, GateConfig};
use crate::upstream::{self, ClientCertificate, CredentialUse, EndpointConfig};

/// The name under which our unit loads the node's docker config.
const CREDENTIAL: &str = "docker-config.json";

/// `[credentials]`.
pub(super) fn credentials(mut section: Section, environment: &Environment) -> credentials::Config {
    let places = KubeletDirectories {
        kubelet_root: section.read("kubelet_root", absolute).unwrap_or_else(|| "/var/lib/kubelet".into()),
        kubelet_cwd: section.read("kubelet_cwd", absolute).unwrap_or_else(|| "/".into()),
        home: section.read("home", absolute).or_else(|| environment.home.clone()),
    };
    let credential = environment.credentials_dir.as_ref().map(|directory| directory.join(CREDENTIAL));
    let credential = credential.filter(|file| file.exists());
    let node = match section.one_or_all("node") {
        // What systemd read for us as root, and keeps for this service alone.
        None if credential.is_some() => NodeFiles::Named(credential.into_iter().collect()),
        // Without root, a developer's `docker login` must not open private images to every local user.
        None if !environment.root => NodeFiles::Named(Vec::new()),
        None => NodeFiles::Kubelet(places),
        Some(OneOrAll::One(text)) if text == "kubelet" => NodeFiles::Kubelet(places),
        Some(OneOrAll::One(text)) => {
            let problem = "expected \"kubelet\", or a list of files, or [] for none";
            section.mistake("node", format!("{}: {problem}", shown(&text)));
            NodeFiles::Named(Vec::new())
        }
        Some(OneOrAll::All(files)) => NodeFiles::Named(paths(&section, "node", &files)),
    };
    let config = section.read("provider_config", absolute);
    let bin_dir = section.read("provider_bin_dir", absolute);
    let providers = match (config, bin_dir) {
        (Some(config), Some(bin_dir)) => Some(ProviderFiles { config, bin_dir }),
        (Some(_), None) => {
            section
                .mistake("provider_bin_dir", "needed with provider_config: where the plugins are".to_owned());
            None
        }
        (None, Some(_)) => {
            section.mistake(
                "provider_config",
                "needed with provider_bin_dir: which plugins there are".to_owned(),
            );
            None
        }
        (None, None) => None,
    };
    let config = credentials::Config {
        node,
        providers,
        helper_dir: section.read("helper_dir", absolute),
        pull_secrets: section.read_all("pull_secrets", absolute).unwrap_or_default(),
    };
    section.finish();
    config
}

fn paths(section: &Section, key: &str, texts: &[String]) -> Vec<PathBuf> {
    let read = |text: &String| match absolute(text) {
        Ok(path) => Some(path),
        Err(why) => {
            section.mistake(key, format!("{}: {why}", shown(text)));
            None
        }
    };
    texts.iter().filter_map(read).collect()
}

/// `[access]` and `[freshness]`.
pub(super) fn pull(mut access: Section, mut freshness: Section) -> pull::Config {
    let defaults = pull::Config::default();
    let config = pull::Config {
        access: terms(&mut access, "policy", defaults.access),
        registries: defaults.registries,
        arch_suffixes: defaults.arch_suffixes,
        freshness: rules(&mut freshness, defaults.freshness),
        negative_ttl: freshness.read("negative_ttl", span).unwrap_or(defaults.negative_ttl),
    };
    access.finish();
    freshness.finish();
    config
}

/// `[freshness]` with its `[[freshness.rule]]`.
fn rules(section: &mut Section, defaults: Rules) -> Rules {
    let freshness = freshness(section, defaults.freshness);
    let mut rules = Vec::new();
    for mut section in section.sections("rule") {
        let matches = section.read("match", pull::pattern_of);
        let tag_ttl = section.read("tag_ttl", tag_ttl);
        let stale_while_revalidate = section.read("stale_while_revalidate", span);
        let stale_if_error = section.read("stale_if_error", span);
        let says_something =
            tag_ttl.is_some() || stale_while_revalidate.is_some() || stale_if_error.is_some();
        match matches {
            Some(matches) if says_something => {
                rules.push(Rule { matches, tag_ttl, stale_while_revalidate, stale_if_error });
            }
            _ => {
                let example =
                    "a rule is match = \"docker.io/library/*:*\" and tag_ttl = \"10m\" or \"immutable\"";
                section.mistake("", example.to_owned());
            }
        }
        section.finish();
    }
    Rules { freshness, rules, registries: defaults.registries }
}

/// The freshness of tags in a section; what it does not say is as in `before`.
pub(super) fn freshness(section: &mut Section, before: Freshness) -> Freshness {
    let swr = section.read("stale_while_revalidate", span);
    Freshness {
        tag_ttl: section.read("tag_ttl", tag_ttl).unwrap_or(before.tag_ttl),
        stale_while_revalidate: swr.unwrap_or(before.stale_while_revalidate),
        stale_if_error: section.read("stale_if_error", span).unwrap_or(before.stale_if_error),
    }
}

fn tag_ttl(text: &str) -> Result<TagTtl, &'static str> {
    if text == "immutable" { Ok(TagTtl::Immutable) } else { span(text).map(TagTtl::For) }
}

/// The terms of access in a section; what it does not say is as in `before`. A `[[registry]]` calls its policy
/// `access`.
pub(super) fn terms(section: &mut Section, policy: &'static str, before: Terms) -> Terms {
    let read = |text: &str| {
        let found = Policy::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, policy)| policy).ok_or("expected \"verify\" or \"open\"")
    };
    Terms {
        policy: section.read(policy, read).unwrap_or(before.policy),
        grant_ttl: section.read("grant_ttl", span).unwrap_or(before.grant_ttl),
        outage_grace: section.read("outage_grace", span).unwrap_or(before.outage_grace),
    }
}

/// `endpoints` of a `[[registry]]`: URLs, or tables with a URL and marks. One of them has to stand for the registry:
/// who may read what is asked there.
pub(super) fn endpoints(section: &mut Section, registry: Option<&Registry>) -> Vec<EndpointConfig> {
    let all = listed(section);
    if let Some(registry) = registry
        && !all.is_empty()
        && !upstream::has_authoritative_endpoint(&all, registry)
    {
        let problem = "none of them stands for the registry, so that nobody could be asked who may read what; mark one: { url = \"...\", credentials = \"caller\", authoritative = true }";
        section.mistake("endpoints", problem.to_owned());
    }
    all
}

fn listed(section: &mut Section) -> Vec<EndpointConfig> {
    let mut all = Vec::new();
    for entry in section.texts_and_sections("endpoints") {
        match entry {
            TextOrSection::Text(text) => match endpoint(&text) {
                Ok(url) => all.push(url.into()),
                Err(why) => section.mistake("endpoints", format!("{}: {why}", shown(&text))),
            },
            TextOrSection::Section(mut table) => {
                let url = table.read("url", endpoint);
                let read = |text: &str| {
                    let found = CredentialUse::NAMES.into_iter().find(|(name, _)| *name == text);
                    found.map(|(_, whose)| whose).ok_or("expected \"none\", \"node\" or \"caller\"")
                };
                let credentials = table.read("credentials", read);
                let authoritative = table.flag("authoritative");
                match url {
                    Some(url) => all.push(EndpointConfig { url, credentials, authoritative }),
                    None => table.mistake("url", "where is it? url = \"https://mirror.corp\"".to_owned()),
                }
                table.finish();
            }
        }
    }
    all
}

/// `client_cert` and `client_key` of a `[[registry]]`.
pub(super) fn client_certificate(section: &mut Section) -> Option<ClientCertificate> {
    let certificate = section.read("client_cert", absolute);
    let key = section.read("client_key", absolute);
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        (Some(_), None) => {
            section.mistake("client_key", "needed with client_cert: the file with its key".to_owned());
            None
        }
        (None, Some(_)) => {
            section.mistake("client_cert", "needed with client_key: the certificate".to_owned());
            None
        }
        (None, None) => None,
    }
}

/// `gate_header` and `gate_file` of `[server]`.
pub(super) fn gate(section: &mut Section) -> Option<GateConfig> {
    let header = section.read("gate_header", |text| {
        http::HeaderName::try_from(text.to_ascii_lowercase())
            .map_err(|_| "expected the name of a header field")
    });
    let file = section.read("gate_file", absolute);
    let (header, file) = match (header, file) {
        (Some(header), Some(file)) => (header, file),
        (Some(_), None) => {
            section.mistake("gate_file", "needed with gate_header: the file with its value".to_owned());
            return None;
        }
        (None, Some(_)) => {
            section.mistake("gate_header", "needed with gate_file: the header that carries it".to_owned());
            return None;
        }
        (None, None) => return None,
    };
    let gate = GateConfig { header, file };
    match Gate::read(&gate) {
        Ok(_) => Some(gate),
        Err(error) => {
            section.mistake("gate_file", error.to_string());
            None
        }
    }
}

/// A span of time from nothing to ten years.
fn span(text: &str) -> Result<Duration, &'static str> {
    let parsed = humantime::parse_duration(text).map_err(|_| "expected a duration, such as 0s, 5m or 30d")?;
    if parsed <= Duration::from_secs(3_650 * 86_400) { Ok(parsed) } else { Err("expected at most 3650d") }
}
