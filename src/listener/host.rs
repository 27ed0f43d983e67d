//! Host names that a request may be addressed to: a pure check against DNS rebinding and requests of other web pages.
//!
//! A web page can make a browser on the node send requests to a loopback port under a name of the page's choice. Real
//! clients say `127.0.0.1`, `localhost` or `[::1]` with our port, or a name that the operator configured.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Request};

/// An extension of every request that came over a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OverUnix;

/// The names under which we may be addressed.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// 421: it is addressed to another host.
    #[error("this request is addressed to another host; use 127.0.0.1 or localhost with this port")]
    Misdirected,
    /// 403: a web page made the browser send it.
    #[error("requests made by web pages of other sites are refused")]
    CrossSite,
}

impl Hosts {
    /// Loopback names with each of `ports`, and the `configured` names as they are written.
    pub fn new(ports: &[u16], configured: &[String]) -> Self {
        let own = ports.iter().flat_map(|port| {
            ["127.0.0.1", "localhost", "[::1]"].iter().flat_map(move |name| {
                // A client leaves the default port out.
                let bare = (*port == 80).then(|| (*name).to_owned());
                std::iter::once(format!("{name}:{port}")).chain(bare)
            })
        });
        Self(own.chain(configured.iter().cloned()).collect())
    }

    /// The name under which this request addressed us.
    ///
    /// # Errors
    /// The request is not for us. Requests over a unix socket always are: no browser gets there.
    pub fn check<'a, B>(&self, request: &'a Request<B>) -> Result<&'a str, HostError> {
        let headers = request.headers();
        let mut given = headers.get_all(HOST).iter();
        let (first, more) = (given.next().and_then(|h| h.to_str().ok()), given.next());
        if request.extensions().get::<OverUnix>().is_some() {
            return Ok(first.unwrap_or("localhost"));
        }
        // A target in absolute form says it; `Host` then counts for nothing (RFC 9112 section 3.2.2).
        let absolute = request.uri().authority().map(http::uri::Authority::as_str);
        let host = absolute.or(first.filter(|_| more.is_none())).ok_or(HostError::Misdirected)?;
        if !self.0.iter().any(|own| own.eq_ignore_ascii_case(host)) {
            return Err(HostError::Misdirected);
        }
        if is_cross_site(headers, host) { Err(HostError::CrossSite) } else { Ok(host) }
    }
}

fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let foreign_origin = text(ORIGIN.as_str())
        .is_some_and(|origin| origin.strip_prefix("http://").is_none_or(|o| !o.eq_ignore_ascii_case(host)));
    foreign_origin || text("sec-fetch-site").is_some_and(|site| matches!(site, "cross-site" | "same-site"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(uri: &str, headers: &[(&str, &str)]) -> Result<(), HostError> {
        let hosts = Hosts::new(&[5050], &["Cache.corp:5050".to_owned()]);
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        hosts.check(&request.body(()).unwrap()).map(|_| ())
    }

    #[test]
    fn our_own_names_are_ours() {
        for host in ["127.0.0.1:5050", "localhost:5050", "LOCALHOST:5050", "[::1]:5050", "cache.corp:5050"] {
            assert_eq!(checked("/v2/", &[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(checked("http://localhost:5050/v2/", &[("host", "localhost:5050")]), Ok(()));
        assert_eq!(
            checked("http://localhost:5050/v2/", &[("host", "other:5050")]),
            Ok(()),
            "RFC 9112, 3.2.2"
        );
    }

    #[test]
    fn names_of_others_are_not() {
        for host in [
            "evil.com",
            "evil.com:5050",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1.evil.com:5050",
            "localhost.evil.com:5050",
            "127.0.0.2:5050",
            "0.0.0.0:5050",
            "cache.corp",
            "",
            "user@localhost:5050",
        ] {
            assert_eq!(checked("/v2/", &[("host", host)]), Err(HostError::Misdirected), "{host}");
        }
        assert_eq!(checked("/v2/", &[]), Err(HostError::Misdirected));
        let twice = [("host", "localhost:5050"), ("host", "evil.com")];
        assert_eq!(checked("/v2/", &twice), Err(HostError::Misdirected));
        assert_eq!(
            checked("http://evil.com/v2/", &[("host", "localhost:5050")]),
            Err(HostError::Misdirected)
        );
    }

    #[test]
    fn web_pages_of_other_sites_are_refused() {
        let from = |name, value| checked("/v2/", &[("host", "localhost:5050"), (name, value)]);
        assert_eq!(from("origin", "http://localhost:5050"), Ok(()));
        assert_eq!(from("sec-fetch-site", "same-origin"), Ok(()));
        assert_eq!(from("sec-fetch-site", "none"), Ok(()));
        for (name, value) in [
            ("origin", "http://evil.com"),
            ("origin", "null"),
            ("origin", "https://localhost:5050"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(from(name, value), Err(HostError::CrossSite), "{name}: {value}");
        }
    }
}
