//! What the operator wrote: TOML, read key by key, every mistake collected.
//!
//! A [`Section`] hands out its keys once each; whatever is left at the end was not known, which is a mistake too. The
//! one door to the toml crate.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use toml::Value;

/// One mistake: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Section and key.
    pub key: String,
    /// What is wrong, and the remedy.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

type Mistakes = Rc<RefCell<Vec<Mistake>>>;

/// A table of the file whose keys are taken one by one.
pub(super) struct Section {
    name: String,
    table: toml::Table,
    known: Vec<&'static str>,
    mistakes: Mistakes,
}

/// What [`Section::one_or_all`] found.
pub(super) enum OneOrAll {
    One(String),
    All(Vec<String>),
}

/// What [`Section::texts_and_sections`] found.
pub(super) enum TextOrSection {
    Text(String),
    Section(Section),
}

/// Reads a whole file.
///
/// # Errors
/// The first place at which it is no TOML.
pub(super) fn parse(text: &str) -> Result<Section, Mistake> {
    let table = text.parse::<toml::Table>().map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or(""));
        let key = format!("line {}", before.matches('\n').count() + 1);
        Mistake { key, problem: error.message().to_owned() }
    })?;
    Ok(Section { name: String::new(), table, known: Vec::new(), mistakes: Mistakes::default() })
}

/// A value as a mistake quotes it; what may hold a password is not quoted.
pub(super) fn shown(text: &str) -> String {
    if text.contains('@') { "(not shown)".to_owned() } else { format!("{text:?}") }
}

impl Section {
    /// A table within this one; empty if it is absent.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let table = match self.take(key) {
            None => toml::Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(key, format!("expected a section: [{key}]"));
                toml::Table::new()
            }
        };
        self.within(format!("[{key}]"), table)
    }

    /// The tables of `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let tables = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(tables)) => tables,
            Some(_) => {
                self.mistake(key, format!("expected sections: [[{key}]]"));
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (at, table) in tables.into_iter().enumerate() {
            match table {
                Value::Table(table) => sections.push(self.within(format!("[[{key}]] {}", at + 1), table)),
                _ => self.mistake(key, format!("expected sections: [[{key}]]")),
            }
        }
        sections
    }

    fn within(&self, name: String, table: toml::Table) -> Self {
        Self { name, table, known: Vec::new(), mistakes: Rc::clone(&self.mistakes) }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A text that `read` understands.
    pub(super) fn read<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match self.take(key)? {
            Value::String(text) => match read(&text) {
                Ok(value) => return Some(value),
                Err(error) => self.mistake(key, format!("{}: {error}", shown(&text))),
            },
            _ => self.mistake(key, "expected a text in quotes".to_owned()),
        }
        None
    }

    /// A list of texts that `read` understands; those that it does not are mistakes one by one.
    pub(super) fn read_all<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let Value::Array(values) = self.take(key)? else {
            self.mistake(key, "expected a list of texts: [\"...\", \"...\"]".to_owned());
            return None;
        };
        let (count, mut all) = (values.len(), Vec::new());
        for value in values {
            match value {
                Value::String(text) => match read(&text) {
                    Ok(value) => all.push(value),
                    Err(error) => self.mistake(key, format!("{}: {error}", shown(&text))),
                },
                _ => self.mistake(key, "expected only texts in the list".to_owned()),
            }
        }
        (all.len() == count).then_some(all)
    }

    /// A text, or a list of texts.
    pub(super) fn one_or_all(&mut self, key: &'static str) -> Option<OneOrAll> {
        let value = self.take(key)?;
        match value {
            Value::String(text) => return Some(OneOrAll::One(text)),
            Value::Array(values) => {
                let texts: Option<Vec<_>> = values.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                if let Some(texts) = texts {
                    return Some(OneOrAll::All(texts));
                }
            }
            _ => {}
        }
        self.mistake(key, "expected a text, or a list of texts".to_owned());
        None
    }

    /// A list of texts and tables.
    pub(super) fn texts_and_sections(&mut self, key: &'static str) -> Vec<TextOrSection> {
        let values = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(_) => {
                self.mistake(key, "expected a list".to_owned());
                Vec::new()
            }
        };
        let mut all = Vec::new();
        for (at, value) in values.into_iter().enumerate() {
            match value {
                Value::String(text) => all.push(TextOrSection::Text(text)),
                Value::Table(table) => {
                    let name = format!("{} {key} {}", self.name, at + 1);
                    all.push(TextOrSection::Section(self.within(name, table)));
                }
                _ => self.mistake(key, "expected texts or tables in the list".to_owned()),
            }
        }
        all
    }

    /// A list of whole numbers.
    pub(super) fn numbers(&mut self, key: &'static str) -> Option<Vec<u32>> {
        let value = self.take(key)?;
        let numbers = value.as_array().and_then(|values| {
            values
                .iter()
                .map(|v| v.as_integer().and_then(|n| u32::try_from(n).ok()))
                .collect::<Option<Vec<_>>>()
        });
        if numbers.is_none() {
            self.mistake(key, "expected a list of whole numbers: [0, 1000]".to_owned());
        }
        numbers
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let flag = self.take(key)?.as_bool();
        if flag.is_none() {
            self.mistake(key, "expected true or false".to_owned());
        }
        flag
    }

    /// A whole number within `bounds`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: std::ops::RangeInclusive<usize>,
    ) -> Option<usize> {
        let value = self.take(key)?;
        let number = value.as_integer().and_then(|n| usize::try_from(n).ok()).filter(|n| bounds.contains(n));
        if number.is_none() {
            self.mistake(key, format!("expected a whole number from {} to {}", bounds.start(), bounds.end()));
        }
        number
    }

    /// Notes a mistake.
    pub(super) fn mistake(&self, key: &str, problem: String) {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{} {key}", self.name) };
        self.mistakes.borrow_mut().push(Mistake { key, problem });
    }

    /// Notes the keys that nobody asked for, and returns all mistakes noted in this file so far.
    pub(super) fn finish(self) -> Vec<Mistake> {
        for key in self.table.keys() {
            self.mistake(key, format!("unknown key; known here: {}", self.known.join(", ")));
        }
        self.mistakes.borrow().clone()
    }
}
