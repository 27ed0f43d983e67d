//! The installed unit `larder.service`, as systemd has it: another user, another environment and other directories than
//! a shell's.
//!
//! Only root asks for it: everybody else is not the daemon and cannot start it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where systemd puts what the unit's `LoadCredential=` names, while the unit runs and no longer.
pub(in crate::cli) const CREDENTIALS: &str = "/run/credentials/larder.service";
const UNIT: &str = "larder.service";
const PROPERTIES: &str = "--property=LoadState,User,DynamicUser,Environment,EnvironmentFiles,ProtectHome,PrivateTmp,\
                          BindPaths,BindReadOnlyPaths";

/// What `ProtectHome=` and `PrivateTmp=` hide.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];
/// Rights of others to a file.
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;

/// What the daemon has that the unit starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Unit {
    /// Whether it runs as another user than root.
    pub(in crate::cli) has_user: bool,
    /// The variables of `Environment=`.
    pub(in crate::cli) variables: BTreeMap<String, String>,
    /// The files of `EnvironmentFile=`, whose variables are not among those.
    pub(in crate::cli) files: Vec<String>,
    /// Directories that it does not see as they are.
    pub(in crate::cli) hidden: Vec<Hidden>,
    /// Files and directories that are bound into what it sees.
    pub(in crate::cli) bound: Vec<PathBuf>,
}

/// A directory that the daemon does not see as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Hidden {
    pub(in crate::cli) directory: &'static str,
    /// The setting that hides it.
    pub(in crate::cli) setting: &'static str,
    /// Whether what is bound below it is seen: below what `ProtectHome=yes` hides, systemd binds nothing.
    pub(in crate::cli) admits_bindings: bool,
}

impl Unit {
    /// Why its daemon does not read a file that root may read; `None` where nothing is known to keep it from that.
    pub(in crate::cli) fn keeps_from(&self, file: &Path) -> Option<String> {
        // What is not there is a mistake of its own.
        fs::symlink_metadata(file).ok()?;
        if let Some(Hidden { directory, setting, admits_bindings }) = self.hides(file) {
            let or_bind = if admits_bindings { ", or bind it in a drop-in (BindReadOnlyPaths=)" } else { "" };
            return Some(format!(
                "{}: larder.service does not see {directory} ({setting}): put the file elsewhere, such as below \
                 /etc/larder{or_bind}",
                file.display()
            ));
        }
        let closed = for_root_alone(file, READ, self.bound_to(file)).filter(|_| self.has_user)?;
        Some(format!(
            "{}: only root may read it{}, and larder.service runs the daemon as a user of its own: chmod o+r, or for a \
             secret LoadCredential= (docs/reference-deployment.md)",
            file.display(),
            because(closed, file)
        ))
    }

    /// What hides a file.
    fn hides(&self, file: &Path) -> Option<Hidden> {
        let is_bound = self.bound.iter().any(|bound| bound == file);
        // Of a link that is bound itself, the daemon sees what it leads to.
        let real = if is_bound { None } else { fs::canonicalize(file).ok() };
        let is_in = |path: &Path, hidden: &Hidden| {
            path.starts_with(hidden.directory) && !(hidden.admits_bindings && self.bound_to(path).is_some())
        };
        let hides =
            |hidden: &Hidden| is_in(file, hidden) || real.as_ref().is_some_and(|real| is_in(real, hidden));
        self.hidden.iter().copied().find(hides)
    }

    /// The path by whose binding the file is seen. The directories above it are systemd's own then.
    fn bound_to(&self, file: &Path) -> Option<&Path> {
        self.bound.iter().map(PathBuf::as_path).find(|bound| file.starts_with(bound))
    }

    /// Why its daemon may not connect to a runtime's socket that root may use.
    pub(in crate::cli) fn keeps_from_socket(&self, socket: &Path) -> Option<String> {
        let closed = for_root_alone(socket, WRITE, None).filter(|_| self.has_user)?;
        Some(format!(
            "[kubernetes] runtime_socket: only root may use {}{}, and larder.service runs the daemon as a user of its own: \
             docs/pods.md, \"With the systemd unit\"",
            socket.display(),
            because(closed, socket)
        ))
    }
}

/// Which directory it is, where it is not the file itself.
fn because(closed: &Path, file: &Path) -> String {
    if closed == file { String::new() } else { format!(", because of {}", closed.display()) }
}

/// The unit, where one is installed and this process is root. Blocks until systemd has answered.
pub(in crate::cli) fn installed() -> Option<Unit> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let shown = Command::new("systemctl").args(["show", UNIT, PROPERTIES]).output().ok()?;
    understood(&String::from_utf8_lossy(&shown.stdout))
}

