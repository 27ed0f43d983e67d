//! The files that containerd's configuration consists of: `config.toml` and what it imports.
//!
//! What is imported comes after what imports it, and overrides it.

use globset::GlobBuilder;

use super::containerd_config::{CONFIG, Cri, config_at};
use super::machine::Machine;

/// Where containerd 2.2 and later import from unless the file says otherwise.
pub(in crate::cli) const DROP_INS: &str = "/etc/containerd/conf.d";
/// Files at most: containerd has no limit, and a circle of imports is none.
const FILES_MAX: usize = 64;

/// One file of the configuration.
pub(in crate::cli) struct ConfigFile {
    pub(in crate::cli) path: String,
    /// Whether it is certain that containerd reads it: a drop-in that nothing imports is read by 2.2 and later only.
    pub(in crate::cli) certain: bool,
}

/// The files, in the order in which containerd reads them; the first is `config.toml`, which may not be there.
///
/// # Errors
/// A file that is malformed or cannot be read, or a pattern that is malformed.
pub(in crate::cli) fn files(machine: &Machine) -> Result<Vec<ConfigFile>, String> {
    let mut found = vec![ConfigFile { path: CONFIG.to_owned(), certain: true }];
    let mut at = 0;
    while let Some(ConfigFile { path, certain }) = found.get(at) {
        let (path, certain) = (path.clone(), *certain);
        let imports = config_at(&path, &machine.text_or_empty(&path)?)?.imports();
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

/// Which of the files takes the `config_path` of those before it away, in containerd 1.x: that takes the last table of
/// the CRI as a whole, where 2.x merges the tables. Each is given with whether it is certain that containerd reads it.
pub(in crate::cli) fn takes_config_path_away<'c>(
    parts: impl Iterator<Item = (&'c Cri, bool)>,
) -> Option<usize> {
    let mut last = None;
    for (at, (cri, certain)) in parts.enumerate() {
        if !cri.may_be_old() {
            return None;
        }
        if certain && cri.has_table() {
            last = Some((at, cri));
        }
    }
    last.filter(|(at, cri)| *at > 0 && cri.config_path().is_none()).map(|(at, _)| at)
}

/// The files that an import means; a relative one is relative to the file that imports it. As in containerd, one
/// without a star is a path as it stands, and in one with a star every name may be a pattern.
fn matching(machine: &Machine, from: &str, pattern: &str) -> Result<Vec<String>, String> {
    let directory = from.rsplit_once('/').map_or("", |(directory, _)| directory);
    let pattern =
        if pattern.starts_with('/') { pattern.to_owned() } else { format!("{directory}/{pattern}") };
    if !pattern.contains('*') {
        return Ok(if machine.has(&pattern) { vec![pattern] } else { Vec::new() });
    }
    let mut found = vec![String::new()];
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        if !name.contains(['*', '?', '[', '\\']) {
            found.iter_mut().for_each(|path| path.extend(["/", name]));
            continue;
        }
        let glob = GlobBuilder::new(name).backslash_escape(true).build();
        let glob = glob.map_err(|error| format!("{from} imports {pattern:?}: {error}"))?.compile_matcher();
        let below = |path: &String| {
            let names = machine.names(path).into_iter().filter(|name| glob.is_match(name));
            names.map(|name| format!("{path}/{name}")).collect::<Vec<_>>()
        };
        found = found.iter().flat_map(below).take(FILES_MAX).collect();
    }
    found.retain(|path| machine.has(path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_file_that_containerd_imports_is_found_whatever_part_of_its_path_is_a_pattern() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        for path in ["a/cri.toml", "b/cri.toml", "b/other.toml", "c/x", "d[1]/cri.toml"] {
            let path = directory.path().join("etc/containerd").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| matching(&machine, CONFIG, pattern).map(|found| found.join(" "));
        for (pattern, expected) in [
            ("/etc/containerd/*/cri.toml", "a/cri.toml b/cri.toml d[1]/cri.toml"),
            ("[ab]/*.toml", "a/cri.toml b/cri.toml b/other.toml"),
            ("b/*", "b/cri.toml b/other.toml"),
            // Without a star it is a path.
            ("d[1]/cri.toml", "d[1]/cri.toml"),
            ("?/cri.toml", ""),
            ("none/*.toml", ""),
        ] {
            let expected = expected.split_whitespace().map(|path| format!("/etc/containerd/{path}"));
            assert_eq!(found(pattern).unwrap(), expected.collect::<Vec<_>>().join(" "), "{pattern}");
        }
        assert!(found("[/*.toml").unwrap_err().contains("imports"));
    }
}
