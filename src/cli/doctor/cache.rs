//! The cache itself: is it running, is there room, what does it report about registries, can its files be read?

use std::net::SocketAddr;
use std::time::Duration;

use super::finding::{CACHE as ABOUT, Findings, Level};
use super::port;
use crate::admin::control::{self, ControlError, GetReport};
use crate::admin::{DiskState, StatusReport};
use crate::cli::daemon::{InEffect, NoAnswer};
use crate::cli::run_async::run_async;
use crate::cli::runtimes::machine::Machine;
use crate::cli::units::socket_unit::{self, Held};
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::listener::Listen;
use crate::support::clock::Clock;
use crate::support::size;

/// Where no daemon answers. Of a DaemonSet, kubelet starts it.
const START: &str = "start it: systemctl start larder; where it does not start, its log says why: journalctl -u larder, or kubectl logs";
/// Where a daemon is there and does not answer.
const HANGS: &str = "look at its log (journalctl -u larder, or kubectl logs) and at the disk of its store; then systemctl restart larder, or replace the pod";
/// Where a registry or an image of the list fails.
pub(super) const EXPLAIN: &str =
    "larder explain IMAGE shows how a pull of it goes and what stands in its way";

/// What was seen of a cache that runs.
pub(super) struct Seen {
    /// Where it answers.
    pub(super) ours: Vec<SocketAddr>,
    /// What the daemon reports; `None` where it could not be asked.
    pub(super) report: Option<StatusReport>,
    /// Whether it answers nothing at all.
    pub(super) is_hanging: bool,
}

/// Looks at the cache without asking anything beyond this machine.
pub(super) fn check(machine: &Machine, asked: &InEffect, findings: &mut Findings) -> Seen {
    let settings = &asked.settings;
    let mut reported = None;
    // A daemon that hangs is asked nothing more: each question would have to be waited for.
    if let Err(NoAnswer { why, is_hanging: true }) = &asked.daemon {
        findings.add(Level::Problem, ABOUT, why.clone(), HANGS);
        credentials(settings, findings);
        return Seen { ours: Vec::new(), report: None, is_hanging: true };
    }
    let running = match run_async(async || control::send(&settings.admin.socket, &GetReport {}).await) {
        Ok(Ok(report)) => {
            findings.ok(ABOUT, format!("version {} is running", report.numbers.version));
            of_report(&report, findings);
            reported = Some(report);
            true
        }
        Ok(Err(ControlError::Forbidden(at))) => {
            findings.add(
                Level::Warning,
                ABOUT,
                format!("{} may not be opened", at.display()),
                "run it as root, or as the daemon's own user",
            );
            true
        }
        Ok(Err(error)) if error.is_of_a_hanging_daemon() => {
            findings.add(Level::Problem, ABOUT, error.to_string(), HANGS);
            true
        }
        Ok(Err(error)) => {
            findings.add(Level::Problem, ABOUT, error.to_string(), START);
            false
        }
        Err(_) => false,
    };
    let mut ours = asked.reached_at();
    ours.retain(|address| port::check(*address, running, settings, findings));
    pending(asked, findings);
    socket(machine, asked, findings);
    not_listened_on(asked, findings);
    clock(findings);
    credentials(settings, findings);
    Seen { ours: if running { ours } else { Vec::new() }, report: reported, is_hanging: false }
}

/// What the files say and the daemon does not do yet.
fn pending(asked: &InEffect, findings: &mut Findings) {
    for key in asked.daemon.iter().flat_map(|said| &said.from_the_next_start) {
        findings.add(
            Level::Warning,
            ABOUT,
            format!("{key} has been changed since the daemon started, and counts from the next start"),
            "systemctl restart larder, or replace the pod",
        );
    }
}

fn of_report(report: &StatusReport, findings: &mut Findings) {
    let store = &report.numbers.store;
    let state = DiskState::of(store);
    match state {
        DiskState::AsConfigured | DiskState::CrowdedOut { .. } => {
            if let (Some(max), Some(free)) = (store.max_bytes, store.free_bytes) {
                let (bytes, max, free) = (size::shown(store.bytes), size::shown(max), size::shown(free));
                findings.ok(ABOUT, format!("the store has {bytes} of {max}; {free} are free"));
            }
        }
        _ => {
            let level = if state.is_problem() { Level::Problem } else { Level::Warning };
            findings.add(level, ABOUT, format!("the store: {}", state.sentence()), state.remedy());
        }
    }
    for registry in &report.registries {
        if registry.messages.is_empty() {
            continue;
        }
        let level = if registry.outage_since.is_some() { Level::Warning } else { Level::Note };
        let remedy = if level == Level::Warning { EXPLAIN } else { "" };
        findings.add_of_registry(level, &registry.registry, &registry.messages.join("; "), remedy);
    }
    for (image, error) in &report.prepull.failed {
        findings.add(Level::Warning, ABOUT, format!("pre-pull of {image}: {error}"), EXPLAIN);
    }
    if let Some(problem) = &report.prepull.problem {
        findings.add(
            Level::Problem,
            ABOUT,
            format!("[prepull] cannot be used: {problem}"),
            "correct it, then: systemctl reload larder",
        );
    }
}

