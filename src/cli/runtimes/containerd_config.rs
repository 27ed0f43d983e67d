//! containerd's `config.toml`, as far as it says where mirrors are looked up: read, changed, and restored.
//!
//! Promises: all else in the file stays as it is. Deliberately not here: finding the files that it imports
//! (`containerd_files`).

use toml_edit::{DocumentMut, Item, Table, Value};

use super::toml_text::rendered;

/// The path of the file.
pub(in crate::cli) const CONFIG: &str = "/etc/containerd/config.toml";
/// The newest version that is known here; containerd 2.3 and later print it.
const VERSION_MAX: i64 = 4;
/// The CRI's plugin, which has the registry settings up to version 2.
const CRI: &str = "io.containerd.grpc.v1.cri";
/// At once, as containerd has it by default.
const DOWNLOADS: i64 = 3;
/// The comment behind a value that Larder has set; the value from before follows.
const MARK: &str = "# set by larder; before: ";
/// In place of the value from before: there was no table for it.
const NO_TABLE: &str = "no table";
/// In place of the value from before: there was no file.
const NO_FILE: &str = "no file";

/// The CRI's registry settings in a configuration.
pub(in crate::cli) struct Cri {
    document: DocumentMut,
    text: String,
    version: i64,
    /// The names of the tables that lead to them.
    path: Vec<String>,
}

/// Reads `config.toml`.
///
/// # Errors
/// The text is no TOML.
pub(in crate::cli) fn config_of(text: &str) -> Result<Cri, String> {
    config_at(CONFIG, text)
}

/// Reads a configuration; an empty text is containerd's defaults. A version that is not known here is read as the
/// newest that is: see [`Cri::unknown_version`].
///
/// # Errors
/// The text is no TOML.
pub(in crate::cli) fn config_at(path: &str, text: &str) -> Result<Cri, String> {
    let text = if text.trim().is_empty() { "version = 2\n" } else { text };
    let document: DocumentMut = text.parse().map_err(|error| format!("{path} is malformed: {error}"))?;
    let version = document.get("version").and_then(Item::as_integer).unwrap_or(1);
    let has_later_name = || document.get("plugins").is_some_and(|plugins| plugins.get(CRI).is_some());
    let plugin = match version {
        // A file that is imported may be without the version, and 2.x takes config.toml so too: the other table beside
        // it would be one too many.
        ..=1 if has_later_name() => CRI,
        ..=1 => "cri",
        2 => CRI,
        // Version 4 has the table of version 3, tried with containerd 2.3.4 and 2.4.0-beta.0.
        _ => "io.containerd.cri.v1.images",
    };
    let path = ["plugins", plugin, "registry"].map(str::to_owned).to_vec();
    Ok(Cri { document, text: text.to_owned(), version, path })
}

impl Cri {
    fn registry(&self) -> Option<&dyn toml_edit::TableLike> {
        let mut at: &dyn toml_edit::TableLike = self.document.as_table();
        for name in &self.path {
            at = at.get(name)?.as_table_like()?;
        }
        Some(at)
    }

    /// The version of the file.
    pub(in crate::cli) fn version(&self) -> i64 {
        self.version
    }

    /// The version of the file, if it is newer than what is known here.
    pub(in crate::cli) fn unknown_version(&self) -> Option<i64> {
        (self.version > VERSION_MAX).then_some(self.version)
    }

    /// Whether this is a `config.toml` without `version = 2` whose table has the name of that version: containerd 1.x
    /// passes over such a table without a word, and 2.x reads it.
    pub(in crate::cli) fn lacks_version(&self) -> bool {
        self.version <= 1 && self.path.get(1).is_some_and(|plugin| plugin == CRI)
    }

    /// Whether containerd may be 1.x, which reads a list of directories; 2.x reads such a file too.
    pub(in crate::cli) fn may_be_old(&self) -> bool {
        self.version <= 2
    }

    /// Whether the file has a setting with which the CRI of 2.1 and later pulls by itself. It then reads a list of
    /// directories, which the transfer service does not.
    pub(in crate::cli) fn pulls_locally(&self) -> bool {
        let mut at: &dyn toml_edit::TableLike = self.document.as_table();
        for name in self.path.iter().take(2) {
            let Some(table) = at.get(name).and_then(Item::as_table_like) else { return false };
            at = table;
        }
        let inner = at.get("containerd").and_then(Item::as_table_like);
        [Some(at), inner].into_iter().flatten().any(|table| {
            let says = |key: &str, said: bool| table.get(key).and_then(Item::as_bool) == Some(said);
            says("discard_unpacked_layers", true)
                || says("image_pull_with_sync_fs", true)
                || says("use_local_image_pull", true)
                || says("disable_snapshot_annotations", false)
                || table
                    .get("max_concurrent_downloads")
                    .and_then(Item::as_integer)
                    .is_some_and(|count| count != DOWNLOADS)
        })
    }

