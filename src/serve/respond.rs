//! Responses: errors as documents, and the headers of every success.
//!
//! Which status a failed pull has says the table in [`super::refusal`]; that of what is no pull is here. No client ever
//! gets 429: containerd repeats at once, without a pause.

use std::time::Duration;

use http::header::{
    ACCEPT_RANGES, AGE, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER, WARNING, WWW_AUTHENTICATE,
};
use http::{Method, Response, StatusCode};
use hyper::ext::ReasonPhrase;
use serde::Serialize;

use super::client_auth::InvalidAuthorization;
use super::range::{RangeAnswer, RangesError};
use super::refusal::{self, Asker, ChallengeError};
use super::route::{OCI_NAMESPACE, Resource, RouteError};
use crate::listener::{Body, HostError};
use crate::pull::{self, FailureKind};
use crate::reference::{Digest, DigestError, Registry};
use crate::support::metric_labels::Label;

/// `Docker-Content-Digest`.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `OCI-Filters-Applied`.
pub(super) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `Docker-Distribution-Api-Version`: without this header older clients take `/v2/` for no registry's.
pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// The one value of [`API_VERSION`].
pub(super) const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");

/// Seconds after which a client may try again when upstream or this node is in trouble.
const RETRY_SECONDS: u64 = 5;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status.
    pub status: StatusCode,
    /// The error code of the distribution specification, or `UNAVAILABLE`.
    pub code: &'static str,
    /// The text for people.
    pub message: String,
    /// The kind of the failure, for programs, where a pull failed or this node could not try.
    pub kind: Option<FailureKind>,
    /// When it makes sense to ask again, with a 503; `None`: after `RETRY_SECONDS`.
    pub retry_after: Option<Duration>,
    /// Whether the connection ends here, because the request was not read as a whole or not meant for us.
    pub close: bool,
    /// The `error` of the challenge that goes with a 401, if it has one.
    pub challenge_error: Option<ChallengeError>,
}

/// Characters at most of a reason in a challenge or a status line: an event has room for 1,024, and more than the
/// reason is in it.
const REASON_CHARS_MAX: usize = 400;

impl ErrorResponse {
    /// For a pull that failed.
    pub fn of_pull(error: &pull::Error, asker: Asker, method: &Method, resource: &Resource) -> Self {
        let (status, challenge_error) = refusal::status_of(error.fault(), asker, method);
        let code = match (status, resource) {
            (StatusCode::UNAUTHORIZED, _) => "UNAUTHORIZED",
            (StatusCode::FORBIDDEN, _) => "DENIED",
            (StatusCode::NOT_FOUND, Resource::Manifest(_)) => "MANIFEST_UNKNOWN",
            (StatusCode::NOT_FOUND, Resource::Blob(_)) => "BLOB_UNKNOWN",
            // Clients take NAME_UNKNOWN for a repository that is not there, and do not look for the tag of referrers.
            (StatusCode::NOT_FOUND, Resource::Referrers(..)) if !error.is_unknown_repository() => {
                "UNSUPPORTED"
            }
            (StatusCode::NOT_FOUND, _) => "NAME_UNKNOWN",
            // What clients know as the sign that they asked for too many entries.
            (StatusCode::BAD_REQUEST, resource) if resource.asks_for_a_number() => {
                "PAGINATION_NUMBER_INVALID"
            }
            (StatusCode::BAD_REQUEST, _) => "UNSUPPORTED",
            (StatusCode::BAD_GATEWAY, Resource::Manifest(_)) => "MANIFEST_INVALID",
            _ => "UNAVAILABLE",
        };
        let (message, retry_after, kind) = (error.to_string(), error.retry_after(), Some(error.kind()));
        Self { status, code, message, kind, retry_after, close: false, challenge_error }
    }

