//! The error documents of registries: what the codes in them say.
//!
//! Deliberately not here: what follows from that, which depends on the status and on who sends it (`response`).

use std::time::Duration;

use serde::Deserialize;

use crate::upstream::body::{ResponseBody, read_small};
use crate::upstream::error::Unknown;

/// The longest time for an error document.
const ERROR_DOCUMENT_WAIT: Duration = Duration::from_secs(2);
/// Bytes of an error document at most.
const ERROR_DOCUMENT_BYTES_MAX: usize = 64 * 1024;

/// The codes by which registries say that they do not have a manifest or blob: those of the distribution specification,
/// and Harbor's.
const CONTENT_UNKNOWN: &[&str] = &["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"];

/// Characters of such a code that are shown at most.
const CODE_CHARS_MAX: usize = 40;

/// The codes of a registry's error document, empty where an error has none; no codes if it is no such document, and
/// `None` if it is slow, large or breaks off.
pub(super) async fn codes_of(body: ResponseBody) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct ErrorDocument {
        errors: Vec<ErrorEntry>,
    }
    #[derive(Deserialize)]
    struct ErrorEntry {
        #[serde(default)]
        code: String,
    }
    let body = read_small(body, ERROR_DOCUMENT_BYTES_MAX);
    let body = tokio::time::timeout(ERROR_DOCUMENT_WAIT, body).await.ok()?.ok()?;
    let document = serde_json::from_slice::<ErrorDocument>(&body);
    Some(document.map_or_else(|_| Vec::new(), |it| it.errors.into_iter().map(|error| error.code).collect()))
}

/// What an error document with these codes says is unknown.
pub(super) fn what_is_unknown(codes: &[String]) -> Unknown {
    let says = |known: &[&str]| codes.iter().any(|code| known.contains(&code.as_str()));
    if says(&["NAME_UNKNOWN"]) {
        Unknown::Repository
    } else if says(CONTENT_UNKNOWN) {
        Unknown::Content
    } else if codes.is_empty() {
        Unknown::Unsaid
    } else {
        Unknown::Other
    }
}

/// Whether a code may be shown to people: a registry chose it.
pub(super) fn is_shown(code: &str) -> bool {
    let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    (1..=CODE_CHARS_MAX).contains(&code.len()) && code.chars().all(is_word)
}
