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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::log_for_tests::Log;
    use crate::upstream::config::Config;
    use crate::upstream::transport::address::HostTrust;
    use crate::upstream::transport::scripted::{Scripted, status};

    #[tokio::test]
    async fn a_redirect_to_a_long_path_fills_no_log_and_its_signature_is_not_in_it() {
        let (transport, configured) = Scripted::new(Config::default(), |_| status(200));
        let client = HttpClient::new(Live::new(configured), Recorder::for_test());
        let registry = "reg.test".parse().unwrap();
        let log = Log::of_this_thread();
        for path in ["a".repeat(60_000), "aaa".to_owned()] {
            let url: url::Url = format!("https://cdn.test/{path}?X-Signature=marker").parse().unwrap();
            let request = OutgoingRequest::get(&registry, HostTrust::Untrusted, &url);
            client.send(RequestKind::Blob, request).await.unwrap();
            assert_eq!(transport.sent().pop().unwrap().url, url.as_str(), "what is sent is whole");
            let line = log.lines("DEBUG").pop().unwrap();
            assert!(line.contains("cdn.test") && line.contains("/aaa"), "{line}");
            assert!(line.chars().count() < 2 * PATH_CHARS_MAX && !line.contains("marker"), "{line}");
        }
    }
}
