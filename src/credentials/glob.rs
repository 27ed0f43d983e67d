//! Go's `filepath.Match`, which kubelet uses for one label of a host name. Not the glob of any crate: no `**`, no
//! braces, `^` and not `!` negates, and a malformed pattern matches nothing.

/// Whether `pattern` matches the whole of `text`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let Some(tokens) = parse(&pattern) else {
        return false;
    };
    run(&tokens, &text)
}

enum Token {
    /// `*`
    Any,
    /// `?`
    One,
    Literal(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// `None` for a malformed pattern. Go finds a mistake only when it gets that far; refusing it outright only ever
/// matches less.
fn parse(pattern: &[char]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let [first, tail @ ..] = rest {
        rest = tail;
        tokens.push(match first {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => {
                let (escaped, tail) = rest.split_first()?;
                rest = tail;
                Token::Literal(*escaped)
            }
            '[' => class(&mut rest)?,
            other => Token::Literal(*other),
        });
    }
    Some(tokens)
}

fn class(rest: &mut &[char]) -> Option<Token> {
    let negated = rest.first() == Some(&'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if let (Some(']'), false) = (rest.first(), ranges.is_empty()) {
            *rest = &rest[1..];
            return Some(Token::Class { negated, ranges });
        }
        let low = member(rest)?;
        let mut high = low;
        if rest.first() == Some(&'-') {
            *rest = &rest[1..];
            high = member(rest)?;
        }
        ranges.push((low, high));
    }
}

fn member(rest: &mut &[char]) -> Option<char> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    match first {
        '-' | ']' => None,
        '\\' => {
            let (escaped, tail) = rest.split_first()?;
            *rest = tail;
            Some(*escaped)
        }
        other => Some(*other),
    }
}

/// Matches with at most one point to go back to: linear in practice, quadratic at worst.
fn run(tokens: &[Token], text: &[char]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Any) => {
                star = Some((token, at));
                token += 1;
                continue;
            }
            Some(one) if text.get(at).is_some_and(|&c| fits(one, c)) => {
                token += 1;
                at += 1;
                continue;
            }
            None if at == text.len() => return true,
            _ => {}
        }
        match star {
            // A star never crosses a slash.
            Some((back, from)) if from < text.len() && text[from] != '/' => {
                star = Some((back, from + 1));
                token = back + 1;
                at = from + 1;
            }
            _ => return false,
        }
    }
}

fn fits(token: &Token, c: char) -> bool {
    match token {
        Token::Any => false,
        Token::One => c != '/',
        Token::Literal(expected) => *expected == c,
        Token::Class { negated, ranges } => {
            c != '/' && ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_gos() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("abc", "abc", true),
            ("*", "", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*b*c", "axbxxc", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[x-]", "x", false),
            ("[", "a", false),
            ("[^", "a", false),
            ("a[", "a", false),
            ("\\", "a", false),
            ("*-good", "prefix-good", true),
            ("k*", "quay", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_has_no_magic_matches_itself_and_nothing_else(a in "[a-z0-9_-]{0,12}", b in "[a-z0-9_-]{0,12}") {
            prop_assert!(matches(&a, &a));
            prop_assert_eq!(matches(&a, &b), a == b);
        }

        #[test]
        fn a_star_matches_any_middle(a in "[a-z]{0,5}", b in "[a-z]{0,9}", c in "[a-z]{0,5}") {
            let (pattern, text) = (format!("{a}*{c}"), format!("{a}{b}{c}"));
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn an_escaped_text_matches_exactly_itself(text in "[\\PC&&[^/]]{0,8}", other in "[\\PC&&[^/]]{0,8}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &text));
            prop_assert_eq!(matches(&escaped, &other), text == other);
        }

        #[test]
        fn nothing_hangs_or_panics(pattern in ".{0,40}", text in ".{0,80}") {
            let _ = matches(&pattern, &text);
        }
    }
}
