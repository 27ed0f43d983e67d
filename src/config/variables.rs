//! Environment variables as a layer of the configuration: `LARDER_SECTION_KEY`, for containers.
//!
//! `[server] listen` is `LARDER_SERVER_LISTEN`, `[[registry]]` as a whole `LARDER_REGISTRY`, `[[freshness.rule]]` as a
//! whole `LARDER_FRESHNESS_RULE`. A text is written without quotes, a list as TOML has it or with commas between its
//! entries, and a list of sections as TOML has it: `[{ host = "docker.io", endpoints = ["https://mirror"] }]`.
//!
//! Promises: a variable that is no setting is refused with the name of the nearest one, except those that Kubernetes
//! puts into every container beside a Service that is called `larder`.

use std::collections::BTreeMap;

use super::file::{Array, Entry, Node, Tree, Value, node_of};
use super::report::{Report, Source, nearest};
use super::section::{Block, Entries};
use super::value::Shape;

/// Where a variable puts its value.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    /// Section and key, from the outermost.
    path: Vec<String>,
    /// What the value looks like; `None` for a list of sections.
    shape: Option<Shape>,
}

/// Reads `variables`, and notes those that are no settings.
pub(super) fn read(variables: &BTreeMap<String, String>, blocks: &[Block], report: &Report) -> Tree {
    let mut tree = Tree::new();
    if variables.is_empty() {
        return tree;
    }
    let targets = targets(blocks);
    for (name, text) in variables.iter().filter(|(name, _)| !is_of_kubernetes(name)) {
        let source = Source::Variable(name.as_str().into());
        match targets.get(name) {
            Some(target) => put(&mut tree, &target.path, value(text, target.shape.as_ref()), &source),
            None => {
                let place = report.whole().key(name, None);
                place.mistake(format!("no setting has this name; {}", remedy(name, &targets)));
            }
        }
    }
    tree
}

/// The name of the variable for a section or a key.
pub(super) fn variable_name(path: &str) -> String {
    format!("LARDER_{}", path.replace('.', "_").to_ascii_uppercase())
}

fn targets(blocks: &[Block]) -> BTreeMap<String, Target> {
    let mut all = BTreeMap::new();
    for block in blocks {
        let path = |more: Option<&str>| block.name.split('.').chain(more).map(str::to_owned).collect();
        match block.entries {
            Entries::Many(_) => {
                all.insert(variable_name(block.name), Target { path: path(None), shape: None });
            }
            Entries::One(_) => {
                for key in &block.keys {
                    let name = variable_name(&format!("{}.{}", block.name, key.name));
                    let shape = Some(key.shape.clone());
                    all.insert(name, Target { path: path(Some(key.name)), shape });
                }
            }
        }
    }
    all
}

fn put(tree: &mut Tree, path: &[String], value: Value, source: &Source) {
    match path {
        [] => {}
        [key] => {
            drop(tree.insert(key.clone(), Entry { node: node_of(&value, source), source: source.clone() }))
        }
        [key, rest @ ..] => {
            let section = || Entry { node: Node::Section(Tree::new()), source: source.clone() };
            if let Node::Section(inner) = &mut tree.entry(key.clone()).or_insert_with(section).node {
                put(inner, rest, value, source);
            }
        }
    }
}

/// What a variable means for a key of this shape. What cannot be read is a text, which the key then refuses.
fn value(text: &str, shape: Option<&Shape>) -> Value {
    let toml = || text.trim().parse::<Value>().unwrap_or_else(|_no_toml| text.into());
    match shape {
        None | Some(Shape::Flag | Shape::Number(_) | Shape::Table(_)) => toml(),
        Some(Shape::Span(_) | Shape::Choice(_) | Shape::Text(..)) => text.into(),
        Some(Shape::List(_)) if text.trim_start().starts_with('[') => toml(),
        Some(Shape::List(inner)) => {
            let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            Value::Array(entries.map(|entry| value(entry, Some(inner))).collect::<Array>())
        }
        Some(Shape::Either(one, other)) => {
            let is_one = matches!(&**one, Shape::Choice(names) if names.contains(&text));
            value(text, Some(if is_one { one } else { other }))
        }
    }
}

/// What to do about a variable that is no setting.
fn remedy(name: &str, targets: &BTreeMap<String, Target>) -> String {
    let near = nearest(name, targets.keys().map(String::as_str));
    near.map_or("unset it".to_owned(), |near| format!("did you mean {near}? If not, unset it"))
}

/// Kubernetes describes the Services beside a pod to its containers (`enableServiceLinks`), in variables that begin
/// with the name of the Service.
fn is_of_kubernetes(name: &str) -> bool {
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let protocols = ["_TCP", "_UDP", "_SCTP"];
    name.contains("_SERVICE_PORT_")
        || ends.iter().any(|end| name.ends_with(end))
        || name.contains("_PORT_") && protocols.iter().any(|protocol| name.contains(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_that_kubernetes_sets_are_no_settings() {
        for name in [
            "LARDER_SERVICE_HOST",
            "LARDER_SERVICE_PORT",
            "LARDER_SERVICE_PORT_HTTP",
            "LARDER_PORT",
            "LARDER_PORT_5052_TCP",
            "LARDER_PORT_5052_TCP_ADDR",
            "LARDER_METRICS_PORT_5052_TCP_PROTO",
        ] {
            assert!(is_of_kubernetes(name), "{name}");
        }
        assert!(!is_of_kubernetes("LARDER_SERVER_LISTEN"));
    }
}
