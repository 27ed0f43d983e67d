//! An error with everything that led to it, in one line.

use std::error::Error;

/// The text of an error and of its causes, each once: `Display` of an error does not repeat its cause, unless it does.
pub fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("/var/lib/larder: {0}")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn no_cause_is_lost_and_none_is_told_twice() {
        let error = Outer(Inner(std::io::Error::other("no space left")));
        assert_eq!(with_causes(&error), "cannot open the store: /var/lib/larder: no space left");
    }
}
