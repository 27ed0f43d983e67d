//! containerd's `config.toml`, as far as it says where mirrors are looked up: read, changed, and restored.
//!
//! Promises: all else in the file stays as it is, to the byte. Deliberately not here: files that it imports.

use toml_edit::{DocumentMut, Item, Table, Value};

/// The path of the file.
pub(super) const CONFIG: &str = "/etc/containerd/config.toml";
/// The comment behind a value that Larder has set; the value from before follows.
const MARK: &str = "# set by larder; before: ";
/// In place of the value from before: there was no table for it.
const NO_TABLE: &str = "no table";
/// In place of the value from before: there was no file.
const NO_FILE: &str = "no file";

/// The CRI's registry settings in a configuration.
pub(super) struct Cri {
    document: DocumentMut,
    /// The names of the tables that lead to them.
    path: Vec<String>,
}

/// Reads a configuration; an empty text is containerd's defaults.
///
/// # Errors
/// The text is no TOML, or of a version that is not known.
pub(super) fn config_of(text: &str) -> Result<Cri, String> {
    let text = if text.trim().is_empty() { "version = 2\n" } else { text };
    let document: DocumentMut = text.parse().map_err(|error| format!("{CONFIG} is malformed: {error}"))?;
    let version = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    let plugin = match version {
        1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        3 => "io.containerd.cri.v1.images",
        other => return Err(format!("{CONFIG} is of version {other}, which is not known here")),
    };
    let path = ["plugins", plugin, "registry"].map(str::to_owned).to_vec();
    Ok(Cri { document, path })
}

impl Cri {
    fn registry(&self) -> Option<&dyn toml_edit::TableLike> {
        let mut at: &dyn toml_edit::TableLike = self.document.as_table();
        for name in &self.path {
            at = at.get(name)?.as_table_like()?;
        }
        Some(at)
    }

    /// The directory, or directories, of `hosts.toml`; `None` if it is not set. An empty one, which is what containerd up to
    /// 2.1 has and writes down by default, is none.
    pub(super) fn config_path(&self) -> Option<String> {
        let written = self.registry()?.get("config_path")?.as_str()?;
        (!written.is_empty()).then(|| written.to_owned())
    }

    /// Whether the CRI is switched off, as Docker's own packages of containerd have it: then no kubelet pulls here.
    pub(super) fn is_off(&self) -> bool {
        let off = self.document.get("disabled_plugins").and_then(Item::as_array);
        let plugin = self.path.get(1).map(String::as_str);
        off.is_some_and(|names| {
            names.iter().filter_map(Value::as_str).any(|name| name == "cri" || Some(name) == plugin)
        })
    }

    /// The old way of naming mirrors and certificates, which a `config_path` excludes.
    pub(super) fn old_settings(&self) -> Vec<&'static str> {
        let Some(registry) = self.registry() else { return Vec::new() };
        let is_set =
            |key: &str| registry.get(key).and_then(Item::as_table_like).is_some_and(|t| !t.is_empty());
        ["mirrors", "configs"].into_iter().filter(|key| is_set(key)).collect()
    }

    /// The file with its changes.
    pub(super) fn text(&self) -> String {
        self.document.to_string()
    }

    /// The file as it was before [`Cri::set`]; `None` if there was none and nothing else has been written into it since.
    pub(super) fn restored(mut self) -> Option<String> {
        let made = self.unset();
        let gone = made && is_empty(self.document.as_table());
        (!gone).then(|| self.text())
    }

    /// Sets the directory, and notes the value from before behind it; `there`: whether there is a file.
    pub(super) fn set(&mut self, directory: &str, there: bool) {
        let none = match self.registry() {
            Some(_) => "none",
            None if there => NO_TABLE,
            None => NO_FILE,
        };
        let mut at: &mut dyn toml_edit::TableLike = self.document.as_table_mut();
        for name in &self.path {
            let entry = at.entry(name).or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            let Some(table) = entry.as_table_like_mut() else { return };
            at = table;
        }
        let before = at.get("config_path").and_then(Item::as_value).map(|value| value.to_string());
        let before = before.as_deref().map_or(none, str::trim);
        let value = Value::from(directory).decorated(" ", format!(" {MARK}{before}"));
        put(at, value);
    }

    fn remove_registry(&mut self) {
        let Some((registry, above)) = self.path.split_last() else { return };
        let mut at: &mut dyn toml_edit::TableLike = self.document.as_table_mut();
        for name in above {
            let Some(table) = at.get_mut(name).and_then(Item::as_table_like_mut) else { return };
            at = table;
        }
        at.remove(registry);
    }

    /// Restores the value from before; returns whether the file was made by Larder.
    fn unset(&mut self) -> bool {
        let mut at: &mut dyn toml_edit::TableLike = self.document.as_table_mut();
        for name in &self.path {
            let Some(table) = at.get_mut(name).and_then(Item::as_table_like_mut) else { return false };
            at = table;
        }
        let Some(value) = at.get("config_path").and_then(Item::as_value) else { return false };
        let suffix = value.decor().suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default();
        let Some((_, before)) = suffix.split_once(MARK) else { return false };
        let made = before.trim() == NO_FILE;
        match before.trim() {
            "none" => drop(at.remove("config_path")),
            NO_TABLE | NO_FILE => {
                at.remove("config_path");
                if at.is_empty() {
                    self.remove_registry();
                }
            }
            // As it was written, with the comment behind it.
            before => {
                match format!("it = {before}\n").parse::<DocumentMut>().ok().and_then(|mut d| d.remove("it"))
                {
                    Some(Item::Value(before)) => put(at, before),
                    _ => drop(at.remove("config_path")),
                }
            }
        }
        made
    }
}

/// Sets the value where it was, indented as it was; else at the end.
fn put(registry: &mut dyn toml_edit::TableLike, value: Value) {
    match registry.get_mut("config_path") {
        Some(there) => *there = Item::Value(value),
        None => drop(registry.insert("config_path", Item::Value(value))),
    }
}

/// Whether there is nothing but a version, and tables without anything in them.
fn is_empty(table: &dyn toml_edit::TableLike) -> bool {
    table.iter().all(|(key, item)| key == "version" || item.as_table_like().is_some_and(is_empty))
}
