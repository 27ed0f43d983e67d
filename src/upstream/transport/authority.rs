//! How hosts are compared, listed in the configuration and named in errors.

use url::Url;

/// `host:port` of a URL, with the port spelled out.
pub(crate) fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
}

/// The domain that the owner of a name registered, in lower case, and whether the public suffix list knows its suffix; `None`
/// for a public suffix itself.
pub(crate) fn registered_domain(name: &str) -> Option<(String, bool)> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let domain = psl::domain(name.as_bytes())?;
    let is_known = domain.suffix().is_known();
    String::from_utf8(domain.as_bytes().to_vec()).ok().map(|domain| (domain, is_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_port_and_the_same_port_written_out_are_one_host() {
        for (url, expected) in [
            ("https://reg.test/v2/", "reg.test:443"),
            ("https://reg.test:443/", "reg.test:443"),
            ("http://reg.test/", "reg.test:80"),
            ("http://[::1]:5000/", "[::1]:5000"),
        ] {
            assert_eq!(authority(&url.parse().unwrap()), expected);
        }
    }
}
