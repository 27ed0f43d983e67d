//! The syntax of `WWW-Authenticate` as it is found in the wild. Pure.
//!
//! Read besides RFC 9110: unquoted values with spaces in them, parameters and challenges that no comma divides, quotes
//! that are not closed. What cannot be read is skipped; no text is an error.
//!
//! Promises: time in proportion to the text; a parameter belongs to the challenge that it was sent in.

use std::iter::Peekable;
use std::str::CharIndices;

/// Challenges of one header at most.
const OFFERS_MAX: usize = 16;
/// Parameters of one challenge at most; registries send four.
const PARAMETERS_MAX: usize = 32;
/// Schemes whose name begins a challenge even within an unquoted value.
const KNOWN_SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "negotiate", "ntlm"];
/// Schemes that have parameters and no `token68` (RFC 9110 section 11.2).
const WITH_PARAMETERS: [&str; 3] = ["basic", "bearer", "digest"];

/// One challenge: a scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) scheme: String,
    /// In lower case, with values that may be empty.
    parameters: Vec<(String, String)>,
}

impl Offer {
    /// What stands for a text that was not read.
    pub(crate) fn unreadable(what: &str) -> Self {
        Self { scheme: what.to_owned(), parameters: Vec::new() }
    }

    /// Whether it is of this scheme, which is in lower case.
    pub(crate) fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The first value of a parameter, if it has one that is not empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header, in their order.
pub(crate) fn parse(text: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut reader = Reader::new(text);
    while reader.skip_separators() {
        let word = reader.word();
        if word.is_empty() {
            // A quote or another character that begins nothing.
            reader.chars.next();
        } else if let Some(offer) = offers.last_mut()
            && reader.skip_equals_sign()
        {
            let value = reader.value();
            if offer.parameters.len() < PARAMETERS_MAX {
                offer.parameters.push((word.to_ascii_lowercase(), value));
            }
        } else if offers.len() < OFFERS_MAX {
            offers.push(Offer { scheme: word.to_owned(), parameters: Vec::new() });
            if !WITH_PARAMETERS.iter().any(|scheme| word.eq_ignore_ascii_case(scheme)) {
                reader.skip_token68();
            }
        } else {
            return offers;
        }
    }
    offers
}

struct Reader<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        Self { text, chars: text.char_indices().peekable() }
    }

    /// Skips white space and commas; returns whether anything follows.
    fn skip_separators(&mut self) -> bool {
        while self.chars.next_if(|(_, c)| c.is_whitespace() || *c == ',').is_some() {}
        self.chars.peek().is_some()
    }

    fn skip_spaces(&mut self) {
        while self.chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
    }

    fn rest(&mut self) -> &'t str {
        self.chars.peek().map_or("", |(at, _)| &self.text[*at..])
    }

    fn go_to(&mut self, rest: &'t str) {
        *self = Self { text: rest, chars: rest.char_indices().peekable() };
    }

    /// The name of a scheme or parameter; empty if none begins here.
    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !is_token_char(c)).unwrap_or(rest.len());
        self.go_to(&rest[end..]);
        &rest[..end]
    }

    /// Skips `=` and the spaces around it, if it follows.
    fn skip_equals_sign(&mut self) -> bool {
        let before = self.rest();
        self.skip_spaces();
        let found = self.chars.next_if(|(_, c)| *c == '=').is_some();
        if found {
            self.skip_spaces();
        } else {
            self.go_to(before);
        }
        found
    }

    /// Skips the one value that some schemes have in place of parameters.
    fn skip_token68(&mut self) {
        let before = self.rest();
        self.skip_spaces();
        let rest = self.rest();
        let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        let length = rest.find(|c| !is_token68(c)).unwrap_or(rest.len());
        let padded = rest[length..].trim_start_matches('=');
        let ends = padded.is_empty() || padded.starts_with(|c: char| c == ',' || c.is_whitespace());
        // `a=b` is a parameter, `a==` and `a` are not.
        if length > 0 && ends && !begins_parameter(rest) {
            self.go_to(padded);
        } else {
            self.go_to(before);
        }
    }

    /// A value: quoted, or up to a comma, or to what begins the next parameter or challenge.
    fn value(&mut self) -> String {
        if self.chars.next_if(|(_, c)| *c == '"').is_some() {
            return self.quoted();
        }
        let rest = self.rest();
        let comma = rest.find(',').unwrap_or(rest.len());
        let mut end = comma;
        for (at, space) in rest[..comma].match_indices(|c: char| c.is_whitespace()) {
            let next = &rest[at + space.len()..];
            // The last space of several decides: to look past all of them from each would cost the square of them.
            if next.starts_with(char::is_whitespace) {
                continue;
            }
            if begins_parameter(next) || begins_known_challenge(next) {
                end = at;
                break;
            }
        }
        self.go_to(&rest[end..]);
        rest[..end].trim_end().to_owned()
    }

    /// The rest of a quoted value, without escapes; one that is not closed ends with the text.
    fn quoted(&mut self) -> String {
        let mut value = String::new();
        while let Some((_, c)) = self.chars.next() {
            match c {
                '"' => break,
                '\\' => value.extend(self.chars.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        value
    }
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// Whether the text begins with `name=value`.
fn begins_parameter(text: &str) -> bool {
    let end = text.find(|c| !is_token_char(c)).unwrap_or(text.len());
    let after = text[end..].trim_start();
    end > 0
        && after.strip_prefix('=').is_some_and(|value| !value.is_empty() && !value.starts_with(['=', ',']))
}

/// Whether the text begins with a scheme that is known and what may follow one.
fn begins_known_challenge(text: &str) -> bool {
    let end = text.find(|c| !is_token_char(c)).unwrap_or(text.len());
    let (scheme, after) = (&text[..end], text[end..].trim_start());
    KNOWN_SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known))
        && (after.is_empty() || after.starts_with(',') || begins_parameter(after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let one = |offer: Offer| {
            let parameters: Vec<_> = offer.parameters.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("{} [{}]", offer.scheme, parameters.join("; "))
        };
        parse(text).into_iter().map(one).collect()
    }

    #[test]
    fn challenges_are_read_as_they_are_found_in_the_wild() {
        for (text, expected) in [
            ("Basic", vec!["Basic []"]),
            (r#"Basic realm="a, b", Bearer realm="c""#, vec!["Basic [realm=a, b]", "Bearer [realm=c]"]),
            (r#"Bearer realm = "a" , SERVICE="b""#, vec!["Bearer [realm=a; service=b]"]),
            (r#"Bearer realm="a" service="b" scope="c""#, vec!["Bearer [realm=a; service=b; scope=c]"]),
            (
                "Bearer realm=https://a/t,service=My Registry,scope=x",
                vec!["Bearer [realm=https://a/t; service=My Registry; scope=x]"],
            ),
            (
                "Bearer realm=https://a/t service=My Registry scope=x y",
                vec!["Bearer [realm=https://a/t; service=My Registry; scope=x y]"],
            ),
            (
                "Bearer realm=https://a/t?x=1&y=2,service=s",
                vec!["Bearer [realm=https://a/t?x=1&y=2; service=s]"],
            ),
            (
                r#"Basic realm=My Registry Bearer realm="a""#,
                vec!["Basic [realm=My Registry]", "Bearer [realm=a]"],
            ),
            (r#"Basic realm="x" Bearer realm="a""#, vec!["Basic [realm=x]", "Bearer [realm=a]"]),
            ("Basic realm=basic access", vec!["Basic [realm=basic access]"]),
            (r#"Negotiate, NTLM, Bearer realm="a""#, vec!["Negotiate []", "NTLM []", "Bearer [realm=a]"]),
            (r#"Negotiate YII/a+b==, Bearer realm="a""#, vec!["Negotiate []", "Bearer [realm=a]"]),
            (r#"NTLM TlRMTVNT Bearer realm="a""#, vec!["NTLM []", "Bearer [realm=a]"]),
            ("Negotiate YII==", vec!["Negotiate []"]),
            (
                r#"Digest realm="a", nonce="b==", qop="auth, auth-int", Basic realm="c""#,
                vec!["Digest [realm=a; nonce=b==; qop=auth, auth-int]", "Basic [realm=c]"],
            ),
            (r#"AWS4 a=b, Bearer realm="c""#, vec!["AWS4 [a=b]", "Bearer [realm=c]"]),
            (r#"Bearer realm="a\"b\\c", service="d"#, vec![r#"Bearer [realm=a"b\c; service=d]"#]),
            (r#"Bearer realm=,service="s""#, vec!["Bearer [realm=; service=s]"]),
            (r#",, Bearer realm="a",,"#, vec!["Bearer [realm=a]"]),
            (r#"realm="a""#, vec!["realm []", "a []"]),
            ("\"\"\"", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn a_header_of_endless_challenges_or_parameters_costs_little() {
        assert_eq!(parse(&"Basic, ".repeat(2_000)).len(), OFFERS_MAX);
        let parameters = parse(&format!("Bearer {}", "a=b,".repeat(2_000)));
        assert_eq!(parameters[0].parameters.len(), PARAMETERS_MAX);
        let spaces = format!("Bearer realm={}", "a ".repeat(4_000));
        assert_eq!(parse(&spaces)[0].parameter("realm").map(str::len), Some(7_999));
        for blank in [" ", "\t", " \t", "\u{a0}"] {
            // A number of looks that grows with the square of this would take minutes.
            let blanks = blank.repeat(1_000_000);
            assert_eq!(parse(&format!("Bearer realm=a{blanks}b"))[0].parameters.len(), 1);
            assert_eq!(parse(&format!("Bearer realm=a{blanks}service=b"))[0].parameter("service"), Some("b"));
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_and_what_is_well_formed_comes_back(
            noise in "\\PC{0,60}", scheme in "[A-Za-z]{3,8}", key in "[a-z]{1,8}", value in "[ -!#-\\[\\]-~]{1,20}",
        ) {
            let _ = parse(&noise);
            let text = format!("{scheme} {key}=\"{value}\"");
            prop_assume!(WITH_PARAMETERS.contains(&scheme.to_ascii_lowercase().as_str()) || !value.is_empty());
            let offers = parse(&text);
            prop_assert_eq!(offers.len(), 1);
            prop_assert_eq!(offers[0].parameter(&key), Some(value.as_str()));
        }
    }
}
