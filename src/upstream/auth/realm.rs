//! Whether a token is requested from a realm, and whether with a credential: a pure decision.
//!
//! The realm is a URL that the registry chose. A request for an anonymous token carries no secret, so a foreign host is
//! permitted; a weaker transport, a user name in the URL, or an address inside the node's network is not. A registry
//! that does not know that it is behind TLS names itself by http: such a realm is asked over TLS. A credential goes
//! only to the registry's own host and port, to a host of the same registrable domain (by the public suffix list with
//! its private section, since the tenants of a hosting domain do not trust each other), to the token servers of
//! well-known registries, or to one that the configuration lists (CVE-2020-15157, CVE-2026-33540).

use std::collections::HashSet;

use url::{Host, Url};

use crate::reference::registered_domain;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::{authority, is_host_too_long};

/// Registries whose token server has another registrable domain, with that server.
const TOKEN_SERVERS: &[(&str, &str)] = &[
    ("registry-1.docker.io:443", "auth.docker.io:443"),
    ("index.docker.io:443", "auth.docker.io:443"),
    ("docker.io:443", "auth.docker.io:443"),
    ("registry.hub.docker.com:443", "auth.docker.io:443"),
    ("rg.fr-par.scw.cloud:443", "api.scaleway.com:443"),
    ("rg.nl-ams.scw.cloud:443", "api.scaleway.com:443"),
    ("rg.pl-waw.scw.cloud:443", "api.scaleway.com:443"),
    ("registry.freedesktop.org:443", "gitlab.freedesktop.org:443"),
];

/// Why no token is requested from a realm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RealmError {
    #[error("its token realm is not an absolute URL: {0}")]
    Url(#[from] url::ParseError),
    #[error("its token realm is plain http at another host or port")]
    PlainHttp,
    #[error("its token realm is not HTTP")]
    NotHttp,
    #[error("its token realm has a user name in it")]
    UserName,
    #[error("its token realm has no host")]
    NoHost,
    #[error("its token realm has a host whose name is too long")]
    HostTooLong,
    #[error(
        "its token realm is another IP address or localhost; list it in trusted_realms of the [[registry]]"
    )]
    Address,
    #[error(
        "its token realm is of another domain, to which no credential is sent; list it in trusted_realms of the [[registry]]"
    )]
    ForeignDomain,
}

/// The URL of the token server, and how far its host is trusted. `challenged_by` is the URL whose response named the
/// realm, `trust` the trust in its host, `trusted_realms` the listed hosts as `host:port`. With `secret` a credential
/// would be sent.
///
/// # Errors
/// [`RealmError`].
pub(crate) fn check(
    realm: &str,
    challenged_by: &Url,
    trust: HostTrust,
    trusted_realms: &HashSet<String>,
    secret: bool,
) -> Result<(Url, HostTrust), RealmError> {
    let mut realm = Url::parse(realm)?;
    use_tls_if_same_host(&mut realm, challenged_by);
    match (challenged_by.scheme(), realm.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return Err(RealmError::PlainHttp),
        _ => return Err(RealmError::NotHttp),
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err(RealmError::UserName);
    }
    if is_host_too_long(&realm) {
        return Err(RealmError::HostTooLong);
    }
    let host = authority(&realm);
    if host == authority(challenged_by) {
        return Ok((realm, trust));
    }
    if trusted_realms.contains(&host) {
        return Ok((realm, HostTrust::Configured));
    }
    match realm.host() {
        Some(Host::Domain(name)) if !name.eq_ignore_ascii_case("localhost") => {}
        Some(_) => return Err(RealmError::Address),
        None => return Err(RealmError::NoHost),
    }
    if secret && !has_same_owner(&realm, challenged_by) {
        return Err(RealmError::ForeignDomain);
    }
    Ok((realm, HostTrust::Untrusted))
}

/// A realm on plain HTTP of the very host that gave its challenge over TLS, on the port of plain HTTP or on the host's
/// own, becomes one of the host's own port over TLS.
fn use_tls_if_same_host(realm: &mut Url, challenged_by: &Url) {
    let is_same_port =
        realm.port().is_none() || realm.port_or_known_default() == challenged_by.port_or_known_default();
    if (challenged_by.scheme(), realm.scheme()) == ("https", "http")
        && realm.host() == challenged_by.host()
        && is_same_port
    {
        let mut over_tls = realm.clone();
        if over_tls.set_scheme("https").and_then(|()| over_tls.set_port(challenged_by.port())).is_ok() {
            *realm = over_tls;
        }
    }
}

