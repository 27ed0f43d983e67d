//! Sends requests over pooled connections.
//!
//! The TLS settings of a registry are shared by two clients: one for hosts that the configuration names, one for all
//! others, which cannot be made to connect inside the node's network. HTTP/1.1 only: one blob a connection fills
//! fastest, and the attacks that multiplexing makes possible do not exist.
//!
//! A connection that was used before, was idle for seconds and does not answer may have been forgotten by what is
//! between: the idle ones to its host are closed, and the request is sent once more over a new one. A request that
//! carries a login or is for a token is never sent twice, since a server that is slow would count each login, and so
//! goes over no connection that was idle for seconds.
//!
//! Deliberately not here: redirects and challenges (`exchange`), and other retries (`attempts`).

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::InvalidUri;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use tower::Service;
use url::{Host, Url};

use crate::reference::Registry;
use crate::support::authorities;
use crate::upstream::body::ResponseBody;
use crate::upstream::config::{Config, Timeouts};
use crate::upstream::error::{BoxError, ConnectStage, Error, NodeLimit, root_cause};
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::dial::{AddressRefused, Dialer, NameFailed, NameNotAsked, Stream, proxies};
use crate::upstream::transport::names::Names;
use crate::upstream::transport::pool::{
    ConnectionBefore, FORGOTTEN_IDLE_MIN, HostPools, LastUse, Unanswered, WatchedBody,
};
use crate::upstream::transport::send::{OutgoingRequest, SendRequest};
use crate::upstream::transport::tls::{BuildError, TlsConfigs, system_authorities};

type Pool = HostPools<Connector>;

/// The connections to all registries.
pub(crate) struct Transport {
    common: Pools,
    /// Of registries with certificates of their own.
    own: HashMap<Registry, Pools>,
    proxies: Arc<Matcher>,
    header_wait: Duration,
    idle_wait: Duration,
}

/// What became of a request that was sent once.
enum Sent {
    Response(Box<Response<ResponseBody>>),
    Failed(Error),
    /// A connection that had been used before, and then was idle, did not answer and may be dead: another one may.
    Frozen(Error),
}

struct Pools {
    configured: Pool,
    untrusted: Pool,
}

