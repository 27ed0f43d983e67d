//! What the response of a registry means: the resource, or one of the errors.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, HeaderMap};
use http::{Response, StatusCode};
use serde::Deserialize;

use crate::credentials::PresentedCredential;
use crate::reference::PrincipalKind;
use crate::support::clock::Timestamp;
use crate::upstream::body::{ResponseBody, read_small};
use crate::upstream::endpoint::select::EndpointId;
use crate::upstream::endpoint::tracked::TrackedBody;
use crate::upstream::error::{Error, Unknown};
use crate::upstream::headers::{retry_after, unsatisfied_range_total};
use crate::upstream::metrics::RequestKind;
use crate::upstream::proof::Proof;

/// The longest time for an error document.
const ERROR_DOCUMENT_WAIT: Duration = Duration::from_secs(2);
/// Bytes of an error document at most.
const ERROR_DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// The codes by which registries say that they do not have a manifest or blob: those of the distribution specification,
/// and Harbor's.
const CONTENT_UNKNOWN: &[&str] = &["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"];

/// What a registry granted.
#[derive(Debug, Clone)]
pub struct Allowed<T> {
    /// The resource.
    pub value: T,
    /// The right that the response proves.
    pub proof: Proof,
}

/// The head of a response of status 200 or 206, with the body to come.
pub(super) struct Answer {
    pub(super) response: Response<ResponseBody>,
    /// `host:port` of the sender, for errors.
    pub(super) host: String,
    /// The right that it proves.
    pub(super) proof: Proof,
    /// Whether this answers a `GET`, which may have taken the place of a `HEAD`.
    pub(super) by_get: bool,
    /// The endpoint that the request was sent to; the sender may be a redirect target.
    pub(super) endpoint: EndpointId,
}

/// An answer whose body is to be read.
pub(super) struct RegistryResponse {
    pub(super) answer: Answer,
    /// Records what becomes of the body.
    pub(super) tracked: TrackedBody,
    /// Whether another endpoint is left to ask if the body turns out to be wrong.
    pub(super) has_alternative: bool,
}

/// How a response came about.
pub(super) struct ResponseContext<'a> {
    /// `host:port` of the sender.
    pub(super) host: String,
    /// The endpoint that the request was sent to.
    pub(super) endpoint: EndpointId,
    /// Whether the sender is the endpoint, and not a redirect target.
    pub(super) from_endpoint: bool,
    /// Whether it was asked without TLS.
    pub(super) is_plain_http: bool,
    /// What was asked for: object stores answer for blobs behind URLs that expire, and only a list has a query.
    pub(super) kind: RequestKind,
    pub(super) presented: &'a PresentedCredential,
    /// The right that a success proves: everyone's if the request had nothing that could be a credential.
    pub(super) proof: Proof,
    /// Whether the request was a `GET`.
    pub(super) by_get: bool,
    pub(super) now: Timestamp,
}

