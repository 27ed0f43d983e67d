//! HTTP to the collector: hyper and rustls, as to registries.
//!
//! Promises: a request ends within [`ANSWER_WAIT`], and of an answer no more than [`ANSWER_MAX`] is read. The last
//! failure is kept in words, since the exporter gives none. No proxy is used: a collector is the operator's own.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{HttpClient, HttpError};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};

use super::config::Collector;
use crate::support::causes::with_causes;

/// The longest wait for a collector's answer: OpenTelemetry's own default.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Bytes of an answer at most: a collector says how many spans it did not take, and why.
const ANSWER_MAX: usize = 64 * 1024;

/// The client. Cheap to clone; clones share connections and the last failure.
#[derive(Clone)]
pub(super) struct CollectorClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl CollectorClient {
    /// Blocks while the system's certificate authorities are read, which a collector without TLS needs none of.
    ///
    /// # Errors
    /// The TLS library refuses its own defaults.
    pub(super) fn new(collector: &Collector) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        if collector.is_tls() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), failure: Arc::default() })
    }

    /// Why the last request failed, if it did.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().take()
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let response = self.client.request(request.map(Full::new)).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        if !head.status.is_success() {
            // The body may repeat what was sent.
            *self.failure.lock() = Some(format!("the collector answers {}", head.status));
        }
        Ok(Response::from_parts(head, body))
    }
}

impl fmt::Debug for CollectorClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CollectorClient")
    }
}

/// What `async_trait` makes of the function.
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for CollectorClient {
    fn send_bytes<'life0, 'async_trait>(&'life0 self, request: Request<Bytes>) -> Answer<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let answered = tokio::time::timeout(ANSWER_WAIT, self.send(request)).await;
            let answered = answered.unwrap_or_else(|_elapsed| Err("no answer in time".into()));
            answered.inspect_err(|error| *self.failure.lock() = Some(with_causes(error.as_ref())))
        })
    }
}
