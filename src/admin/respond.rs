//! The answers of the admin plane, none of which may be stored by a client.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::listener::Body;

/// An answer with 200.
pub(super) fn page_of(media_type: &'static str, page: Vec<u8>) -> Response<Body> {
    body_of(media_type, Body::full(page))
}

/// An answer with 200, whose bytes come as `body` says.
pub(super) fn body_of(media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A text for people.
pub(super) fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = page_of("text/plain; charset=utf-8", text.as_bytes().to_vec());
    *response.status_mut() = status;
    response
}

/// A JSON document.
///
/// # Errors
/// `document` cannot be written as JSON: a defect of ours.
pub(super) fn json<T: Serialize>(document: &T) -> Result<Response<Body>, serde_json::Error> {
    Ok(page_of("application/json", serde_json::to_vec(document)?))
}
