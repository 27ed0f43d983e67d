//! How hosts are compared, listed in the configuration and named in errors.

use url::Url;

/// `host:port` of a URL, with the port spelled out.
pub(crate) fn authority(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0))
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
