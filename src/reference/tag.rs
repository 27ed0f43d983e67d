//! Tags: the movable names of manifests within a repository.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A tag (distribution-spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`). Its case is significant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Arc<str>);

/// The text is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed tag: expected a letter, digit or underscore, then at most 127 letters, digits, '.', '_' or '-'"
)]
pub struct TagError;

/// Characters at most, as the specification has it.
const LENGTH_MAX: usize = 128;

impl Tag {
    /// The tag that an image name without one means.
    pub fn latest() -> Self {
        Self(Arc::from("latest"))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let rest = |b: u8| word(b) || b == b'.' || b == b'-';
        match text.as_bytes() {
            [first, others @ ..]
                if text.len() <= LENGTH_MAX && word(*first) && others.iter().all(|b| rest(*b)) =>
            {
                Ok(Self(Arc::from(text)))
            }
            _ => Err(TagError),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_case_and_their_limits() {
        for good in ["latest", "1.25", "_x", "Latest", "a-b.c_d", &"x".repeat(128)] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".hidden", "-x", "a/b", "a b", "..", "a%2e", "ä", "a\0", &"x".repeat(129)] {
            assert_eq!(bad.parse::<Tag>(), Err(TagError), "{bad:?}");
        }
    }
}
