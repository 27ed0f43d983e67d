//! One image pulled by containerd itself: did its requests come here?
//!
//! Proved by a request that no other client makes: containerd is told to pull a tag with a random name, which no
//! registry has, and the daemon is asked for the requests for that repository. Pulls of others, and what is counted of
//! them, prove nothing and disturb nothing.
//!
//! crictl asks the CRI, as kubelet does. ctr does not: its pull proves nothing of kubelet's, in either direction.

use std::path::Path;
use std::process::{Command, Output};

use super::containerd::hosts_directory;
use super::finding::{Finding, Findings, Level};
use crate::admin::control::{self, Explain};
use crate::cli::run_async::run_async;
use crate::cli::runtimes::machine::Machine;
use crate::config::Settings;
use crate::reference::{Image, Repository};
use crate::serve::RecentRequest;

const ABOUT: &str = "canary";
const INSTALL: &str = "install crictl";
/// Where ctr has shown what it can.
const INSTALL_CRICTL: &str = "install crictl, which asks the CRI as kubelet does";

pub(super) fn check(
    machine: &Machine,
    socket: &Path,
    image: &Image,
    settings: &Settings,
    findings: &mut Findings,
) {
    if let Err(why) = requests(settings, image) {
        let what = format!("without a running cache there is nothing to see: {why}");
        return findings.add(Level::Problem, ABOUT, what, "start it: systemctl start larder");
    }
    let Some(program) = ["crictl", "ctr"].into_iter().find(|program| on_path(program)) else {
        return findings.add(Level::Warning, ABOUT, "neither crictl nor ctr is here", INSTALL);
    };
    // ctr reads hosts.toml by itself, in the directory that it is given, and does not ask the CRI.
    let directory = match (program, hosts_directory(machine)) {
        ("crictl", _) => None,
        (_, Ok(directory)) => Some(directory),
        (_, Err(why)) => {
            let what = format!("only ctr is here, and there is no directory for it to look into: {why}");
            return findings.add(Level::Warning, ABOUT, what, INSTALL);
        }
    };
    let pull = |name: &str| command(program, socket, directory.as_deref(), name).output();
    let tag = format!("larder-canary-{:016x}", fastrand::u64(..));
    // It fails, since there is no such tag; that it was asked for here is what counts.
    let _ = pull(&format!("{}:{tag}", image.repository));
    let asked = requests(settings, image).unwrap_or_default();
    let request = of_tag(&asked, &tag).map(|request| request.request);
    let Finding { level, what, remedy, .. } = outcome(&image.repository, request, directory.as_deref());
    // The daemon turns such a request away before it reads what is asked for.
    let is_gated = request.is_none() && settings.serve.gate.is_some();
    let gate = if is_gated { ", or was refused for want of the header of [server] gate_header" } else { "" };
    findings.add(level, ABOUT, format!("{what}{gate}"), remedy);
    pulled(image, pull(&image.to_string()), findings);
}

/// What the pull shows, by the number of the request that came here; `of_ctr` is the directory that ctr looked into,
/// whose pull shows nothing of kubelet's.
fn outcome(repository: &Repository, request: Option<u64>, of_ctr: Option<&str>) -> Finding {
    let (level, what, remedy) = match (request, of_ctr) {
        (Some(request), None) => {
            (Level::Ok, format!("{repository}: containerd's request {request} came through this cache"), "")
        }
        (None, None) => (
            Level::Problem,
            format!("{repository}: containerd did not ask this cache for it"),
            "larder setup containerd, then systemctl restart containerd",
        ),
        (Some(request), Some(directory)) => (
            Level::Note,
            format!(
                "{repository}: ctr's request {request} came through this cache by {directory}; whether kubelet's pulls read that directory is not shown"
            ),
            INSTALL_CRICTL,
        ),
        (None, Some(directory)) => (
            Level::Warning,
            format!("{repository}: ctr, which was given {directory}, did not ask this cache for it"),
            INSTALL_CRICTL,
        ),
    };
    Finding { level, about: ABOUT, registry: None, what, remedy: remedy.to_owned() }
}

/// The request for a tag, the last one first.
fn of_tag<'r>(requests: &'r [RecentRequest], tag: &str) -> Option<&'r RecentRequest> {
    requests.iter().find(|request| request.reference.as_deref() == Some(tag))
}

fn pulled(image: &Image, done: std::io::Result<Output>, findings: &mut Findings) {
    match done {
        Ok(done) if done.status.success() => findings.ok(ABOUT, format!("{image} was pulled")),
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let last = said.trim().lines().last().unwrap_or_default().to_owned();
            findings.add(
                Level::Problem,
                ABOUT,
                format!("{image} could not be pulled: {last}"),
                format!("larder explain {image} says what stands in its way"),
            );
        }
        Err(error) => findings.add(Level::Problem, ABOUT, error.to_string(), INSTALL),
    }
}

/// The last requests for the repository, as the daemon has them.
fn requests(settings: &Settings, image: &Image) -> Result<Vec<RecentRequest>, String> {
    let command = Explain { image: image.to_string(), secrets: Vec::new() };
    let asked = run_async(async || control::send(&settings.admin.socket, &command).await);
    let asked = asked.map_err(|failure| failure.message().to_owned())?;
    asked.map(|explained| explained.recent).map_err(|error| error.to_string())
}

fn command(program: &str, socket: &Path, directory: Option<&str>, name: &str) -> Command {
    let mut command = Command::new(program);
    if program == "crictl" {
        command.arg("--image-endpoint").arg(format!("unix://{}", socket.display())).args(["pull", name]);
        return command;
    }
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "pull"]);
    if let Some(directory) = directory {
        command.args(["--hosts-dir", directory]);
    }
    command.arg(name);
    command
}

fn on_path(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|done| done.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::Timestamp;

    #[test]
    fn pulls_of_others_are_not_taken_for_the_canary() {
        let request = |request, reference: Option<&str>| RecentRequest {
            at: Timestamp(1),
            request,
            client: "127.0.0.1".to_owned(),
            user: None,
            method: "HEAD".to_owned(),
            reference: reference.map(str::to_owned),
            status: Some(404),
            ended: String::new(),
            source: None,
            upstream: Vec::new(),
            download: None,
            bytes: 0,
            duration_ms: 1,
            reason: None,
        };
        let others = [request(1, Some("v1")), request(2, Some("larder-canary-0")), request(3, None)];
        assert_eq!(of_tag(&others, "larder-canary-1"), None);
        assert_eq!(of_tag(&others, "larder-canary-0").map(|found| found.request), Some(2));
    }

    #[test]
    fn a_pull_of_ctr_proves_nothing_of_kubelets_pulls() {
        let repository = "quay.io/a/b".parse().unwrap();
        for (request, of_ctr, level) in [
            (Some(7), None, Level::Ok),
            (None, None, Level::Problem),
            (Some(7), Some("/etc/containerd/certs.d"), Level::Note),
            (None, Some("/etc/containerd/certs.d"), Level::Warning),
        ] {
            assert_eq!(outcome(&repository, request, of_ctr).level, level, "{request:?} {of_ctr:?}");
        }
    }
}
