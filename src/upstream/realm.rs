//! Whether a token realm may be asked: a pure decision.
//!
//! The realm is a URL of upstream's choosing. Requests for anonymous tokens carry no secret, so a foreign host is
//! tolerable; a weaker transport, a user name in the URL, or an address inside the node's network is not.

use std::collections::HashSet;

use url::{Host, Url};

use super::address::Trust;
use super::endpoint::authority;

/// The realm as a URL to ask, and how far it is trusted.
///
/// # Errors
/// Why it is not asked.
pub(super) fn check(
    realm: &str,
    asked: &Url,
    trust: Trust,
    trusted: &HashSet<String>,
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
        Some(Host::Domain(name)) if !name.eq_ignore_ascii_case("localhost") => Ok((realm, Trust::Stranger)),
        Some(_) => {
            Err("its token realm is another IP address or localhost; list it in [upstream] trusted_realms")
        }
        None => Err("its token realm has no host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(realm: &str, asked: &str) -> Result<Trust, &'static str> {
        let trusted = HashSet::from(["10.0.0.5:443".to_owned()]);
        check(realm, &asked.parse().unwrap(), Trust::Operator, &trusted).map(|(_, trust)| trust)
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
