//! containerd's `hosts.toml` with this cache as the first host, in every form that TOML allows.
//!
//! Promises: every other host, key and comment stays; what was added carries a mark and is removed by it. Pure: texts
//! in, texts out.
//!
//! containerd from 2.0 on uses only hosts that have a table with a header of its own (`[host."URL"]`) and passes over
//! those in an inline table or under dotted keys, without a word. What it would not use is written as tables here.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Key, Table, Value};

use crate::cli::runtimes::marks::{MARK, MODE, TLS_KEYS};
use crate::cli::runtimes::toml_text::rendered;
use crate::serve::Gate;

/// What surrounded what setup added in files that earlier builds wrote.
const BEGIN: &str = "# -- larder: begin;";
const END: &str = "# -- larder: end";

/// What a host is written for.
pub(super) struct Host<'a> {
    /// `http://127.0.0.1:5050`.
    pub(super) url: &'a str,
    /// Whether nothing is pulled around this cache.
    pub(super) strict: bool,
    /// The header that the cache wants from every client.
    pub(super) gate: Option<&'a Gate>,
    /// For the registry itself, to which containerd turns when this cache does not have something: certificates that it
    /// had from a directory that is not read any more.
    pub(super) certificates: Certificates,
}

/// What containerd is to trust and to show of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Certificates {
    /// Certificate authorities.
    pub(super) ca: Vec<String>,
    /// Certificates and keys.
    pub(super) client: Vec<(String, Option<String>)>,
}

/// A text with this cache as its first host.
///
/// # Errors
/// The text is no `hosts.toml`, or has what cannot be joined with what is wanted.
pub(super) fn with_host(original: Option<&str>, wanted: &Host<'_>) -> Result<String, String> {
    let text = original.unwrap_or_default();
    let mut document: DocumentMut =
        text.parse().map_err(|error| format!("is malformed, and containerd does not use it: {error}"))?;
    if wanted.strict {
        serve_only(&mut document, wanted.url)?;
    }
    let (shape, theirs) = taken_hosts(&mut document)?;
    let (name, mut hosts) = shape.unwrap_or_else(|| {
        let mut hosts = Table::new();
        hosts.set_implicit(true);
        (Key::new("host"), hosts)
    });
    let mut header = Table::new();
    for (_, table) in theirs.iter().filter(|(key, _)| key.get().trim_end_matches('/') == wanted.url) {
        // Written by hand: the headers that it sends are kept.
        if let Some(own) = table.get("header").and_then(Item::as_table_like) {
            own.iter().for_each(|(name, value)| drop(header.insert(name, value.clone())));
        }
    }
    hosts.insert(wanted.url, Item::Table(host(wanted, header, document.as_table().is_empty())));
    for (key, table) in theirs {
        if key.get().trim_end_matches('/') != wanted.url {
            hosts.insert_formatted(&key, Item::Table(table));
        }
    }
    // With --strict nothing but this cache is asked, and it speaks no TLS.
    if !wanted.strict {
        trust(&mut document, &wanted.certificates);
    }
    document.insert_formatted(&name, Item::Table(hosts));
    let written = rendered(&document, text);
    let _: DocumentMut = written.parse().map_err(|error| format!("cannot be extended: {error}"))?;
    Ok(written)
}

/// A text without what was added; `None`: nothing is left. A text that is malformed stays as it is.
pub(super) fn without_host(text: &str) -> Option<String> {
    let text = without_section(text);
    let marked = text
        .parse::<DocumentMut>()
        .ok()
        .and_then(|mut document| remove_marked(&mut document).then(|| rendered(&document, &text)));
    let left = marked.unwrap_or(text);
    (!left.trim().is_empty()).then_some(left)
}

/// Whether something in a text is setup's.
pub(super) fn is_ours(text: &str) -> bool {
    text.contains(MARK) || text.contains(BEGIN)
}