    /// What the challenge of a 401 has as its `error`: one word or a reason in words, never with a character that ends
    /// a quoted string.
    pub(super) fn challenge_words(&self) -> Option<String> {
        self.challenge_error.map(|error| match error {
            ChallengeError::Invalid(invalid) => invalid.code().to_owned(),
            ChallengeError::Reason => self.shown(|c| !matches!(c, '"' | '\\')),
        })
    }

    /// The reason in a field of a head: printable ASCII of a bounded length.
    fn shown(&self, may_stand: impl Fn(char) -> bool) -> String {
        let is_safe = |c: &char| (' '..='~').contains(c) && may_stand(*c);
        self.message.chars().filter(is_safe).take(REASON_CHARS_MAX).collect()
    }

    /// Says that the client's login was not sent to `registry`, where a login may have made the difference.
    pub(super) fn add_withheld_login(&mut self, registry: &Registry) {
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
        if refused.contains(&self.status) {
            self.message += &format!(
                "; the login for this cache was not sent to {registry}: add [[registry]] host = \"{registry}\" \
                 to the configuration if it may be"
            );
        }
    }

    /// For a request that cannot be read.
    pub fn of_route(error: &RouteError) -> Self {
        let (status, code) = match error {
            RouteError::Method => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            RouteError::Unknown => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
            RouteError::Name(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            // It may be there at the registry, and cannot be proved here.
            RouteError::Digest(DigestError::Algorithm(_)) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            RouteError::Digest(DigestError::Malformed) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            RouteError::Reference(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            RouteError::Query(_) => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
        };
        // A write brings a body that is not read.
        Self { close: *error == RouteError::Method, ..Self::new(status, code, &error.to_string()) }
    }

    /// For ranges that are not answered.
    pub(super) fn of_ranges(error: RangesError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", &error.to_string())
    }

    /// For a request that is addressed to another host.
    pub fn of_host(error: HostError) -> Self {
        let status = match error {
            HostError::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            HostError::CrossSite => StatusCode::FORBIDDEN,
        };
        Self { close: true, ..Self::new(status, "DENIED", &error.to_string()) }
    }

    /// For an `Authorization` header that is not valid here.
    pub(super) fn of_invalid_authorization(invalid: InvalidAuthorization) -> Self {
        Self::unauthorized(invalid.message())
    }

    /// For a client that asks how to authenticate.
    pub(super) fn authentication_required() -> Self {
        Self::unauthorized("authentication required")
    }

    fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
    }

    /// An answer after which the connection goes on.
    pub(super) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            code,
            message: message.to_owned(),
            kind: None,
            retry_after: None,
            close: false,
            challenge_error: None,
        }
    }

    /// For a request without the header that the operator requires of every client.
    pub(super) fn of_gate() -> Self {
        let message = "this cache requires a header that only its own runtime has";
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    /// For a request that came when too many were being answered, or whose answer took too long.
    pub fn unavailable(kind: FailureKind, message: &str) -> Self {
        let kind = Some(kind);
        Self { kind, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message) }
    }

    /// For a read with a body: no endpoint takes one, and unread bytes would be taken for the next request.
    pub fn body_not_expected() -> Self {
        let message = "a GET or HEAD request must not have a body";
        Self { close: true, ..Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", message) }
    }

    /// The error document.
    pub(crate) fn document(&self) -> Vec<u8> {
        let detail = self.kind.map(|kind| Detail { kind: kind.label() });
        let errors = [ErrorInfo { code: self.code, message: &self.message, detail }];
        serde_json::to_vec(&Errors { errors }).unwrap_or_default()
    }

    /// The response. `challenge` goes with a 401.
    pub fn response(&self, challenge: Option<HeaderValue>) -> Response<Body> {
        let mut response = json(self.status, self.document());
        // podman, skopeo and CRI-O print no body of a 5xx, but the status line as it was sent.
        if self.status.is_server_error()
            && let Ok(reason) = ReasonPhrase::try_from(self.shown(|_| true))
        {
            response.extensions_mut().insert(reason);
        }
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds =
                self.retry_after.map_or(RETRY_SECONDS, |wait| wait.as_secs_f64().ceil().max(1.0) as u64);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The error document (distribution-spec, "Error Codes"). `UNAVAILABLE` is what registries add to its list for 503,
/// which is why the specification's own enum is not used here.
#[derive(Serialize)]
struct Errors<'a> {
    errors: [ErrorInfo<'a>; 1],
}

#[derive(Serialize)]
struct ErrorInfo<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Serialize)]
struct Detail {
    kind: &'static str,
}

