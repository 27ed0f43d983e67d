//! A span of the log as OpenTelemetry has it: its kind, and the names that OpenTelemetry's conventions give to what it
//! holds. Pure.

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

/// What OpenTelemetry calls a field of the log; every other one is an attribute `larder.<name>`.
const CONVENTIONS: [(&str, &str); 4] = [
    ("client", "client.address"),
    ("host", "server.address"),
    ("method", "http.request.method"),
    ("status", "http.response.status_code"),
];

/// The span with OpenTelemetry's kind and names.
pub(super) fn exported(mut span: SpanData) -> SpanData {
    span.span_kind = kind(&span.name);
    for attribute in &mut span.attributes {
        attribute.key = name(attribute.key.as_str()).into();
    }
    span
}

fn kind(span: &str) -> SpanKind {
    match span {
        "request" => SpanKind::Server,
        "question" => SpanKind::Client,
        _ => SpanKind::Internal,
    }
}

fn name(field: &str) -> String {
    let found = CONVENTIONS.iter().find(|(ours, _)| *ours == field);
    found.map_or_else(|| format!("larder.{field}"), |(_, theirs)| (*theirs).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_found_by_the_names_that_every_tracing_backend_knows() {
        assert_eq!(name("status"), "http.response.status_code");
        assert_eq!(name("repository"), "larder.repository");
        assert_eq!([kind("request"), kind("question")], [SpanKind::Server, SpanKind::Client]);
        assert_eq!(kind("download"), SpanKind::Internal);
    }
}
