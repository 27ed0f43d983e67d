//! `registries.conf` and `registries.conf.d`, which podman, CRI-O and skopeo read: which entry counts for an image.
//!
//! Of entries with the same prefix, the one of the later file counts as a whole; of those that match an image, the one
//! with the longest prefix. What a package ships below `/usr/share` is read as podman 6 reads it (containers/storage,
//! `pkg/configfile`): the site's main file and drop-ins take the place of those with the same name. Earlier versions do
//! not read it, and their packages ship nothing there.

use std::collections::BTreeMap;

use toml_edit::{DocumentMut, Item, TableLike};

use super::machine::Machine;
use super::marks::MARK;

/// The file that is read first.
pub(in crate::cli) const CONFIG: &str = "/etc/containers/registries.conf";
/// The files that are read after it, in the order of their names.
pub(in crate::cli) const DROP_INS: &str = "/etc/containers/registries.conf.d";
/// What packages ship; it is not for an operator, or for setup, to change.
const VENDOR: &str = "/usr/share/containers/";
/// The directories of drop-ins as root has them; of files with the same name, that of the last counts.
const DROP_IN_DIRECTORIES: [&str; 4] = [
    "/usr/share/containers/registries.conf.d",
    "/usr/share/containers/registries.rootful.conf.d",
    DROP_INS,
    "/etc/containers/registries.rootful.conf.d",
];
/// Setup's own.
pub(in crate::cli) const OURS: &str = "/etc/containers/registries.conf.d/010-larder.conf";

/// One `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Entry {
    /// The file that it is in.
    pub(in crate::cli) file: String,
    /// What it matches: `docker.io`, `docker.io/library`, `*.corp`.
    pub(in crate::cli) prefix: String,
    /// Where it leads, if that is not what it matches.
    pub(in crate::cli) location: Option<String>,
    pub(in crate::cli) blocked: bool,
    /// Whether certificates are not verified for what it matches, in pushes and logins too, although the site did not
    /// say so: `insecure` that was there before a setup is the site's own.
    pub(in crate::cli) insecure: bool,
    /// In the order in which they are asked, before the location.
    pub(in crate::cli) mirrors: Vec<String>,
}

/// The files that are there and count, in the order in which they are read.
pub(in crate::cli) fn files(machine: &Machine) -> Vec<String> {
    let vendor = format!("{VENDOR}registries.conf");
    let main = [CONFIG.to_owned(), vendor].into_iter().find(|path| machine.has(path));
    let mut drop_ins = BTreeMap::new();
    for directory in DROP_IN_DIRECTORIES {
        let names = machine.names(directory).into_iter().filter(|name| name.ends_with(".conf"));
        drop_ins.extend(names.map(|name| (name.clone(), format!("{directory}/{name}"))));
    }
    main.into_iter().chain(drop_ins.into_values()).filter(|path| machine.has(path)).collect()
}

/// Whether a file belongs to a package.
pub(in crate::cli) fn is_shipped(file: &str) -> bool {
    file.starts_with(VENDOR)
}

/// The entries of a file.
///
/// # Errors
/// It is malformed: then podman and CRI-O do not start.
pub(in crate::cli) fn entries(file: &str, text: &str) -> Result<Vec<Entry>, String> {
    let document: DocumentMut = text.parse().map_err(|error| format!("{file} is malformed: {error}"))?;
    let tables = document.get("registry").map(tables).unwrap_or_default();
    Ok(tables.into_iter().filter_map(|table| entry(file, table)).collect())
}

/// The entries that count: of those with the same prefix the last.
pub(in crate::cli) fn in_force(all: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in all {
        kept.retain(|earlier| earlier.prefix != entry.prefix || earlier.file == entry.file);
        kept.push(entry);
    }
    kept
}

/// The entry that counts for a registry, or for what begins with it.
pub(in crate::cli) fn matching<'e>(entries: &'e [Entry], name: &str) -> Option<&'e Entry> {
    entries.iter().filter(|entry| matches(&entry.prefix, name)).max_by_key(|entry| entry.prefix.len())
}

/// The prefix of a `[[registry]]`: its own, else its location.
pub(in crate::cli) fn prefix_of(table: &dyn TableLike) -> Option<String> {
    let text = |key: &str| table.get(key).and_then(Item::as_str).filter(|text| !text.is_empty());
    text("prefix").or_else(|| text("location")).map(|prefix| prefix.trim_end_matches('/').to_owned())
}

/// Whether podman and CRI-O can ask at a location: a component of its path has no colon and no upper-case letter, and
/// its host is no IPv6 address. Where it cannot be read they end a pull, and ask nobody else.
pub(in crate::cli) fn is_readable(location: &str) -> bool {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    !host.starts_with('[') && !path.contains(|c: char| c == ':' || c.is_ascii_uppercase())
}