impl Transport {
    /// Blocks while certificate files are read.
    ///
    /// # Errors
    /// A certificate or key file that cannot be used, or a proxy.
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        if let Some((variable, scheme)) = config.proxy.unsupported() {
            return Err(BuildError::Proxy { variable, scheme });
        }
        let (proxies, system) = (proxies(config), system_authorities());
        let names = Names::new(config.reach.clone());
        let mut own = HashMap::new();
        for (registry, settings) in &config.registries {
            if settings.ca.is_some() || settings.client.is_some() {
                let tls = TlsConfigs::new(&system, Some(settings))?;
                own.insert(registry.clone(), Pools::new(config, tls, &proxies, &names));
            }
        }
        let common = Pools::new(config, TlsConfigs::new(&system, None)?, &proxies, &names);
        let Timeouts { header, idle, .. } = config.timeouts;
        Ok(Self { common, own, proxies, header_wait: header, idle_wait: idle })
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
        // What changes something at the server, a count of logins included, is not sent twice.
        let repeatable = matches!(request.method, Method::GET | Method::HEAD)
            && !request.is_for_token
            && !carries_login(&request.headers);
        let sending =
            self.http_request(request).map_err(|e| unreachable(ConnectStage::Connect, e.to_string()))?;
        let first = if repeatable { self.header_wait / 2 } else { self.header_wait };
        match self.send_once(pool, &host, sending.clone(), repeatable, first).await {
            Sent::Response(response) => Ok(*response),
            // Once: the connections that were idle are closed, so that this one is new.
            Sent::Frozen(_) if repeatable => {
                match self.send_once(pool, &host, sending, repeatable, self.header_wait).await {
                    Sent::Response(response) => Ok(*response),
                    Sent::Failed(error) | Sent::Frozen(error) => Err(error),
                }
            }
            Sent::Failed(error) | Sent::Frozen(error) => Err(error),
        }
    }

    /// Sends a request. One that is `repeatable` may go over a connection that may be forgotten, and is waited for
    /// there for `first_wait` only.
    async fn send_once(
        &self,
        pool: &Pool,
        host: &str,
        mut request: Request<Full<Bytes>>,
        repeatable: bool,
        first_wait: Duration,
    ) -> Sent {
        let url = request.uri();
        let scheme = url.scheme_str().unwrap_or_default();
        let key = format!("{scheme}://{}", url.authority().map_or("", |authority| authority.as_str()));
        let unreachable = |stage, why: String| Error::Unreachable { host: host.to_owned(), stage, why };
        let (client, begun) = (pool.client(&key), Instant::now());
        let captured = capture_connection(&mut request);
        let mut unanswered =
            Unanswered { open: &pool.open, host: &key, client: &client, captured, begun, is_answered: false };
        let of_host = if repeatable { &client.repeatable } else { &client.once };
        let mut answer = pin!(of_host.request(request));
        let mut answered = timeout_at(begun + first_wait, &mut answer).await;
        let may_be_forgotten =
            |before| matches!(before, ConnectionBefore::Used { idle } if idle >= FORGOTTEN_IDLE_MIN);
        if answered.is_err() && !may_be_forgotten(unanswered.before()) {
            answered = timeout_at(begun + self.header_wait, &mut answer).await;
        }
        let failed = match answered {
            Ok(Ok(response)) => {
                let last_use = LastUse::of(&unanswered.captured);
                last_use.iter().for_each(LastUse::record);
                unanswered.is_answered = true;
                drop(unanswered);
                let (open, client) = (pool.open.clone(), Arc::clone(&client));
                let watched = |body: Incoming| {
                    if body.is_end_stream() {
                        return Empty::new().map_err(|never| match never {}).boxed();
                    }
                    let body = body.map_err(BoxError::from).boxed();
                    WatchedBody::new(body, open, key, client, last_use, self.idle_wait).boxed()
                };
                return Sent::Response(Box::new(response.map(watched)));
            }
            Ok(Err(error)) => Sent::Failed(error_of(host, &error, error.is_connect())),
            Err(_) => {
                let why = format!("no response within {:?}", begun.elapsed());
                match unanswered.before() {
                    ConnectionBefore::None => {
                        Sent::Failed(unreachable(ConnectStage::Tls, format!("no connection: {why}")))
                    }
                    before if may_be_forgotten(before) => {
                        Sent::Frozen(unreachable(ConnectStage::Timeout, why))
                    }
                    _ => Sent::Failed(unreachable(ConnectStage::Timeout, why)),
                }
            }
        };
        unanswered.is_answered = true;
        if matches!(unanswered.before(), ConnectionBefore::Used { .. }) {
            pool.open.close_idle(&key, &client);
        }
        failed
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
    fn new(config: &Config, tls: TlsConfigs, proxies: &Arc<Matcher>, names: &Names) -> Self {
        let pool = |trust, tls: ClientConfig| {
            let plain = Dialer::new(config, trust, Arc::clone(proxies), names.clone());
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_or_http()
                .enable_http1()
                .wrap_connector(plain.clone());
            let connector = Connector { plain: plain.needs_no_tls().then_some(plain), tls: connector };
            HostPools::new(connector, trust)
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

/// Whether a user name and password are among the headers.
fn carries_login(headers: &HeaderMap) -> bool {
    let scheme = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().get(..6));
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"Basic "))
}

/// The address that a URL has in the place of a name.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host() {
        Some(Host::Ipv4(v4)) => Some(v4.into()),
        Some(Host::Ipv6(v6)) => Some(v6.into()),
        _ => None,
    }
}

/// What it means that no response came.
fn error_of(host: &str, error: &(dyn StdError + 'static), connecting: bool) -> Error {
    let (host, why) = (host.to_owned(), root_cause(error));
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    if causes.any(|cause| cause.is::<NameNotAsked>()) {
        return Error::Overloaded { limit: NodeLimit::Names, host, why };
    }
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let why = match causes.find_map(tls_error).and_then(authorities::remedy) {
        Some(remedy) => format!("{why}: {remedy}"),
        None => why,
    };
    Error::Unreachable { host, stage: stage_of(error, connecting), why }
}

fn stage_of(error: &(dyn StdError + 'static), connecting: bool) -> ConnectStage {
    let mut stage = if connecting { ConnectStage::Connect } else { ConnectStage::Head };
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<NameFailed>() {
            stage = ConnectStage::Dns;
        } else if error.is::<AddressRefused>() {
            stage = ConnectStage::Address;
        } else if tls_error(error).is_some() {
            stage = ConnectStage::Tls;
        }
        next = error.source();
    }
    stage
}

/// The error of TLS: `io::Error` hides what it wraps from `source`, and some are wrapped twice.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let inner = || error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref().or_else(|| tls_error(inner()?))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
