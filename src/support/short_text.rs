//! Texts that a stranger chose, cut to a length: what is kept and logged of them has a bound.

use std::fmt::{self, Display, Write};

/// The beginning of a text: at most `chars_max` characters, and an ellipsis where there is more. No more of it is made.
pub fn shortened(text: &dyn Display, chars_max: usize) -> String {
    let mut beginning = Beginning { text: String::new(), left: chars_max };
    // An error says that there is no room for more.
    let _ = write!(beginning, "{text}");
    beginning.text
}

struct Beginning {
    text: String,
    left: usize,
}

impl Write for Beginning {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.left == 0 {
                self.text.push('…');
                return Err(fmt::Error);
            }
            self.text.push(c);
            self.left -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_an_end_is_not_made_as_a_whole() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("äb")?;
                }
            }
        }
        assert_eq!(shortened(&Endless, 5), "äbäbä…");
        for whole in ["", "äb", "äbcde"] {
            assert_eq!(shortened(&whole, 5), whole);
        }
    }
}