/// The hosts that a file names, whatever form they have; and whether containerd from 2.0 on passes over one of them.
pub(in crate::cli) fn listed(document: &DocumentMut) -> (Vec<(&str, &dyn toml_edit::TableLike)>, bool) {
    let Some(hosts) = document.get("host") else { return (Vec::new(), false) };
    let outer = hosts.as_table().is_none_or(Table::is_dotted);
    let mut passed_over = false;
    let entries = hosts.as_table_like().into_iter().flat_map(toml_edit::TableLike::iter);
    let found = entries
        .filter_map(|(url, item)| {
            // A header of a table below it (`[host."URL".header]`) names it too.
            let headed = |table: &Table| {
                !table.is_dotted() && (!table.is_implicit() || table.iter().any(|(_, item)| item.is_table()))
            };
            passed_over |= outer || !item.as_table().is_some_and(headed);
            Some((url, item.as_table_like()?))
        })
        .collect();
    (found, passed_over)
}

/// Nothing but this cache is asked, not even the registry itself.
fn serve_only(document: &mut DocumentMut, url: &str) -> Result<(), String> {
    let theirs =
        document.get("server").and_then(Item::as_str).map(|server| server.trim_end_matches('/').to_owned());
    if theirs.as_ref().is_some_and(|server| server != url) {
        return Err(
            "has a server of its own, which --strict would have to replace; remove it first".to_owned()
        );
    }
    if let Some(key) = TLS_KEYS.into_iter().find(|key| document.contains_key(key)) {
        return Err(format!(
            "has {key} for the registry itself, with which containerd would speak TLS to this cache; remove it first"
        ));
    }
    if theirs.is_none() {
        document.insert("server", Item::Value(Value::from(url).decorated(" ", format!(" {MARK}"))));
    }
    Ok(())
}

/// Takes the hosts out, each as a table with a header; and the table that they were in, where it had a header itself.
#[allow(clippy::type_complexity, reason = "two things, named where they are used")]
fn taken_hosts(document: &mut DocumentMut) -> Result<(Option<(Key, Table)>, Vec<(Key, Table)>), String> {
    let Some((mut name, outer)) = document.remove_entry("host") else { return Ok((None, Vec::new())) };
    let outer = match outer {
        Item::Table(table) if !table.is_dotted() => table,
        other => {
            name.leaf_decor_mut().clear();
            name.dotted_decor_mut().clear();
            match other {
                Item::Table(table) => table,
                Item::Value(Value::InlineTable(table)) => plain(table),
                _ => return Err("is malformed, and containerd does not use it: host is no table".to_owned()),
            }
        }
    };
    let mut hosts = Vec::new();
    let mut shape = Table::new();
    shape.set_implicit(outer.is_implicit() || outer.is_dotted());
    shape.set_position(outer.position());
    *shape.decor_mut() = outer.decor().clone();
    for (url, item) in outer.iter() {
        let mut key = outer.key(url).cloned().unwrap_or_else(|| Key::new(url));
        if !matches!(item, Item::Table(table) if !table.is_dotted()) {
            // Blanks and comments of another form.
            key.leaf_decor_mut().clear();
            key.dotted_decor_mut().clear();
        }
        let table = match item {
            Item::Table(table) if !table.is_dotted() => table.clone(),
            Item::Table(table) => {
                let mut table = table.clone();
                table.set_dotted(false);
                table.set_implicit(false);
                table
            }
            Item::Value(Value::InlineTable(table)) => plain(table.clone()),
            _ => {
                return Err(format!(
                    "is malformed, and containerd does not use it: host.{url:?} is no table"
                ));
            }
        };
        hosts.push((key, table));
    }
    Ok((Some((name, shape)), hosts))
}

/// A table with a header in place of an inline one.
fn plain(inline: InlineTable) -> Table {
    let mut table = inline.into_table();
    table.set_implicit(false);
    table.decor_mut().clear();
    // Blanks and line ends that belong between braces.
    for (mut key, item) in table.iter_mut() {
        key.leaf_decor_mut().clear();
        key.dotted_decor_mut().clear();
        if let Some(value) = item.as_value_mut() {
            value.decor_mut().clear();
        }
    }
    table
}

