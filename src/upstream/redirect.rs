//! Where a redirect may lead: a pure decision.
//!
//! Blobs and, on some registries, manifests are redirected to object stores. The target is the registry's choice: it
//! gets no credential (`authenticated` sends a token to the origin that it was issued for and to no other), and no
//! private address and no weaker transport unless the configuration of that registry lists it. Plain HTTP is for blobs
//! alone, whose digest proves them. A host that is longer than any name is in no error and no log.

use url::Url;

use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::{authority, is_host_too_long};

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
    #[error("a redirect to a host whose name is too long")]
    HostTooLong,
}

/// An answer that leads elsewhere.
pub(super) struct Redirect<'a> {
    /// What answered.
    pub(super) from: &'a Url,
    pub(super) location: Option<&'a [u8]>,
    /// How many the request met, with this one.
    pub(super) count: usize,
    /// The `host:port` of the endpoint that was asked at first.
    pub(super) home: String,
    pub(super) home_trust: HostTrust,
    /// Whether the endpoint was asked over TLS.
    pub(super) is_from_tls: bool,
    /// Whether the content is a blob, which its digest proves.
    pub(super) is_blob: bool,
}

impl Redirect<'_> {
    /// The next URL, and how far its host is trusted: as the endpoint, or as the operator says of the registry that was
    /// asked, of whose `host:port` or `http://host:port` `is_listed` says whether it is among those.
    ///
    /// # Errors
    /// [`RedirectError`].
    pub(super) fn target(&self, is_listed: impl Fn(&str) -> bool) -> Result<(Url, HostTrust), RedirectError> {
        if self.count > REDIRECTS_MAX {
            return Err(RedirectError::TooMany);
        }
        // Some object stores put names of files into it as they are.
        let location = escaped(self.location.ok_or(RedirectError::NoLocation)?);
        let mut target = self.from.join(&location)?;
        target.set_fragment(None);
        if is_host_too_long(&target) {
            return Err(RedirectError::HostTooLong);
        }
        let host = authority(&target);
        let is_listed_plain = is_listed(&format!("http://{host}"));
        match (self.from.scheme(), target.scheme()) {
            (_, "https") => {}
            // Also from a listed store without TLS to one that is not listed.
            ("https", "http") if self.is_blob && is_listed_plain => {}
            ("http", "http") if !self.is_from_tls || self.is_blob && is_listed_plain => {}
            ("https" | "http", "http") => return Err(RedirectError::Downgrade(host)),
            _ => return Err(RedirectError::NotHttp),
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(RedirectError::UserName);
        }
        if target.host_str().is_none_or(str::is_empty) {
            return Err(RedirectError::NoHost);
        }
        let trust = if host == self.home {
            self.home_trust
        } else if is_listed_plain || is_listed(&host) {
            HostTrust::Configured
        } else {
            HostTrust::Untrusted
        };
        Ok((target, trust))
    }
}

/// A `Location` with each byte beyond ASCII escaped as it is, which is what was signed, in whatever alphabet.
fn escaped(location: &[u8]) -> String {
    let mut text = String::with_capacity(location.len());
    for byte in location {
        match byte {
            0..0x80 => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: [&str; 2] = ["http://minio.corp:9000", "s3.corp:9000"];

    /// Where `from` leads, of a registry that was asked over TLS.
    fn redirect<'a>(from: &'a Url, location: &'a [u8]) -> Redirect<'a> {
        Redirect {
            from,
            location: Some(location),
            count: 1,
            home: "reg.test:443".to_owned(),
            home_trust: HostTrust::Configured,
            is_from_tls: true,
            is_blob: true,
        }
    }

    fn followed(redirect: &Redirect<'_>) -> Result<(String, HostTrust), RedirectError> {
        let target = redirect.target(|listed| LISTED.contains(&listed));
        target.map(|(url, trust)| (url.to_string(), trust))
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn to_bytes(location: &[u8]) -> Result<String, RedirectError> {
        followed(&redirect(&url("https://reg.test/v2/a/blobs/x"), location)).map(|(url, _)| url)
    }

    fn to(location: &str) -> Result<String, RedirectError> {
        to_bytes(location.as_bytes())
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
        let read = |location: &[u8]| to_bytes(location).unwrap();
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
        let from = url("https://reg.test/x");
        assert_eq!(
            followed(&Redirect { location: None, ..redirect(&from, b"") }),
            Err(RedirectError::NoLocation)
        );
        let last = Redirect { count: REDIRECTS_MAX, ..redirect(&from, b"/y") };
        assert!(followed(&last).is_ok());
        assert_eq!(followed(&Redirect { count: REDIRECTS_MAX + 1, ..last }), Err(RedirectError::TooMany));
    }

    #[test]
    fn a_host_that_no_dns_can_have_is_not_followed_and_is_in_no_error() {
        let long = "a".repeat(250_000);
        for location in [
            format!("https://{long}.example/"),
            format!("http://{long}.example/"),
            format!("//{long}/y"),
            format!("https://{long}.{long}.example:444/"),
            format!("https://{}.example/", "a".repeat(246)),
        ] {
            let why = to(&location).unwrap_err();
            assert_eq!(why, RedirectError::HostTooLong, "{}", location.len());
            assert!(why.to_string().len() < 100);
        }
        assert!(to(&format!("https://{}.example/", "a".repeat(245))).is_ok(), "DNS may have this one");
    }

    #[test]
    fn plain_http_is_followed_only_where_the_operator_lists_it_or_the_registry_has_no_tls_itself() {
        let listed = b"http://minio.corp:9000/y".as_slice();
        let other = b"http://minio.corp:9001/y".as_slice();
        // The first one was listed; where that leads is as weak, and is not.
        for from in ["https://reg.test/x", "http://minio.corp:9000/x"] {
            let from = url(from);
            for (location, is_blob, is_from_tls, is_followed) in [
                (listed, true, true, true),
                (listed, false, true, false),
                (other, true, true, false),
                (listed, false, false, from.scheme() == "http"),
                (other, true, false, from.scheme() == "http"),
            ] {
                let redirect = Redirect { is_blob, is_from_tls, ..redirect(&from, location) };
                assert_eq!(followed(&redirect).is_ok(), is_followed, "{from} {is_blob} {is_from_tls}");
            }
        }
    }

    #[test]
    fn no_host_is_trusted_because_a_registry_names_it() {
        let from = url("https://reg.test/x");
        for (location, trust) in [
            ("/y", HostTrust::Configured),
            ("https://reg.test:444/y", HostTrust::Untrusted),
            ("https://cdn.test/y", HostTrust::Untrusted),
            ("https://s3.corp:9000/y", HostTrust::Configured),
            ("http://minio.corp:9000/y", HostTrust::Configured),
        ] {
            assert_eq!(followed(&redirect(&from, location.as_bytes())).unwrap().1, trust, "{location}");
        }
        let of_client = Redirect { home_trust: HostTrust::Untrusted, ..redirect(&from, b"/y") };
        assert_eq!(followed(&of_client).unwrap().1, HostTrust::Untrusted, "a client named the registry");
    }
}
