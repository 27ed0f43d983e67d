//! The shared tier: a real round trip, from here and with the credential of this command.

use super::finding::{Findings, Level};
use crate::app;
use crate::cli::run_async::run_async;
use crate::config::Settings;
use crate::tier::{ErrorKind, Probed};

/// What findings about the shared tier are about.
const ABOUT: &str = "tier";

pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    let Some(config) = &settings.tier else { return };
    let at = &config.location;
    // Its clients need the runtime that they are used on.
    let probed =
        run_async(async { Ok::<_, String>(app::tier(settings).map_err(|e| e.to_string())?.probe().await) });
    match probed {
        Err(_) => {}
        Ok(Err(error)) => findings.add(Level::Problem, ABOUT, error, "correct [tier]"),
        Ok(Ok(Err((step, error)))) => {
            let remedy = match error.kind {
                ErrorKind::NoCredential => {
                    "set [tier] key_file, or give this machine or pod an identity that its platform knows; docs/tier.md lists the ways"
                }
                ErrorKind::Denied => {
                    "give the credential the rights that docs/tier.md lists, or set [tier] read or write to false"
                }
                _ => {
                    "check [tier] url, endpoint, path_style and ca, and the network; registries are asked meanwhile"
                }
            };
            findings.add(
                Level::Problem,
                ABOUT,
                format!("{at}: an object could not be used ({step}): {error}"),
                remedy,
            );
        }
        Ok(Ok(Ok(Probed { credential, took, creates_once }))) => {
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
                let remedy = "pulls will leave the tier alone: raise [tier] header_timeout, or use a store that is nearer";
                findings.add(Level::Warning, ABOUT, what, remedy);
            }
            if !creates_once {
                let what = format!("{at}: objects cannot be created only if there are none");
                let remedy = "nodes that want a layer at the same time each download it: use a store with conditional writes (If-None-Match)";
                findings.add(Level::Warning, ABOUT, what, remedy);
            }
        }
    }
}