impl ResponseContext<'_> {
    /// The response, if it has the resource.
    ///
    /// # Errors
    /// What its status means.
    pub(super) async fn classify(self, response: Response<ResponseBody>) -> Result<Answer, Error> {
        let Self { host, endpoint, from_endpoint, is_plain_http, proof, by_get, .. } = self;
        let status = response.status().as_u16();
        // Any pod may read this text, so it says nothing of the credential but whose it is.
        let credential = || match self.presented.principal.kind {
            _ if proof == Proof::Public => "a request without a credential",
            PrincipalKind::Caller => "the caller's credential",
            PrincipalKind::Node => "the node's credential",
            PrincipalKind::Provider => "the credential of a plugin",
            PrincipalKind::Anonymous => "an anonymous caller",
        };
        match status {
            // The digest proves the bytes of manifests and blobs, whatever an object store says of them.
            200 | 206
                if is_encoded(response.headers())
                    && !matches!(self.kind, RequestKind::Manifest | RequestKind::Blob) =>
            {
                let why = "a Content-Encoding that was not asked for".to_owned();
                Err(Error::Invalid { host, why })
            }
            200 | 206 => Ok(Answer { response, host, proof, by_get, endpoint }),
            // What a redirect target says is no answer of the registry: the signed URL may have expired.
            401 | 403 if !from_endpoint => Err(Error::ServerError { host, status, retry_after: None }),
            400 | 404 | 410 if !from_endpoint && self.kind == RequestKind::Blob => {
                Err(Error::ServerError { host, status, retry_after: None })
            }
            400 if matches!(self.kind, RequestKind::Tags | RequestKind::Referrers) => {
                Err(Error::QueryRefused { host })
            }
            // What clients take for a registry without referrers, like 404: they look for the tag instead.
            405 | 406 | 415 | 501 if self.kind == RequestKind::Referrers => {
                let (unknown, public) = (Unknown::Unsaid, proof == Proof::Public);
                Err(Error::NotFound { host, unknown, public })
            }
            401 | 403 => {
                let what = if status == 401 { "refuses" } else { "forbids access to" };
                let (why, public) = (format!("it {what} {}", credential()), proof == Proof::Public);
                Err(Error::Refused { host, status, why, public })
            }
            404 | 410 => {
                // Only the registry itself knows what it has.
                let unknown = if from_endpoint { what_is_unknown(response).await } else { Unknown::Unsaid };
                Err(Error::NotFound { host, unknown, public: proof == Proof::Public })
            }
            405 => Err(Error::MethodNotAllowed { host }),
            416 => {
                let size = unsatisfied_range_total(response.headers());
                Err(Error::RangeNotSatisfiable { host, size })
            }
            408 | 429 | 500..=599 => {
                let retry_after = retry_after(response.headers(), self.now);
                Err(match status {
                    429 => Error::RateLimited { host, retry_after },
                    _ => Error::ServerError { host, status, retry_after },
                })
            }
            // What servers answer to plain HTTP that expect TLS.
            400 if is_plain_http => Err(Error::ExpectsTls { host }),
            _ => Err(Error::Invalid { host, why: format!("status {status}") }),
        }
    }
}

/// Whether the headers say that the body is not the content itself.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING);
    encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Whether this may be the answer to the range and not to the question: no word about the credential (401), the content
/// (404,
/// 410) or the moment (408, 429), and not the one that says so (416), whose size counts.
pub(super) fn may_refuse_range(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 402 | 403 | 405..=407 | 409 | 411..=415 | 417..=428 | 430..=499 | 501)
}

