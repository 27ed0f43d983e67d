//! One file as it is now and as it is to be, with what is needed to give its bytes back.
//!
//! What setup writes carries its own mark, and undoing removes what is marked. Where that would not give back the file
//! byte for byte, and with its permissions, the file as it was is kept beside it until it is given back. It counts only
//! as long as the file was not changed since: otherwise what is marked is removed, and the rest stays. What was
//! kept is then set aside under a name of its own, and that is said. A file without marks of which nothing is kept was
//! never set up, and stays as it is.

use similar::TextDiff;

use crate::cli::runtimes::machine::{Attributes, Machine};
use crate::reference::Digest;

/// How the first line of a kept file begins.
const KEPT: &str = "larder setup, kept for --undo:";

/// Files that are set aside beside one file at most; then the operator is to look at them.
const SET_ASIDE_MAX: usize = 32;

/// A file as it is and as it is to be; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Of the machine; links are followed, so that what they lead to is changed.
    pub(super) path: String,
    /// The path as it is named here, for people.
    shown: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    /// As they are to be.
    pub(super) mode: u32,
    attributes_before: Option<Attributes>,
    kept_before: Option<Kept>,
    kept_after: Option<Kept>,
    /// How many directories that lead to it are missing: setup makes them.
    missing: usize,
    /// The number under which what is kept can be set aside.
    free: usize,
    /// Whether nothing in the file says what setup wrote, so that it is kept in any case.
    pub(super) carries_no_mark: bool,
}

/// A file as it was before setup.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    /// Of what setup wrote.
    written: String,
    mode: u32,
    /// Where setup led.
    url: String,
    content: Option<String>,
    /// How many directories that lead to it setup has made; `None` where a version did not note it.
    made: Option<usize>,
}

