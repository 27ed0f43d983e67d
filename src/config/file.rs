//! What the operator wrote, as a tree of keys: read from TOML, each value with the line that it is from, and merged.
//!
//! Promises: a value of a later layer stands in place of an earlier one with the same key; an entry of a list of
//! sections (`[[registry]]`) is completed by a later entry that names the same thing. Deliberately not here: which keys
//! there are and what they mean (`schema`).

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value};

use super::report::{Mistake, Source};

/// The keys of a section.
pub(super) type Tree = BTreeMap<String, Entry>;

/// What stands under a key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) source: Source,
}

/// A value, a section, or a list of sections.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Value(Value),
    Section(Tree),
    Sections(Vec<Tree>),
}

/// A list of sections whose entries are merged, not replaced as a whole.
pub(super) struct List {
    /// Its keys, from the outermost: `freshness.rule`.
    pub(super) path: &'static str,
    /// What an entry is about; `None` if it does not say. Entries about the same thing are one.
    pub(super) about: fn(&Tree) -> Option<String>,
}

/// Reads one file, which is called `name` in mistakes.
///
/// # Errors
/// The first place at which it is no TOML.
pub(super) fn parse(name: &str, text: &str) -> Result<Tree, Mistake> {
    let lines = Lines { name: name.into(), text };
    match toml_edit::Document::parse(text) {
        Ok(document) => Ok(tree(document.as_table(), &lines)),
        Err(error) => {
            let source = lines.at(error.span());
            let line = if let Source::File { line, .. } = &source { *line } else { 0 };
            let key = format!("line {line}");
            Err(Mistake { key, problem: error.message().to_owned(), source: Some(source) })
        }
    }
}

/// Puts what `later` says in place of what `earlier` says. `path` is empty for whole files.
pub(super) fn merge(earlier: &mut Tree, later: Tree, path: &str, lists: &[List]) {
    for (key, Entry { node, source }) in later {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let list = lists.iter().find(|list| list.path == path);
        match (earlier.get_mut(&key).map(|entry| &mut entry.node), node, list) {
            (Some(Node::Section(old)), Node::Section(new), _) => merge(old, new, &path, lists),
            (Some(Node::Sections(old)), Node::Sections(new), Some(list)) => merge_entries(old, new, list),
            (_, node, _) => drop(earlier.insert(key, Entry { node, source })),
        }
    }
}

fn merge_entries(earlier: &mut Vec<Tree>, later: Vec<Tree>, list: &List) {
    // Only with entries of earlier layers: two about the same thing in one file are for the reader to judge.
    let known: Vec<_> = earlier.iter().map(list.about).collect();
    for entry in later {
        let about = (list.about)(&entry);
        let same = known.iter().position(|known| about.is_some() && *known == about);
        match same.and_then(|at| earlier.get_mut(at)) {
            Some(old) => old.extend(entry),
            None => earlier.push(entry),
        }
    }
}

impl Node {
    /// As one value; sections become tables within braces.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::Section(tree) => Value::InlineTable(inline(tree)),
            Self::Sections(trees) => {
                Value::Array(trees.into_iter().map(|tree| Value::InlineTable(inline(tree))).collect())
            }
        }
    }
}

/// The keys of a table within braces that is written at `source`.
fn tree_of(table: &InlineTable, source: &Source) -> Tree {
    let entry = |value: &Value| Entry { node: Node::Value(value.clone()), source: source.clone() };
    table.iter().map(|(key, value)| (key.to_owned(), entry(value))).collect()
}

fn inline(tree: Tree) -> InlineTable {
    tree.into_iter().map(|(key, entry)| (key, entry.node.into_value())).collect()
}

fn tree(table: &Table, lines: &Lines<'_>) -> Tree {
    let entry = |key: &str, item: &Item| {
        let source = lines.at(table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span()));
        let node = match item {
            Item::Table(table) => Node::Section(tree(table, lines)),
            Item::ArrayOfTables(tables) => Node::Sections(tables.iter().map(|t| tree(t, lines)).collect()),
            Item::Value(value) => node_of(value, &source),
            Item::None => return None,
        };
        Some((key.to_owned(), Entry { node, source }))
    };
    table.iter().filter_map(|(key, item)| entry(key, item)).collect()
}

/// A section may be written within braces, and a list of sections within brackets.
pub(super) fn node_of(value: &Value, source: &Source) -> Node {
    match value {
        Value::InlineTable(table) => Node::Section(tree_of(table, source)),
        Value::Array(all) if !all.is_empty() && all.iter().all(Value::is_inline_table) => {
            let tables = all.iter().filter_map(Value::as_inline_table);
            Node::Sections(tables.map(|table| tree_of(table, source)).collect())
        }
        value => Node::Value(value.clone()),
    }
}

/// Finds the line of a place in a text.
struct Lines<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn at(&self, span: Option<std::ops::Range<usize>>) -> Source {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or("");
        Source::File { name: Arc::clone(&self.name), line: before.matches('\n').count() + 1 }
    }
}
