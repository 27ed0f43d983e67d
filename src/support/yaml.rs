//! YAML as Kubernetes writes it, and JSON, which is YAML too: the one door to the parser, which bounds depth, aliases and
//! size by itself. Where something is wrong is told, and never what is there: the file may hold secrets.

use serde::de::DeserializeOwned;

/// Every document of a stream; empty ones are passed over.
///
/// # Errors
/// The place: `line 3`.
pub fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| place(&error))
}

/// The only document of a text.
///
/// # Errors
/// The place: `line 3`.
pub fn document<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| place(&error))
}

fn place(error: &serde_saphyr::Error) -> String {
    error.location().map_or("some line".to_owned(), |at| format!("line {}", at.line()))
}
