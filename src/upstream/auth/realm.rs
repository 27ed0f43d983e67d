//! Whether a token realm may be asked, and whether a credential may be shown to it: a pure decision.
//!
//! The realm is a URL of upstream's choosing. A request for an anonymous token carries no secret, so a foreign host is
//! tolerable; a weaker transport, a user name in the URL, or an address inside the node's network is not. A credential
//! goes only to the registry's own host and port, to a host of the same registrable domain (public suffix list,
//! private section included, since tenants of one hosting domain are strangers to each other), to the realms that well
//! known registries have, or to one that the operator listed (CVE-2020-15157, CVE-2026-33540).

use std::collections::HashSet;

use url::{Host, Url};

use crate::upstream::endpoint::select::authority;
use crate::upstream::transport::address::Trust;

/// Registries whose token server is of another registrable domain than they are.
const PAIRS: &[(&str, &str)] = &[
    ("registry-1.docker.io:443", "auth.docker.io:443"),
    ("index.docker.io:443", "auth.docker.io:443"),
    ("docker.io:443", "auth.docker.io:443"),
    ("registry.freedesktop.org:443", "gitlab.freedesktop.org:443"),
];

/// The realm as a URL to ask, and how far it is trusted. With `secret` a credential would be shown to it.
///
/// # Errors
/// Why it is not asked.
pub(crate) fn check(
    realm: &str,
    asked: &Url,
    trust: Trust,
    trusted: &HashSet<String>,
    secret: bool,
) -> Result<(Url, Trust), &'static str> {
    let realm = Url::parse(realm).map_err(|_| "its token realm is no absolute URL")?;
    match (asked.scheme(), realm.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return Err("its token realm is plain http"),
        _ => return Err("its token realm is not HTTP"),
    }
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("its token realm has a user name in it");
    }
    let at = authority(&realm);
    if at == authority(asked) {
        return Ok((realm, trust));
    }
    if trusted.contains(&at) {
        return Ok((realm, Trust::Operator));
    }
    match realm.host() {
        Some(Host::Domain(name)) if !name.eq_ignore_ascii_case("localhost") => {}
        Some(_) => {
            return Err(
                "its token realm is another IP address or localhost; list it in [upstream] trusted_realms",
            );
        }
        None => return Err("its token realm has no host"),
    }
    if secret && !is_of_the_same_owner(&realm, asked) {
        return Err(
            "its token realm is of another domain, to which no credential is shown; list it in [upstream] trusted_realms",
        );
    }
    Ok((realm, Trust::Stranger))
}

fn is_of_the_same_owner(realm: &Url, asked: &Url) -> bool {
    // Over plain HTTP anybody on the way could have written the realm.
    if realm.scheme() != "https" {
        return false;
    }
    let (to, from) = (authority(realm), authority(asked));
    if PAIRS.iter().any(|(registry, server)| from == *registry && to == *server) {
        return true;
    }
    let registrable = |url: &Url| match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let domain = psl::domain(name.as_bytes())?;
            // A suffix that the list does not know may be anything.
            domain.suffix().is_known().then(|| domain.as_bytes().to_vec())
        }
        _ => None,
    };
    matches!((registrable(realm), registrable(asked)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(realm: &str, asked: &str) -> Result<Trust, &'static str> {
        let trusted = HashSet::from(["10.0.0.5:443".to_owned()]);
        check(realm, &asked.parse().unwrap(), Trust::Operator, &trusted, false).map(|(_, trust)| trust)
    }

    #[test]
    fn a_credential_is_shown_to_the_registrys_owner_alone() {
        let hub = "https://registry-1.docker.io/v2/";
        for (realm, asked, shown) in [
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
        ] {
            let trusted = HashSet::from(["10.0.0.5:443".to_owned()]);
            let checked = check(realm, &asked.parse().unwrap(), Trust::Stranger, &trusted, true);
            assert_eq!(checked.is_ok(), shown, "{realm} of {asked}");
        }
    }

    #[test]
    fn each_kind_of_realm_has_its_verdict() {
        let (tls, plain) = ("https://reg.corp/v2/", "http://10.0.0.1:5000/v2/");
        for (realm, asked, expected) in [
            ("https://reg.corp/token", tls, Some(Trust::Operator)),
            ("https://reg.corp:443/token", tls, Some(Trust::Operator)),
            ("https://auth.docker.io/token", tls, Some(Trust::Stranger)),
            ("https://10.0.0.5/token", tls, Some(Trust::Operator)),
            ("http://10.0.0.1:5000/token", plain, Some(Trust::Operator)),
            ("https://auth.test/token", plain, Some(Trust::Stranger)),
            ("http://reg.corp/token", tls, None),
            ("https://reg.corp:8443/token", tls, Some(Trust::Stranger)),
            ("https://u:p@reg.corp/token", tls, None),
            ("https://127.0.0.1/token", tls, None),
            ("https://localhost/token", tls, None),
            ("https://[::ffff:169.254.169.254]/t", tls, None),
            ("http://10.0.0.1:5001/token", plain, None),
            ("ftp://reg.corp/", tls, None),
            ("/token", tls, None),
            ("", tls, None),
        ] {
            assert_eq!(checked(realm, asked).ok(), expected, "{realm} of {asked}");
        }
    }
}
