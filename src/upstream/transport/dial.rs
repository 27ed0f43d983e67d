//! Opens connections.
//!
//! Promises: every address of a resolved name is checked, and the checked address is the one that is connected to, so
//! that a second answer of DNS cannot lead elsewhere; each wait is bounded. Proxies are the operator's: their addresses
//! may be private.
//!
//! Deliberately not here: TLS and pooling (`connect`).

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;
use url::{Position, Url};

use crate::support::addresses::tried;
use crate::support::proxies::Proxies;
use crate::upstream::config::Config;
use crate::upstream::error::BoxError;
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::names::{LookUpError, Names};
use crate::upstream::transport::network::{Io, Network};

/// The longest wait for DNS: longer than the 5 s after which the machine's resolver leaves a name server that does not
/// answer for the next one.
const NAME_WAIT: Duration = Duration::from_secs(6);
/// After this long the other address family is tried beside the first (RFC 8305).
const OTHER_FAMILY_AFTER: Duration = Duration::from_millis(300);
/// TCP keep-alive, so that a dead peer is noticed while a pooled connection idles.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A name did not resolve.
#[derive(Debug)]
pub(crate) struct NameFailed(pub(crate) String);

/// DNS was not asked for a name: too many other names wait for it.
#[derive(Debug)]
pub(crate) struct NameNotAsked;

/// A name resolved only to addresses that may not be connected to.
#[derive(Debug)]
pub(crate) struct AddressRefused(pub(crate) String);

impl fmt::Display for NameFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameNotAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many names wait for DNS")
    }
}

impl StdError for NameFailed {}
impl StdError for NameNotAsked {}
impl StdError for AddressRefused {}

/// Resolves names to the addresses that `trust` permits.
#[derive(Clone)]
pub(crate) struct Resolver {
    trust: HostTrust,
    names: Names,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { trust, names } = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            let looked_up = tokio::time::timeout(NAME_WAIT, names.look_up(name, trust)).await;
            let all: Vec<SocketAddr> = match looked_up {
                // The look-up goes on: what it finds later serves the next request.
                Err(_) => names
                    .find_last(name)
                    .ok_or_else(|| NameFailed(format!("{name}: no answer from DNS within {NAME_WAIT:?}")))?,
                Ok(Err(LookUpError::NotAsked)) => return Err(NameNotAsked.into()),
                Ok(Err(LookUpError::NodeIsShort(why))) => {
                    return Err(io::Error::new(io::ErrorKind::OutOfMemory, &*why).into());
                }
                Ok(Err(LookUpError::Failed(why))) => return Err(NameFailed(format!("{name}: {why}")).into()),
                Ok(Ok(found)) => found,
            };
            let permitted: Vec<_> = all.iter().copied().filter(|at| trust.permits(at.ip())).collect();
            match (permitted.is_empty(), all.first()) {
                (false, _) => Ok(tried(permitted).into_iter()),
                (true, None) => Err(NameFailed(format!("{name}: no address")).into()),
                (true, Some(at)) => Err(AddressRefused(format!(
                    "{name} is at {}, a private or special address, and no [[registry]] entry names it",
                    at.ip()
                ))
                .into()),
            }
        })
    }
}

/// Connects to hosts of one trust, directly or through the operator's proxies.
#[derive(Clone)]
pub(crate) struct Dialer {
    direct: HttpConnector<Resolver>,
    to_proxy: HttpConnector<Resolver>,
    /// `None` without any.
    proxies: Option<Arc<Proxies>>,
    resolver: Resolver,
    wait: Duration,
}

impl Dialer {
    pub(crate) fn new(
        config: &Config,
        trust: HostTrust,
        proxies: Option<Arc<Proxies>>,
        names: Names,
    ) -> Self {
        let resolver = |trust| Resolver { trust, names: names.clone() };
        let connector = |trust| {
            let mut connector = HttpConnector::new_with_resolver(resolver(trust));
            connector.enforce_http(false);
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(config.timeouts.connect));
            connector.set_happy_eyeballs_timeout(Some(OTHER_FAMILY_AFTER));
            connector.set_keepalive(Some(KEEP_ALIVE));
            connector
        };
        let (direct, to_proxy) = (connector(trust), connector(HostTrust::Configured));
        Self { direct, to_proxy, proxies, resolver: resolver(trust), wait: config.timeouts.connect }
    }

    /// The proxy that reads requests to `url` itself; `None` where the host reads them, which a tunnel of a proxy may
    /// lead to.
    pub(crate) fn proxy_that_reads(&self, url: &Url) -> Option<Intercept> {
        if url.scheme() == "https" || self.resolver.names.reach().other().is_some() {
            return None;
        }
        self.proxies.as_ref()?.of(&url[..Position::AfterQuery].parse().ok()?)
    }

    /// Whether connections are taken as they are, `https` or not.
    pub(crate) fn needs_no_tls(&self) -> bool {
        self.resolver.names.reach().other().is_some()
    }
}