/// What systemd holds for the daemon, and whether it is where the daemon listens.
fn socket(machine: &Machine, asked: &InEffect, findings: &mut Findings) {
    for Held { at, file } in socket_unit::held(machine) {
        match &asked.daemon {
            Ok(_) if !asked.listening().contains(&at) => findings.add(
                Level::Problem,
                ABOUT,
                format!("larder.socket holds {at} ({file}), and the running daemon was not given it"),
                "start the daemon by its unit: systemctl restart larder.socket larder",
            ),
            Ok(_) => findings.ok(ABOUT, format!("larder.socket holds {at} ({file})")),
            Err(_) => findings.add(
                Level::Note,
                ABOUT,
                format!("larder.socket is for {at} ({file}), and is closed while the daemon cannot start"),
                "systemctl status larder.socket shows whether it is open",
            ),
        }
    }
}

/// Addresses that are configured and that the running daemon could not take, since the socket that systemd handed to it
/// has their port. Clients of other machines are refused there, go elsewhere, and all seems well.
fn not_listened_on(asked: &InEffect, findings: &mut Findings) {
    if asked.daemon.is_err() {
        return;
    }
    let listening = asked.listening();
    for at in asked.settings.listen.iter().filter(|at| !listening.iter().any(|own| own.covers(at))) {
        let (Listen::Tcp(at), Some(Listen::Tcp(own))) = (at, listening.iter().find(|own| own.blocks(at)))
        else {
            continue;
        };
        findings.add(
            Level::Problem,
            ABOUT,
            format!("[server] listen names {at}, and the daemon was handed a socket that has its port at {own} alone: it does not listen on other addresses"),
            format!("systemctl edit larder.socket: [Socket] with the lines ListenStream=, ListenStream={at} and BindToDevice=; then systemctl restart larder.socket larder"),
        );
    }
}

/// A clock that is behind makes certificates invalid that are not.
fn clock(findings: &mut Findings) {
    let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|found| found.modified());
    let now = Clock::system().now().to_system_time();
    if written.is_ok_and(|written| written > now + Duration::from_secs(86_400)) {
        findings.add(
            Level::Problem,
            ABOUT,
            "the clock is behind the date of this program",
            "set the time: timedatectl set-ntp true; certificates of registries are not accepted meanwhile",
        );
    }
}

/// The node's docker configs and the plugins, as this command finds them: it may be root, which the daemon is not.
fn credentials(settings: &Settings, findings: &mut Findings) {
    let keychain = Keys::ephemeral()
        .map_err(|e| e.to_string())
        .and_then(|keys| Keychain::build(&settings.credentials, keys.into()).map_err(|e| e.to_string()));
    let keychain = match keychain {
        Ok(keychain) => keychain,
        Err(error) => return findings.add(Level::Problem, ABOUT, error, "correct the file that is named"),
    };
    for problem in keychain.problems() {
        findings.add(Level::Problem, ABOUT, problem, "correct the file that is named");
    }
    let files: Vec<String> = keychain.files_in_use().iter().map(|f| f.display().to_string()).collect();
    let what = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
    findings.ok(ABOUT, format!("docker configs of the node that can be read from here: {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::control::EffectiveConfig;
    use crate::config::{self, Environment};

    #[test]
    fn a_daemon_that_hangs_is_not_to_be_started_and_is_not_asked_again_and_again() {
        let environment = Environment { home: Some("/h".into()), ..Environment::default() };
        let settings = config::resolve("", &environment).unwrap();
        let no_answer = NoAnswer::from(ControlError::TimedOut(Duration::from_secs(20)));
        let asked = InEffect { settings, daemon: Err(no_answer), from: String::new(), mistakes: None };
        let mut findings = Findings::default();
        let root = tempfile::tempdir().unwrap();
        assert!(check(&Machine::under(root.path()), &asked, &mut findings).is_hanging);
        let problems: Vec<_> = findings.0.iter().filter(|found| found.level == Level::Problem).collect();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.what.contains("hangs") && problem.remedy.contains("restart"), "{problem:?}");
    }

    #[test]
    fn a_cache_for_other_machines_that_listens_on_loopback_alone_is_seen() {
        for (listen, listening, expected) in [
            ("0.0.0.0:5050", "127.0.0.1:5050", Some("ListenStream=0.0.0.0:5050")),
            ("[::]:5050", "127.0.0.1:5050", Some("ListenStream=[::]:5050")),
            ("0.0.0.0:5050", "0.0.0.0:5050", None),
            ("127.0.0.1:5050", "0.0.0.0:5050", None),
            // What systemd holds stands in place of the default.
            ("127.0.0.1:5050", "127.0.0.1:505", None),
            ("0.0.0.0:0", "0.0.0.0:41234", None),
        ] {
            let text = format!("[server]\nlisten = [\"{listen}\"]\n");
            let environment = Environment { home: Some("/h".into()), ..Environment::default() };
            let settings = config::resolve(&text, &environment).unwrap();
            let said = EffectiveConfig { listening: vec![listening.to_owned()], ..Default::default() };
            let asked = InEffect { settings, daemon: Ok(said), from: String::new(), mistakes: None };
            let mut findings = Findings::default();
            not_listened_on(&asked, &mut findings);
            let remedy = findings.0.first().map(|found| (found.level, found.remedy.as_str()));
            assert_eq!(remedy.is_some(), expected.is_some(), "{listen} {listening}: {:?}", findings.0);
            if let (Some((level, remedy)), Some(expected)) = (remedy, expected) {
                assert!(level == Level::Problem && remedy.contains(expected), "{remedy}");
            }
        }
    }
}