/// What an error document says is unknown. A body that is slow, large or no such document says nothing.
async fn what_is_unknown(response: Response<ResponseBody>) -> Unknown {
    #[derive(Deserialize)]
    struct ErrorDocument {
        errors: Vec<ErrorEntry>,
    }
    #[derive(Deserialize)]
    struct ErrorEntry {
        code: String,
    }
    let body = read_small(response.into_body(), ERROR_DOCUMENT_BYTES_MAX);
    let body =
        tokio::time::timeout(ERROR_DOCUMENT_WAIT, body).await.ok().and_then(Result::ok).unwrap_or_default();
    let Ok(document) = serde_json::from_slice::<ErrorDocument>(&body) else { return Unknown::Unsaid };
    let says = |codes: &[&str]| document.errors.iter().any(|error| codes.contains(&error.code.as_str()));
    if says(&["NAME_UNKNOWN"]) {
        Unknown::Repository
    } else if says(CONTENT_UNKNOWN) {
        Unknown::Content
    } else {
        Unknown::Unsaid
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::credentials::CredentialSource;
    use crate::reference::Principal;

    async fn classified(from_endpoint: bool, status: u16, body: &'static str) -> Result<(), Error> {
        classified_as(RequestKind::Manifest, from_endpoint, status, body).await
    }

    async fn classified_as(
        kind: RequestKind,
        from_endpoint: bool,
        status: u16,
        body: &'static str,
    ) -> Result<(), Error> {
        let presented = PresentedCredential {
            principal: Principal::new(PrincipalKind::Anonymous, [0; 16]),
            credential: None,
            headers: Arc::default(),
            source: CredentialSource::None,
        };
        let (host, now) = ("reg.test:443".to_owned(), Timestamp(0));
        let endpoint = EndpointId::for_test("reg.test:443");
        let context = ResponseContext {
            host,
            endpoint,
            from_endpoint,
            is_plain_http: true,
            kind,
            presented: &presented,
            proof: Proof::Public,
            by_get: true,
            now,
        };
        let body = Full::from(body).map_err(|never| match never {}).boxed();
        let response = Response::builder().status(status).body(body).unwrap();
        context.classify(response).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_redirect_target_neither_revokes_access_nor_forgets_a_repository() {
        let unknown = r#"{"errors": [{"code": "NAME_UNKNOWN"}]}"#;
        for (status, body) in [(401, ""), (403, ""), (404, unknown), (410, unknown)] {
            let error = classified(true, status, body).await.unwrap_err();
            assert!(error.revokes_access(), "{status}: {error}");
            let error = classified(false, status, body).await.unwrap_err();
            assert!(!error.revokes_access(), "{status}: {error}");
        }
    }

    #[tokio::test]
    async fn a_store_that_refuses_an_expired_url_does_not_deny_the_blob() {
        for status in [400, 401, 403, 404, 410] {
            let error = classified_as(RequestKind::Blob, false, status, "").await.unwrap_err();
            assert!(error.is_worth_a_retry() && !error.is_denied(), "{status}: {error}");
        }
        let error = classified_as(RequestKind::Blob, true, 404, "").await.unwrap_err();
        assert!(error.is_denied(), "the registry itself does not have it");
        let error = classified_as(RequestKind::Manifest, false, 404, "").await.unwrap_err();
        assert!(error.is_denied(), "registry.k8s.io redirects manifests to where they are, or are not");
    }

    #[tokio::test]
    async fn a_registry_without_referrers_ends_no_right_and_is_no_outage() {
        for status in [404, 405, 406, 415, 501] {
            let error = classified_as(RequestKind::Referrers, true, status, "").await.unwrap_err();
            assert!(matches!(error, Error::NotFound { unknown: Unknown::Unsaid, .. }), "{status}: {error}");
        }
        assert!(classified_as(RequestKind::Referrers, true, 503, "").await.unwrap_err().is_outage());
    }

    #[tokio::test]
    async fn a_missing_reference_does_not_revoke_the_repository() {
        for body in ["", "<html>", r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#, r#"{"errors": 5}"#] {
            let error = classified(true, 404, body).await.unwrap_err();
            assert!(!error.revokes_access() && error.is_denied(), "{body}");
        }
    }

    #[tokio::test]
    async fn only_the_error_document_of_a_registry_says_that_content_is_gone() {
        for (from_endpoint, status, body, gone) in [
            (true, 404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#, true),
            (true, 410, r#"{"errors": [{"code": "OTHER"}, {"code": "BLOB_UNKNOWN", "message": "x"}]}"#, true),
            (true, 404, r#"{"errors": [{"code": "NOT_FOUND"}]}"#, true),
            (true, 404, r#"{"errors": [{"code": "NAME_UNKNOWN"}, {"code": "MANIFEST_UNKNOWN"}]}"#, false),
            (true, 404, r#"{"errors": [{"code": "DENIED"}]}"#, false),
            (true, 404, r#"{"errors": []}"#, false),
            (true, 404, "<html>MANIFEST_UNKNOWN</html>", false),
            (true, 404, "", false),
            (true, 403, r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#, false),
            (false, 404, r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#, false),
        ] {
            let error = classified(from_endpoint, status, body).await.unwrap_err();
            assert_eq!(error.says_content_is_gone(), gone, "{from_endpoint} {status} {body}");
        }
    }

    #[tokio::test]
    async fn plain_http_to_a_port_of_tls_is_answered_with_what_to_write() {
        let page = "Client sent an HTTP request to an HTTPS server.";
        let error = classified(true, 400, page).await.unwrap_err();
        assert!(matches!(error, Error::ExpectsTls { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("status 400") && error.contains("endpoints = [\"https://"), "{error}");
    }

    #[tokio::test]
    async fn an_outage_is_told_from_a_refusal_and_from_nonsense() {
        for (status, outage, denied) in [
            (200, None, None),
            (206, None, None),
            (204, Some(false), Some(false)),
            (400, Some(false), Some(false)),
            (401, Some(false), Some(true)),
            (405, Some(false), Some(false)),
            (408, Some(true), Some(false)),
            (429, Some(true), Some(false)),
            (503, Some(true), Some(false)),
        ] {
            let error = classified(true, status, "").await.err();
            assert_eq!(error.as_ref().map(Error::is_outage), outage, "{status}");
            assert_eq!(error.as_ref().map(Error::is_denied), denied, "{status}");
        }
    }
}
