//! Where a redirect may lead: a pure decision.
//!
//! Blobs and, on some registries, manifests are redirected to object stores. The target is the registry's choice: it
//! gets no credential (the exchange sends a token to the origin that it was issued for and to no other), no weaker
//! transport, and no private address unless the configuration lists it.

use std::collections::HashSet;

use url::Url;

use crate::upstream::transport::address::HostTrust;

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
    #[error("a redirect from https to http")]
    Downgrade,
    #[error("a redirect to something that is not HTTP")]
    NotHttp,
    #[error("a redirect with a user name in it")]
    UserName,
    #[error("a redirect without a host")]
    NoHost,
}

/// The next URL, after `from` answered with `location`.
///
/// # Errors
/// [`RedirectError`].
pub(super) fn target(from: &Url, location: Option<&str>) -> Result<Url, RedirectError> {
    let mut target = from.join(location.ok_or(RedirectError::NoLocation)?)?;
    target.set_fragment(None);
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err(RedirectError::Downgrade),
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

/// How far `host` is trusted, to which an endpoint redirected: as the endpoint, which is its `home`, or as the operator says.
pub(super) fn trust(
    host: &str,
    (home, of_home): (String, HostTrust),
    trusted: &HashSet<String>,
) -> HostTrust {
    if host == home {
        of_home
    } else if trusted.contains(host) {
        HostTrust::Configured
    } else {
        HostTrust::Untrusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(location: &str) -> Result<String, RedirectError> {
        target(&"https://reg.test/v2/a/blobs/x".parse().unwrap(), Some(location)).map(|u| u.to_string())
    }

    #[test]
    fn absolute_and_relative_targets_are_followed() {
        assert_eq!(to("https://cdn.test/x?sig=1#f").unwrap(), "https://cdn.test/x?sig=1");
        assert_eq!(to("/y").unwrap(), "https://reg.test/y");
        assert_eq!(to("//cdn.test/y").unwrap(), "https://cdn.test/y");
    }

    #[test]
    fn a_redirect_to_a_weaker_transport_or_with_a_user_name_is_not_followed() {
        for location in [
            "http://reg.test/x",
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
        assert!(target(&plain, Some("http://other.test/")).is_ok());
        assert!(target(&plain, None).is_err());
    }
}
