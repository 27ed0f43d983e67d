//! `[[registry]]`: what is particular to one registry.

use std::path::PathBuf;
use std::time::Duration;

use super::access::{policy, time};
use super::endpoint::EndpointKind;
use super::freshness::TagTtlKind;
use super::server::registry;
use super::upstream::{authority, redirect_target};
use crate::config::report::Place;
use crate::config::schema::section;
use crate::config::value::{Text, flag, list, path};
use crate::pull::{self, Policy, TagTtl, Terms};
use crate::reference::Registry as Host;
use crate::upstream::{ClientCertificate, EndpointConfig, RegistryConfig, has_authoritative_endpoint};

section! {
    /// What is particular to one registry. The section permits its host, also at a private address.
    Registry = "registry";

    /// Which registry this is about.
    reload host: Option<Host> = host(), |_| None, example "\"registry.corp:5000\"";

    /// Where it is asked, in this order; without them, at the host itself over TLS. An http:// URL is itself the
    /// permission to use plain HTTP. A mirror is shown no credential and its word proves no right, unless it is marked:
    /// { url = "https://mirror.corp/v2/hub", credentials = "none", "node" or "caller", authoritative = true or false }.
    reload endpoints: Vec<EndpointConfig> = list(EndpointKind), |_| Vec::new(),
        example "[\"https://registry.corp:5000\"]";

    /// Whether a client that is logged in to this cache's own address, and names this registry in the path
    /// (127.0.0.1:5050/registry.corp/app), has its login sent there; it is unless this is false. A login is never sent
    /// to a registry without a section.
    reload path_logins: bool = flag(), |_| true, example "true";

    /// PEM file of certificate authorities that are trusted besides the system's; a server whose certificate is
    /// self-signed is trusted if that is in it, for the names and dates that it has. ECDSA on P-521 or with SHA-512
    /// cannot be verified. A reload reads it again.
    reload ca: Option<PathBuf> = path(), |_| None, example "\"/etc/ssl/certs/corp.pem\"";

    /// PEM file of a certificate that is shown to hosts that are named here, to no other. A reload reads it again.
    reload client_cert: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/client.pem\"";

    /// PEM file of the key of `client_cert`; may be the same file. A reload reads it again.
    reload client_key: Option<PathBuf> = path(), |_| None, example "\"/etc/larder/client.key\"";

    /// host:port of this registry's token servers that are at a private address, at another IP address than the
    /// registry, or in another domain. A credential for this registry is shown to them.
    reload trusted_realms: Vec<String> = list(authority()), |_| Vec::new(), example "[\"auth.corp:443\"]";

    /// host:port of servers at a private address to which this registry may redirect. With http:// before it, its blobs
    /// are fetched there over plain HTTP too: no credential goes there, and their digests prove them.
    reload trusted_redirects: Vec<String> = list(redirect_target()), |_| Vec::new(),
        example "[\"minio.corp:9000\", \"http://ceph.corp:8080\"]";

    /// As `policy` in [access].
    reload access: Option<Policy> = policy(), |_| None, example "\"open\"";

    /// As in [access].
    reload grant_ttl: Option<Duration> = time(), |_| None, example "\"1h\"";

    /// As in [access].
    reload outage_grace: Option<Duration> = time(), |_| None, example "\"7d\"";

    /// As in [freshness].
    reload tag_ttl: Option<TagTtl> = TagTtlKind, |_| None, example "\"5m\"";

    /// As in [freshness].
    reload stale_while_revalidate: Option<Duration> = time(), |_| None, example "\"1h\"";

    /// As in [freshness].
    reload stale_if_error: Option<Duration> = time(), |_| None, example "\"7d\"";

    /// Architectures, as Go names them, for a registry with an image for each: `app`, where there is none, is answered
    /// with an index of app-amd64, app-arm64 and so on in this order, and app-arm64 from the index of `app`.
    reload arch_suffix: Vec<String> = list(arch()), |_| Vec::new(), example "[\"amd64\", \"arm64\"]";
}

impl Registry {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, place: &Place<'_>) {
        if self.host.is_none()
            && let Some(host) = place.absent_key("host")
        {
            host.mistake("which registry is this about? host = \"registry.corp\"");
        }
        if let Some(host) = &self.host
            && !self.endpoints.is_empty()
            && !has_authoritative_endpoint(&self.endpoints, host)
        {
            let problem = "none of them stands for the registry, so that there is none to ask who may read what; \
                mark one: { url = \"...\", credentials = \"caller\", authoritative = true }";
            place.known_key("endpoints").mistake(problem);
        }
        place.both(
            ("client_cert", self.client_cert.is_some(), "the certificate"),
            ("client_key", self.client_key.is_some(), "the file with its key"),
        );
    }

    /// Where it is asked.
    pub(crate) fn config(&self) -> RegistryConfig {
        let client = self.client_cert.clone().zip(self.client_key.clone());
        RegistryConfig {
            endpoints: self.endpoints.clone(),
            ca: self.ca.clone(),
            client: client.map(|(certificate, key)| ClientCertificate { certificate, key }),
            trusted_realms: self.trusted_realms.iter().cloned().collect(),
            trusted_redirects: self.trusted_redirects.iter().cloned().collect(),
        }
    }

    /// Its terms; what it does not say is as in `before`.
    pub(crate) fn terms(&self, before: Terms) -> Terms {
        Terms {
            policy: self.access.unwrap_or(before.policy),
            grant_ttl: self.grant_ttl.unwrap_or(before.grant_ttl),
            outage_grace: self.outage_grace.unwrap_or(before.outage_grace),
        }
    }

    /// The freshness of its tags; what it does not say is as in `before`.
    pub(crate) fn freshness(&self, before: pull::Freshness) -> pull::Freshness {
        pull::Freshness {
            tag_ttl: self.tag_ttl.unwrap_or(before.tag_ttl),
            stale_while_revalidate: self.stale_while_revalidate.unwrap_or(before.stale_while_revalidate),
            stale_if_error: self.stale_if_error.unwrap_or(before.stale_if_error),
        }
    }
}

/// Registries are distinguished without regard to case.
fn host() -> Text<Host> {
    let read = |text: &str| text.parse::<Host>().map(|host| host.to_lowercase()).map_err(|e| e.to_string());
    Text { read, ..registry() }
}

/// An architecture as names of images carry it.
fn arch() -> Text<String> {
    let read = |text: &str| {
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let expected = || "expected an architecture as Go names it, such as amd64 or arm64".to_owned();
        if good { Ok(text.to_owned()) } else { Err(expected()) }
    };
    Text { what: "architecture", examples: &["amd64", "arm64"], read, write: String::clone }
}