impl Service<Uri> for Dialer {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (mut direct, mut to_proxy) = (self.direct.clone(), self.to_proxy.clone());
        if let Some(network) = self.resolver.names.reach().other() {
            let opening = open(Arc::clone(network), self.resolver.clone(), to, self.wait);
            return Box::pin(opening);
        }
        let proxy = self.proxies.as_ref().and_then(|proxies| proxies.of(&to));
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Stream::Tcp(direct.call(to).await?));
            };
            if proxy.uri().scheme_str() != Some("http") {
                return Err("only http:// proxies are supported".into());
            }
            if to.scheme_str() != Some("https") {
                return Ok(Stream::Tcp(to_proxy.call(proxy.uri().clone()).await?));
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            Ok(Stream::Tcp(tunnel.call(to).await?))
        })
    }
}

/// Opens a connection through a network that is not the machine's: names judged and waits bounded as on the machine's.
async fn open(
    network: Arc<dyn Network>,
    mut resolver: Resolver,
    to: Uri,
    wait: Duration,
) -> Result<Stream, BoxError> {
    let host = to.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = to.port_u16().unwrap_or(if to.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![(ip, port).into()],
        Err(_name) => resolver.call(host.parse()?).await?.collect(),
    };
    let mut last: BoxError = "no address".into();
    for address in addresses {
        let connecting = network.connect((address.ip(), port).into(), &host);
        match tokio::time::timeout(wait, connecting).await {
            Ok(Ok(io)) => return Ok(Stream::Other(TokioIo::new(io))),
            Ok(Err(error)) => last = error.into(),
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// A connection to a host or a proxy, before TLS.
pub(crate) enum Stream {
    /// Over the machine's network.
    Tcp(TokioIo<TcpStream>),
    /// Over another one.
    Other(TokioIo<Box<dyn Io>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Other(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Other(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
            Self::Other(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Self::Other(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::addresses::TRIED_MAX;
    use crate::support::shortage::is_shortage;
    use crate::upstream::transport::network::{Pending, Reach};

    /// DNS that answers after a while, with all addresses.
    struct Dns(Duration, Vec<SocketAddr>);

    impl Network for Dns {
        fn resolve(&self, _: &str) -> Pending<Vec<SocketAddr>> {
            let Self(after, found) = self;
            let (after, found) = (*after, found.clone());
            Box::pin(async move {
                tokio::time::sleep(after).await;
                Ok(found)
            })
        }

        fn connect(&self, _: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
            Box::pin(async { Err(io::Error::other("not here")) })
        }
    }

    fn resolver(dns: Dns) -> Resolver {
        Resolver { trust: HostTrust::Configured, names: Names::new(Reach::through(Arc::new(dns))) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_name_server_that_does_not_answer_takes_no_registry_away() {
        let name: Name = "reg.test".parse().unwrap();
        let found = || vec![([127, 0, 0, 1], 0).into()];
        let second = Duration::from_millis(5_010);
        assert!(resolver(Dns(second, found())).call(name.clone()).await.is_ok(), "the second one answers");
        let mut third = resolver(Dns(2 * second, found()));
        assert!(third.call(name.clone()).await.is_err());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(third.call(name).await.unwrap().count(), 1, "what the question before it found");
        assert_eq!(begun.elapsed(), NAME_WAIT);
    }

    #[tokio::test]
    async fn a_name_that_this_node_lacked_a_descriptor_for_is_not_called_unknown() {
        struct Short;
        impl Network for Short {
            fn resolve(&self, _: &str) -> Pending<Vec<SocketAddr>> {
                // EMFILE of Linux.
                Box::pin(async { Err(io::Error::from_raw_os_error(24)) })
            }

            fn connect(&self, _: SocketAddr, _: &str) -> Pending<Box<dyn Io>> {
                Box::pin(async { Err(io::Error::other("not here")) })
            }
        }
        let names = Names::new(Reach::through(Arc::new(Short)));
        let mut resolver = Resolver { trust: HostTrust::Configured, names };
        let error = resolver.call("reg.test".parse().unwrap()).await.unwrap_err();
        assert!(error.downcast_ref().is_some_and(is_shortage), "{error}");
    }

    #[tokio::test]
    async fn a_name_with_many_addresses_leaves_each_the_time_that_a_far_host_takes() {
        let found =
            |n: u8| [([192, 0, 2, n], 443).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()], 443).into()];
        let dns = Dns(Duration::ZERO, (1..=20).flat_map(found).collect());
        let tried: Vec<SocketAddr> = resolver(dns).call("reg.test".parse().unwrap()).await.unwrap().collect();
        assert_eq!(tried, (1..=3).flat_map(found).collect::<Vec<_>>(), "the first of each family");
        // Enough for a far host and for a first packet that is lost, which Linux repeats after 1 s.
        let each = Config::default().timeouts.connect / TRIED_MAX as u32;
        assert!(each >= Duration::from_secs(2), "{each:?}");
    }

    #[tokio::test]
    async fn an_untrusted_name_that_leads_into_the_node_is_not_connected_to() {
        let localhost: Name = "localhost".parse().unwrap();
        let resolver = |trust| Resolver { trust, names: Names::new(Reach::default()) };
        let refused = resolver(HostTrust::Untrusted).call(localhost.clone()).await.unwrap_err();
        assert!(refused.downcast_ref::<AddressRefused>().is_some(), "{refused}");
        let permitted = resolver(HostTrust::Configured).call(localhost).await.unwrap();
        assert!(permitted.count() > 0);
    }
}
