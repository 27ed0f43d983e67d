//! The shared tier: a real round trip, by the daemon, whose user, credential and proxy are the ones that count. Where
//! no daemon runs, from here.

use super::finding::{Findings, Level};
use crate::admin::control::{self, ControlError, ProbeTier};
use crate::app;
use crate::cli::run_async::run_async;
use crate::cli::tier::as_root;
use crate::config::Settings;
use crate::tier::{Config, ErrorKind, ProbeFailure, Probed};

/// What findings about the shared tier are about.
const ABOUT: &str = "tier";

pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    let Some(config) = &settings.tier else { return };
    let at = &config.location;
    match run_async(async || control::send(&settings.admin.socket, &ProbeTier {}).await) {
        Ok(Ok(probed)) => of_round_trip(config, probed, findings),
        Ok(Err(ControlError::NoDaemon(_))) => from_here(settings, config, findings),
        Ok(Err(error)) => findings.add(
            Level::Warning,
            ABOUT,
            format!("{at}: the daemon could not be asked to try it: {error}"),
            "run this as root; where the daemon is older than this program: systemctl restart larder, or replace the pod",
        ),
        Err(_) => {}
    }
}

/// By this command itself, which has another environment than the daemon and may have another user.
fn from_here(settings: &Settings, config: &Config, findings: &mut Findings) {
    let at = &config.location;
    let user = rustix::process::geteuid().as_raw();
    if let Err(why) = as_root(&config.location, user) {
        let what = format!("{at} is not tried, since no daemon answers and {why}");
        return findings.add(Level::Note, ABOUT, what, "start the daemon, which is then asked to try it");
    }
    let what = format!("no daemon answers: {at} is tried by user {user}, with the environment of this shell");
    findings.add(Level::Note, ABOUT, what, "");
    // Its clients need the runtime that they are used on.
    let probed =
        run_async(async || Ok::<_, String>(app::tier(settings).map_err(|e| e.to_string())?.probe().await));
    match probed {
        Err(_) => {}
        Ok(Err(error)) => findings.add(Level::Problem, ABOUT, error, "correct [tier]"),
        Ok(Ok(probed)) => of_round_trip(config, probed, findings),
    }
}

fn of_round_trip(config: &Config, probed: Result<Probed, ProbeFailure>, findings: &mut Findings) {
    let at = &config.location;
    let Probed { credential, took, creates_once } = match probed {
        Ok(probed) => probed,
        Err(ProbeFailure { step, error }) => {
            let what = format!("{at}: an object could not be used ({step}): {error}");
            return findings.add(Level::Problem, ABOUT, what, remedy(error.kind));
        }
    };
    if let Some(waited) = credential {
        findings.ok(ABOUT, format!("{at}: its credential was here within {waited:.0?}"));
    }
    findings.ok(
        ABOUT,
        if config.write {
            format!("{at}: an object was written and read within {took:.0?}")
        } else {
            format!("{at}: it answers within {took:.0?}")
        },
    );
    if took > config.head_timeout {
        let what = format!("{at}: that is longer than header_timeout ({:.0?})", config.head_timeout);
        let remedy =
            "pulls will leave the tier alone: raise [tier] header_timeout, or use a store that is nearer";
        findings.add(Level::Warning, ABOUT, what, remedy);
    }
    if !creates_once {
        let what = format!("{at}: objects cannot be created only if there are none");
        let remedy = "nodes that want a layer at the same time each download it: use a store with conditional writes (If-None-Match)";
        findings.add(Level::Warning, ABOUT, what, remedy);
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NoCredential => {
            "set [tier] key_file, or give this machine or pod an identity that its platform knows; docs/tier.md lists the ways"
        }
        ErrorKind::Denied => {
            "give the credential, or of a directory the daemon's user, the rights that docs/tier.md lists, or set [tier] \
             read or write to false"
        }
        _ => "check [tier] url, endpoint, path_style and ca, and the network; registries are asked meanwhile",
    }
}
