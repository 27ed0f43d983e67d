//! One image pulled by containerd itself: did it ask this cache?

use std::path::Path;
use std::process::Command;

use super::finding::{Findings, Level};
use crate::admin::control::{self, GetReport};
use crate::cli::containerd_config::{CONFIG, config_of};
use crate::cli::machine::Machine;
use crate::cli::run_async::run_async;
use crate::config::Settings;
use crate::reference::Image;

const ABOUT: &str = "canary";

pub(super) fn check(
    machine: &Machine,
    socket: &Path,
    image: &Image,
    settings: &Settings,
    findings: &mut Findings,
) {
    let asked = || {
        let report = run_async(control::send(&settings.admin.socket, &GetReport {}));
        let report = report.ok().and_then(Result::ok)?;
        Some(report.numbers.requests.values().sum::<u64>())
    };
    let Some(before) = asked() else {
        return findings.add(Level::Problem, ABOUT, "without a running cache there is nothing to see", "");
    };
    let directory = config_of(&machine.read(CONFIG)).ok().and_then(|cri| cri.config_path());
    let mut command = if on_path("crictl") {
        let mut command = Command::new("crictl");
        command
            .arg("--image-endpoint")
            .arg(format!("unix://{}", socket.display()))
            .args(["pull", &image.to_string()]);
        command
    } else if on_path("ctr") {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "pull"]);
        if let Some(directory) = &directory {
            command.args(["--hosts-dir", directory]);
        }
        command.arg(image.to_string());
        command
    } else {
        return findings.add(Level::Warning, ABOUT, "neither crictl nor ctr is here", "install one of them");
    };
    match command.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let last = said.trim().lines().last().unwrap_or_default().to_owned();
            findings.add(Level::Problem, ABOUT, format!("{image} could not be pulled: {last}"), "");
        }
        Err(error) => findings.add(Level::Problem, ABOUT, error.to_string(), ""),
    }
    match asked() {
        Some(after) if after > before => {
            findings.ok(ABOUT, format!("{image}: containerd asked this cache {} times", after - before));
        }
        _ => findings.add(
            Level::Problem,
            ABOUT,
            format!("{image}: containerd did not ask this cache"),
            "larder setup containerd, then systemctl restart containerd",
        ),
    }
}

fn on_path(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|done| done.status.success())
}
