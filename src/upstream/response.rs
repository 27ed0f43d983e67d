//! What the response of a registry means: the resource, or one of the errors.
//!
//! Promises: what the target of a redirect says is no word of the registry; what a 404 means for a right or for content
//! is said by the error document of a registry alone. Nothing is read but that document, and of it a bounded part.
//!
//! Deliberately not here: what becomes of rights and of content (`pull/access`).

use http::header::{CONTENT_ENCODING, HeaderMap};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};

use crate::credentials::PresentedCredential;
use crate::reference::PrincipalKind;
use crate::support::clock::Timestamp;
use crate::upstream::body::ResponseBody;
use crate::upstream::endpoint::select::EndpointId;
use crate::upstream::endpoint::tracked::TrackedBody;
use crate::upstream::error::{Error, Unknown};
use crate::upstream::error_document::{codes_of, is_shown, what_is_unknown};
use crate::upstream::headers::{retry_after, unsatisfied_range_total};
use crate::upstream::metrics::RequestKind;
use crate::upstream::proved_right::ProvedRight;

/// What a registry granted.
#[derive(Debug, Clone)]
pub struct Allowed<T> {
    /// The resource.
    pub value: T,
    /// The right that the response proves.
    pub proof: ProvedRight,
}

/// The head of a response of status 200 or 206, with the body to come.
pub(super) struct Answer {
    pub(super) response: Response<ResponseBody>,
    /// `host:port` of the sender, for errors.
    pub(super) host: String,
    /// The right that it proves.
    pub(super) proof: ProvedRight,
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
    pub(super) proof: ProvedRight,
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
        let response = self.unless_withheld(response).await?;
        let Self { host, endpoint, from_endpoint, is_plain_http, proof, by_get, .. } = self;
        let status = response.status().as_u16();
        // Any pod may read this text, so it says nothing of the credential but whose it is.
        let credential = || match self.presented.principal.kind {
            _ if proof == ProvedRight::Public => "a request without a credential",
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
                let (unknown, public) = (Unknown::Unsaid, proof == ProvedRight::Public);
                Err(Error::NotFound { host, unknown, public })
            }
            401 | 403 => {
                let what = if status == 401 { "refuses" } else { "forbids access to" };
                let (why, public) = (format!("it {what} {}", credential()), proof == ProvedRight::Public);
                Err(Error::Refused { host, status, why, public })
            }
            404 | 410 => {
                // Only the registry itself knows what it has.
                let codes = if from_endpoint { codes_of(response.into_body()).await } else { None };
                let unknown = what_is_unknown(&codes.unwrap_or_default());
                Err(Error::NotFound { host, unknown, public: proof == ProvedRight::Public })
            }
            // Every registry knows the method, so that it is not one that answers: a gateway in an outage.
            405 if by_get && matches!(self.kind, RequestKind::Manifest | RequestKind::Blob) => {
                Err(Error::ServerError { host, status, retry_after: None })
            }
            405 => Err(Error::MethodNotAllowed { host }),
            416 => {
                let size = unsatisfied_range_total(response.headers());
                Err(Error::RangeNotSatisfiable { host, size })
            }
            status if status == 429 || is_outage_status(status) => {
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

    /// The response, unless it says that what was asked for is withheld.
    async fn unless_withheld(
        &self,
        response: Response<ResponseBody>,
    ) -> Result<Response<ResponseBody>, Error> {
        let status = response.status().as_u16();
        let is_content = matches!(self.kind, RequestKind::Manifest | RequestKind::Blob);
        let code = match status {
            // Whatever server says that the law forbids it; and what the registry itself is not paid for.
            451 => None,
            402 if self.from_endpoint => None,
            // 412 of Harbor for what its policies forbid; 405 of Azure for what is locked against reading, and of Quay
            // for a namespace that is disabled. What has no registry's error document, or none that can be read, may be
            // the word of a gateway.
            405 | 412 | 423 if self.from_endpoint && self.by_get && is_content => {
                let (head, body) = response.into_parts();
                let Some(code) = codes_of(body).await.and_then(|codes| codes.into_iter().next()) else {
                    let nothing = Empty::new().map_err(|never| match never {}).boxed();
                    return Ok(Response::from_parts(head, nothing));
                };
                Some(code)
            }
            _ => return Ok(response),
        };
        let shown = code.filter(|code| is_shown(code));
        let why = shown.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
        Err(Error::Withheld { host: self.host.clone(), why, public: self.proof == ProvedRight::Public })
    }
}

/// Whether a status says that the registry cannot answer now, and nothing of what was asked for: 407 of a proxy, 408,
/// 421 of a server that does not have this registry, 424 of one that could not ask another (as Azure's cache rules have
/// it), 425, and 5xx, which what is no status (999) counts as, too (RFC 9110 section 15).
pub(super) fn is_outage_status(status: u16) -> bool {
    matches!(status, 407 | 408 | 421 | 424 | 425 | 500..)
}

/// Whether the headers say that the body is not the content itself.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING);
    encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Whether this may be the answer to the range and not to the question: no word about the credential (401), the content
/// (404, 410) or the moment (429, and an outage but 501), and not the one that says so (416), whose size counts.
pub(super) fn may_refuse_range(status: StatusCode) -> bool {
    match status.as_u16() {
        401 | 404 | 410 | 416 | 429 => false,
        501 => true,
        status => (400..500).contains(&status) && !is_outage_status(status),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::Full;

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
            proof: ProvedRight::Public,
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
    async fn a_404_is_the_word_of_a_registry_by_its_error_document_alone() {
        for (body, unknown) in [
            (r#"{"errors": [{"code": "NAME_UNKNOWN"}]}"#, Unknown::Repository),
            (r#"{"errors": [{"code": "MANIFEST_UNKNOWN"}]}"#, Unknown::Content),
            (r#"{"errors": [{"code": "TAG_INVALID"}]}"#, Unknown::Other),
            (r#"{"errors": [{"status": 404, "message": "no manifest"}]}"#, Unknown::Other),
            (r#"{"errors": []}"#, Unknown::Unsaid),
            ("404 page not found", Unknown::Unsaid),
            ("", Unknown::Unsaid),
        ] {
            let error = classified(true, 404, body).await.unwrap_err();
            assert!(matches!(error, Error::NotFound { unknown: said, .. } if said == unknown), "{body}");
        }
    }

    #[tokio::test]
    async fn what_a_registry_withholds_is_told_from_the_word_of_a_gateway() {
        const HARBOR: &str =
            r#"{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"4 vulnerabilities"}]}"#;
        const AZURE: &str = r#"{"errors":[{"code":"REGISTRY_DISALLOWED_OPERATION","detail":{}}]}"#;
        const QUAY: &str = r#"{"errors":[{"code":"DENIED","message":"This namespace is disabled."}]}"#;
        const PAGE: &str = "<html>405 Not Allowed</html>";
        for (from_endpoint, status, body, withheld) in [
            (true, 412, HARBOR, true),
            (true, 412, r#"{"errors":[{"status":412}]}"#, true),
            (true, 412, PAGE, false),
            (true, 412, r#"{"errors":[]}"#, false),
            (false, 412, HARBOR, false),
            (true, 405, AZURE, true),
            (true, 405, QUAY, true),
            (true, 405, PAGE, false),
            (true, 423, QUAY, true),
            (true, 423, "", false),
            (true, 402, "", true),
            (false, 402, "", false),
            (true, 451, "", true),
            (false, 451, "", true),
            (true, 400, QUAY, false),
            (true, 418, QUAY, false),
        ] {
            let error = classified(from_endpoint, status, body).await.unwrap_err();
            let said = (error.is_withheld(), error.is_denied(), error.revokes_access());
            assert_eq!(said, (withheld, withheld, false), "{from_endpoint} {status} {body}: {error}");
        }
        let error = classified(true, 412, HARBOR).await.unwrap_err().to_string();
        assert_eq!(error, "reg.test:443 withholds it: it answered 412 PROJECTPOLICYVIOLATION");
        let error = classified(true, 412, r#"{"errors":[{"code":"a\nb"}]}"#).await.unwrap_err().to_string();
        assert_eq!(error, "reg.test:443 withholds it: it answered 412", "what is no code is not shown");
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
            (405, Some(true), Some(false)),
            (406, Some(false), Some(false)),
            (407, Some(true), Some(false)),
            (408, Some(true), Some(false)),
            (409, Some(false), Some(false)),
            (418, Some(false), Some(false)),
            (421, Some(true), Some(false)),
            (424, Some(true), Some(false)),
            (425, Some(true), Some(false)),
            (429, Some(true), Some(false)),
            (431, Some(false), Some(false)),
            (503, Some(true), Some(false)),
            (522, Some(true), Some(false)),
            (999, Some(true), Some(false)),
            (300, Some(false), Some(false)),
            (451, Some(false), Some(true)),
        ] {
            for kind in [RequestKind::Manifest, RequestKind::Blob] {
                let error = classified_as(kind, true, status, "").await.err();
                assert_eq!(error.as_ref().map(Error::is_outage), outage, "{status}");
                assert_eq!(error.as_ref().map(Error::is_denied), denied, "{status}");
            }
        }
        let list = classified_as(RequestKind::Tags, true, 405, "").await.unwrap_err();
        assert!(!list.is_outage(), "a registry may have no lists");
    }
}
