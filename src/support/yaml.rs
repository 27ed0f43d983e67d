//! YAML as Kubernetes writes it, and JSON, which is YAML too: the one place that uses the parser, which bounds depth,
//! aliases and size by itself. Where something is wrong is told, and never what is there: the file may hold secrets.

use serde::de::DeserializeOwned;

/// Every document of a stream; empty ones are passed over.
///
/// # Errors
/// The place: `line 3`.
pub fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| place(&error))
}

/// Every document of a stream, each read by itself, so that one that is malformed does not hide the others; empty ones
/// are passed over. A line that begins with three hyphens ends a document, wherever it stands (YAML 1.2, section 9.1).
pub fn each_document<T: DeserializeOwned>(text: &str) -> Vec<Result<T, String>> {
    let mut found = Vec::new();
    let mut begin = (0, 0);
    let mut documents = Vec::new();
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            documents.push((begin.1, text.get(begin.0..at).unwrap_or_default()));
            begin = (at, number);
        }
        at += line.len();
    }
    documents.push((begin.1, text.get(begin.0..).unwrap_or_default()));
    for (lines_before, document) in documents {
        let read = serde_saphyr::from_multiple(document);
        let read = read.map_err(|error| match error.location() {
            Some(at) => format!("line {}", at.line() + lines_before as u64),
            None => "some line".to_owned(),
        });
        match read {
            Ok(values) => found.extend(values.into_iter().map(Ok)),
            Err(place) => found.push(Err(place)),
        }
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_malformed_hides_no_other_and_its_line_is_told() {
        let text = "a: 1\n---\nb: [\n--- # comment\nc: 3\n---\n---\nd: |\n  --- not here\n  ---\n";
        let found = each_document::<std::collections::BTreeMap<String, serde_json::Value>>(text);
        let names: Vec<String> = found
            .iter()
            .map(|document| match document {
                Ok(document) => document.keys().cloned().collect(),
                Err(place) => place.clone(),
            })
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!((names[0].as_str(), names[2].as_str(), names[3].as_str()), ("a", "c", "d"));
        assert!(["line 3", "line 4"].contains(&names[1].as_str()), "{names:?}");
        assert_eq!(each_document::<u32>("").len(), 0);
    }
}
