//! Kinds of values: how each is read, checked and written.
//!
//! Promises: what a kind writes, it reads again as the same value; what it refuses is reported with what it expects.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::file::Value;
use super::report::{Place, quoted};

/// A millisecond, the shortest wait that makes sense.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
/// An hour.
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub(super) const DAY: Duration = Duration::from_secs(86_400);
/// Ten years, the longest span that is not just a typing mistake.
pub(super) const TEN_YEARS: Duration = Duration::from_secs(3_650 * 86_400);

/// How a value is read, checked and written.
pub(super) trait Kind {
    /// What it is for the program.
    type Value;

    /// What it looks like in a file.
    fn shape(&self) -> Shape;

    /// Reads it; `None` after a mistake was noted.
    fn read(&self, value: &Value, place: &Place<'_>) -> Option<Self::Value>;

    /// Writes it so that it is read as the same.
    fn write(&self, value: &Self::Value) -> Value;
}

/// What a value looks like in a file, for the documentation, for environment variables and for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds.
    Number(RangeInclusive<i64>),
    /// A duration within bounds.
    Span(RangeInclusive<Duration>),
    /// One of these texts.
    Choice(Vec<&'static str>),
    /// Any other text: what it is called, and examples.
    Text(&'static str, &'static [&'static str]),
    /// Any number of these.
    List(Box<Self>),
    /// Either of two.
    Either(Box<Self>, Box<Self>),
    /// A table within braces, with these keys; the first must be there.
    Table(Vec<(&'static str, Self)>),
}

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Number(bounds) => write!(f, "whole number, {} to {}", bounds.start(), bounds.end()),
            Self::Span(bounds) if *bounds.start() == Duration::ZERO => {
                write!(f, "duration, at most {}", spelled(*bounds.end()))
            }
            Self::Span(bounds) => {
                write!(f, "duration, {} to {}", spelled(*bounds.start()), spelled(*bounds.end()))
            }
            Self::Choice(names) => {
                let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
                f.write_str(&names.join(" or "))
            }
            Self::Text(what, _) => f.write_str(what),
            Self::List(inner) => write!(f, "list of: {inner}"),
            Self::Either(one, other) => write!(f, "{one}; or {other}"),
            Self::Table(keys) => {
                let keys: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
                write!(f, "table with {}", keys.join(", "))
            }
        }
    }
}

/// `true` or `false`.
pub(super) fn flag() -> Flag {
    Flag
}

/// A whole number within `bounds`.
pub(super) fn number<N: Copy + Into<i64>>(bounds: RangeInclusive<N>) -> Number {
    Number((*bounds.start()).into()..=(*bounds.end()).into())
}

/// A duration within `bounds`.
pub(super) fn span(bounds: RangeInclusive<Duration>) -> Span {
    Span(bounds)
}

/// One of the texts that stand for the values of a type.
pub(super) fn choice<T, const N: usize>(names: &'static [(&'static str, T); N]) -> Choice<T> {
    Choice(names)
}

/// Any number of values of one kind.
pub(super) fn list<K: Kind>(kind: K) -> List<K> {
    List(kind)
}

/// A text that is read and written as `T` is parsed and displayed.
pub(super) fn parsed<T: FromStr<Err: Display> + Display>(
    what: &'static str,
    examples: &'static [&'static str],
) -> Text<T> {
    let read = |text: &str| text.parse::<T>().map_err(|error| error.to_string());
    Text { what, examples, read, write: |value| value.to_string() }
}

/// An absolute path.
pub(super) fn path() -> Text<PathBuf> {
    Text {
        what: "absolute path",
        examples: &["/etc/larder/x", "/srv/a \"b\"\\c\u{7f}\nd"],
        read: |text| {
            let path = PathBuf::from(text);
            if path.is_absolute() { Ok(path) } else { Err("expected an absolute path".to_owned()) }
        },
        write: |path| path.display().to_string(),
    }
}

