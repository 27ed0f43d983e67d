//! Opens connections to the hosts of one trust, with TLS for `https`, and writes requests in the form that is read at
//! their other end: by the host, or by a proxy.
//!
//! Deliberately not here: names and addresses (`dial`), and what is sent over a connection (`connection`).

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use rustls::ClientConfig;
use tower::Service;
use url::Position;

use crate::upstream::error::BoxError;
use crate::upstream::transport::dial::{Dialer, Stream};
use crate::upstream::transport::send::OutgoingRequest;

/// A request as it is sent.
pub(super) type HttpRequest = Request<Full<Bytes>>;

/// What requests and responses are written to and read from.
pub(super) type Socket = MaybeHttpsStream<Stream>;

/// Opens connections: with TLS for `https`, except through a network of a test, whose connections are used as they are.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Dialer,
    tls: HttpsConnector<Dialer>,
}

impl Connector {
    pub(super) fn new(dialer: Dialer, tls: ClientConfig) -> Self {
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(dialer.clone());
        Self { dialer, tls }
    }

    /// Opens a connection to the host of `to`, or to the proxy for it.
    ///
    /// # Errors
    /// Why there is none, with the error of the name, the address or TLS among its sources.
    pub(super) async fn open(self, to: Uri) -> Result<Socket, BoxError> {
        let Self { mut dialer, mut tls } = self;
        if dialer.needs_no_tls() {
            dialer.call(to).await.map(MaybeHttpsStream::Http)
        } else {
            tls.call(to).await
        }
    }

    /// A request as it is sent: with the host in a field of its own, and in its address too where a proxy reads it.
    ///
    /// # Errors
    /// An address or a host that HTTP cannot say.
    pub(super) fn request(&self, outgoing: OutgoingRequest<'_>) -> Result<HttpRequest, http::Error> {
        let url = outgoing.url;
        let mut request = Request::new(Full::new(outgoing.body));
        *request.method_mut() = outgoing.method;
        *request.headers_mut() = outgoing.headers;
        let own = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(USER_AGENT).or_insert(own);
        let host = HeaderValue::try_from(&url[Position::BeforeHost..Position::AfterPort])?;
        request.headers_mut().entry(HOST).or_insert(host);
        if let Some(proxy) = self.dialer.proxy_that_reads(url) {
            *request.uri_mut() = url[..Position::AfterQuery].parse()?;
            if let Some(login) = proxy.basic_auth() {
                request.headers_mut().insert(PROXY_AUTHORIZATION, login.clone());
            }
        } else {
            *request.uri_mut() = url[Position::BeforePath..Position::AfterQuery].parse()?;
        }
        if let Some(token) = request.headers_mut().get_mut(AUTHORIZATION) {
            token.set_sensitive(true);
        }
        Ok(request)
    }
}
