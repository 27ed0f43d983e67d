//! Opening connections: names are resolved and every address is judged here, and the judged address is the one that
//! is connected to, so that a name cannot change its mind in between. Proxies are the operator's and are trusted.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use crate::upstream::config::Config;
use crate::upstream::transport::address::Trust;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A name that takes longer is not coming.
const NAME_WAIT: Duration = Duration::from_secs(3);
/// After this long the other address family is tried beside the first (RFC 8305).
const OTHER_FAMILY_AFTER: Duration = Duration::from_millis(300);
/// TCP keep-alive, so that a dead peer is noticed while a pooled connection idles.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A name did not resolve.
#[derive(Debug)]
pub(crate) struct NameFailed(pub(crate) String);

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

impl StdError for NameFailed {}
impl StdError for AddressRefused {}

/// Resolves names to the addresses that `trust` permits.
#[derive(Debug, Clone)]
pub(crate) struct Resolver(Trust);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let trust = self.0;
        Box::pin(async move {
            let name = name.as_str();
            let looked_up = tokio::time::timeout(NAME_WAIT, tokio::net::lookup_host((name, 0))).await;
            let all: Vec<SocketAddr> = match looked_up {
                Err(_) => {
                    return Err(NameFailed(format!("{name}: no answer from DNS within {NAME_WAIT:?}")).into());
                }
                Ok(Err(e)) => return Err(NameFailed(format!("{name}: {e}")).into()),
                Ok(Ok(found)) => found.collect(),
            };
            let permitted: Vec<_> = all.iter().copied().filter(|at| trust.permits(at.ip())).collect();
            match (permitted.is_empty(), all.first()) {
                (false, _) => Ok(permitted.into_iter()),
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
    proxies: Arc<Matcher>,
}

impl Dialer {
    pub(crate) fn new(config: &Config, trust: Trust, proxies: Arc<Matcher>) -> Self {
        let connector = |trust| {
            let mut connector = HttpConnector::new_with_resolver(Resolver(trust));
            connector.enforce_http(false);
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(config.timeouts.connect));
            connector.set_happy_eyeballs_timeout(Some(OTHER_FAMILY_AFTER));
            connector.set_keepalive(Some(KEEP_ALIVE));
            connector
        };
        Self { direct: connector(trust), to_proxy: connector(Trust::Operator), proxies }
    }
}

/// The proxies of the environment; loopback is never proxied, as in Go's clients.
pub(crate) fn proxies(config: &Config) -> Arc<Matcher> {
    let no = format!("localhost,127.0.0.0/8,::1,{}", config.proxy.no);
    Arc::new(
        Matcher::builder().http(config.proxy.http.as_str()).https(config.proxy.https.as_str()).no(no).build(),
    )
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
        let proxy = self.proxies.intercept(&to);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Stream { io: direct.call(to).await?, proxied: false });
            };
            if proxy.uri().scheme_str() != Some("http") {
                return Err("only http:// proxies are supported".into());
            }
            if to.scheme_str() != Some("https") {
                return Ok(Stream { io: to_proxy.call(proxy.uri().clone()).await?, proxied: true });
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            Ok(Stream { io: tunnel.call(to).await?, proxied: false })
        })
    }
}

/// A connection that knows whether requests on it go to a proxy and need the absolute form.
pub(crate) struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_strangers_name_that_leads_into_the_node_leads_nowhere() {
        let localhost: Name = "localhost".parse().unwrap();
        let refused = Resolver(Trust::Stranger).call(localhost.clone()).await.unwrap_err();
        assert!(refused.downcast_ref::<AddressRefused>().is_some(), "{refused}");
        let permitted = Resolver(Trust::Operator).call(localhost).await.unwrap();
        assert!(permitted.count() > 0);
    }
}