/// What removes all that is marked from a text, and leaves a text without marks as it is; `None`: nothing is left.
pub(super) type Remove<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Change {
    /// A file as it is.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn read(machine: &Machine, path: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", machine.shown(path));
        let path = machine.target(path).map_err(failed)?;
        let before = match machine.text(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let attributes_before = before.as_ref().and_then(|_| machine.attributes(&path));
        let kept_before = machine.text(&kept_path(&path)).ok().and_then(|text| Kept::parse(&text));
        let free = (1..SET_ASIDE_MAX).find(|number| !machine.has(&set_aside_path(&path, *number)));
        Ok(Self {
            free: free.unwrap_or(SET_ASIDE_MAX),
            shown: machine.shown(&path),
            after: before.clone(),
            before,
            mode: attributes_before.map_or(0o644, |found| found.mode),
            attributes_before,
            kept_after: kept_before.clone(),
            missing: missing(machine, &path),
            kept_before,
            carries_no_mark: false,
            path,
        })
    }

    /// The file as it was before setup: as it was kept if it has not been changed since, else without what is marked.
    pub(super) fn original(&self, remove: Remove<'_>) -> Option<String> {
        match (self.kept(), &self.before) {
            (Some(kept), _) => kept.content.clone(),
            // An entry that leads here was written by hand.
            (None, text) if self.carries_no_mark && self.kept_before.is_none() => text.clone(),
            // A file without content is a file too.
            (None, Some(text)) if text.trim().is_empty() => Some(text.clone()),
            (None, Some(text)) => remove(text),
            (None, None) => None,
        }
    }

    /// Gives back the file as it was.
    pub(super) fn undone(mut self, remove: Remove<'_>) -> Self {
        self.mode = self.original_mode();
        self.after = self.original(remove);
        self.kept_after = None;
        self
    }

    /// Where an earlier setup led, if that is noted, even if others have changed the file since.
    pub(super) fn led_to(&self) -> Option<&str> {
        self.kept_before.as_ref().map(|kept| kept.url.as_str())
    }

    /// The file is to be `after`, made from what [`Change::original`] returned, and leads to `url`.
    pub(super) fn becomes(mut self, after: String, url: &str, remove: Remove<'_>) -> Self {
        let original = self.original(remove);
        let mode = self.original_mode();
        let same_mode = self.mode == mode || original.is_none();
        // Of a file that is made it is noted which directories were made for it.
        let comes_back =
            !self.carries_no_mark && same_mode && remove(&after) == original && self.before.is_some();
        let nothing_to_give_back = original.as_ref() == Some(&after) && self.mode == mode;
        let made = match &self.kept_before {
            Some(kept) => kept.made,
            None => Some(self.missing),
        };
        // Also after others have changed what setup made.
        let is_noted =
            original.is_none() && self.kept_before.as_ref().is_some_and(|kept| kept.content.is_none());
        self.kept_after = (is_noted || !comes_back && !nothing_to_give_back).then(|| Kept {
            written: digest(&after),
            mode,
            url: url.to_owned(),
            content: original,
            made,
        });
        self.after = Some(after);
        self
    }

    /// Its permissions without setup.
    pub(super) fn original_mode(&self) -> u32 {
        self.kept().map_or_else(|| self.attributes_before.map_or(0o644, |found| found.mode), |kept| kept.mode)
    }

    /// What is kept of it, if it is still as setup wrote it.
    fn kept(&self) -> Option<&Kept> {
        let now = digest(self.before.as_deref()?);
        self.kept_before.as_ref().filter(|kept| kept.written == now)
    }

    /// Whether an earlier setup has left something to give back, and the file was changed since.
    pub(super) fn is_changed_by_others(&self) -> bool {
        self.kept_before.is_some() && self.kept().is_none()
    }

    /// What was kept and would be lost, since the file was changed after it.
    fn superseded(&self) -> Option<&Kept> {
        let is_given_back = |kept: &Kept| kept.content.is_none() || kept.content == self.after;
        let is_kept_still =
            |kept: &Kept| self.kept_after.as_ref().is_some_and(|after| after.content == kept.content);
        let stale = self.kept_before.as_ref().filter(|_| self.is_changed_by_others());
        stale.filter(|kept| !is_given_back(kept) && !is_kept_still(kept))
    }

    /// Whether anything changes.
    pub(super) fn changes_anything(&self) -> bool {
        let opened =
            self.after.is_some() && self.attributes_before.is_some_and(|found| found.mode != self.mode);
        self.before != self.after || opened || self.kept_before != self.kept_after
    }

    /// The text as it is to be.
    pub(super) fn text(&self) -> &str {
        self.after.as_deref().unwrap_or_default()
    }

    /// As a difference, for people.
    pub(super) fn difference(&self, shown: Option<fn(&str) -> String>) -> String {
        let shown = |text: &str| shown.map_or_else(|| text.to_owned(), |shown| shown(text));
        let (before, after) = (shown(self.before.as_deref().unwrap_or_default()), shown(self.text()));
        let name = |there: bool| if there { self.shown.as_str() } else { "/dev/null" };
        let diff = TextDiff::from_lines(&before, &after);
        let (old, new) = (name(self.before.is_some()), name(self.after.is_some()));
        diff.unified_diff().header(old, new).to_string()
    }

    /// What was changed, for people.
    pub(super) fn outcome(&self) -> String {
        let what = match (&self.before, &self.after) {
            (_, None) => "removed",
            (None, _) => "written",
            _ => "changed",
        };
        let kept = match &self.kept_after {
            Some(Kept { content: Some(_), .. }) => {
                format!(" (as it was, it is kept beside it, as {})", name_of_kept(&self.path))
            }
            // That there was none.
            Some(_) | None => String::new(),
        };
        let aside = match self.superseded() {
            Some(_) => format!(
                " (it was changed after an earlier setup: as it was before that, it is in {} beside it)",
                name_of(&set_aside_path(&self.path, self.free))
            ),
            None => String::new(),
        };
        format!("{what}: {}{kept}{aside}", self.shown)
    }

    /// Writes the file: it is either as it was, or whole. What is kept of it is written before it and removed after it.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn apply(&self, machine: &Machine) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", self.shown);
        let beside = kept_path(&self.path);
        let owner = self.attributes_before.and_then(|found| found.owner);
        if let Some(kept) = self.superseded() {
            if self.free == SET_ASIDE_MAX {
                return Err(format!(
                    "{}: {SET_ASIDE_MAX} files as it was are beside it: remove some",
                    self.shown
                ));
            }
            let aside = set_aside_path(&self.path, self.free);
            machine.replace(&aside, &kept.text(), Attributes { mode: 0o600, owner }).map_err(failed)?;
        }
        if let Some(kept) = &self.kept_after {
            // It may hold what the file held, which other users must not read.
            machine.replace(&beside, &kept.text(), Attributes { mode: 0o600, owner }).map_err(failed)?;
        }
        match &self.after {
            Some(text) => {
                machine.replace(&self.path, text, Attributes { mode: self.mode, owner }).map_err(failed)?;
            }
            None => {
                // Before the file, whose directory is removed with it if nothing else is there.
                if self.kept_before.is_some() {
                    machine.remove(&beside).map_err(failed)?;
                }
                let is_there = self.before.is_some();
                if is_there {
                    machine.remove(&self.path).map_err(failed)?;
                }
                // An earlier version noted nothing, and made what is empty now.
                let made = self.kept_before.as_ref().and_then(|kept| kept.made);
                machine.remove_directories_above(&self.path, made.unwrap_or(usize::from(is_there)));
                return Ok(());
            }
        }
        if self.kept_before.is_some() && self.kept_after.is_none() {
            machine.remove(&beside).map_err(failed)?;
        }
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        let there = if self.content.is_some() { "file" } else { "none" };
        let content = self.content.as_deref().unwrap_or_default();
        let made = self.made.map_or(String::new(), |made| format!(" {made}"));
        format!("{KEPT} {} {:o} {there} {}{made}\n{content}", self.written, self.mode, self.url)
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, content) = text.strip_prefix(KEPT)?.split_once('\n')?;
        let mut words = head.split_whitespace();
        let written = words.next()?.to_owned();
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let content = (words.next()? == "file").then(|| content.to_owned());
        let url = words.next()?.to_owned();
        let made = words.next().and_then(|made| made.parse().ok());
        Some(Self { written, mode, url, content, made })
    }
}