/// From what `systemctl show` prints; `None` where there is no such unit.
fn understood(shown: &str) -> Option<Unit> {
    let (mut unit, mut loaded) = (Unit::default(), false);
    for (property, value) in shown.lines().filter_map(|line| line.split_once('=')) {
        match property {
            "LoadState" => loaded = value == "loaded",
            "User" => unit.has_user |= !matches!(value, "" | "root" | "0"),
            "DynamicUser" => unit.has_user |= value == "yes",
            "ProtectHome" if matches!(value, "yes" | "tmpfs") => {
                let (setting, admits_bindings) = ("ProtectHome=", value == "tmpfs");
                unit.hidden.extend(HOMES.map(|directory| Hidden { directory, setting, admits_bindings }));
            }
            "BindPaths" | "BindReadOnlyPaths" => {
                unit.bound.extend(words(value).iter().filter_map(|binding| destination(binding)));
            }
            "PrivateTmp" if value != "no" => {
                let (setting, admits_bindings) = ("PrivateTmp=", true);
                unit.hidden.extend(TEMPORARY.map(|directory| Hidden { directory, setting, admits_bindings }));
            }
            "Environment" => {
                let all = words(value).into_iter();
                unit.variables.extend(all.filter_map(|word| {
                    let (name, value) = word.split_once('=')?;
                    Some((name.to_owned(), value.to_owned()))
                }));
            }
            "EnvironmentFiles" => unit.files.push(value.split(" (").next().unwrap_or_default().to_owned()),
            _ => {}
        }
    }
    loaded.then_some(unit)
}

/// Where a binding is seen: `SOURCE:DESTINATION:rbind`, as `systemctl show` has it.
fn destination(binding: &str) -> Option<PathBuf> {
    binding.split(':').nth(1).filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The words of a line, of which those with spaces are quoted: `"a b"` or `$'a b'`, with backslashes before what would
/// end them.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut end) = (Vec::new(), String::new(), None);
    let mut rest = line.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\\' => word.extend(rest.next()),
            '$' if end.is_none() && rest.peek() == Some(&'\'') => {}
            '"' | '\'' if end.is_none() => end = Some(next),
            quote if Some(quote) == end => end = None,
            ' ' if end.is_none() => all.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    all.push(word);
    all.retain(|word| !word.is_empty());
    all
}

/// What keeps every user but root from this right to a file, itself or a directory above it that is `below` this one,
/// where one is given; `None` where nothing does, or the file is not there.
fn for_root_alone<'a>(file: &'a Path, right: u32, below: Option<&Path>) -> Option<&'a Path> {
    fs::metadata(file).ok()?;
    let directories: Vec<&Path> =
        file.ancestors().skip(1).filter(|of| below.is_none_or(|below| of.starts_with(below))).collect();
    let is_closed = |path: &Path, right: u32| fs::metadata(path).is_ok_and(|found| is_roots(&found, right));
    let closed = directories.into_iter().rev().find(|directory| is_closed(directory, 0o1));
    closed.or_else(|| is_closed(file, right).then_some(file))
}

