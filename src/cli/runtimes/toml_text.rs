//! TOML that others wrote, written again.

use toml_edit::DocumentMut;

/// A document that was read from `text`, with the line ends that the text had.
pub(in crate::cli) fn rendered(document: &DocumentMut, text: &str) -> String {
    let written = document.to_string().replace("\r\n", "\n");
    let ends = text.matches('\n').count();
    if ends > 0 && text.matches("\r\n").count() == ends { written.replace('\n', "\r\n") } else { written }
}
