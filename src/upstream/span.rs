//! The span of a question to an endpoint, its retries, challenges and redirects included: in the log at `debug`, and in
//! traces. It holds no query and no credential.

use tracing::Span;
use tracing::field::{Empty, display};

use crate::upstream::endpoint::select::Endpoint;
use crate::upstream::error::{Error, Failure};
use crate::upstream::request::RegistryRequest;

/// The span of a question that is about to be asked.
pub(super) fn of(endpoint: &Endpoint, request: &RegistryRequest<'_>) -> Span {
    tracing::debug_span!(
        "question",
        endpoint = endpoint.base_url(),
        path = request.resource.path,
        method = request.method.as_str(),
        failure = Empty,
        otel.status_code = Empty,
    )
}

/// Notes how it was answered.
pub(super) fn note<T>(span: &Span, result: &Result<T, Failure>) {
    if let Err(Failure { error, .. }) = result
        && !span.is_disabled()
    {
        // A span ends when it was left last.
        let _within = span.enter();
        span.record("failure", display(error));
        if !is_answer(error) {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// Whether it is an ordinary answer, as a challenge and a 404 are.
fn is_answer(error: &Error) -> bool {
    matches!(
        error,
        Error::Refused { .. }
            | Error::ReferenceRefused { .. }
            | Error::Withheld { .. }
            | Error::NotFound { .. }
            | Error::MethodNotAllowed { .. }
            | Error::RangeNotSatisfiable { .. }
            | Error::QueryRefused { .. }
    )
}
