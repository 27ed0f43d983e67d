//! What is found while a configuration is read: mistakes, and where each value was written.
//!
//! Every mistake is collected, none ends the reading, so that an operator sees all of them at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// How alike two names must be for one to be meant by the other, from 0 to 1.
const LIKENESS_MIN: f64 = 0.6;

/// One mistake: which key, what is wrong with it, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Section and key: `[server] listen`.
    pub key: String,
    /// What is wrong, and the remedy.
    pub problem: String,
    /// Where it was written; `None` for what was written nowhere.
    pub source: Option<Source>,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File {
        /// Its path, or what stands for one.
        name: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// In this environment variable.
    Variable(Arc<str>),
}

/// Where values were written, by section and key: `[server] listen`.
pub(super) type Sources = BTreeMap<String, Source>;

/// Collects mistakes and sources.
#[derive(Debug, Default)]
pub(super) struct Report {
    mistakes: RefCell<Vec<Mistake>>,
    sources: RefCell<Sources>,
}

/// One key or section that is being read.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    report: &'a Report,
    name: String,
    source: Option<Source>,
    /// Which entry of a list, from 1.
    number: usize,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, " ({source})"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Variable(name) => write!(f, "${name}"),
        }
    }
}

impl Report {
    /// The configuration as a whole.
    pub(super) fn whole(&self) -> Place<'_> {
        Place { report: self, name: String::new(), source: None, number: 0 }
    }

    /// All mistakes, in the order in which they were found.
    pub(super) fn mistakes(&self) -> Vec<Mistake> {
        self.mistakes.borrow().clone()
    }

    /// Where each value was written.
    pub(super) fn sources(&self) -> Sources {
        self.sources.borrow().clone()
    }
}

impl<'a> Place<'a> {
    /// A section of the same configuration, such as `[server]`.
    pub(super) fn section(&self, name: String) -> Self {
        Self { report: self.report, name, source: None, number: 0 }
    }

    /// A key of this section, written at `source`.
    pub(super) fn key(&self, key: &str, source: Option<Source>) -> Self {
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{} {key}", self.name) };
        Self { report: self.report, name, source, number: 0 }
    }

    /// A key of this section, written where it was found to be written.
    pub(super) fn known_key(&self, key: &str) -> Self {
        let mut place = self.key(key, None);
        place.source = self.report.sources.borrow().get(&place.name).cloned();
        place
    }

    /// A key of this section that was written nowhere; `None` if it was, which the mistake of its value speaks of.
    pub(super) fn absent_key(&self, key: &str) -> Option<Self> {
        Some(self.known_key(key)).filter(|place| place.source.is_none())
    }

    /// Notes that of two keys, each of no use without the other, one was written nowhere: its name, whether it holds
    /// something, and what it is for.
    pub(super) fn both(&self, one: (&str, bool, &str), other: (&str, bool, &str)) {
        for ((written, holds, _), (missing, is_there, what)) in [(one, other), (other, one)] {
            if let Some(place) = self.absent_key(missing).filter(|_| holds && !is_there) {
                place.mistake(format!("needed with {written}: {what}"));
            }
        }
    }

    /// An entry of this list, from 1.
    pub(super) fn numbered(&self, number: usize) -> Self {
        Self { number, ..self.clone() }
    }

    /// This entry of a list, as a section.
    pub(super) fn entry(&self) -> Self {
        self.section(format!("{} {}", self.name, self.number))
    }

    /// Where this was written.
    pub(super) fn source(&self) -> Option<Source> {
        self.source.clone()
    }

    /// Notes where this was written.
    pub(super) fn found(&self) {
        if let Some(source) = &self.source {
            self.report.sources.borrow_mut().insert(self.name.clone(), source.clone());
        }
    }

    /// Notes a mistake.
    pub(super) fn mistake(&self, problem: impl Into<String>) {
        let (key, source) = (self.name.clone(), self.source.clone());
        self.report.mistakes.borrow_mut().push(Mistake { key, problem: problem.into(), source });
    }
}

/// Of the `known` names the one that was probably meant by `name`, if one is like it.
pub(super) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let likeness = |known: &str| strsim::normalized_damerau_levenshtein(name, known);
    let near = known.map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    near.filter(|(likeness, _)| *likeness >= LIKENESS_MIN).map(|(_, near)| near)
}

/// A text as a mistake quotes it. A text that may hold a password is not quoted.
pub(super) fn quoted(text: &str) -> String {
    if text.contains('@') { "(not shown)".to_owned() } else { format!("{text:?}") }
}
