//! What carries a request to a host and brings the head of the response: connections, or a test's own responses.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Response};
use url::Url;

use crate::reference::Registry;
use crate::upstream::body::ResponseBody;
use crate::upstream::error::Error;
use crate::upstream::transport::address::HostTrust;

/// One HTTP request.
pub(crate) struct OutgoingRequest<'a> {
    /// Whose certificates apply, and whose metrics count it; the host may be another one's.
    pub(crate) registry: &'a Registry,
    pub(crate) trust: HostTrust,
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether a token server is asked for a token.
    pub(crate) is_for_token: bool,
}

impl<'a> OutgoingRequest<'a> {
    /// A `GET` without headers.
    pub(crate) fn get(registry: &'a Registry, trust: HostTrust, url: &'a Url) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self { registry, trust, method: Method::GET, url, headers, body, is_for_token: false }
    }
}

/// Sends requests and waits for the heads of their responses.
pub(crate) trait SendRequest: Send + Sync {
    /// # Errors
    /// [`Error::Unreachable`], with the stage at which the request failed.
    fn send<'a>(
        &'a self,
        request: OutgoingRequest<'a>,
    ) -> BoxFuture<'a, Result<Response<ResponseBody>, Error>>;
}
