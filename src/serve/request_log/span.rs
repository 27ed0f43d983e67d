//! The span of a request: from its head to the end of its answer's body, with what the line of the request log has.
//!
//! Promises: what a client says about tracing decides nothing. It cannot have a request sampled, and its trace is not
//! joined; the id of its trace is noted, so that both are found.
//!
//! Deliberately not here: whether there are spans at all (`[log] level`), and where they are sent (`traces`).

use http::{HeaderMap, Request};
use tracing::Span;
use tracing::field::{Empty, display};

use super::line::{Line, milliseconds};
use crate::pull::{AnswerSource, RequestId};
use crate::support::metric_labels::Label;

/// Where a client says which trace its request belongs to (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";

/// The span of a request that has come.
pub(super) fn of<B>(request: &Request<B>, id: RequestId) -> Span {
    let span = tracing::debug_span!(
        parent: None,
        "request",
        id = id.number(),
        client_trace = Empty,
        client = Empty,
        user = Empty,
        method = Empty,
        host = Empty,
        repository = Empty,
        reference = Empty,
        range = Empty,
        status = Empty,
        ended = Empty,
        source = Empty,
        download = Empty,
        bytes = Empty,
        first_byte_ms = Empty,
        reason = Empty,
        otel.status_code = Empty,
    );
    if !span.is_disabled()
        && let Some(trace) = trace_of(request.headers())
    {
        span.record("client_trace", trace);
    }
    span
}

/// Notes in the span what the line says, and ends the span.
pub(super) fn end(span: &Span, line: &Line) {
    if span.is_disabled() {
        return;
    }
    // A span ends when it was left last.
    let _within = span.enter();
    let details = &line.details;
    span.record("client", display(&line.client));
    span.record("user", line.client.uid);
    span.record("method", line.method.as_str());
    span.record("host", line.host.as_deref());
    span.record("repository", details.repository.as_ref().map(display));
    span.record("reference", details.reference.as_deref());
    span.record("range", line.range.as_deref());
    span.record("status", line.status);
    span.record("ended", line.said());
    span.record("source", line.source().map(AnswerSource::label));
    span.record("download", line.download.map(RequestId::number));
    span.record("bytes", line.bytes);
    span.record("first_byte_ms", line.first_byte.map(milliseconds));
    span.record("reason", details.reason.as_deref());
    if line.is_failure() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The id of the trace that a client's request belongs to, if the header is as the recommendation has it.
fn trace_of(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
    let is_read =
        is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2);
    is_read.then_some(trace)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_header_that_is_no_trace_puts_nothing_into_a_span() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(TRACEPARENT),
                HeaderValue::from_str(text).unwrap(),
            )]);
            trace_of(&headers).map(str::to_owned)
        };
        assert_eq!(read(&format!("00-{trace}-{parent}-01")), Some(trace.to_owned()));
        assert_eq!(read(&format!("01-{trace}-{parent}-01-later")), Some(trace.to_owned()));
        let zeros = "0".repeat(32);
        for no_trace in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{zeros}-{parent}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{}-{parent}-01", "password".repeat(4)),
            format!("00-{trace}{trace}-{parent}-01"),
        ] {
            assert_eq!(read(&no_trace), None, "{no_trace}");
        }
        assert_eq!(trace_of(&HeaderMap::new()), None);
    }
}
