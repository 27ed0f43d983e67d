//! JSON that is read without judging it: what has another type than expected is unreadable, and makes nothing fail.
//!
//! Names of members are compared without regard to case, as the Go programs do that read manifests elsewhere. Not here:
//! which members there are (`outline`).

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Bytes at most of a text that is of use: no digest, media type or part of a platform is longer.
const TEXT_BYTES_MAX: usize = 512;

/// A member of a document.
#[derive(Debug, Default)]
pub(super) enum Part<T> {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// There, and not what it should be.
    Unreadable,
    /// There.
    Read(T),
}

impl<T> Part<T> {
    pub(super) fn is_there(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}

/// Which of these names a key is.
pub(super) struct OneOf(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for OneOf {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for OneOf {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.eq_ignore_ascii_case(text)))
    }
}

/// A value of which only texts, whole numbers and whether a list is empty are of use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(String),
    Number(u64),
    List { is_empty: bool },
    Other,
}

impl Value {
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(if text.len() <= TEXT_BYTES_MAX { Value::Text(text.to_owned()) } else { Value::Other })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let is_empty = list.next_element::<IgnoredAny>()?.is_none();
        IgnoredAny.visit_seq(list).map(|_| Value::List { is_empty })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Value::Other)
    }
}

/// Reads what may be an object, as far as `read` understands it; anything else is [`Part::Unreadable`].
pub(super) struct Object<F>(pub(super) F);

impl<'de, T, F> Visitor<'de> for Object<F>
where
    F: ObjectReader<'de, Value = T>,
{
    type Value = Part<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Part<T>, E> {
        Ok(Part::Absent)
    }

    fn visit_str<E>(self, _: &str) -> Result<Part<T>, E> {
        Ok(Part::Unreadable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Part<T>, E> {
        Ok(Part::Unreadable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Part<T>, E> {
        Ok(Part::Unreadable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Part<T>, E> {
        Ok(Part::Unreadable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Part<T>, E> {
        Ok(Part::Unreadable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Part<T>, A::Error> {
        self.0.read_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Part<T>, A::Error> {
        self.0.read_map(map)
    }
}

/// Reads a list or an object; the other of the two is unreadable.
pub(super) trait ObjectReader<'de>: Sized {
    type Value;

    fn read_list<A: SeqAccess<'de>>(self, list: A) -> Result<Part<Self::Value>, A::Error> {
        IgnoredAny.visit_seq(list).map(|_| Part::Unreadable)
    }

    fn read_map<A: MapAccess<'de>>(self, map: A) -> Result<Part<Self::Value>, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Part::Unreadable)
    }
}
