//! What is found while a configuration is read: mistakes, and where each value was written.
//!
//! Every mistake is collected, none ends the reading, so that an operator sees all of them at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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

/// A text as a mistake quotes it. A text that may hold a password is not quoted.
pub(super) fn quoted(text: &str) -> String {
    if text.contains('@') { "(not shown)".to_owned() } else { format!("{text:?}") }
}
