//! Sends requests over connections that are kept.
//!
//! The TLS settings of a registry are shared by two clients: one for hosts that the configuration names, one for all
//! others, which cannot be made to connect inside the node's network. HTTP/1.1 only: one blob a connection fills
//! fastest, and the attacks that multiplexing makes possible do not exist.
//!
//! A connection that was used before, was idle for seconds and does not answer may have been forgotten by what is
//! between: the idle ones to its host are closed, and the request is sent once more over a new one. A request that
//! carries a login or is for a token is not sent twice for that, since a server that is slow would count each login,
//! and so goes over no connection that was idle for seconds. A request of which nothing was sent, since its connection
//! was closed meanwhile, goes over another one, whatever it carries. A login or a request for a token is sent once
//! more over a new one where a connection that had been used before was closed before an answer: what repeats the
//! question comes to that connection again.
//!
//! Deliberately not here: redirects and challenges (`authenticated`), and other retries (`attempts`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout_at};
use url::{Position, Url};

use crate::reference::Registry;
use crate::support::proxies::Proxies;
use crate::support::rounded::rounded;
use crate::upstream::body::ResponseBody;
use crate::upstream::config::{Config, Timeouts};
use crate::upstream::error::{BoxError, ConnectStage, Error};
use crate::upstream::transport::address::HostTrust;
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::connect_error::{error_of, is_closed};
use crate::upstream::transport::connection::Connection;
use crate::upstream::transport::connector::{Connector, HttpRequest};
use crate::upstream::transport::dial::Dialer;
use crate::upstream::transport::names::Names;
use crate::upstream::transport::pool::{Belonging, Host, Hosts, IDLE_TIME, Keepable};
use crate::upstream::transport::send::{OutgoingRequest, SendRequest};
use crate::upstream::transport::tls::{BuildError, TlsConfigs, system_authorities};
use crate::upstream::transport::watched_body::WatchedBody;

/// A connection that was idle for this long may have been forgotten by what is between; a NAT forgets none faster.
const FORGOTTEN_IDLE_MIN: Duration = Duration::from_secs(5);

/// The connections to all registries.
pub(crate) struct Transport {
    common: Pools,
    /// Of registries with certificates of their own.
    own: HashMap<Registry, Pools>,
    header_wait: Duration,
    idle_wait: Duration,
}

/// What became of a request that was sent over one connection.
enum Sent {
    Response(Response<ResponseBody>),
    Failed(Error),
    /// A connection that had been used before, and then was idle, did not answer and may be dead: another one may.
    Frozen(Error),
    /// A connection that had been used before was closed before an answer came: servers close what they take for idle,
    /// and say so to nobody.
    Closed(Error),
    /// Nothing of it was sent: the connection had been closed.
    Unsent(HttpRequest, Error),
}

struct Pools {
    configured: Pool,
    untrusted: Pool,
}

/// The connections to hosts of one trust.
struct Pool {
    connector: Connector,
    hosts: Hosts<Connection>,
}

/// A connection that a request is sent over.
struct Way {
    connection: Connection,
    of: Belonging<Connection>,
    /// How long it was idle; `None` where no request was sent over it.
    idle: Option<Duration>,
}

/// A connection that is being opened.
type Opening = BoxFuture<'static, Result<Way, Error>>;

impl Pool {
    /// Opens a connection to `host`, which errors call `name`.
    fn opening(&self, host: &Arc<Host<Connection>>, name: &str, url: &Url, until: Instant) -> Opening {
        let (begun, of, name) = (Instant::now(), host.belonging(), name.to_owned());
        let (connector, to) = (self.connector.clone(), url[..Position::AfterQuery].parse::<Uri>());
        let opening =
            async move { Connection::over(connector.open(to?).await?).await.map_err(BoxError::from) };
        Box::pin(async move {
            match timeout_at(until, opening).await {
                Ok(Ok(connection)) => Ok(Way { connection, of, idle: None }),
                Ok(Err(error)) => Err(error_of(&name, &*error, true)),
                Err(_) => {
                    let why = format!("no connection: no response within {:?}", rounded(begun.elapsed()));
                    Err(Error::Unreachable { host: name, stage: ConnectStage::Tls, why })
                }
            }
        })
    }
}

impl Way {
    fn kept((connection, idle, of): (Connection, Duration, Belonging<Connection>)) -> Self {
        Self { connection, of, idle: Some(idle) }
    }
}

