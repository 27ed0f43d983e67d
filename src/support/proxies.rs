//! The proxies of the environment, and the hosts that are asked without one.
//!
//! Promises: `NO_PROXY` is read as the clients written in Go read it, containerd and kubelet among them, so that
//! one line in the unit of a runtime and in that of the daemon means the same (Go's `httpproxy` package):
//!
//! | Entry | Asked without a proxy |
//! | --- | --- |
//! | `corp.example` | that host and all names below it |
//! | `.corp.example`, `*.corp.example` | the names below it |
//! | `10.0.0.5`, `fd00::1` | that address |
//! | `10.0.0.0/8` | the addresses of that network |
//! | one of the first three with a port: `reg.corp:5000`, `[fd00::1]:5000` | the same, at that port |
//! | `*` | every host |
//!
//! Loopback is never asked through a proxy. Names are not resolved: an entry with an address fits a URL with an
//! address.
//!
//! Deliberately not here: connections, and the tunnel through a proxy.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;

use crate::support::loopback;

/// The environment variables that name proxies; empty where unset.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// `HTTP_PROXY`.
    pub http: String,
    /// `HTTPS_PROXY`.
    pub https: String,
    /// `NO_PROXY`.
    pub no: String,
}

impl ProxyVariables {
    /// A variable whose proxy cannot be used, and the scheme that it names.
    pub fn unsupported(&self) -> Option<(&'static str, String)> {
        let named = [("HTTP_PROXY", &self.http), ("HTTPS_PROXY", &self.https)];
        named.into_iter().find_map(|(variable, url)| {
            let (scheme, _) = url.split_once("://")?;
            (!scheme.eq_ignore_ascii_case("http")).then(|| (variable, scheme.to_owned()))
        })
    }
}

impl fmt::Debug for ProxyVariables {
    /// The URL of a proxy may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| if text.is_empty() { "unset" } else { "set" };
        f.debug_struct("ProxyVariables")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("no", &self.no)
            .finish()
    }
}

/// Which proxy a URL is asked through.
pub struct Proxies {
    matcher: Matcher,
    without: Vec<Entry>,
}

impl Proxies {
    /// The proxies that `variables` name; `None` if they name none. `also_without` are further entries as those of
    /// `NO_PROXY`.
    pub fn new(variables: &ProxyVariables, also_without: &str) -> Option<Self> {
        let ProxyVariables { http, https, no } = variables;
        if http.is_empty() && https.is_empty() {
            return None;
        }
        let matcher = Matcher::builder().http(http.as_str()).https(https.as_str()).build();
        let entries = no.split(',').chain(also_without.split(','));
        Some(Self { matcher, without: entries.filter_map(Entry::read).collect() })
    }

    /// The proxy for `to`; `None` if its host is asked directly.
    pub fn of(&self, to: &Uri) -> Option<Intercept> {
        let host = to.host()?.trim_end_matches('.');
        let port = to.port_u16().or(match to.scheme_str() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        });
        let is_direct = loopback::is_host(host) || self.without.iter().any(|entry| entry.is_of(host, port));
        if is_direct { None } else { self.matcher.intercept(to) }
    }
}

/// An entry of `NO_PROXY`.
struct Entry {
    hosts: Hosts,
    /// The one port that it is about; `None` for all.
    port: Option<u16>,
}

/// The hosts of an entry.
enum Hosts {
    All,
    Address(IpAddr),
    Network(IpNet),
    /// The names below this one, which begins with a dot.
    Below(String),
    /// This name and those below it, without a dot before it.
    Name(String),
}