/// Whether only root has this right. What belongs to another user or group is meant for it.
fn is_roots(found: &Metadata, right: u32) -> bool {
    let has = |shift: u32| found.mode() & (right << shift) != 0;
    !(has(0) || found.gid() != 0 && has(3) || found.uid() != 0 && has(6))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_the_unit_has_and_a_shell_has_not_is_known() {
        let shown = "LoadState=loaded\nUser=larder\nDynamicUser=yes\n\
                     Environment=HTTPS_PROXY=http://p:3129 \"NO_PROXY=.a, \\\"b\\\"\" $'LARDER_X=c d'\n\
                     EnvironmentFiles=/etc/default/larder (ignore_errors=yes)\n";
        let unit = understood(shown).unwrap();
        assert!(unit.has_user);
        let variables: Vec<_> =
            unit.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(variables, ["HTTPS_PROXY=http://p:3129", "LARDER_X=c d", "NO_PROXY=.a, \"b\""]);
        assert_eq!(unit.files, ["/etc/default/larder"]);
        assert!(unit.hidden.is_empty());
        assert_eq!(understood("LoadState=not-found\nUser=\nDynamicUser=no\n"), None);
        assert_eq!(understood(""), None, "no systemd runs");
        let of_root = understood("LoadState=loaded\nUser=root\nDynamicUser=no\nEnvironment=\n").unwrap();
        assert_eq!(of_root, Unit::default());
    }

    #[test]
    fn a_file_that_the_unit_does_not_see_is_told_from_one_that_it_sees() {
        let unit = understood("LoadState=loaded\nUser=\nProtectHome=yes\nPrivateTmp=yes\n").unwrap();
        for hidden in ["/home/ops/corp.pem", "/root/corp.pem", "/tmp/corp.pem", "/var/tmp/d/corp.pem"] {
            let Hidden { directory, setting, .. } = unit.hides(Path::new(hidden)).unwrap();
            assert!(hidden.starts_with(directory) && setting.ends_with('='), "{directory} {setting}");
        }
        for seen in ["/etc/larder/corp.pem", "/homely/corp.pem", "/tmpfs/corp.pem"] {
            assert_eq!(unit.hides(Path::new(seen)), None);
        }
        // A link that leads there leads nowhere for the daemon.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let link = Path::new("/dev/shm").join(format!("larder-{}", std::process::id()));
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let said = unit.keeps_from(&link);
        fs::remove_file(&link).unwrap();
        assert!(said.unwrap().contains("does not see /var/tmp"));
        let open = understood("LoadState=loaded\nProtectHome=read-only\nPrivateTmp=no\n").unwrap();
        assert_eq!(open, Unit::default(), "what is read-only is seen");
    }

    #[test]
    fn a_file_that_was_bound_as_the_warning_says_is_warned_of_no_more() {
        let unit = |home: &str| {
            let bindings = "BindReadOnlyPaths=/home/ops/corp.pem:/home/ops/corp.pem:rbind /tmp/c:/tmp/c:rbind\n\
                            BindPaths=/srv/a:/root/a:norbind -/srv/b:/home/b:rbind\n";
            understood(&format!("LoadState=loaded\nProtectHome={home}\nPrivateTmp=yes\n{bindings}")).unwrap()
        };
        let (tmpfs, yes) = (unit("tmpfs"), unit("yes"));
        for (file, is_hidden) in [
            ("/home/ops/corp.pem", false),
            ("/home/ops/corp.pem2", true),
            ("/root/a/corp.pem", false),
            ("/home/b/corp.pem", false),
            ("/root/corp.pem", true),
            ("/tmp/c", false),
            ("/tmp/d", true),
        ] {
            let file = Path::new(file);
            assert_eq!(tmpfs.hides(file).is_some(), is_hidden, "{}", file.display());
            // Below these directories systemd binds nothing then.
            let is_hidden = is_hidden || !file.starts_with("/tmp");
            assert_eq!(yes.hides(file).is_some(), is_hidden, "{}", file.display());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_left_to_the_mistake_that_says_so() {
        let unit = understood("LoadState=loaded\nUser=larder\nPrivateTmp=yes\n").unwrap();
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = directory.path().join("corp.pem");
        assert_eq!(unit.keeps_from(&file), None);
        fs::write(&file, "").unwrap();
        assert!(unit.keeps_from(&file).unwrap().contains("does not see /var/tmp (PrivateTmp=)"));
    }

    #[test]
    fn a_runtimes_socket_that_is_roots_alone_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let socket = directory.path().join("containerd.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let is_root = fs::metadata(&socket).unwrap().uid() == 0;
        let with_user = Unit { has_user: true, ..Unit::default() };
        for (mode, is_told) in [(0o660, true), (0o664, true), (0o666, false)] {
            fs::set_permissions(&socket, Permissions::from_mode(mode)).unwrap();
            assert_eq!(with_user.keeps_from_socket(&socket).is_some(), is_told && is_root, "{mode:o}");
            assert_eq!(Unit::default().keeps_from_socket(&socket), None);
        }
    }

    #[test]
    fn a_file_that_roots_umask_has_closed_is_told_from_one_that_the_daemon_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("larder.toml.d");
        fs::create_dir(&below).unwrap();
        let file = below.join("50.toml");
        fs::write(&file, "").unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let is_root = fs::metadata(&file).unwrap().uid() == 0;
        for (of_root, of_directory, mode, closed) in [
            (0o755, 0o755, 0o644, None),
            (0o755, 0o755, 0o600, Some(file.as_path())),
            (0o755, 0o700, 0o644, Some(below.as_path())),
        ] {
            open(directory.path(), of_root);
            open(&below, of_directory);
            open(&file, mode);
            // What belongs to another user than root is that user's to read.
            assert_eq!(
                for_root_alone(&file, READ, None),
                closed.filter(|_| is_root),
                "{of_directory:o} {mode:o}"
            );
        }
        assert_eq!(for_root_alone(&below.join("absent"), READ, None), None);
    }
}