/// The connection that is being opened, or one to the same host that another request needs no more before that: then
/// the new one is kept once it is open.
async fn first_of(
    mut opening: Opening,
    host: &Arc<Host<Connection>>,
    idle_max: Duration,
) -> Result<Way, Error> {
    tokio::select! {
        opened = &mut opening => opened,
        freed = host.freed(idle_max) => {
            tokio::spawn(async move {
                if let Ok(Way { connection, of, .. }) = opening.await {
                    of.keep(connection);
                }
            });
            Ok(Way::kept(freed))
        }
    }
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
        let proxies = Proxies::new(&config.proxy, "").map(Arc::new);
        let system = system_authorities();
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
        Ok(Self { common, own, header_wait: header, idle_wait: idle })
    }

    async fn send_request(&self, request: OutgoingRequest<'_>) -> Result<Response<ResponseBody>, Error> {
        let (url, name) = (request.url, authority(request.url));
        if let Some(ip) = literal_address(url).filter(|&ip| !request.trust.permits(ip)) {
            let why = format!("{ip} may not be connected to");
            return Err(Error::Unreachable { host: name, stage: ConnectStage::Address, why });
        }
        let pools = self.own.get(request.registry).unwrap_or(&self.common);
        let pool = match request.trust {
            HostTrust::Configured => &pools.configured,
            HostTrust::Untrusted => &pools.untrusted,
        };
        let changes_nothing = matches!(request.method, Method::GET | Method::HEAD);
        // A server that is slow would count a login twice.
        let is_login = request.is_for_token || carries_login(&request.headers);
        let repeatable = changes_nothing && !is_login;
        let host = pool.hosts.host(&url[..Position::BeforePath]);
        let mut sending = pool.connector.request(request).map_err(|why| {
            let (host, why) = (name.clone(), why.to_string());
            Error::Unreachable { host, stage: ConnectStage::Connect, why }
        })?;
        let idle_max = if repeatable { IDLE_TIME } else { FORGOTTEN_IDLE_MIN };
        let begun = Instant::now();
        loop {
            let way = match host.take(idle_max) {
                Some(taken) => Way::kept(taken),
                None => {
                    let opening = pool.opening(&host, &name, url, begun + self.header_wait);
                    first_of(opening, &host, idle_max).await?
                }
            };
            let idle = way.idle;
            let is_doubtful = may_be_forgotten(idle);
            // A login is sent again where the connection was closed: what repeats the question begins with the
            // challenge, and so comes to send the login over a connection that was just used, too.
            let may_follow = is_doubtful || changes_nothing && is_login && idle.is_some();
            let again = may_follow.then(|| sending.clone());
            let wait = if is_doubtful { self.header_wait / 2 } else { self.header_wait };
            match self.send_over(way, &name, sending, begun + wait).await {
                Sent::Response(response) => return Ok(response),
                Sent::Unsent(unsent, _) if idle.is_some() => sending = unsent,
                Sent::Failed(error) | Sent::Unsent(_, error) => return Err(error),
                Sent::Frozen(error) | Sent::Closed(error) => {
                    sending = again.ok_or(error)?;
                    break;
                }
            }
        }
        // Once: the connections that were idle are closed, and this one is new.
        let until = Instant::now() + self.header_wait;
        let way = pool.opening(&host, &name, url, until).await?;
        match self.send_over(way, &name, sending, until).await {
            Sent::Response(response) => Ok(response),
            Sent::Failed(error) | Sent::Frozen(error) | Sent::Closed(error) | Sent::Unsent(_, error) => {
                Err(error)
            }
        }
    }

    /// Sends a request over one connection, and waits for the head of its response.
    async fn send_over(&self, way: Way, name: &str, request: HttpRequest, until: Instant) -> Sent {
        let Way { mut connection, of, idle } = way;
        let begun = Instant::now();
        let unanswered = Unanswered { of: &of, begun, was_used: idle.is_some() };
        let answered = timeout_at(until, connection.ask(request)).await;
        // The caller is still there, and what follows says more than how long it waited.
        unanswered.disarm();
        let failed = match answered {
            Ok(Ok(response)) => return Sent::Response(response.map(|body| self.body(connection, of, body))),
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                let failed = error.into_error();
                let is_closed = idle.is_some() && is_closed(&failed);
                let error = error_of(name, &failed, false);
                match unsent {
                    Some(request) => return Sent::Unsent(request, error),
                    None if is_closed => Sent::Closed(error),
                    None => Sent::Failed(error),
                }
            }
            Err(_) => {
                let why = format!("no response within {:?}", rounded(begun.elapsed()));
                let error = Error::Unreachable { host: name.to_owned(), stage: ConnectStage::Timeout, why };
                if may_be_forgotten(idle) { Sent::Frozen(error) } else { Sent::Failed(error) }
            }
        };
        if idle.is_some() {
            of.close_idle();
        }
        failed
    }

    /// The body of a response that came over a connection, which is kept once the body has come.
    fn body(&self, mut connection: Connection, of: Belonging<Connection>, body: Incoming) -> ResponseBody {
        let has_ended = body.is_end_stream();
        // A short body came with its head.
        if connection.is_open() {
            of.keep(connection);
        } else if !has_ended {
            let of = of.clone();
            tokio::spawn(async move {
                if connection.finish().await {
                    of.keep(connection);
                }
            });
        }
        if has_ended {
            return Empty::new().map_err(|never| match never {}).boxed();
        }
        WatchedBody::new(body, of, self.idle_wait).boxed()
    }
}

/// A request that was sent and is not answered yet. Dropped after a while, by a caller that waits no longer, it closes
/// the idle connections to its host, if its own was used before: the next request would only wait for the next one.
struct Unanswered<'a> {
    of: &'a Belonging<Connection>,
    begun: Instant,
    was_used: bool,
}

impl Unanswered<'_> {
    /// Its caller has waited to the end.
    fn disarm(mut self) {
        self.was_used = false;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.was_used && self.begun.elapsed() >= FORGOTTEN_IDLE_MIN {
            self.of.close_idle();
        }
    }
}

/// Whether what is between may have forgotten a connection that was idle for so long.
fn may_be_forgotten(idle: Option<Duration>) -> bool {
    idle.is_some_and(|idle| idle >= FORGOTTEN_IDLE_MIN)
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
    fn new(config: &Config, tls: TlsConfigs, proxies: &Option<Arc<Proxies>>, names: &Names) -> Self {
        let pool = |trust, tls: ClientConfig| {
            let dialer = Dialer::new(config, trust, proxies.clone(), names.clone());
            Pool { connector: Connector::new(dialer, tls), hosts: Hosts::new(trust) }
        };
        Self {
            configured: pool(HostTrust::Configured, tls.configured),
            untrusted: pool(HostTrust::Untrusted, tls.untrusted),
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
        Some(url::Host::Ipv4(v4)) => Some(v4.into()),
        Some(url::Host::Ipv6(v6)) => Some(v6.into()),
        _ => None,
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