/// How many of the directories that lead to a file are not there.
fn missing(machine: &Machine, path: &str) -> usize {
    let above = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
    above.filter(|directory| !machine.has_directory(directory)).count()
}

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

/// A hidden name, which no runtime reads.
fn name_of_kept(path: &str) -> String {
    format!(".{}.before-larder", name_of(path))
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn set_aside_path(path: &str, number: usize) -> String {
    format!("{}.{number}", kept_path(path))
}

fn kept_path(path: &str) -> String {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    format!("{directory}/{}", name_of_kept(path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Removes a marked line, and the empty lines at the end: bytes that the kept file has to give back.
    fn remove(text: &str) -> Option<String> {
        if !text.contains("MARK") {
            return Some(text.to_owned());
        }
        let left: Vec<&str> = text.lines().filter(|line| !line.contains("MARK")).collect();
        let left = left.join("\n").trim_end().to_owned();
        (!left.is_empty()).then(|| left + "\n")
    }

    fn wired(change: Change) -> Change {
        let text = format!("{}MARK\n", change.original(&remove).unwrap_or_default());
        change.becomes(text, "http://x", &remove)
    }

    #[test]
    fn a_file_comes_back_byte_for_byte_and_with_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        let path = directory.path().join("etc/x");
        for text in [None, Some(""), Some("a\n"), Some("a\n\n\n"), Some("a\r\n\n"), Some("MARK\n")] {
            fs::create_dir_all(directory.path().join("etc")).unwrap();
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            }
            let read = || Change::read(&machine, "/etc/x").unwrap();
            let mut once = read();
            once.mode = 0o600;
            let once = wired(once);
            once.apply(&machine).unwrap();
            if let Ok(kept) = fs::metadata(directory.path().join("etc/.x.before-larder")) {
                assert_eq!(
                    kept.permissions().mode() & 0o777,
                    0o600,
                    "a password in the file is read by others"
                );
            }
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let mut twice = read();
            twice.mode = 0o600;
            assert!(!wired(twice).changes_anything(), "{text:?}: twice is once");
            let undone = read().undone(&remove);
            undone.apply(&machine).unwrap();
            let expected = text.filter(|text| *text != "MARK\n");
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), expected, "{text:?}");
            if expected.is_some() {
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
                fs::remove_file(&path).unwrap();
            }
            assert_eq!(machine.names("/etc"), [""; 0], "{text:?}: nothing is left");
        }
    }

    #[test]
    fn what_others_have_changed_since_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let machine = Machine::under(directory.path());
        let path = directory.path().join("x");
        fs::write(&path, "a\n\n\n").unwrap();
        wired(Change::read(&machine, "/x").unwrap()).apply(&machine).unwrap();
        let written = fs::read_to_string(&path).unwrap();
        fs::write(&path, written + "b\n").unwrap();
        let undone = Change::read(&machine, "/x").unwrap().undone(&remove);
        undone.apply(&machine).unwrap();
        let left = fs::read_to_string(&path).unwrap();
        assert!(left.ends_with("b\n") && !left.contains("MARK"), "{left:?}");
        assert_eq!(machine.names("/"), [".x.before-larder.1", "x"]);
        assert!(
            machine.read("/.x.before-larder.1").ends_with("\na\n\n\n"),
            "as it was before the first setup"
        );
        assert!(undone.outcome().contains(".x.before-larder.1"), "{}", undone.outcome());
        fs::write(&path, "a\n\n\n").unwrap();
        wired(Change::read(&machine, "/x").unwrap()).apply(&machine).unwrap();
        fs::write(&path, machine.read("/x") + "c\n\n\n").unwrap();
        wired(Change::read(&machine, "/x").unwrap()).apply(&machine).unwrap();
        assert!(
            machine.has("/.x.before-larder.2"),
            "a second one overwrites nothing: {:?}",
            machine.names("/")
        );
    }
}
