//! Registries: the requests that Larder sends to them, and how it authenticates.
//!
//! Promises: every wait is bounded; a credential goes to the endpoint that it is meant for and to that registry's own
//! token server, a token to the origin that it was issued for, and neither anywhere else; a host named by a client, a
//! redirect or a challenge is never inside the node's network; errors name the host and the cause and hold no secret.
//!
//! A request passes `client` (which resource), `attempts` (endpoints in order, retries, time), `exchange` (one
//! endpoint: its limit, and what its answer means), `authenticated` (challenges and redirects) and `transport` (one
//! HTTP request).
//!
//! Deliberately not here: the store, caching of content, the choice of the credential (`pull`), and following a
//! descriptor's `urls`.

mod asked;
mod attempts;
mod auth;
mod authenticated;
mod blob_head;
mod body;
mod client;
mod config;
mod download;
mod endpoint;
mod error;
mod error_document;
mod error_meaning;
mod exchange;
mod exchange_state;
mod headers;
mod link;
pub mod metrics;
mod one_endpoint;
mod page;
mod proved_right;
mod read_body;
mod received;
mod redirect;
mod registry_labels;
mod request;
mod response;
mod retry;
mod span;
mod status;
mod transport;

pub use asked::AskedEndpoints;
pub use blob_head::BlobHead;
pub use client::{ResolvedTag, Upstream};
pub use config::{Allow, ClientCertificate, Config, CredentialUse, EndpointConfig, RegistryConfig, Timeouts};
pub use download::Download;
pub use endpoint::avoided::DeliveryFault;
pub use endpoint::health::FailingEndpoint;
pub use endpoint::rate_limit::RateLimitStatus;
pub use endpoint::select::{EndpointId, has_authoritative_endpoint, is_on_loopback};
pub use error::{ConnectStage, Error, NodeLimit, Unknown};
pub use page::{Page, PageBody};
pub use proved_right::ProvedRight;
pub use read_body::Manifest;
pub use registry_labels::RegistryLabels;
pub use request::{AuthContext, Listing, Need, Patience};
pub use response::Allowed;
pub use status::EndpointStatus;
pub use transport::configured::Configured;
pub use transport::network::{Io, Network, Pending, Reach};
pub use transport::tls::BuildError;

/// For the fuzzers.
#[cfg(fuzzing)]
pub mod fuzzing {
    use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
    use url::Url;

    use super::auth::{challenge, realm};
    use super::transport::address::HostTrust;

    /// Reads challenges, one header a line, and decides about the realm of the one to answer.
    pub fn challenge(bytes: &[u8]) {
        let Ok(repository) = "reg.test/a/b".parse() else { return };
        let headers: HeaderMap = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| Some((WWW_AUTHENTICATE, HeaderValue::from_bytes(line).ok()?)))
            .fold(HeaderMap::new(), |mut all, (name, value)| {
                all.append(name, value);
                all
            });
        let Ok(challenged_by) = Url::parse("https://reg.test/v2/hub/a/b/manifests/v1") else { return };
        let challenge = challenge::parse(&headers, &challenged_by, &repository);
        let Some(challenge::Challenge::Bearer(bearer)) = challenge else { return };
        // Whatever a challenge names, of repositories no more is asked for than pulling.
        let is_pull = |scope: &str| !scope.starts_with("repository:") || scope.ends_with(":pull");
        assert!(bearer.scope.split(' ').all(is_pull), "{}", bearer.scope);
        for secret in [false, true] {
            let trust = HostTrust::Untrusted;
            let _ = realm::check(&bearer.realm, &challenged_by, trust, &Default::default(), secret);
        }
    }
}