/// A JSON document.
pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The head of an answer with content: its type, digest, registry, and which bytes of it follow.
pub(super) fn content_head(
    media_type: &str,
    digest: Digest,
    registry: &Registry,
    size: Option<u64>,
    range: RangeAnswer,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let (status, content_range, length) = match (range, size) {
        (RangeAnswer::Range { start, end }, Some(size)) => {
            let content_range = format!("bytes {start}-{}/{size}", end - 1);
            (StatusCode::PARTIAL_CONTENT, Some(content_range), Some(end - start))
        }
        (RangeAnswer::Unsatisfiable, size) => {
            let content_range = format!("bytes */{}", size.unwrap_or(0));
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(content_range), Some(0))
        }
        (_, size) => (StatusCode::OK, None, size),
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let texts = [
        (CONTENT_TYPE, HeaderValue::from_str(media_type).ok()),
        (CONTENT_DIGEST, HeaderValue::try_from(digest.to_string()).ok()),
        (OCI_NAMESPACE, HeaderValue::from_str(registry.as_str()).ok()),
        (CONTENT_RANGE, content_range.and_then(|range| HeaderValue::try_from(range).ok())),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    response
}

/// Marks an answer that may be out of date: with a text (RFC 7234 section 5.5, as the distribution specification has
/// it) and with its age (RFC 9111 section 5.1).
pub(super) fn warn(response: &mut Response<Body>, text: &str, age: Duration) {
    response.headers_mut().insert(AGE, HeaderValue::from(age.as_secs()));
    let text: String =
        text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\') && c.is_ascii()).collect();
    if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
        response.headers_mut().insert(WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_cannot_break_out_of_the_challenge() {
        let message = format!("a \"b\" \\ c\r\nX-Evil: 1 ü{}", "x".repeat(9_999));
        let mut error = ErrorResponse::unavailable(FailureKind::Node, &message);
        assert_eq!(error.challenge_words(), None);
        error.challenge_error = Some(ChallengeError::Reason);
        let reason = error.challenge_words().unwrap();
        assert!(reason.starts_with("a b  cX-Evil: 1 x") && reason.len() == REASON_CHARS_MAX, "{reason}");
    }

    #[test]
    fn the_status_line_of_an_outage_has_the_reason_and_nothing_that_ends_the_line() {
        let reason = |status| {
            let error = ErrorResponse::new(status, "X", &format!("a\r\nX-Evil: 1 ü{}", "x".repeat(9_999)));
            error.response(None).extensions().get::<ReasonPhrase>().map(|reason| reason.as_bytes().to_vec())
        };
        for status in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY] {
            let reason = reason(status).unwrap();
            assert!(reason.starts_with(b"aX-Evil: 1 x") && reason.len() == REASON_CHARS_MAX);
        }
        assert_eq!(reason(StatusCode::NOT_FOUND), None);
    }

    #[test]
    fn a_warning_cannot_break_out_of_its_quotes() {
        let mut response = Response::new(Body::empty());
        warn(&mut response, "a \"b\" \\ c\r\nX-Evil: 1 ü", Duration::from_secs(90));
        assert_eq!(response.headers()[WARNING], "299 - \"a b  cX-Evil: 1 \"");
        assert_eq!(response.headers()[AGE], "90");
    }
}
