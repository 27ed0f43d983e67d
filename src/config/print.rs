//! The effective configuration as a file that means the same.

use super::file::{ArrayOfTables, DocumentMut, Item, Table, Value};
use super::report::Sources;
use super::schema::Needs;
use super::section::{Block, Entries};
use super::settings::Settings;
use crate::reference::Digest;

/// Keys that say which node this is, as section and key: every daemon of a cluster has another value.
const OF_THE_NODE: &[(&str, &str)] = &[("kubernetes", "node")];

/// Writes every key with its effective value, in a form that is read as the same settings.
pub fn print(settings: &Settings) -> String {
    document(settings, &Sources::new())
}

/// The same; behind each value that was written somewhere it says where.
pub fn print_with_sources(settings: &Settings) -> String {
    document(settings, &settings.sources)
}

/// Writes what is in effect in a daemon that was started with `started` and has read `now` since; behind each value
/// that was written somewhere it says where. Keys that count from the next start only are as they were at the start.
pub fn print_in_effect(started: &Settings, now: &Settings) -> String {
    let (mut blocks, mut sources) = (now.sections.blocks(), now.sources.clone());
    for (block, before) in blocks.iter_mut().zip(started.sections.blocks()) {
        let (Entries::One(values), Entries::One(old)) = (&mut block.entries, before.entries) else {
            continue;
        };
        for ((key, value), old) in block.keys.iter().zip(values).zip(old) {
            if key.needs == Needs::Restart {
                *value = old;
                let name = format!("[{}] {}", block.name, key.name);
                match started.sources.get(&name) {
                    Some(source) => drop(sources.insert(name, source.clone())),
                    None => drop(sources.remove(&name)),
                }
            }
        }
    }
    written(blocks, &sources)
}

/// A number for the configuration as it is in effect: equal settings have the same one, wherever they were written, and
/// on whichever node. Of 48 bits, so that a metric holds it exactly.
pub fn hash(settings: &Settings) -> u64 {
    let mut blocks = settings.sections.blocks();
    for block in &mut blocks {
        if let Entries::One(values) = &mut block.entries {
            for (key, value) in block.keys.iter().zip(values) {
                if OF_THE_NODE.contains(&(block.name, key.name)) {
                    *value = None;
                }
            }
        }
    }
    let digest = Digest::of(written(blocks, &Sources::new()).as_bytes());
    digest.as_bytes().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn document(settings: &Settings, sources: &Sources) -> String {
    written(settings.sections.blocks(), sources)
}

fn written(blocks: Vec<Block>, sources: &Sources) -> String {
    let mut document = DocumentMut::new();
    for block in blocks {
        let item = match &block.entries {
            Entries::One(values) => Item::Table(table(&block, values, &format!("[{}]", block.name), sources)),
            Entries::Many(all) if all.is_empty() => continue,
            Entries::Many(all) => {
                let name = |at: usize| format!("[[{}]] {}", block.name, at + 1);
                let numbered = all.iter().enumerate();
                let tables: ArrayOfTables =
                    numbered.map(|(at, values)| table(&block, values, &name(at), sources)).collect();
                Item::ArrayOfTables(tables)
            }
        };
        put(document.as_table_mut(), block.name, item);
    }
    document.to_string()
}

/// Puts a section where its name says: `freshness.rule` is within `freshness`, which comes before it.
fn put(table: &mut Table, name: &str, item: Item) {
    match name.split_once('.') {
        None => drop(table.insert(name, item)),
        Some((outer, inner)) => {
            if let Some(outer) = table.get_mut(outer).and_then(Item::as_table_mut) {
                put(outer, inner, item);
            }
        }
    }
}

fn table(block: &Block, values: &[Option<Value>], name: &str, sources: &Sources) -> Table {
    let mut table = Table::new();
    for (key, value) in block.keys.iter().zip(values) {
        let Some(value) = value else { continue };
        let mut value = value.clone();
        if let Some(source) = sources.get(&format!("{name} {}", key.name)) {
            value.decor_mut().set_suffix(format!("  # {source}"));
        }
        table.insert(key.name, Item::Value(value));
    }
    table
}