#[derive(Debug, Clone)]
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn shape(&self) -> Shape {
        Shape::Flag
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<bool> {
        let flag = value.as_bool();
        if flag.is_none() {
            place.mistake("expected true or false");
        }
        flag
    }

    fn write(&self, value: &bool) -> Value {
        (*value).into()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Number(RangeInclusive<i64>);

impl Kind for Number {
    type Value = u32;

    fn shape(&self) -> Shape {
        Shape::Number(self.0.clone())
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<u32> {
        let within = value.as_integer().filter(|number| self.0.contains(number));
        let number = within.and_then(|number| u32::try_from(number).ok());
        if number.is_none() {
            place.mistake(format!("expected a whole number from {} to {}", self.0.start(), self.0.end()));
        }
        number
    }

    fn write(&self, value: &u32) -> Value {
        i64::from(*value).into()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Span(RangeInclusive<Duration>);

impl Kind for Span {
    type Value = Duration;

    fn shape(&self) -> Shape {
        Shape::Span(self.0.clone())
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<Duration> {
        let text = text_of(value, place)?;
        let problem = match humantime::parse_duration(text) {
            Ok(duration) if self.0.contains(&duration) => return Some(duration),
            Ok(_) => {
                let [least, most] = [self.0.start(), self.0.end()].map(|bound| spelled(*bound));
                format!("expected a duration between {least} and {most}")
            }
            Err(_) => "expected a duration, such as 500ms, 5s, 2m or 30d".to_owned(),
        };
        place.mistake(format!("{}: {problem}", quoted(text)));
        None
    }

    fn write(&self, value: &Duration) -> Value {
        spelled(*value).into()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Choice<T: 'static>(&'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for Choice<T> {
    type Value = T;

    fn shape(&self) -> Shape {
        Shape::Choice(self.0.iter().map(|(name, _)| *name).collect())
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<T> {
        let text = text_of(value, place)?;
        let found = self.0.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if found.is_none() {
            place.mistake(format!("{}: expected {}", quoted(text), self.shape()));
        }
        found
    }

    fn write(&self, value: &T) -> Value {
        self.0.iter().find(|(_, named)| named == value).map_or("", |(name, _)| name).into()
    }
}

/// A text with a meaning of its own.
#[derive(Debug, Clone)]
pub(super) struct Text<T> {
    /// What it is, for the documentation.
    pub(super) what: &'static str,
    /// Texts that are good, in the form in which they are written.
    pub(super) examples: &'static [&'static str],
    /// Reads it, or says what was expected.
    pub(super) read: fn(&str) -> Result<T, String>,
    /// Writes it.
    pub(super) write: fn(&T) -> String,
}

impl<T> Kind for Text<T> {
    type Value = T;

    fn shape(&self) -> Shape {
        Shape::Text(self.what, self.examples)
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<T> {
        let text = text_of(value, place)?;
        match (self.read)(text) {
            Ok(value) => Some(value),
            Err(problem) => {
                place.mistake(format!("{}: {problem}", quoted(text)));
                None
            }
        }
    }

    fn write(&self, value: &T) -> Value {
        (self.write)(value).into()
    }
}

#[derive(Debug, Clone)]
pub(super) struct List<K>(K);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<K::Value>;

    fn shape(&self) -> Shape {
        Shape::List(Box::new(self.0.shape()))
    }

    fn read(&self, value: &Value, place: &Place<'_>) -> Option<Self::Value> {
        let Some(values) = value.as_array() else {
            place.mistake(format!("expected a list: {}", example_of(&self.shape())));
            return None;
        };
        let shape = self.0.shape();
        let read = |(at, value): (usize, &Value)| {
            if shape.is_text() && !value.is_str() {
                place.mistake("expected only texts in the list");
                return None;
            }
            self.0.read(value, &place.numbered(at + 1))
        };
        // Every entry is read, so that each is told what is wrong with it.
        let all: Vec<_> = values.iter().enumerate().map(read).collect();
        all.into_iter().collect()
    }

    fn write(&self, value: &Self::Value) -> Value {
        value.iter().map(|value| self.0.write(value)).collect()
    }
}

impl Shape {
    /// Whether every value of it is a text.
    fn is_text(&self) -> bool {
        matches!(self, Self::Span(_) | Self::Choice(_) | Self::Text(..))
    }
}

/// A duration as people write it: whole days as days, since months and years have no fixed length.
pub(super) fn spelled(duration: Duration) -> String {
    let days = duration.as_secs() / DAY.as_secs();
    if days > 0 && duration == DAY * u32::try_from(days).unwrap_or(0) {
        return format!("{days}d");
    }
    humantime::format_duration(duration).to_string()
}

/// What a value of that shape may look like.
fn example_of(shape: &Shape) -> String {
    match shape {
        Shape::Flag => "true".to_owned(),
        Shape::Number(bounds) => bounds.start().to_string(),
        Shape::List(inner) => format!("[{}, ...]", example_of(inner)),
        _ => "\"...\"".to_owned(),
    }
}

/// The text that a value is.
pub(super) fn text_of<'v>(value: &'v Value, place: &Place<'_>) -> Option<&'v str> {
    let text = value.as_str();
    if text.is_none() {
        place.mistake("expected a text in quotes");
    }
    text
}
