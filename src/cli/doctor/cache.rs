//! The cache itself: is it running, is there room, what does it report about registries, can its files be read?

use std::time::Duration;

use super::finding::{CACHE as ABOUT, Findings, Level};
use super::port;
use crate::admin::control::{self, ControlError, GetReport};
use crate::admin::{DiskState, StatusReport};
use crate::cli::run_async::run_async;
use crate::config::Settings;
use crate::credentials::{Keychain, Keys};
use crate::listener::Listen;
use crate::support::clock::Clock;
use crate::support::size;

pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    let report = run_async(control::send(&settings.admin.socket, &GetReport {}));
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
                format!("{} may not be opened", at.display()),
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
            && port::check(*address, running, settings, findings)
            && running
        {
            port::check_registries(*address, settings, findings);
        }
    }
    clock(findings);
    credentials(settings, findings);
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
        for message in &registry.messages {
            let level = if registry.outage_since.is_some() { Level::Warning } else { Level::Note };
            findings.add(level, ABOUT, format!("{}: {message}", registry.registry), "");
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
            "correct it, then: systemctl reload larder",
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

fn credentials(settings: &Settings, findings: &mut Findings) {
    let keychain = Keys::ephemeral()
        .map_err(|e| e.to_string())
        .and_then(|keys| Keychain::build(&settings.credentials, keys.into()).map_err(|e| e.to_string()));
    match keychain {
        Ok(keychain) => {
            let files: Vec<String> =
                keychain.files_in_use().iter().map(|f| f.display().to_string()).collect();
            let what = if files.is_empty() { "none".to_owned() } else { files.join(", ") };
            findings.ok(ABOUT, format!("docker configs of the node that can be read from here: {what}"));
        }
        Err(error) => findings.add(Level::Problem, ABOUT, error, "correct the file that is named"),
    }
}
