//! How hosts are compared, listed in the configuration and named in errors.

use url::Url;

/// Characters of a host name at most, as DNS has it. A stranger's URL may have a host of as many as its response.
const HOST_CHARS_MAX: usize = 253;

/// Whether no DNS can have the host of a URL. Such a URL is not asked, and its host is named nowhere.
pub(crate) fn is_host_too_long(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host.len() > HOST_CHARS_MAX)
}

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
