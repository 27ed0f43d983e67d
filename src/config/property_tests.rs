//! Random settings: what is printed is read as the same, and a variable means what the file means.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::file::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, Tree, Value};
use super::report::Report;
use super::section::{Block, Entries, Sections};
use super::value::{Shape, spelled};
use super::*;

/// Keys that make sense only together with another one.
const PAIRS: [(&str, &str); 4] = [
    ("gate_header", "gate_file"),
    ("provider_config", "provider_bin_dir"),
    ("client_cert", "client_key"),
    ("share_names", "cluster_key"),
];
/// Keys that must be there.
const NEEDED: [&str; 2] = ["host", "match"];

fn environment() -> Environment {
    Environment { home: Some("/home/u".into()), ..Environment::default() }
}

fn blocks() -> Vec<Block> {
    Sections::read(Tree::new(), &environment(), &Report::default()).blocks()
}

/// Values of a shape.
fn any_value(shape: &Shape) -> BoxedStrategy<Value> {
    match shape {
        Shape::Flag => any::<bool>().prop_map(Value::from).boxed(),
        Shape::Number(bounds) => bounds.clone().prop_map(Value::from).boxed(),
        Shape::Span(bounds) => {
            let nanos = |bound: &Duration| u64::try_from(bound.as_nanos()).unwrap();
            let any = nanos(bounds.start())..=nanos(bounds.end());
            let whole = bounds.start().as_secs() + 1..=bounds.end().as_secs();
            let any = any.prop_map(Duration::from_nanos);
            prop_oneof![any, whole.prop_map(Duration::from_secs)].prop_map(|d| spelled(d).into()).boxed()
        }
        Shape::Choice(names) => select(names.clone()).prop_map(Value::from).boxed(),
        Shape::Text(_, examples) => select(*examples).prop_map(Value::from).boxed(),
        Shape::List(inner) => {
            let all = prop::collection::vec(any_value(inner), 0..4);
            // Some lists must not name a thing twice.
            all.prop_map(|all| {
                let distinct: BTreeMap<String, Value> = all.into_iter().map(|v| (v.to_string(), v)).collect();
                distinct.into_values().collect()
            })
            .boxed()
        }
        Shape::Either(one, other) => prop_oneof![any_value(one), any_value(other)].boxed(),
        Shape::Table(keys) => {
            let any: Vec<_> = keys.iter().map(|(key, shape)| (Just(*key), any_value(shape))).collect();
            any.prop_map(|pairs| Value::InlineTable(pairs.into_iter().collect::<InlineTable>())).boxed()
        }
    }
}

/// A section with some of its keys.
fn any_section(block: &Block) -> BoxedStrategy<Table> {
    let key = |key: &schema::Key| {
        let always = NEEDED.contains(&key.name);
        let value = any_value(&key.shape);
        let value = if always { value.prop_map(Some).boxed() } else { prop::option::of(value).boxed() };
        (Just(key.name), value)
    };
    let keys: Vec<_> = block.keys.iter().map(key).collect();
    keys.prop_map(|pairs| {
        let mut table = Table::new();
        for (key, value) in pairs {
            if let Some(value) = value {
                table.insert(key, Item::Value(value));
            }
        }
        mend(&mut table);
        table
    })
    .boxed()
}

/// Makes random keys fit together.
fn mend(table: &mut Table) {
    for (one, other) in PAIRS {
        if table.contains_key(one) != table.contains_key(other) {
            table.remove(one);
            table.remove(other);
        }
    }
    // One endpoint has to stand for the registry.
    if let Some(endpoints) = table.get_mut("endpoints").and_then(Item::as_array_mut)
        && !endpoints.is_empty()
    {
        let own = "{ url = \"https://own.test\", credentials = \"caller\", authoritative = true }";
        endpoints.push(own.parse::<Value>().unwrap());
    }
    if table.contains_key("match") {
        table.insert("tag_ttl", Item::Value("immutable".into()));
    }
    if table.get("listen").and_then(Item::as_array).is_some_and(super::file::Array::is_empty) {
        table.remove("listen");
    }
}

/// A whole file.
fn any_file() -> impl Strategy<Value = String> {
    let section = |block: Block| {
        let any = any_section(&block);
        let count = if matches!(block.entries, Entries::One(_)) { 1..2 } else { 0..3 };
        let all = prop::collection::vec(any, count);
        all.prop_map(move |tables| (block.clone(), tables))
    };
    blocks().into_iter().map(section).collect::<Vec<_>>().prop_map(|sections| {
        let mut document = DocumentMut::new();
        for (block, tables) in sections {
            let item = match block.entries {
                Entries::One(_) => Item::Table(tables.into_iter().next().unwrap()),
                Entries::Many(_) => Item::ArrayOfTables(distinct(tables)),
            };
            match block.name.split_once('.') {
                None => drop(document.insert(block.name, item)),
                Some((outer, inner)) => drop(document[outer].as_table_mut().unwrap().insert(inner, item)),
            }
        }
        document.to_string()
    })
}

/// One section for each registry.
fn distinct(tables: Vec<Table>) -> ArrayOfTables {
    let about = |table: &Table| table.get("host").map(|host| host.to_string().trim().to_owned());
    let mut seen = std::collections::HashSet::new();
    tables.into_iter().filter(|table| about(table).is_none_or(|host| seen.insert(host))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_printed_is_accepted_and_means_the_same(file in any_file()) {
        let settings = resolve(&file, &environment()).unwrap_or_else(|m| panic!("{m:#?}\n{file}"));
        let printed = print(&settings);
        let again = resolve(&printed, &environment()).unwrap_or_else(|m| panic!("{m:#?}\n{printed}"));
        prop_assert_eq!(&again.sections, &settings.sections);
        prop_assert_eq!(again.changes(&settings), vec![]);
        prop_assert_eq!(print(&again), printed);
        let with_sources = print_with_sources(&settings);
        let again = resolve(&with_sources, &environment()).unwrap_or_else(|m| panic!("{m:#?}\n{with_sources}"));
        prop_assert_eq!(&again.sections, &settings.sections);
    }

    #[test]
    fn a_variable_means_what_the_file_means(file in any_file()) {
        let of_file = resolve(&file, &environment()).unwrap_or_else(|m| panic!("{m:#?}\n{file}"));
        let document: DocumentMut = file.parse().unwrap();
        let mut overrides = BTreeMap::new();
        for block in blocks() {
            let section = document.get(block.name.split('.').next().unwrap());
            match block.entries {
                Entries::One(_) => {
                    for key in block.keys {
                        let Some(value) = section.and_then(|s| s.get(key.name)) else { continue };
                        // A text needs no quotes.
                        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        overrides.insert(variables::variable_name(&format!("{}.{}", block.name, key.name)), text);
                    }
                }
                Entries::Many(_) => {
                    let list = block.name.split('.').nth(1).map_or(section, |inner| section.and_then(|s| s.get(inner)));
                    let Some(value) = list.and_then(|list| list.clone().into_value().ok()) else { continue };
                    overrides.insert(variables::variable_name(block.name), value.to_string());
                }
            }
        }
        let environment = Environment { overrides, ..environment() };
        let of_variables = resolve("", &environment).unwrap_or_else(|m| panic!("{m:#?}\n{:#?}", environment.overrides));
        prop_assert_eq!(&of_variables.sections, &of_file.sections);
    }
}