fn has_same_owner(realm: &Url, challenged_by: &Url) -> bool {
    // Over plain HTTP, any host on the path could have written the realm.
    if realm.scheme() != "https" {
        return false;
    }
    let (to, from) = (authority(realm), authority(challenged_by));
    if TOKEN_SERVERS.iter().any(|(registry, server)| from == *registry && to == *server) {
        return true;
    }
    let registrable = |url: &Url| match url.host() {
        // Below a suffix that the list does not know, names may belong to different owners.
        Some(Host::Domain(name)) => {
            registered_domain(name).filter(|(_, is_known)| *is_known).map(|(domain, _)| domain)
        }
        _ => None,
    };
    matches!((registrable(realm), registrable(challenged_by)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(realm: &str, challenged_by: &str) -> Result<HostTrust, RealmError> {
        let trusted = HashSet::from(["10.0.0.5:443".to_owned()]);
        check(realm, &challenged_by.parse().unwrap(), HostTrust::Configured, &trusted, false)
            .map(|(_, trust)| trust)
    }

    #[test]
    fn a_credential_is_sent_to_the_registrys_owner_alone() {
        let hub = "https://registry-1.docker.io/v2/";
        for (realm, challenged_by, sent) in [
            ("https://auth.docker.io/token", hub, true),
            ("https://auth.docker.io:8443/token", hub, true),
            ("http://auth.docker.io/token", hub, false),
            ("https://auth.evil-docker.io/token", hub, false),
            ("https://docker.io.evil.com/token", hub, false),
            ("https://auth.docker.io.evil.com/token", hub, false),
            ("https://auth.docker.io@evil.com/token", hub, false),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com/v2/", true),
            ("https://evil.gitlab.io/jwt/auth", "https://registry.gitlab.io/v2/", false),
            ("https://gitlab.freedesktop.org/jwt/auth", "https://registry.freedesktop.org/v2/", true),
            ("https://auth.docker.io/token", "https://registry.hub.docker.com/v2/", true),
            ("https://auth.docker.io/token", "https://hub.docker.com/v2/", false),
            ("https://api.scaleway.com/r/tokens", "https://rg.fr-par.scw.cloud/v2/", true),
            ("https://api.scaleway.com/r/tokens", "https://rg.nl-ams.scw.cloud/v2/", true),
            ("https://api.scaleway.com/r/tokens", "https://rg.pl-waw.scw.cloud/v2/", true),
            ("https://api.scaleway.com:8443/r/tokens", "https://rg.pl-waw.scw.cloud/v2/", false),
            ("https://api.scaleway.com/r/tokens", "https://evil.functions.fnc.fr-par.scw.cloud/v2/", false),
            ("https://b.co.uk/t", "https://a.co.uk/v2/", false),
            ("https://auth.corp.co.uk/t", "https://reg.corp.co.uk/v2/", true),
            ("https://evil.github.io/t", "https://victim.github.io/v2/", false),
            ("https://evil.s3.amazonaws.com/t", "https://victim.s3.amazonaws.com/v2/", false),
            ("https://auth.test/t", "https://reg.test/v2/", false),
            ("https://auth.corp.test/t", "https://reg.corp.test/v2/", false),
            ("https://10.0.0.5/token", "https://reg.corp/v2/", true),
            ("https://10.0.0.6/token", "https://10.0.0.7/v2/", false),
            ("https://10.0.0.7:444/token", "https://10.0.0.7/v2/", false),
            ("https://[::ffff:169.254.169.254]/t", "https://reg.corp/v2/", false),
            ("http://10.0.0.1:5000/token", "http://10.0.0.1:5000/v2/", true),
            ("http://auth.example.com/t", "http://reg.example.com/v2/", false),
            ("https://auth.example.com/t", "http://reg.example.com/v2/", true),
            ("http://reg.example.com/token", "https://reg.example.com/v2/", true),
            ("http://auth.example.com/token", "https://reg.example.com/v2/", false),
        ] {
            let trusted = HashSet::from(["10.0.0.5:443".to_owned()]);
            let checked = check(realm, &challenged_by.parse().unwrap(), HostTrust::Untrusted, &trusted, true);
            assert_eq!(checked.is_ok(), sent, "{realm} of {challenged_by}");
        }
    }

    #[test]
    fn a_host_that_no_dns_can_have_is_asked_for_no_token_and_is_in_no_error() {
        for realm in ["https://%.example/t", "http://%.example/t", "https://%/t"] {
            let realm = realm.replace('%', &"a".repeat(4_000));
            let why = checked(&realm, "https://reg.corp/v2/").unwrap_err();
            assert!(why.to_string().len() < 100, "{why}");
            assert_eq!(checked(&realm, "http://reg.corp/v2/"), Err(RealmError::HostTooLong));
        }
    }

    #[test]
    fn each_kind_of_realm_is_trusted_as_far_as_it_should_be() {
        let (tls, plain) = ("https://reg.corp/v2/", "http://10.0.0.1:5000/v2/");
        for (realm, challenged_by, expected) in [
            ("https://reg.corp/token", tls, Some(HostTrust::Configured)),
            ("https://reg.corp:443/token", tls, Some(HostTrust::Configured)),
            ("https://auth.docker.io/token", tls, Some(HostTrust::Untrusted)),
            ("https://10.0.0.5/token", tls, Some(HostTrust::Configured)),
            ("http://10.0.0.1:5000/token", plain, Some(HostTrust::Configured)),
            ("https://auth.test/token", plain, Some(HostTrust::Untrusted)),
            ("http://reg.corp/token", tls, Some(HostTrust::Configured)),
            ("http://reg.corp:5000/token", tls, None),
            ("http://other.corp/token", tls, None),
            ("http://u:p@reg.corp/token", tls, None),
            ("http://10.0.0.5/token", tls, None),
            ("https://reg.corp:8443/token", tls, Some(HostTrust::Untrusted)),
            ("https://u:p@reg.corp/token", tls, None),
            ("https://127.0.0.1/token", tls, None),
            ("https://localhost/token", tls, None),
            ("https://[::ffff:169.254.169.254]/t", tls, None),
            ("http://10.0.0.1:5001/token", plain, None),
            ("ftp://reg.corp/", tls, None),
            ("/token", tls, None),
            ("", tls, None),
        ] {
            assert_eq!(checked(realm, challenged_by).ok(), expected, "{realm} of {challenged_by}");
        }
    }

    #[test]
    fn a_registry_that_names_itself_by_plain_http_is_asked_over_tls_and_at_no_other_port() {
        for (realm, challenged_by, asked) in [
            ("http://reg.corp/token?a=b", "https://reg.corp/v2/", Some("https://reg.corp/token?a=b")),
            ("http://reg.corp:443/token", "https://reg.corp/v2/", Some("https://reg.corp/token")),
            ("http://REG.corp:80/token", "https://reg.corp:8443/v2/", Some("https://reg.corp:8443/token")),
            ("http://reg.corp:8443/token", "https://reg.corp:8443/v2/", Some("https://reg.corp:8443/token")),
            ("http://10.0.0.1/token", "https://10.0.0.1:5000/v2/", Some("https://10.0.0.1:5000/token")),
            ("http://[::1]/token", "https://[::1]:5000/v2/", Some("https://[::1]:5000/token")),
            ("http://reg.corp:5000/token", "https://reg.corp:8443/v2/", None),
            ("http://sub.reg.corp/token", "https://reg.corp/v2/", None),
            ("ftp://reg.corp/token", "https://reg.corp/v2/", None),
            ("http://reg.corp/token", "http://reg.corp/v2/", Some("http://reg.corp/token")),
        ] {
            let (trust, nothing) = (HostTrust::Untrusted, HashSet::new());
            let checked = check(realm, &challenged_by.parse().unwrap(), trust, &nothing, true);
            let url = checked.ok().map(|(url, _)| url.to_string());
            assert_eq!(url.as_deref(), asked, "{realm} of {challenged_by}");
        }
    }
}
