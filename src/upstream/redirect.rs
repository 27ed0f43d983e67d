//! Where a redirect may lead: a pure decision.
//!
//! Blobs and, on some registries, manifests are redirected to object stores. The target is upstream's choice, so it
//! gets no credential (the exchange sends a token to the origin it was made for and nowhere else), never weaker
//! transport, and no private address unless the operator listed it.

use url::Url;

/// Hops at most; real registries take one, sometimes two.
pub(super) const HOPS_MAX: usize = 5;

/// The next URL after `from` answered with `location`.
///
/// # Errors
/// Why the redirect is not followed.
pub(super) fn next(from: &Url, location: Option<&str>) -> Result<Url, &'static str> {
    let location = location.ok_or("a redirect without a Location")?;
    let mut next = from.join(location).map_err(|_| "a redirect to something that is no URL")?;
    next.set_fragment(None);
    match (from.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Err("a redirect from https to http"),
        _ => return Err("a redirect to something that is not HTTP"),
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err("a redirect with a user name in it");
    }
    if next.host_str().is_none_or(str::is_empty) {
        return Err("a redirect without a host");
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(location: &str) -> Result<String, &'static str> {
        next(&"https://reg.test/v2/a/blobs/x".parse().unwrap(), Some(location)).map(|u| u.to_string())
    }

    #[test]
    fn absolute_and_relative_targets_are_followed() {
        assert_eq!(to("https://cdn.test/x?sig=1#f").unwrap(), "https://cdn.test/x?sig=1");
        assert_eq!(to("/y").unwrap(), "https://reg.test/y");
        assert_eq!(to("//cdn.test/y").unwrap(), "https://cdn.test/y");
    }

    #[test]
    fn weaker_or_stranger_targets_are_not() {
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
        assert!(next(&plain, Some("http://other.test/")).is_ok());
        assert!(next(&plain, None).is_err());
    }
}