impl Entry {
    /// `None` for what names no host.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim().to_lowercase();
        if text == "*" {
            return Some(Self { hosts: Hosts::All, port: None });
        }
        if let Ok(network) = text.parse() {
            return Some(Self { hosts: Hosts::Network(network), port: None });
        }
        if let Some(ip) = address(&text) {
            return Some(Self { hosts: Hosts::Address(ip), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        if let Some(ip) = address(host) {
            return Some(Self { hosts: Hosts::Address(ip), port });
        }
        let name = host.strip_prefix('*').filter(|below| below.starts_with('.')).unwrap_or(host);
        let hosts = match name.strip_prefix('.') {
            Some("") => return None,
            Some(above) => Hosts::Below(format!(".{}", ascii(above))),
            None if name.is_empty() => return None,
            None => Hosts::Name(ascii(name)),
        };
        Some(Self { hosts, port })
    }

    fn is_of(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        let ip = || address(host);
        let host = host.to_ascii_lowercase();
        match &self.hosts {
            Hosts::All => true,
            Hosts::Address(entry) => ip().is_some_and(|ip| ip == *entry),
            Hosts::Network(network) => ip().is_some_and(|ip| network.contains(&ip)),
            Hosts::Below(suffix) => host.ends_with(suffix.as_str()),
            Hosts::Name(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

/// An address, which may be an IPv6 one in brackets; an IPv4 one that is written as IPv6 is the IPv4 one.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// A name as URLs have it.
fn ascii(name: &str) -> String {
    match url::Host::parse(name) {
        Ok(url::Host::Domain(name)) if !name.is_empty() => name,
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(no: &str) -> ProxyVariables {
        let proxy = "http://proxy.test:3128".to_owned();
        ProxyVariables { http: proxy.clone(), https: proxy, no: no.to_owned() }
    }

    fn is_direct(no: &str, url: &str) -> bool {
        Proxies::new(&variables(no), "").unwrap().of(&url.parse().unwrap()).is_none()
    }

    #[test]
    fn no_proxy_means_what_it_means_to_clients_written_in_go() {
        for (no, direct, through) in [
            (
                "corp",
                "https://corp/ https://reg.corp/ https://REG.corp:5000/ https://reg.corp./",
                "https://regcorp/ https://corp.test/",
            ),
            ("reg.corp", "http://reg.corp:5000/", "http://xreg.corp/ http://corp/"),
            (".corp", "https://reg.corp/ https://a.reg.corp/", "https://corp/ https://regcorp/"),
            ("*.corp", "https://reg.corp/ https://a.reg.corp:1/", "https://corp/ https://regcorp/"),
            ("*.corp:5000", "https://reg.corp:5000/", "https://reg.corp/ https://corp:5000/"),
            (
                "reg.corp:5000",
                "http://reg.corp:5000/ https://a.reg.corp:5000/",
                "http://reg.corp/ http://reg.corp:5001/ http://corp:5000/",
            ),
            ("reg.corp:443", "https://reg.corp/", "http://reg.corp/"),
            ("reg.corp:", "https://reg.corp/ http://reg.corp:5000/", "http://corp/"),
            ("10.0.0.5", "http://10.0.0.5/ https://10.0.0.5:5000/", "http://10.0.0.6/ http://10.0.0.5.test/"),
            ("10.0.0.5:5000", "http://10.0.0.5:5000/", "http://10.0.0.5/ http://10.0.0.6:5000/"),
            ("10.0.0.0/8", "http://10.255.0.1:5000/ https://10.0.0.5/", "http://11.0.0.1/ http://reg.corp/"),
            ("fd00::1", "http://[fd00::1]/ http://[fd00::1]:5000/", "http://[fd00::2]/"),
            ("[fd00::1]:5000", "http://[fd00::1]:5000/", "http://[fd00::1]/"),
            ("fd00::/8", "http://[fd12::9]:1/", "http://[fe80::1]/"),
            ("*", "https://quay.io/ http://10.0.0.5:5000/ http://[fd00::1]/", ""),
            (" a.test , ,b.test", "https://a.test/ https://b.test/", "https://c.test/"),
            ("bücher.test", "https://xn--bcher-kva.test/", "https://bcher.test/"),
            ("REG.Corp", "https://reg.corp/", ""),
            (":5000,reg.corp:x,.,*.", "", "https://reg.corp:5000/ https://a.test/"),
            (
                "",
                "http://localhost:5000/ https://127.0.0.1/ http://[::1]:1/ http://a.localhost/",
                "https://quay.io/",
            ),
        ] {
            for url in direct.split_whitespace() {
                assert!(is_direct(no, url), "NO_PROXY={no}: {url} goes through the proxy");
            }
            for url in through.split_whitespace() {
                assert!(!is_direct(no, url), "NO_PROXY={no}: {url} goes past the proxy");
            }
        }
    }

    #[test]
    fn without_a_proxy_there_is_nothing_to_look_through() {
        assert!(
            Proxies::new(&ProxyVariables { no: "*".to_owned(), ..ProxyVariables::default() }, "").is_none()
        );
        let https = ProxyVariables { http: String::new(), ..variables("") };
        let proxies = Proxies::new(&https, "169.254.0.0/16").unwrap();
        assert!(proxies.of(&"http://reg.corp/".parse().unwrap()).is_none());
        assert!(proxies.of(&"https://169.254.1.1/".parse().unwrap()).is_none());
        assert!(proxies.of(&"https://reg.corp/".parse().unwrap()).is_some());
    }

    #[test]
    fn a_password_of_a_proxy_is_not_shown() {
        let variables = ProxyVariables { http: "http://u:secret@p.test".to_owned(), ..variables("") };
        assert!(!format!("{variables:?}").contains("secret"));
    }
}
