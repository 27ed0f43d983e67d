//! `larder.socket`: which addresses systemd holds for the daemon, from boot and across restarts, as long as the daemon
//! can start.
//!
//! Read from the unit and its drop-ins as systemd reads them: a drop-in of `/etc` stands in place of one of the same
//! name elsewhere, they are read in the order of their names, and an empty `ListenStream=` forgets what was there
//! before.

use crate::cli::runtimes::machine::Machine;
use crate::listener::Listen;

const UNIT: &str = "larder.socket";
/// Where units are, the first that has a file counts.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// An address that the unit holds, and the file that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Held {
    pub(in crate::cli) at: Listen,
    pub(in crate::cli) file: String,
}

/// The addresses that systemd holds; none where the unit is not enabled.
pub(in crate::cli) fn held(machine: &Machine) -> Vec<Held> {
    let enabled = ["sockets.target.wants", "sockets.target.requires"]
        .iter()
        .any(|directory| machine.has(&format!("/etc/systemd/system/{directory}/{UNIT}")));
    if enabled { declared(machine) } else { Vec::new() }
}

/// The addresses that the unit names.
fn declared(machine: &Machine) -> Vec<Held> {
    let unit =
        DIRECTORIES.iter().map(|directory| format!("{directory}/{UNIT}")).find(|path| machine.has(path));
    let mut drop_ins: Vec<(String, String)> = Vec::new();
    for directory in DIRECTORIES {
        let directory = format!("{directory}/{UNIT}.d");
        for name in machine.names(&directory).into_iter().filter(|name| name.ends_with(".conf")) {
            if drop_ins.iter().all(|(other, _)| *other != name) {
                drop_ins.push((name.clone(), format!("{directory}/{name}")));
            }
        }
    }
    drop_ins.sort();
    let mut held = Vec::new();
    for file in unit.into_iter().chain(drop_ins.into_iter().map(|(_, path)| path)) {
        read(&file, &machine.read(&file), &mut held);
    }
    held
}

fn read(file: &str, text: &str, held: &mut Vec<Held>) {
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let Some(("ListenStream", value)) =
            line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
        else {
            continue;
        };
        if section != "[Socket]" {
            continue;
        }
        if value.is_empty() {
            held.clear();
        }
        held.extend(address(value).map(|at| Held { at, file: file.to_owned() }));
    }
}

/// `127.0.0.1:5050`, `[::1]:5050`, `/run/x.sock`, and a port alone, which means every address.
fn address(value: &str) -> Option<Listen> {
    if value.starts_with('/') {
        return Some(Listen::Unix(value.into()));
    }
    let port =
        value.parse::<u16>().ok().map(|port| Listen::Tcp((std::net::Ipv6Addr::UNSPECIFIED, port).into()));
    port.or_else(|| value.parse().ok().map(Listen::Tcp))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_drop_in_moves_the_socket_as_systemd_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let machine = Machine::under(directory.path());
        let at = || held(&machine).into_iter().map(|held| held.at.to_string()).collect::<Vec<_>>();
        write("lib/systemd/system/larder.socket", include_str!("../../../systemd/larder.socket"));
        assert_eq!(at(), [""; 0], "it is not enabled");
        write("etc/systemd/system/sockets.target.wants/larder.socket", "");
        assert_eq!(at(), ["http://127.0.0.1:5050"]);
        write(
            "etc/systemd/system/larder.socket.d/b.conf",
            "[Socket]\nListenStream=\nListenStream = 127.0.0.1:505\nListenStream=/run/r.sock\n",
        );
        write("lib/systemd/system/larder.socket.d/b.conf", "[Socket]\nListenStream=127.0.0.1:1\n");
        write(
            "usr/lib/systemd/system/larder.socket.d/a.conf",
            "[Socket]\nListenStream=7070\n[Unit]\nListenStream=2\n",
        );
        assert_eq!(at(), ["http://127.0.0.1:505", "unix:/run/r.sock"]);
        assert_eq!(held(&machine)[0].file, "/etc/systemd/system/larder.socket.d/b.conf");
    }
}
