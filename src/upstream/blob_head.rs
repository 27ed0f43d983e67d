//! What the head of a registry's response says of a blob. Pure.
//!
//! A status alone says little: a load balancer answers 200 for anything, with a page for people.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap};

use crate::reference::Digest;
use crate::upstream::headers::{content_length, content_range_total, header};

/// The head of a response of status 200 or 206 for a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobHead {
    /// Bytes of the whole blob, where the registry declares them, in a response that is no page for people.
    pub size: Option<u64>,
    /// Whether `Docker-Content-Digest` is that of the blob.
    pub has_digest: bool,
}

impl BlobHead {
    pub(super) fn of(digest: Digest, status: StatusCode, headers: &HeaderMap) -> Self {
        let stated = header(headers, "docker-content-digest").and_then(|text| text.parse().ok());
        let has_digest = stated == Some(digest);
        let media_type = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default().trim();
        let is_page = media_type.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("text/html"));
        let size = match status {
            StatusCode::PARTIAL_CONTENT => content_range_total(headers),
            _ => content_length(headers),
        };
        Self { size: size.filter(|_| has_digest || !is_page), has_digest }
    }

    /// Whether the response shows that the registry has this blob, which has `size` bytes if that is known.
    pub fn shows_blob_of(&self, size: Option<u64>) -> bool {
        self.has_digest || (size.is_some() && self.size == size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_people_is_not_taken_for_a_blob() {
        let (right, other) = (Digest::of(b"x").to_string(), Digest::of(b"y").to_string());
        let length = ("content-length", "5");
        for (headers, shown, shown_of_5) in [
            (vec![length], false, true),
            (vec![length, ("content-type", "text/html; charset=utf-8")], false, false),
            (vec![length, ("content-type", "TEXT/HTML"), ("docker-content-digest", &*right)], true, true),
            (vec![("content-length", "6"), ("docker-content-digest", &*other)], false, false),
            (vec![], false, false),
        ] {
            let name = |name| http::HeaderName::from_static(name);
            let map = headers.iter().map(|(key, value)| (name(key), value.parse().unwrap())).collect();
            let head = BlobHead::of(Digest::of(b"x"), StatusCode::OK, &map);
            assert_eq!(
                (head.shows_blob_of(None), head.shows_blob_of(Some(5))),
                (shown, shown_of_5),
                "{headers:?}"
            );
        }
    }
}
