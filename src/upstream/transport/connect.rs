//! The one HTTP client: pooled connections, TLS, and the time until a response head.
//!
//! Two clients share the TLS settings of a registry: one for hosts that the operator named, one for hosts that a
//! stranger named; the second cannot be made to connect inside the node's network. HTTP/1.1 only: one blob a
//! connection is what fills best, and a whole class of attacks stays away.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tower::Service;
use url::{Host, Url};

use crate::reference::Registry;
use crate::upstream::config::{ClientCertificate, Config};
use crate::upstream::endpoint::select::authority;
use crate::upstream::error::{ConnectStage, Error};
use crate::upstream::transport::address::Trust;
use crate::upstream::transport::dial::{AddressRefused, BoxError, Dialer, NameFailed, Stream, proxies};

/// Idle connections kept a host, and for how long: registries close theirs after about a minute.
const IDLE_CONNECTIONS_MAX: usize = 8;
const IDLE_TIME: Duration = Duration::from_secs(50);
/// Fields of a response head at most.
const HEADERS_MAX: usize = 128;
/// Bytes of a response head at most, and of one read of a body.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

type Pool = Client<Connector, Full<Bytes>>;

/// Why the client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A certificate authority file.
    #[error("cannot use the certificate authorities in {}: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate of our own, or its key.
    #[error("cannot use the client certificate or key in {}: {why}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The TLS library.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Sends requests and waits for response heads.
pub(crate) struct Transport {
    common: Pair,
    own: HashMap<Registry, Pair>,
    proxies: Arc<Matcher>,
    header_wait: Duration,
}

struct Pair {
    operator: Pool,
    stranger: Pool,
}

impl Transport {
    pub(crate) fn new(config: &Config) -> Result<Self, BuildError> {
        let (proxies, roots) = (proxies(config), system_roots());
        let mut own = HashMap::new();
        for (registry, settings) in &config.registries {
            if settings.ca.is_none() && settings.client.is_none() {
                continue;
            }
            let mut roots = roots.clone();
            if let Some(ca) = &settings.ca {
                add_authorities(&mut roots, ca)?;
            }
            let identity = settings.client.as_ref().map(identity).transpose()?;
            own.insert(registry.clone(), Pair::new(config, &roots, identity, &proxies)?);
        }
        let common = Pair::new(config, &roots, None, &proxies)?;
        Ok(Self { common, own, proxies, header_wait: config.timeouts.header })
    }

    /// Sends one request on behalf of `registry` and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`], saying at which step.
    pub(crate) async fn send(
        &self,
        registry: &Registry,
        trust: Trust,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let host = authority(url);
        let unreachable = |stage, why: String| Error::Unreachable { host: host.clone(), stage, why };
        let literal: Option<IpAddr> = match url.host() {
            Some(Host::Ipv4(v4)) => Some(v4.into()),
            Some(Host::Ipv6(v6)) => Some(v6.into()),
            _ => None,
        };
        if let Some(ip) = literal.filter(|&ip| !trust.permits(ip)) {
            return Err(unreachable(ConnectStage::Address, format!("{ip} may not be connected to")));
        }
        let request = self
            .request(method, url, headers, body)
            .map_err(|why| unreachable(ConnectStage::Connect, why))?;
        let pair = self.own.get(registry).unwrap_or(&self.common);
        let pool = if trust == Trust::Operator { &pair.operator } else { &pair.stranger };
        match tokio::time::timeout(self.header_wait, pool.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let stage = stage_of(&error, error.is_connect());
                Err(unreachable(stage, innermost(&error)))
            }
            Err(_) => {
                Err(unreachable(ConnectStage::Timeout, format!("no answer within {:?}", self.header_wait)))
            }
        }
    }

    fn request(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, String> {
        let own = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(own);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
        *request.headers_mut() = headers;
        if url.scheme() == "http"
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

impl Pair {
    fn new(
        config: &Config,
        roots: &RootCertStore,
        identity: Option<Identity>,
        proxies: &Arc<Matcher>,
    ) -> Result<Self, BuildError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|e| BuildError::Tls(e.to_string()))?;
            Ok(versions.with_root_certificates(roots.clone()))
        };
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
        let stranger = tls()?.with_no_client_auth();
        let operator = match identity {
            None => stranger.clone(),
            Some(Identity { chain, key, file }) => tls()?
                .with_client_auth_cert(chain, key)
                .map_err(|e| BuildError::Certificate { path: file, why: e.to_string() })?,
        };
        Ok(Self { operator: pool(Trust::Operator, operator), stranger: pool(Trust::Stranger, stranger) })
    }
}

/// TLS for `https`, and none where connections are taken as they are.
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

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system certificate store could not be read");
    }
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::warn!(
            ignored,
            "no system certificate authority was found: install ca-certificates to reach registries over TLS"
        );
    }
    roots
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), BuildError> {
    let failed = |why: String| BuildError::Authorities { path: path.to_owned(), why };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(failed("there is no certificate in it".to_owned())) } else { Ok(()) }
}

/// A certificate of our own.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    file: PathBuf,
}

fn identity(client: &ClientCertificate) -> Result<Identity, BuildError> {
    let failed = |path: &Path, why: String| BuildError::Certificate { path: path.to_owned(), why };
    let certificate = &client.certificate;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| failed(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(failed(certificate, "there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&client.key).map_err(|e| failed(&client.key, e.to_string()))?;
    Ok(Identity { chain, key, file: certificate.clone() })
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

/// The last cause: the outer ones only say that sending failed.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
