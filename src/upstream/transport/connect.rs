//! Sends requests over pooled connections.
//!
//! The TLS settings of a registry are shared by two clients: one for hosts that the configuration names, one for all
//! others, which cannot be made to connect inside the node's network. HTTP/1.1 only: one blob a connection fills fastest,
//! and the attacks that multiplexing makes possible do not exist.
//!
//! Deliberately not here: redirects and challenges (`exchange`).

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::InvalidUri;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tower::Service;
use url::{Host, Url};

use crate::reference::Registry;
use crate::upstream::body::ResponseBody;
use crate::upstream::config::Config;
use crate::upstream::error::{BoxError, ConnectStage, Error, root_cause};
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::dial::{AddressRefused, Dialer, NameFailed, Stream, proxies};
use crate::upstream::transport::send::{OutgoingRequest, SendRequest};
use crate::upstream::transport::tls::{BuildError, TlsConfigs, system_roots};

/// Idle connections to one host that stay open.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long an idle connection stays open: registries close theirs after about a minute.
const IDLE_TIME: Duration = Duration::from_secs(50);
/// Fields of a response head at most.
const HEADERS_MAX: usize = 128;
/// Bytes of a response head at most, and of one read of a body.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

type Pool = Client<Connector, Full<Bytes>>;

/// The connections to all registries.
pub(crate) struct Transport {
    common: Pools,
    /// Of registries with certificates of their own.
    own: HashMap<Registry, Pools>,
    proxies: Arc<Matcher>,
    header_wait: Duration,
}

struct Pools {
    configured: Pool,
    untrusted: Pool,
}

impl Transport {
    /// Blocks while certificate files are read.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        let (proxies, roots) = (proxies(config), system_roots());
        let mut own = HashMap::new();
        for (registry, settings) in &config.registries {
            if settings.ca.is_some() || settings.client.is_some() {
                let tls = TlsConfigs::new(&roots, Some(settings))?;
                own.insert(registry.clone(), Pools::new(config, tls, &proxies));
            }
        }
        let common = Pools::new(config, TlsConfigs::new(&roots, None)?, &proxies);
        Ok(Self { common, own, proxies, header_wait: config.timeouts.header })
    }

    async fn send_request(&self, request: OutgoingRequest<'_>) -> Result<Response<ResponseBody>, Error> {
        let host = authority(request.url);
        let unreachable = |stage, why: String| Error::Unreachable { host: host.clone(), stage, why };
        if let Some(ip) = literal_address(request.url).filter(|&ip| !request.trust.permits(ip)) {
            return Err(unreachable(ConnectStage::Address, format!("{ip} may not be connected to")));
        }
        let pools = self.own.get(request.registry).unwrap_or(&self.common);
        let pool = match request.trust {
            HostTrust::Configured => &pools.configured,
            HostTrust::Untrusted => &pools.untrusted,
        };
        let sending =
            self.http_request(request).map_err(|e| unreachable(ConnectStage::Connect, e.to_string()))?;
        match tokio::time::timeout(self.header_wait, pool.request(sending)).await {
            Ok(Ok(response)) => Ok(response.map(|body| body.map_err(BoxError::from).boxed())),
            Ok(Err(error)) => {
                let stage = stage_of(&error, error.is_connect());
                Err(unreachable(stage, root_cause(&error)))
            }
            Err(_) => {
                let why = format!("no response within {:?}", self.header_wait);
                Err(unreachable(ConnectStage::Timeout, why))
            }
        }
    }

    fn http_request(&self, outgoing: OutgoingRequest<'_>) -> Result<Request<Full<Bytes>>, InvalidUri> {
        let mut request = Request::new(Full::new(outgoing.body));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = outgoing.url.as_str().parse()?;
        *request.headers_mut() = outgoing.headers;
        let own = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(own);
        if outgoing.url.scheme() == "http"
            && let Some(proxy) = self.proxies.intercept(request.uri())
            && let Some(auth) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        if let Some(token) = request.headers_mut().get_mut(AUTHORIZATION) {
            token.set_sensitive(true);
        }
        Ok(request)
    }
}

impl SendRequest for Transport {
    fn send<'a>(
        &'a self,
        request: OutgoingRequest<'a>,
    ) -> BoxFuture<'a, Result<Response<ResponseBody>, Error>> {
        Box::pin(self.send_request(request))
    }
}

impl Pools {
    fn new(config: &Config, tls: TlsConfigs, proxies: &Arc<Matcher>) -> Self {
        let pool = |trust, tls: ClientConfig| {
            let plain = Dialer::new(config, trust, Arc::clone(proxies));
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1()
                .wrap_connector(plain.clone());
            let connector = Connector { plain: plain.needs_no_tls().then_some(plain), tls: connector };
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE_TIME)
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .http1_max_headers(HEADERS_MAX)
                .http1_max_buf_size(BUFFER_BYTES_MAX)
                .build(connector)
        };
        Self {
            configured: pool(HostTrust::Configured, tls.configured),
            untrusted: pool(HostTrust::Untrusted, tls.untrusted),
        }
    }
}

/// TLS for `https`, except through a network of a test, whose connections are used as they are.
#[derive(Clone)]
struct Connector {
    plain: Option<Dialer>,
    tls: HttpsConnector<Dialer>,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tls.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        match &mut self.plain {
            Some(plain) => {
                let opening = plain.call(to);
                Box::pin(async move { opening.await.map(MaybeHttpsStream::Http) })
            }
            None => Box::pin(self.tls.call(to)),
        }
    }
}

/// The address that a URL has in the place of a name.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host() {
        Some(Host::Ipv4(v4)) => Some(v4.into()),
        Some(Host::Ipv6(v6)) => Some(v6.into()),
        _ => None,
    }
}

fn stage_of(error: &(dyn StdError + 'static), connecting: bool) -> ConnectStage {
    let mut stage = if connecting { ConnectStage::Connect } else { ConnectStage::Head };
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<NameFailed>() {
            stage = ConnectStage::Dns;
        } else if error.is::<AddressRefused>() {
            stage = ConnectStage::Address;
        } else if error.is::<rustls::Error>() || holds_tls(error) {
            stage = ConnectStage::Tls;
        }
        next = error.source();
    }
    stage
}

/// `io::Error` hides what it wraps from `source`, and some are wrapped twice.
fn holds_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<rustls::Error>() || holds_tls(inner))
}
