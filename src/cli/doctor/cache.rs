//! The cache itself: is it running, does its port lead to it, is there room, what does it say about registries?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Findings, Level};
use crate::admin::Report;
use crate::admin::control::{self, AskReport, ControlError};
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::listener::Listen;
use crate::size;

const ABOUT: &str = "cache";
/// How long a port may take to answer.
const WAIT: Duration = Duration::from_secs(5);
/// How long the cache may take to answer about a registry.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

pub(super) fn look(settings: &Settings, findings: &mut Findings) {
    let report = super::super::run_async(control::send(&settings.admin.socket, &AskReport {}));
    let running = match report {
        Ok(Ok(report)) => {
            findings.ok(ABOUT, format!("version {} is running", report.numbers.version));
            of_report(&report, findings);
            true
        }
        Ok(Err(ControlError::Forbidden(at))) => {
            findings.add(
                Level::Warning,
                ABOUT,
                format!("{at} may not be opened"),
                "run it as root, or as the daemon's own user",
            );
            true
        }
        Ok(Err(error)) => {
            findings.add(
                Level::Problem,
                ABOUT,
                error.to_string(),
                "start it: systemctl start larder, or larder serve",
            );
            false
        }
        Err(_) => false,
    };
    for at in &settings.listen {
        if let Listen::Tcp(address) = at
            && port(*address, running, settings, findings)
            && running
        {
            registries(*address, settings, findings);
        }
    }
    clock(findings);
    credentials(settings, findings);
}

fn of_report(report: &Report, findings: &mut Findings) {
    let store = &report.numbers.store;
    if !store.caching {
        findings.add(
            Level::Problem,
            ABOUT,
            "the store's disk failed: what is fetched is not kept",
            "look at the log and the disk: journalctl -u larder",
        );
    }
    match (store.max_bytes, store.free_bytes) {
        (Some(max), _) if max < 1 << 30 => findings.add(
            Level::Warning,
            ABOUT,
            format!("the store may have {} only", size::shown(max)),
            "set [store] max_bytes, or put [store] path on a larger filesystem",
        ),
        (Some(max), Some(free)) => findings.ok(
            ABOUT,
            format!(
                "the store has {} of {}; {} are free",
                size::shown(store.bytes),
                size::shown(max),
                size::shown(free)
            ),
        ),
        _ => {}
    }
    for registry in &report.registries {
        for words in &registry.words {
            let level = if registry.outage_since.is_some() { Level::Warning } else { Level::Note };
            findings.add(level, ABOUT, format!("{}: {words}", registry.registry), "");
        }
    }
    for (image, error) in &report.prepull.failed {
        findings.add(Level::Warning, ABOUT, format!("pre-pull of {image}: {error}"), "");
    }
    if let Some(problem) = &report.prepull.problem {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("[prepull] cannot be used: {problem}"),
            "mend it, then: systemctl reload larder",
        );
    }
}

/// Whether the port that runtimes are pointed at leads to us.
fn port(address: SocketAddr, running: bool, settings: &Settings, findings: &mut Findings) -> bool {
    let asked = get(address, "/v2/", &gate(settings), WAIT);
    let ours = matches!(&asked, Ok(answer) if answer.to_lowercase().contains("service=\"larder\""));
    match asked {
        Ok(_) if ours => findings.ok(ABOUT, format!("{address} answers")),
        Ok(_) => findings.add(
            Level::Problem,
            ABOUT,
            format!(
                "another program answers on {address}, and gets the credentials that runtimes send there"
            ),
            format!("find it: ss -ltnp 'sport = :{}'; then hold the port with larder.socket", address.port()),
        ),
        Err(error) if running => findings.add(
            Level::Problem,
            ABOUT,
            format!("{address} does not answer: {error}"),
            "is [server] listen what the running daemon was started with?",
        ),
        Err(_) => {}
    }
    ours
}

/// Whether the registries can be asked, as a pod without credentials would: of something that none of them has.
fn registries(address: SocketAddr, settings: &Settings, findings: &mut Findings) {
    let mut hosts: Vec<String> = settings.upstream.registries.keys().map(ToString::to_string).collect();
    if hosts.is_empty() {
        hosts.push(settings.serve.default_registry.to_string());
    }
    hosts.sort();
    for host in hosts {
        let scope = "repository:larder-doctor/none:pull";
        let token = get(address, &format!("/token?ns={host}&scope={scope}"), "", WAIT).ok();
        let token =
            token.as_deref().and_then(|answer| answer.split("\"token\":\"").nth(1)?.split('"').next());
        let bearer = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let answer = get(
            address,
            &format!("/v2/{host}/larder-doctor/none/manifests/none"),
            &(bearer + &gate(settings)),
            ANSWER_WAIT,
        );
        match answer {
            Ok(answer) if answer.starts_with("HTTP/1.1 503") => {
                let why = answer.split("\"message\":\"").nth(1).and_then(|rest| rest.split('"').next());
                let why = why.unwrap_or("it cannot be asked");
                // One that nobody configured may be one that nobody uses.
                let level =
                    if settings.upstream.registries.is_empty() { Level::Warning } else { Level::Problem };
                findings.add(
                    level,
                    ABOUT,
                    format!("{host}: {why}"),
                    "look at the network, the proxy and DNS of this machine",
                );
            }
            Ok(_) => findings.ok(ABOUT, format!("{host} answers")),
            Err(error) => findings.add(Level::Problem, ABOUT, format!("{host}: {error}"), ""),
        }
    }
}

/// The header that the operator wants from every client, if any.
fn gate(settings: &Settings) -> String {
    let gate = settings.serve.gate.as_ref();
    gate.map_or_else(String::new, |gate| format!("{}: {}\r\n", gate.header, gate.value.reveal()))
}

/// One request, and all that was answered.
fn get(address: SocketAddr, path: &str, headers: &str, wait: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT)?;
    stream.set_read_timeout(Some(wait))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A clock that is behind makes certificates invalid that are not.
fn clock(findings: &mut Findings) {
    let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|found| found.modified());
    let now = crate::clock::Clock::system().now().to_system_time();
    if written.is_ok_and(|written| written > now + Duration::from_secs(86_400)) {
        findings.add(
            Level::Problem,
            ABOUT,
            "the clock is behind the date of this program",
            "set the time: timedatectl set-ntp true; certificates of registries are not accepted meanwhile",
        );
    }
}

fn credentials(settings: &Settings, findings: &mut Findings) {
    let keychain = Keys::passing()
        .map_err(|e| e.to_string())
        .and_then(|keys| Keychain::build(&settings.credentials, keys.into()).map_err(|e| e.to_string()));
    match keychain {
        Ok(keychain) => {
            let files: Vec<String> =
                keychain.files_in_use().iter().map(|f| f.display().to_string()).collect();
            let what = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
            findings.ok(ABOUT, format!("docker configs of the node that can be read from here: {what}"));
        }
        Err(error) => findings.add(Level::Problem, ABOUT, error, "mend the file that is named"),
    }
}
