//! The files that containerd's configuration consists of: `config.toml` and what it imports.
//!
//! What is imported comes after what imports it, and overrides it.

use globset::Glob;

use super::containerd_config::{CONFIG, config_at};
use super::machine::Machine;

/// Where containerd 2.2 and later import from unless the file says otherwise.
pub(super) const DROP_INS: &str = "/etc/containerd/conf.d";
/// Files at most: containerd has no limit, and a circle of imports is none.
const FILES_MAX: usize = 64;

/// One file of the configuration.
pub(super) struct ConfigFile {
    pub(super) path: String,
    /// Whether it is certain that containerd reads it: a drop-in that nothing imports is read by 2.2 and later only.
    pub(super) certain: bool,
}

/// The files, in the order in which containerd reads them; the first is `config.toml`, which may not be there.
///
/// # Errors
/// A file that is malformed, or a pattern that is.
pub(super) fn files(machine: &Machine) -> Result<Vec<ConfigFile>, String> {
    let mut found = vec![ConfigFile { path: CONFIG.to_owned(), certain: true }];
    let mut at = 0;
    while let Some(ConfigFile { path, certain }) = found.get(at) {
        let (path, certain) = (path.clone(), *certain);
        let imports = config_at(&path, &machine.read(&path))?.imports();
        let certain = certain && imports.is_some();
        let imports = match imports {
            Some(imports) => imports,
            None if at == 0 => vec![format!("{DROP_INS}/*.toml")],
            None => Vec::new(),
        };
        for pattern in imports {
            for path in matching(machine, &path, &pattern)? {
                if found.len() < FILES_MAX && found.iter().all(|file| file.path != path) {
                    found.push(ConfigFile { path, certain });
                }
            }
        }
        at += 1;
    }
    Ok(found)
}

/// The files that an import means; a relative one is relative to the file that imports it.
fn matching(machine: &Machine, from: &str, pattern: &str) -> Result<Vec<String>, String> {
    let directory = from.rsplit_once('/').map_or("", |(directory, _)| directory);
    let pattern =
        if pattern.starts_with('/') { pattern.to_owned() } else { format!("{directory}/{pattern}") };
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", &pattern));
    if !name.contains(['*', '?', '[']) {
        return Ok(if machine.has(&pattern) { vec![pattern] } else { Vec::new() });
    }
    let glob =
        Glob::new(name).map_err(|error| format!("{from} imports {pattern:?}: {error}"))?.compile_matcher();
    let names = machine.names(directory).into_iter().filter(|name| glob.is_match(name));
    Ok(names.map(|name| format!("{directory}/{name}")).collect())
}
