//! Where a redirect may lead: a pure decision.
//!
//! Blobs and, on some registries, manifests are redirected to object stores. The target is the registry's choice: it
//! gets no credential (the exchange sends a token to the origin that it was issued for and to no other), and no private
//! address and no weaker transport unless the configuration of that registry lists it. Plain HTTP is for blobs alone,
//! whose digest proves them.

use url::Url;

use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;

/// Redirects that are followed at most; real registries send one, sometimes two.
pub(super) const REDIRECTS_MAX: usize = 5;

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("too many redirects")]
    TooMany,
    #[error("a redirect without a Location")]
    NoLocation,
    #[error("a redirect to something that is not a URL: {0}")]
    Url(#[from] url::ParseError),
    #[error(
        "a redirect from https to http://{0}, which is followed for blobs alone, and only where trusted_redirects of the [[registry]] lists \"http://{0}\""
    )]
    Downgrade(String),
    #[error("a redirect to something that is not HTTP")]
    NotHttp,
    #[error("a redirect with a user name in it")]
    UserName,
    #[error("a redirect without a host")]
    NoHost,
}

/// The next URL, after `from` answered with `location`; `may_weaken` says whether plain HTTP may follow TLS at a
/// `http://host:port`.
///
/// # Errors
/// [`RedirectError`].
pub(super) fn target(
    from: &Url,
    location: Option<&str>,
    may_weaken: impl FnOnce(&str) -> bool,
) -> Result<Url, RedirectError> {
    let mut target = from.join(location.ok_or(RedirectError::NoLocation)?)?;
    target.set_fragment(None);
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") if may_weaken(&format!("http://{}", authority(&target))) => {}
        ("https", "http") => return Err(RedirectError::Downgrade(authority(&target))),
        _ => return Err(RedirectError::NotHttp),
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(RedirectError::UserName);
    }
    if target.host_str().is_none_or(str::is_empty) {
        return Err(RedirectError::NoHost);
    }
    Ok(target)
}

/// A `Location` with each byte beyond ASCII escaped as it is, which is what was signed, in whatever alphabet.
pub(super) fn escaped(location: &[u8]) -> String {
    let mut text = String::with_capacity(location.len());
    for byte in location {
        match byte {
            0..0x80 => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// How far `host` is trusted, to which an endpoint redirected: as the endpoint, which is its `home`, or as the operator
/// says of a `host:port` for the registry that was asked.
pub(super) fn trust(
    host: &str,
    (home, of_home): (String, HostTrust),
    is_listed: impl Fn(&str) -> bool,
) -> HostTrust {
    if host == home {
        of_home
    } else if is_listed(host) || is_listed(&format!("http://{host}")) {
        HostTrust::Configured
    } else {
        HostTrust::Untrusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(location: &str) -> Result<String, RedirectError> {
        let from = "https://reg.test/v2/a/blobs/x".parse().unwrap();
        target(&from, Some(location), |listed| listed == "http://minio.corp:9000").map(|u| u.to_string())
    }

    #[test]
    fn absolute_and_relative_targets_are_followed() {
        assert_eq!(to("https://cdn.test/x?sig=1#f").unwrap(), "https://cdn.test/x?sig=1");
        assert_eq!(to("/y").unwrap(), "https://reg.test/y");
        assert_eq!(to("//cdn.test/y").unwrap(), "https://cdn.test/y");
        assert_eq!(to("http://minio.corp:9000/y").unwrap(), "http://minio.corp:9000/y");
    }

    #[test]
    fn a_location_in_another_alphabet_is_read_as_it_was_signed() {
        let read = |location: &[u8]| to(&escaped(location)).unwrap();
        assert_eq!(
            read("https://cdn.test/x?name=\u{fc}b%20r".as_bytes()),
            "https://cdn.test/x?name=%C3%BCb%20r"
        );
        assert_eq!(read(b"https://cdn.test/x?name=\xfcber"), "https://cdn.test/x?name=%FCber");
    }

    #[test]
    fn a_redirect_to_a_weaker_transport_or_with_a_user_name_is_not_followed() {
        for location in [
            "http://reg.test/x",
            "http://minio.corp/x",
            "http://minio.corp:9000@evil.test/x",
            "ftp://x/y",
            "file:///etc/passwd",
            "https://u:p@cdn.test/",
            "https://u@cdn.test/",
            "https://",
            "https://[::1",
        ] {
            assert!(to(location).is_err(), "{location}");
        }
        let plain: Url = "http://reg.test/x".parse().unwrap();
        assert!(target(&plain, Some("http://other.test/"), |_| false).is_ok());
        assert!(target(&plain, None, |_| true).is_err());
    }
}
