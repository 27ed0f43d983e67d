//! JSON as Go's `encoding/json` reads it into a structure: names in any case, a name that is there twice, and null.
//!
//! Of a text that is there twice the last counts; two tables under one name are one; null is as good as absent for a
//! text and empties a table. Kubernetes' own decoder does the same but for the case of names, which counts there.
//!
//! Promises: depth is bounded by the parser; an error tells a place or a name, and never a value, which may be a
//! secret.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::short_text::shortened;

/// A value, with the names of an object in their order and as often as they are there.
#[derive(Clone, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; `None` if it is not a whole one of 64 bits.
    Number(Option<i64>),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

/// Whether names count in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As `encoding/json` has it.
    AnyCase,
    /// As Kubernetes' decoder has it.
    Exact,
}

/// Something else than was expected, under this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not {expected}")]
pub struct WrongType {
    /// The name of the field.
    pub name: String,
    /// `a text`, `an object`.
    pub expected: &'static str,
}

/// Characters of a name that an error tells.
const NAME_CHARS_MAX: usize = 255;

impl WrongType {
    /// What was `expected` under a name, of which the beginning is told.
    pub fn new(name: &dyn fmt::Display, expected: &'static str) -> Self {
        Self { name: shortened(name, NAME_CHARS_MAX), expected }
    }
}

/// The place where a text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl Place {
    fn of(error: &serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

/// The fields of an object.
#[derive(Clone, Copy)]
pub struct Fields<'j> {
    entries: &'j [(String, Json)],
    names: Names,
}

impl Json {
    /// Reads a text.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn read(content: &[u8]) -> Result<Self, Place> {
        serde_json::from_slice(content).map_err(|error| Place::of(&error))
    }

    /// Reads the value at the beginning of a text, as a decoder of streams does; what follows does not count.
    ///
    /// # Errors
    /// It does not begin with JSON.
    pub fn read_first(content: &[u8]) -> Result<Self, Place> {
        let mut reader = serde_json::Deserializer::from_slice(content);
        Self::deserialize(&mut reader).map_err(|error| Place::of(&error))
    }

    /// Its fields; null has none.
    ///
    /// # Errors
    /// It is no object; `name` is what it is called.
    pub fn fields(&self, name: &str, names: Names) -> Result<Fields<'_>, WrongType> {
        match self {
            Self::Null => Ok(Fields { entries: &[], names }),
            Self::Object(entries) => Ok(Fields { entries, names }),
            _ => Err(WrongType::new(&name, "an object")),
        }
    }
}

impl<'j> Fields<'j> {
    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.of(name).next().is_some()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A text; the last one counts, and null leaves it as it was.
    ///
    /// # Errors
    /// Something else is there.
    pub fn text(&self, name: &str) -> Result<Option<&'j str>, WrongType> {
        let mut found = None;
        for value in self.of(name) {
            match value {
                Json::Null => {}
                Json::Text(text) => found = Some(text.as_str()),
                _ => return Err(WrongType::new(&name, "a text")),
            }
        }
        Ok(found)
    }

    /// A whole number; the last one counts, and null leaves it as it was.
    ///
    /// # Errors
    /// Something else is there.
    pub fn number(&self, name: &str) -> Result<Option<i64>, WrongType> {
        let mut found = None;
        for value in self.of(name) {
            match value {
                Json::Null => {}
                Json::Number(Some(number)) => found = Some(*number),
                _ => return Err(WrongType::new(&name, "a whole number")),
            }
        }
        Ok(found)
    }

    /// A table: what is there twice is one table, in which the last value of a key counts; null empties it.
    ///
    /// # Errors
    /// Something else is there.
    pub fn table(&self, name: &str) -> Result<Vec<(&'j str, &'j Json)>, WrongType> {
        let mut found = Vec::new();
        for value in self.of(name) {
            match value {
                Json::Null => found.clear(),
                Json::Object(entries) => {
                    found.extend(entries.iter().map(|(key, value)| (key.as_str(), value)))
                }
                _ => return Err(WrongType::new(&name, "an object")),
            }
        }
        Ok(last_of_each(found))
    }

    /// The object itself as a table.
    pub fn all(&self) -> Vec<(&'j str, &'j Json)> {
        last_of_each(self.entries.iter().map(|(key, value)| (key.as_str(), value)).collect())
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &'j Json> {
        let names = self.names;
        let is_named = move |key: &str| match names {
            Names::Exact => key == name,
            Names::AnyCase => key == name || folded(key).eq(folded(name)),
        };
        self.entries.iter().filter(move |(key, _)| is_named(key)).map(|(_, value)| value)
    }
}

/// As Go folds the letters of ASCII, among which two others count: the long s, and the sign for kelvin.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    })
}

/// Each key once, sorted, with its last value. Sorted: Go's order is random.
fn last_of_each<'j>(entries: Vec<(&'j str, &'j Json)>) -> Vec<(&'j str, &'j Json)> {
    entries.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may hold a secret.
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        })
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(Some(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(i64::try_from(number).ok()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number(None))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        if object.len() > ENTRIES_MAX {
            return Err(A::Error::custom("too many fields"));
        }
        Ok(Json::Object(object))
    }
}

/// Fields of an object at most; the content itself is bounded by who reads it.
const ENTRIES_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str, names: Names) -> Result<Option<String>, WrongType> {
        let json = Json::read(text.as_bytes()).unwrap();
        let found = json.fields("x", names)?.text("username")?.map(str::to_owned);
        Ok(found)
    }

    #[test]
    fn a_text_is_read_as_go_reads_it() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(fields(r#"{"UserName": "a"}"#, Names::AnyCase), some("a"));
        assert_eq!(fields(r#"{"UserName": "a"}"#, Names::Exact), Ok(None));
        assert_eq!(fields(r#"{"u\u017fername": "a"}"#, Names::AnyCase), some("a"));
        assert_eq!(
            fields(r#"{"username": "a", "USERNAME": "b", "username": null}"#, Names::AnyCase),
            some("b")
        );
        assert_eq!(fields("null", Names::AnyCase), Ok(None));
        assert!(fields(r#"{"username": 5}"#, Names::AnyCase).is_err());
        assert!(fields("[]", Names::AnyCase).is_err());
    }

    #[test]
    fn a_table_that_is_there_twice_is_one_and_null_empties_it() {
        let read = |text: &str| {
            let json = Json::read(text.as_bytes()).unwrap();
            let found = json.fields("x", Names::AnyCase).unwrap().table("auths").unwrap();
            found.into_iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(read(r#"{"auths": {"a": 1}, "Auths": {"b": 2, "a": 3}}"#), ["a", "b"]);
        assert_eq!(read(r#"{"auths": {"a": 1}, "auths": null, "AUTHS": {"b": 1}}"#), ["b"]);
        assert_eq!(Json::read(b"{\n  \"a\": }").err(), Some(Place { line: 2, column: 8 }));
    }
}
