//! The link to the next page of a list (RFC 8288): a pure reading of `Link` headers, in any form that the RFC allows.
//!
//! Of the target only its query is used, as the registry wrote it: the next page is asked of the same list of the same
//! repository, wherever the link leads. Registries put there what they like.

use std::fmt::Write as _;

use http::HeaderMap;
use http::header::LINK;

/// Bytes of the query of a next page at most: a request head has 16 KiB, which must hold a path and a token beside it.
const NEXT_QUERY_MAX: usize = 8 * 1024;

/// There is a next page, and no client could ask for it: without its link, a client would take the list for complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LinkError {
    /// The query is longer than a request may be.
    #[error("a link to a next page that is too long")]
    TooLong,
    /// No query says which page it is: nothing else of a link is used.
    #[error("a link to a next page without a query")]
    NoQuery,
}

/// The query of the link with the relation `next`, if there is one.
///
/// # Errors
/// It cannot be used.
pub(super) fn next_query(headers: &HeaderMap) -> Result<Option<String>, LinkError> {
    for value in headers.get_all(LINK) {
        let mut rest = value.as_bytes();
        while let Some((target, parameters, after)) = link(rest) {
            rest = after;
            if is_next(parameters) {
                let query = query_of(target).ok_or(LinkError::NoQuery)?;
                return if query.len() > NEXT_QUERY_MAX { Err(LinkError::TooLong) } else { Ok(Some(query)) };
            }
        }
    }
    Ok(None)
}

/// The first link of a header: its target, its parameters and what follows it.
fn link(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let start = text.iter().position(|b| *b == b'<')? + 1;
    let end = start + text[start..].iter().position(|b| *b == b'>')?;
    let parameters = &text[end + 1..];
    let length = unquoted(parameters, b',').unwrap_or(parameters.len());
    let after = parameters.get(length + 1..).unwrap_or_default();
    Some((&text[start..end], &parameters[..length], after))
}

/// Where `wanted` is for the first time outside of quoted strings.
fn unquoted(text: &[u8], wanted: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.iter().position(|byte| {
        let found = !quoted && *byte == wanted;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
        found
    })
}

/// Whether the first `rel` of these parameters has `next` among its relations.
fn is_next(mut parameters: &[u8]) -> bool {
    while !parameters.is_empty() {
        let length = unquoted(parameters, b';').unwrap_or(parameters.len());
        let parameter = String::from_utf8_lossy(&parameters[..length]);
        parameters = parameters.get(length + 1..).unwrap_or_default();
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("rel") {
            let relations = value.trim().trim_matches('"').to_ascii_lowercase();
            return relations.split_ascii_whitespace().any(|relation| relation == "next");
        }
    }
    false
}

/// The query of a target, in characters that a query may have.
fn query_of(target: &[u8]) -> Option<String> {
    let start = target.iter().position(|b| *b == b'?')? + 1;
    let query = target[start..].split(|b| *b == b'#').next().unwrap_or_default();
    let mut written = String::with_capacity(query.len());
    for byte in query.trim_ascii() {
        if byte.is_ascii_graphic()
            && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
        {
            written.push(char::from(*byte));
        } else {
            let _ = write!(written, "%{byte:02X}");
        }
    }
    (!written.is_empty()).then_some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(links: &[&str]) -> Result<Option<String>, LinkError> {
        let links = links.iter().map(|link| (LINK, http::HeaderValue::from_bytes(link.as_bytes()).unwrap()));
        let mut headers = HeaderMap::new();
        links.for_each(|(name, value)| {
            headers.append(name, value);
        });
        next_query(&headers)
    }

    #[test]
    fn the_next_page_is_found_in_any_form_of_link() {
        for (links, expected) in [
            (&[r#"</v2/a/tags/list?n=2&last=b>; rel="next""#][..], "n=2&last=b"),
            (&["</x?p=2>;;; rel=next;"], "p=2"),
            (&[", ,</x?p=2>; rel=next,"], "p=2"),
            (&["</x?p=2>; rel = \"  prev   NEXT \"; crossorigin"], "p=2"),
            (&["</x?p=2>; Rel=next; rel=prev"], "p=2"),
            (&["</x?p=\"2\">; rel=next"], "p=%222%22"),
            (&["</x?a=1?b=2>; rel=next"], "a=1?b=2"),
            (&["</x?p=0>; title=\"unclosed, </x?p=1>; rel=prev", "</x?p=2>; rel=next"], "p=2"),
            (&["<https://x/y?last=b>;rel=next"], "last=b"),
            (&["<https://reg.test/v2/a/tags/list?last=b>; rel=next"], "last=b"),
            (&["<?last=b>; rel=next"], "last=b"),
            (
                &["<list?next_page=Zm9v%3D&page_size=100>; title=\"a, b; c\"; REL = \"Next\""],
                "next_page=Zm9v%3D&page_size=100",
            ),
            (&["</v2/a?p=1>; rel=\"prev\", </v2/a?p=3>; rel=\"next\", </v2/a?p=9>; rel=last"], "p=3"),
            (&["</v2/a?p=1>; rel=prev", "</v2/a?p=3>; rel=next"], "p=3"),
            (&["</v2/a?p=3,4;5>; type=\"x/y\"; rel=\"last next\"; rel=prev"], "p=3,4;5"),
            (&["  < /v2/a?last=b >  ;  rel = next  "], "last=b"),
            (&["</v2/a?last=b c\u{e9}|d#x>; rel=next"], "last=b%20c%C3%A9%7Cd"),
            (&[r#"</v2/a?p=2>; title="\"quoted\", rel=prev"; rel="next""#], "p=2"),
        ] {
            assert_eq!(next(links), Ok(Some(expected.to_owned())), "{links:?}");
        }
        for other in [
            "",
            "</x?y>",
            r#"</x?y>; rel="prev""#,
            "x",
            "<",
            "<x?y",
            "</x?y>; rel=\"prev\"; rel=next",
            "</x?y>; title=\"rel=next\"",
            "</x?y>; rel=nextish",
        ] {
            assert_eq!(next(&[other]), Ok(None), "{other}");
        }
        assert_eq!(next(&[]), Ok(None));
    }

    #[test]
    fn a_next_page_that_no_client_could_ask_for_is_not_left_out_in_silence() {
        let long = |count| format!("</x?last={}>; rel=next", "x".repeat(count));
        assert!(next(&[&long(2_000)]).unwrap().is_some());
        assert_eq!(next(&[&long(9_000)]), Err(LinkError::TooLong));
        for link in ["</x>; rel=next", "</v2/a/tags/list/2>; rel=\"next\"", "</x?>; rel=next", "<>; rel=next"]
        {
            assert_eq!(next(&[link]), Err(LinkError::NoQuery), "{link}");
        }
    }
}
