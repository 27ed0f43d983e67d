//! The HTTP client of the object stores: hyper over rustls, like that of registries, with the certificate authorities
//! and proxies that the tier is configured with.
//!
//! Hosts are the operator's, so that addresses inside the node's network are allowed. A request is sent once; answers
//! of 429 and 5xx are errors here, which say no more than the status. Deliberately not here: how long a request may
//! take (`Tier`), and its signature (object_store).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector as ConnectStore, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::RootCertStore;
use tower::Service;

use super::config::Config;
use super::error::BuildError;
use super::network::{Io, Reach};
use crate::support::addresses::tried;
use crate::support::authorities::Authorities;
use crate::support::proxies::Proxies;

/// Where platforms serve the credentials of their machines: no proxy is asked for it.
const PLATFORM_HOSTS: &str = "169.254.0.0/16,fd00:ec2::254";

/// Connections to the store that are kept for the next request: as many as there are downloads on a busy node.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// How long; object stores close theirs after a few seconds to a minute.
const IDLE_FOR: Duration = Duration::from_secs(15);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connector = HttpsConnector<Dialer>;

/// Sends the requests of object_store. Cheap to clone.
#[derive(Clone)]
pub(super) struct StoreClient(Client<Connector, HttpRequestBody>);

/// An answer that says that the store as a whole is in trouble.
#[derive(Debug, thiserror::Error)]
#[error("status {0}")]
pub(super) struct Trouble(pub(super) u16);

impl StoreClient {
    /// Blocks while certificate files are read.
    ///
    /// # Errors
    /// A file of certificate authorities that cannot be used.
    pub(super) fn new(config: &Config) -> Result<Self, BuildError> {
        let authorities = authorities(config.ca.as_deref())?;
        let tls = authorities.client().map_err(|error| BuildError::Settings(error.to_string()))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer::new(config));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Ok(Self(client))
    }
}

impl fmt::Debug for StoreClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreClient")
    }
}

impl ConnectStore for StoreClient {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for StoreClient {
    // As `async_trait` writes it.
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let response = self.0.request(request).await.map_err(|error| {
                let kind =
                    if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
                HttpError::new(kind, error)
            })?;
            let status = response.status().as_u16();
            // 501 says that it does not know the operation, and nothing of the store as a whole.
            if status == 429 || status >= 500 && status != 501 {
                return Err(HttpError::new(HttpErrorKind::Request, Trouble(status)));
            }
            let body = |body: hyper::body::Incoming| {
                HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)))
            };
            Ok(response.map(body))
        })
    }
}

/// The system's certificate authorities, and those of a file.
fn authorities(file: Option<&Path>) -> Result<Authorities, BuildError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let mut authorities = Authorities::new(roots);
    if let Some(path) = file {
        let failed = |why| BuildError::File { path: path.to_owned(), why };
        authorities.add_file(path).map_err(failed)?;
    }
    Ok(authorities)
}

/// The first few addresses of each family that `R` resolves a name to: the names of some stores have many, among which
/// the time for connecting would be divided.
#[derive(Clone)]
struct FewAddresses<R>(R);

impl<R> Service<Name> for FewAddresses<R>
where
    R: Service<Name, Response: IntoIterator<Item = SocketAddr>, Future: Send + 'static>,
{
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = R::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, R::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), R::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.0.call(name);
        Box::pin(async move { Ok(tried(found.await?).into_iter()) })
    }
}

/// Connects to the store, directly or through the operator's proxies.
#[derive(Clone)]
struct Dialer {
    direct: HttpConnector<FewAddresses<GaiResolver>>,
    /// `None` without any.
    proxies: Option<Arc<Proxies>>,
    reach: Reach,
}

impl Dialer {
    fn new(config: &Config) -> Self {
        let mut direct = HttpConnector::new_with_resolver(FewAddresses(GaiResolver::new()));
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(config.connect_timeout));
        let proxies = Proxies::new(&config.proxy, PLATFORM_HOSTS).map(Arc::new);
        Self { direct, proxies, reach: config.reach.clone() }
    }
}

impl Service<Uri> for Dialer {
    type Response = Link;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        if let Some(network) = self.reach.other() {
            let connecting = network.connect(to.authority().map_or("", |authority| authority.as_str()));
            return Box::pin(async move { Ok(Link(TokioIo::new(connecting.await?))) });
        }
        // Plain HTTP is for a store within the operator's network: no proxy is asked for it.
        let proxies = self.proxies.as_ref().filter(|_| to.scheme_str() == Some("https"));
        let proxy = proxies.and_then(|proxies| proxies.of(&to));
        let mut direct = self.direct.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else { return Ok(Link::from(direct.call(to).await?)) };
            if proxy.uri().scheme_str() != Some("http") {
                return Err("only http:// proxies are supported".into());
            }
            let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            Ok(Link::from(tunnel.call(to).await?))
        })
    }
}

/// A connection to the store, through whichever network.
struct Link(TokioIo<Box<dyn Io>>);

impl<T: Io + 'static> From<TokioIo<T>> for Link {
    fn from(io: TokioIo<T>) -> Self {
        Self(TokioIo::new(Box::new(io.into_inner())))
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_bucket_with_many_addresses_leaves_each_its_part_of_the_time() {
        let found =
            |n: u8| [([192, 0, 2, n], 443).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()], 443).into()];
        let all: Vec<SocketAddr> = (1..=20).flat_map(found).collect();
        let dns = tower::service_fn(move |_: Name| std::future::ready(Ok::<_, Infallible>(all.clone())));
        let handed_on: Vec<_> =
            FewAddresses(dns).call("bucket.test".parse().unwrap()).await.unwrap().collect();
        assert_eq!(handed_on, (1..=3).flat_map(found).collect::<Vec<_>>(), "the first of each family");
    }
}