    /// Whether the CRI's own table is there, in which the registry settings are.
    pub(in crate::cli) fn has_table(&self) -> bool {
        let mut names = self.path.iter().take(2);
        let first: &dyn toml_edit::TableLike = self.document.as_table();
        names.try_fold(first, |at, name| at.get(name)?.as_table_like()).is_some()
    }

    /// Whether the table of the registry settings is there at all.
    pub(in crate::cli) fn has_registry(&self) -> bool {
        self.registry().is_some()
    }

    /// Whether containerd is known to be 2.3 or later, which reads `/etc/containerd/certs.d:/etc/docker/certs.d` where
    /// no `config_path` is set; 2.2 does too, with a file that looks like that of 2.0.
    pub(in crate::cli) fn has_list_by_default(&self) -> bool {
        self.version >= VERSION_MAX
    }

    /// The files that this one imports, as patterns; `None`: it does not say, and the default of its containerd counts.
    pub(in crate::cli) fn imports(&self) -> Option<Vec<String>> {
        let listed = self.document.get("imports")?.as_array()?;
        Some(listed.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// The directory, or directories, of `hosts.toml`; `None` if it is not set. An empty one, which is what containerd
    /// up to 2.1 has and writes down by default, is none.
    pub(in crate::cli) fn config_path(&self) -> Option<String> {
        let written = self.registry()?.get("config_path")?.as_str()?;
        (!written.is_empty()).then(|| written.to_owned())
    }

    /// Whether the CRI is switched off, as Docker's own packages of containerd have it: then no kubelet pulls here.
    ///
    /// Its service is [`CRI`] in every version. 2.x makes that of the `"cri"` in Docker's file, and prints it beside a
    /// later version of the file.
    pub(in crate::cli) fn is_off(&self) -> bool {
        let off = self.document.get("disabled_plugins").and_then(Item::as_array);
        let plugin = self.path.get(1).map_or(CRI, String::as_str);
        let mut names = off.into_iter().flatten().filter_map(Value::as_str);
        names.any(|name| ["cri", CRI, plugin].contains(&name))
    }

    /// The old way of naming mirrors and certificates, beside which containerd's CRI does not start with a
    /// `config_path`: `mirrors`, and up to 1.7 `tls` in `configs`.
    pub(in crate::cli) fn old_settings(&self) -> Vec<&'static str> {
        let mirrors = self.of_registry("mirrors").is_some_and(|mirrors| !mirrors.is_empty());
        let tls = self.may_be_old() && self.has_in_configs("tls");
        let found = [(mirrors, "registry.mirrors"), (tls, "registry.configs.*.tls")];
        found.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name).collect()
    }

    /// Whether the file has a login for a registry, which a `config_path` does not exclude. containerd shows it to that
    /// host and not to a mirror of it.
    pub(in crate::cli) fn has_logins(&self) -> bool {
        self.has_in_configs("auth")
    }

    fn has_in_configs(&self, key: &str) -> bool {
        let mut configs = self.of_registry("configs").into_iter().flat_map(|configs| configs.iter());
        configs.any(|(_, of_host)| of_host.as_table_like().is_some_and(|table| table.contains_key(key)))
    }

    fn of_registry(&self, key: &str) -> Option<&dyn toml_edit::TableLike> {
        self.registry()?.get(key)?.as_table_like()
    }

    /// The file with its changes.
    pub(in crate::cli) fn text(&self) -> String {
        rendered(&self.document, &self.text)
    }

    /// The file as it was before [`Cri::set`]; `None` if there was none and nothing else has been written into it
    /// since.
    fn restored(mut self) -> Option<String> {
        match self.unset() {
            None => Some(self.text),
            Some(true) if is_empty(self.document.as_table()) => None,
            Some(_) => Some(self.text()),
        }
    }

    /// Sets the directory, and notes the value from before behind it; `there`: whether there is a file.
    pub(in crate::cli) fn set(&mut self, directory: &str, there: bool) {
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

    /// Restores the value from before; returns whether the file was made by Larder, and `None` if nothing in it is
    /// Larder's.
    fn unset(&mut self) -> Option<bool> {
        let mut at: &mut dyn toml_edit::TableLike = self.document.as_table_mut();
        for name in &self.path {
            at = at.get_mut(name).and_then(Item::as_table_like_mut)?;
        }
        let value = at.get("config_path").and_then(Item::as_value)?;
        let suffix = value.decor().suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default();
        let (_, before) = suffix.split_once(MARK)?;
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
        Some(made)
    }
}

/// A configuration as it was before [`Cri::set`]; `None` if there was none.
pub(in crate::cli) fn restored(text: &str) -> Option<String> {
    match config_at("", text) {
        Ok(cri) if !text.trim().is_empty() => cri.restored(),
        _ => Some(text.to_owned()),
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
