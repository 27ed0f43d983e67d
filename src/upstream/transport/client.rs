//! The client that sends one HTTP request: counted, timed and logged.

use http::{Response, StatusCode};
use tokio::time::Instant;

use crate::support::live::Live;
use crate::support::short_text::shortened;
use crate::upstream::body::ResponseBody;
use crate::upstream::error::Error;
use crate::upstream::metrics::{Recorder, RequestKind};
use crate::upstream::transport::authority::authority;
use crate::upstream::transport::configured::Configured;
use crate::upstream::transport::send::OutgoingRequest;

/// Characters of a path that are logged: a redirect may have a path of as many as its response.
const PATH_CHARS_MAX: usize = 512;

/// Sends requests through the transport in effect. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpClient {
    configured: Live<Configured>,
    recorder: Recorder,
}

impl HttpClient {
    pub(crate) fn new(configured: Live<Configured>, recorder: Recorder) -> Self {
        Self { configured, recorder }
    }

    /// Sends `request` and waits for the head of the response.
    ///
    /// # Errors
    /// [`Error::Unreachable`], with the stage at which the request failed.
    pub(crate) async fn send(
        &self,
        kind: RequestKind,
        request: OutgoingRequest<'_>,
    ) -> Result<Response<ResponseBody>, Error> {
        let (registry, method, url) = (request.registry, request.method.clone(), request.url);
        let start = Instant::now();
        let mut result = self.configured.current().transport.send(request).await;
        let status = result.as_ref().ok().map(|response| response.status().as_u16());
        self.recorder.request_sent(registry, kind, status, start.elapsed());
        // Never the query: it may hold a signature.
        tracing::debug!(
            %method,
            host = %authority(url),
            path = %shortened(&url.path(), PATH_CHARS_MAX),
            status,
            elapsed_ms = start.elapsed().as_millis() as u64,
            "sent a request upstream"
        );
        // A proxy on the way changed something (RFC 9110, 15.3.4): what, the digest of the content judges.
        if let Ok(response) = &mut result
            && response.status() == StatusCode::NON_AUTHORITATIVE_INFORMATION
        {
            *response.status_mut() = StatusCode::OK;
        }
        result
    }
}