impl Entry {
    /// What podman and CRI-O make of `name`, which it matches, at one of its locations.
    pub(in crate::cli) fn rewritten(&self, at: &str, name: &str) -> String {
        format!("{at}{}", name.strip_prefix(&self.prefix).unwrap_or_default())
    }

    /// One of its locations without the tag or digest that a prefix may end with.
    pub(in crate::cli) fn without_reference<'a>(&self, at: &'a str) -> &'a str {
        let name = self.prefix.rsplit_once('/').map_or("", |(_, name)| name);
        let reference = name.find([':', '@']).map_or("", |start| &name[start..]);
        at.strip_suffix(reference).unwrap_or(at)
    }
}

/// The tables of `[[registry]]` or `registry = [{}]`.
pub(in crate::cli) fn tables(item: &Item) -> Vec<&dyn TableLike> {
    match item {
        Item::ArrayOfTables(tables) => tables.iter().map(|table| table as &dyn TableLike).collect(),
        Item::Value(toml_edit::Value::Array(array)) => {
            let inline = array.iter().filter_map(toml_edit::Value::as_inline_table);
            inline.map(|table| table as &dyn TableLike).collect()
        }
        _ => Vec::new(),
    }
}

fn entry(file: &str, table: &dyn TableLike) -> Option<Entry> {
    let text = |table: &dyn TableLike, key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
    let flag = |key: &str| table.get(key).and_then(Item::as_bool).unwrap_or(false);
    let mirrors = table.get("mirror").map(tables).unwrap_or_default();
    Some(Entry {
        file: file.to_owned(),
        prefix: prefix_of(table)?,
        location: text(table, "location"),
        blocked: flag("blocked"),
        insecure: flag("insecure") && (is_marked(table, "insecure") || !is_marked(table, "location")),
        mirrors: mirrors.into_iter().filter_map(|mirror| text(mirror, "location")).collect(),
    })
}

/// Whether setup has set a value in a file of the site.
fn is_marked(table: &dyn TableLike, key: &str) -> bool {
    let decor = table.get(key).and_then(Item::as_value).map(toml_edit::Value::decor);
    decor.and_then(|decor| decor.suffix()?.as_str()).is_some_and(|suffix| suffix.contains(MARK))
}

fn matches(prefix: &str, name: &str) -> bool {
    match prefix.strip_prefix("*.") {
        Some(domain) => {
            // Of any port.
            let host = name.split(['/', ':', '@']).next().unwrap_or_default();
            host.strip_suffix(domain).is_some_and(|before| before.ends_with('.'))
        }
        None => {
            name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_that_counts_is_that_of_the_last_file_and_of_the_longest_prefix() {
        let first = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"docker.io\"\nblocked = true\n[[registry]]\nprefix = \"*.corp\"\nblocked = true\n";
        let second = "registry = [{prefix = \"docker.io\", location = \"m.corp/hub\", mirror = [{location = \"a\"}, {location = \"b\"}]}, {location = \"docker.io/library\"}]\n";
        let mut all = entries("1", first).unwrap();
        all.extend(entries("2", second).unwrap());
        let all = in_force(all);
        let hub = matching(&all, "docker.io").unwrap();
        assert_eq!((hub.file.as_str(), hub.blocked, hub.mirrors.len()), ("2", false, 2));
        assert_eq!(hub.location.as_deref(), Some("m.corp/hub"));
        assert_eq!(all.iter().filter(|entry| entry.prefix == "docker.io").count(), 1, "{all:?}");
        assert_eq!(matching(&all, "docker.io/library/app").unwrap().prefix, "docker.io/library");
        assert!(matching(&all, "reg.corp").unwrap().blocked);
        assert!(matching(&all, "reg.corp:5000/app").unwrap().blocked, "a wildcard is of any port");
        assert_eq!(matching(&all, "corp"), None);
        assert_eq!(matching(&all, "docker.iox"), None);
        assert!(entries("3", "[[registry]").is_err());
    }

    #[test]
    fn the_tag_of_an_entry_is_no_port_that_podman_cannot_read() {
        let at = "127.0.0.1:5050/quay.io/team/app";
        for (prefix, location, without) in [
            ("quay.io/team/app", at.to_owned(), at),
            ("quay.io/team/app:v1", format!("{at}:v1"), at),
            ("quay.io/team/app@sha256:0123", format!("{at}@sha256:0123"), at),
            // Another one than the entry's.
            ("quay.io/team/app:v1", format!("{at}:v2"), "127.0.0.1:5050/quay.io/team/app:v2"),
            // A port is none of an image.
            ("reg.corp:5000", "127.0.0.1:5050/reg.corp:5000".to_owned(), "127.0.0.1:5050/reg.corp:5000"),
        ] {
            let [entry] = &entries("x", &format!("[[registry]]\nprefix = \"{prefix}\"\n")).unwrap()[..]
            else {
                panic!("{prefix}")
            };
            assert_eq!(entry.without_reference(&location), without, "{prefix}");
        }
    }
}