/// The table of this cache. No `ca`, `skip_verify` or `client`: on an http host they make containerd try TLS first. No
/// "referrers": versions that do not know a capability drop the whole file.
fn host(wanted: &Host<'_>, mut header: Table, first: bool) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix(if first { "" } else { "\n" });
    table.decor_mut().set_suffix(format!(" {MARK}"));
    let capabilities: Array = ["pull", "resolve"].into_iter().collect();
    table.insert("capabilities", Item::Value(Value::Array(capabilities)));
    table.insert("dial_timeout", Item::Value(Value::from("1s")));
    if wanted.strict {
        header.insert(MODE, Item::Value(Value::from("strict")));
    }
    if let Some(gate) = wanted.gate {
        // Written by hand, in any case: of two containerd would send either.
        header.retain(|name, _| !name.eq_ignore_ascii_case(gate.header().as_str()));
        header.insert(gate.header().as_str(), Item::Value(Value::from(gate.value().reveal())));
    }
    if !header.is_empty() {
        header.decor_mut().set_prefix("");
        table.insert("header", Item::Table(header));
    }
    table
}

/// Certificates for the registry itself, which stand outside of every host.
fn trust(document: &mut DocumentMut, certificates: &Certificates) {
    let mut put = |key: &str, array: Array| {
        if !array.is_empty() && !document.contains_key(key) {
            let value = Value::Array(array).decorated(" ", format!(" {MARK}"));
            document.insert(key, Item::Value(value));
        }
    };
    put("ca", certificates.ca.iter().map(String::as_str).collect());
    let pairs = certificates.client.iter().map(|(certificate, key)| {
        // A key may be in the file of the certificate.
        let key = key.as_ref().unwrap_or(certificate);
        Value::Array([certificate.as_str(), key.as_str()].into_iter().collect())
    });
    put("client", pairs.collect());
}

fn is_marked(item: &Item) -> bool {
    let decor = match item {
        Item::Table(table) => table.decor(),
        Item::Value(value) => value.decor(),
        _ => return false,
    };
    decor.suffix().and_then(|suffix| suffix.as_str()).is_some_and(|suffix| suffix.contains(MARK))
}

/// The certificates that setup has written into a text.
pub(super) fn certificates_of(text: &str) -> Certificates {
    let Ok(document) = text.parse::<DocumentMut>() else { return Certificates::default() };
    let written = |key: &str| {
        let item = document.get(key).filter(|item| is_marked(item));
        item.and_then(Item::as_array).into_iter().flatten()
    };
    let pair = |value: &Value| {
        let text = |at: usize| value.as_array()?.get(at)?.as_str().map(str::to_owned);
        Some((text(0)?, text(1)))
    };
    Certificates {
        ca: written("ca").filter_map(Value::as_str).map(str::to_owned).collect(),
        client: written("client").filter_map(pair).collect(),
    }
}

/// Whether there was something to remove.
fn remove_marked(document: &mut DocumentMut) -> bool {
    let marked: Vec<String> =
        document.iter().filter(|(_, item)| is_marked(item)).map(|(key, _)| key.to_owned()).collect();
    for key in &marked {
        document.remove(key);
    }
    let mut found = !marked.is_empty();
    if let Some(hosts) = document.get_mut("host").and_then(Item::as_table_mut) {
        let before = hosts.len();
        hosts.retain(|_, item| !is_marked(item));
        found |= hosts.len() < before;
        if hosts.is_empty() && hosts.is_implicit() {
            document.remove("host");
        }
    }
    found
}

/// Without the section of an earlier build.
fn without_section(text: &str) -> String {
    let Some((head, rest)) = text.split_once(BEGIN) else { return text.to_owned() };
    let tail = rest.split_once(END).map_or("", |(_, tail)| tail.trim_start_matches('\n'));
    format!("{head}{tail}")
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
