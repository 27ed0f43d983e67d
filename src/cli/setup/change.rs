//! One file as it is now and as it is to be.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use similar::TextDiff;

/// The first line of Larder's section in a file that others write too.
const BEGIN: &str = "# -- larder: begin; written by `larder setup`, removed by `larder setup --undo`";
/// The last line of that section.
const END: &str = "# -- larder: end";

/// The files of a machine.
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn under(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a file of the machine is.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// A file as it is; a symbolic link is followed, so that what it leads to is changed.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn read(&self, absolute: &str) -> Result<Change, String> {
        let path = self.path(absolute);
        let path = fs::canonicalize(&path).unwrap_or(path);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o7777).unwrap_or(0o644);
                Ok(Change {
                    path,
                    before: Some(text.clone()),
                    after: Some(text),
                    mode,
                    mode_before: Some(mode),
                })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Change { path, before: None, after: None, mode: 0o644, mode_before: None })
            }
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// The names in a directory; none if there is no directory.
    pub(super) fn names(&self, absolute: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(absolute)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// A file as it is and as it is to be; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// Its permissions as they are to be.
    pub(super) mode: u32,
    /// Its permissions as they are now.
    pub(super) mode_before: Option<u32>,
}

impl Change {
    /// Whether anything changes.
    pub(super) fn changes_anything(&self) -> bool {
        let opened = self.after.is_some() && self.mode_before.is_some_and(|before| before != self.mode);
        self.before != self.after || opened
    }

    /// The text as it is to be.
    pub(super) fn text(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }

    /// As a difference, for people.
    pub(super) fn shown(&self) -> String {
        let (before, after) = (self.before.as_deref().unwrap_or_default(), self.text());
        let name = |there: bool| if there { self.path.display().to_string() } else { "/dev/null".to_owned() };
        let diff = TextDiff::from_lines(before, after);
        let (old, new) = (name(self.before.is_some()), name(self.after.is_some()));
        diff.unified_diff().header(&old, &new).to_string()
    }

    /// What was changed, for people.
    pub(super) fn outcome(&self) -> String {
        let what = match (&self.before, &self.after) {
            (None, _) => "written",
            (_, None) => "removed",
            _ => "changed",
        };
        format!("{what}: {}", self.path.display())
    }

    /// Writes the file: it is either as it was, or whole.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn apply(&self) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", self.path.display());
        let Some(text) = &self.after else {
            fs::remove_file(&self.path).map_err(failed)?;
            // A directory that is empty now was made for the file.
            let _ = self.path.parent().map(fs::remove_dir);
            return Ok(());
        };
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(failed)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory.join(format!(".{name}.larder-{:08x}", fastrand::u32(..)));
        let written = (|| {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&temporary)?;
            file.set_permissions(Permissions::from_mode(self.mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            #[allow(
                clippy::disallowed_methods,
                reason = "no file of the store: a runtime's own configuration"
            )]
            fs::rename(&temporary, &self.path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed)
    }

    /// Removes Larder's section; a file with nothing else in it is removed.
    pub(super) fn without_ours(mut self) -> Self {
        let Some(text) = &self.after else { return self };
        let Some((head, rest)) = text.split_once(BEGIN) else { return self };
        let tail = rest.split_once(END).map_or("", |(_, tail)| tail.trim_start_matches('\n'));
        let left = format!("{head}{tail}");
        self.after = (!left.trim().is_empty()).then_some(left);
        self
    }

    /// Puts `ours` before the first line for which `before` is true, in place of the section that is there.
    pub(super) fn with_ours(self, ours: &str, before: impl Fn(&str) -> bool) -> Self {
        let mut change = self.without_ours();
        let text = change.after.take().unwrap_or_default();
        let (mut head, mut tail, mut found) = (String::new(), String::new(), false);
        for line in text.split_inclusive('\n') {
            found |= before(line);
            if found { tail.push_str(line) } else { head.push_str(line) }
        }
        if !head.is_empty() && !head.ends_with('\n') {
            head.push('\n');
        }
        change.after = Some(format!("{head}{BEGIN}\n{}\n{END}\n{tail}", ours.trim_end()));
        change
    }

    /// Whether Larder's section is in it.
    pub(super) fn has_ours(&self) -> bool {
        self.text().contains(BEGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_and_comes_back_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::under(directory.path());
        for text in
            ["", "server = \"x\"\n", "a = 1\n\n[host.\"http://b\"]\n  c = [\"d\"]", "# only a comment\n[x]\n"]
        {
            let path = directory.path().join("etc/x.toml");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            let table = |line: &str| line.starts_with('[');
            let once = files.read("/etc/x.toml").unwrap().with_ours("[host.ours]\n", table);
            once.apply().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
            let written = fs::read_to_string(&path).unwrap();
            assert!(written.contains("[host.ours]"), "{written}");
            assert!(written.find("[host.ours]") < written.find("[host.\"http://b\"]").or(Some(usize::MAX)));
            let twice = files.read("/etc/x.toml").unwrap().with_ours("[host.ours]\n", table);
            assert!(!twice.changes_anything(), "{}", twice.shown());
            let undone = files.read("/etc/x.toml").unwrap().without_ours();
            undone.apply().unwrap();
            let left = fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(left.trim_end(), text.trim_end());
            assert_eq!(
                fs::read_dir(directory.path().join("etc")).map_or(0, Iterator::count),
                usize::from(!text.trim().is_empty()),
                "no leftovers"
            );
        }
    }
}
